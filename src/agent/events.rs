//! Feeds the event log: the features report here, and do not know each other.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::agent::services::Services;
use crate::collector::gpu::state::GpuState;
use crate::collector::kmsg::{KernelLogEvent, KernelLogSink};
use crate::config::Roots;
use crate::heartbeat::table::Transition;
use crate::history::event_log::EventLog;
use crate::history::observer::{Clocks, StateObserver};
use crate::history::reboots;
use crate::model::RawSample;
use crate::model::event::{EventKind, EventSeverity, NewEvent};
use crate::model::kernel_log::KernelLogPosition;
use crate::model::status::AppState;
use crate::sys::kernel_log::microseconds_since_boot;
use crate::util::logger::{unix_seconds, utc};
use crate::util::sync::lock;
use crate::util::text::escape_for_log;

/// Characters of the id of an application.
const MAX_ID_CHARS: usize = 100;

/// Records the start of the agent, and the reboot before it. `booted`: when the machine started.
pub(super) fn record_start(log: &EventLog, roots: &Roots, boot_id: &str, booted: Option<u64>) {
    let previous = log.previous_run();
    let is_reboot = previous.is_some_and(|run| run.boot_id != boot_id);
    let panic = previous.filter(|_| is_reboot).and_then(|run| {
        // Of a boot that is known: older crashes were reported before.
        reboots::stored_panic(roots, run.started)
    });
    for event in reboots::events_at_start(previous, boot_id, booted, panic) {
        log::debug!("event: {}", event.text);
        log.record(event);
    }
    log.start_run(boot_id);
}

/// Records that the agent stops.
pub(super) fn record_stop(log: &EventLog) {
    log.record(NewEvent::new(EventKind::Agent, EventSeverity::Info, "hm-agent stops"));
    log.stop();
}

/// Finds the events of each sample and adds their number.
pub(super) fn observe(
    services: &Services,
    observer: &Mutex<StateObserver>,
    sample: &mut RawSample,
) {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let clocks = Clocks { unix, since_boot: Duration::from_micros(microseconds_since_boot()) };
    for event in lock(observer).observe(sample, clocks) {
        services.events.record(event);
    }
    services.events.tick();
    sample.events = services.events.counts();
    sample.kernel_log = services.kernel_log.status();
}

/// Records a change of a heartbeat application.
pub(super) fn record_transition(log: &EventLog, transition: &Transition) {
    let (severity, what) = match transition.to {
        AppState::Ok => (EventSeverity::Info, "recovered"),
        AppState::Warning => (EventSeverity::Warning, "is late"),
        AppState::Critical => (EventSeverity::Critical, "is overdue"),
        AppState::Dropped => (EventSeverity::Critical, "was dropped"),
    };
    let id = escape_for_log(&transition.id, MAX_ID_CHARS);
    let ratio = match transition.to {
        AppState::Ok => String::new(),
        _ => format!(", overdue ratio {:.2}", transition.overdue_ratio),
    };
    let text = format!("application {id} {what}{ratio}");
    // Another ratio is no other event.
    let event = NewEvent { class: what, ..NewEvent::new(EventKind::Heartbeat, severity, text) };
    log.record(event.of(id));
}

/// Receives what the thread `kmsg` finds.
pub(super) struct KernelLogEvents<'a> {
    pub(super) log: &'a EventLog,
    pub(super) gpus: &'a GpuState,
}

impl KernelLogSink for KernelLogEvents<'_> {
    fn on_read(&self, events: Vec<KernelLogEvent>, position: &KernelLogPosition, lost: u64) {
        if lost > 0 {
            let text = "records of the kernel log were overwritten before they were read";
            let event = NewEvent::new(EventKind::KernelLog, EventSeverity::Warning, text);
            self.log.record(event);
        }
        for found in &events {
            if let (Some(gpu), Some(code)) = (found.event.gpu, found.event.code) {
                let at = found.unix_seconds.unwrap_or_else(unix_seconds);
                self.gpus.count_kernel_xid(gpu, code, at);
            }
        }
        self.log.record_kernel_log(events.into_iter().map(to_event), position);
    }
}

fn to_event(found: KernelLogEvent) -> NewEvent {
    let KernelLogEvent { event, line, unix_seconds } = found;
    if let Some(at) = unix_seconds {
        log::debug!("kernel log, {}: {line}", utc(at));
    }
    NewEvent {
        kind: event.kind,
        severity: event.severity,
        subject: event.subject,
        code: event.code,
        class: event.class,
        text: line,
        unix_seconds,
    }
}
