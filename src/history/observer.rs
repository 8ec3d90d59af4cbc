//! Finds events in the samples: what differs from the sample before. Pure: no files, no clock.

use std::sync::Arc;
use std::time::Duration;

use crate::model::RawSample;
use crate::model::event::{EventKind, EventSeverity, NewEvent};
use crate::model::gpu::{DriverState, Gpu, Gpus, NvidiaDriver, Problem};
use crate::model::pci_address::PciAddress;
use crate::model::status::UpstreamStatus;
use crate::util::text::escape_for_log;

/// A smaller difference between the clocks is one of their speed, or of the scheduler.
const MIN_CLOCK_STEP: Duration = Duration::from_secs(1);
/// Characters of what servers and drivers report.
const MAX_REASON_CHARS: usize = 160;

/// Wall clock, and time since boot with the time that the machine was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    pub unix: Duration,
    pub since_boot: Duration,
}

/// What the last sample showed.
#[derive(Default)]
pub struct StateObserver {
    clocks: Option<Clocks>,
    driver: Option<DriverState>,
    /// The problem of each GPU by its address.
    gpus: Vec<(String, Option<Problem>)>,
    upstreams: Vec<(String, Upstream)>,
    stuck: Vec<Arc<str>>,
}

#[derive(Default)]
struct Upstream {
    is_online: bool,
    /// It has been online since the agent started.
    was_online: bool,
    disconnects: u64,
}

impl StateObserver {
    /// The events between the sample before and this one.
    pub fn observe(&mut self, sample: &RawSample, clocks: Clocks) -> Vec<NewEvent> {
        let mut events = Vec::new();
        events.extend(self.clock_step(clocks));
        events.extend(self.driver_change(sample.gpus.nvidia.as_ref()));
        self.gpu_changes(&sample.gpus, &mut events);
        for upstream in &*sample.upstreams {
            events.extend(self.upstream_change(upstream));
        }
        self.mount_changes(&sample.stuck_mount_points, &mut events);
        events
    }

    fn clock_step(&mut self, now: Clocks) -> Option<NewEvent> {
        let before = self.clocks.replace(now)?;
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let wall = micros(now.unix).saturating_sub(micros(before.unix));
        let step = wall.saturating_sub(micros(now.since_boot.saturating_sub(before.since_boot)));
        if step.unsigned_abs() < MIN_CLOCK_STEP.as_micros() as u64 {
            return None;
        }
        let text = format!("clock stepped by {:+.1} s", step as f64 / 1e6);
        Some(NewEvent::new(EventKind::ClockStep, EventSeverity::Warning, text))
    }

    fn driver_change(&mut self, driver: Option<&NvidiaDriver>) -> Option<NewEvent> {
        let driver = driver.filter(|driver| driver.state != DriverState::Starting)?;
        let before = self.driver.replace(driver.state);
        if before == Some(driver.state) {
            return None;
        }
        let was_bad = before.is_some_and(|state| state.is_healthy() == Some(false));
        let (severity, text) = match driver.state {
            DriverState::Starting => return None,
            DriverState::Ok | DriverState::NoGpu | DriverState::Suspended => {
                // The first result, or GPUs that are suspended and woken, are no events.
                was_bad.then_some((EventSeverity::Info, "NVIDIA driver recovered"))?
            }
            DriverState::NoDriver => (EventSeverity::Critical, "NVIDIA driver not loaded"),
            DriverState::VersionMismatch => {
                (EventSeverity::Critical, "NVIDIA driver upgraded while loaded")
            }
            DriverState::Hung => (EventSeverity::Critical, "NVIDIA driver does not respond"),
            DriverState::Crashed => (EventSeverity::Critical, "NVIDIA driver crashed"),
            DriverState::Unavailable => {
                (EventSeverity::Critical, "NVIDIA driver cannot be queried")
            }
        };
        let text = with_reason(text.to_owned(), driver.message.as_deref());
        Some(NewEvent::new(EventKind::GpuDriver, severity, text))
    }

    fn gpu_changes(&mut self, gpus: &Gpus, events: &mut Vec<NewEvent>) {
        let mut before = std::mem::take(&mut self.gpus);
        for gpu in &gpus.each {
            let subject = subject(gpu);
            let known = before.iter().position(|(of, _)| *of == subject);
            let previous = known.and_then(|at| before.swap_remove(at).1);
            if let Some((severity, text)) = gpu_change(previous, gpu) {
                events.push(NewEvent::new(EventKind::GpuState, severity, text).of(&*subject));
            }
            self.gpus.push((subject, gpu.problem));
        }
        // Without a working driver the list may be incomplete.
        let driver = gpus.nvidia.as_ref().map(|driver| driver.state);
        if driver.is_none_or(|state| state.is_healthy() == Some(true)) {
            for (subject, _) in before {
                let event =
                    NewEvent::new(EventKind::GpuState, EventSeverity::Warning, "GPU removed");
                events.push(event.of(subject));
            }
        } else {
            self.gpus.extend(before);
        }
    }

    fn upstream_change(&mut self, status: &UpstreamStatus) -> Option<NewEvent> {
        let is_online = status.state == "online";
        let disconnects = status.disconnects.values().sum();
        let at = self.upstreams.iter().position(|(name, _)| *name == status.name);
        let at = at.unwrap_or_else(|| {
            self.upstreams.push((status.name.clone(), Upstream::default()));
            self.upstreams.len() - 1
        });
        let (_, known) = &mut self.upstreams[at];
        let (was_online, is_first) = (known.is_online, !known.was_online);
        // It may have come and gone between two samples.
        let has_lost = disconnects > known.disconnects;
        (known.is_online, known.disconnects) = (is_online, disconnects);
        known.was_online |= is_online;
        let name = &status.name;
        let reason = || status.last_disconnect_reason.as_deref();
        let (severity, text) = match (was_online, is_online) {
            (true, false) => {
                (EventSeverity::Warning, with_reason(format!("{name}: lost"), reason()))
            }
            (true, true) if has_lost => {
                let text = with_reason(format!("{name}: lost and restored"), reason());
                (EventSeverity::Warning, text)
            }
            (false, true) if is_first => (EventSeverity::Info, format!("{name}: online")),
            (false, true) => (EventSeverity::Info, format!("{name}: restored")),
            _ => return None,
        };
        Some(NewEvent::new(EventKind::Upstream, severity, text).of(&**name))
    }

    fn mount_changes(&mut self, stuck: &[Arc<str>], events: &mut Vec<NewEvent>) {
        for (points, others, severity, what) in [
            (stuck, &*self.stuck, EventSeverity::Warning, "filesystem is not responding"),
            (&*self.stuck, stuck, EventSeverity::Info, "filesystem recovered"),
        ] {
            let event = |point: &Arc<str>| {
                let point = escape_for_log(&**point, MAX_REASON_CHARS);
                NewEvent::new(EventKind::Mount, severity, format!("{what}: {point}")).of(point)
            };
            let changed = points.iter().filter(|point| !others.contains(point));
            events.extend(changed.map(event));
        }
        self.stuck = stuck.to_vec();
    }
}

/// A suspended GPU is neither a problem nor a recovery.
fn gpu_change(previous: Option<Problem>, gpu: &Gpu) -> Option<(EventSeverity, String)> {
    let is_bad = |problem: &Problem| *problem != Problem::Suspended;
    let (previous, now) = (previous.filter(is_bad), gpu.problem.filter(is_bad));
    if previous == now || (now.is_none() && gpu.problem.is_some()) {
        return None;
    }
    let what = match now {
        Some(Problem::Lost) => "is lost",
        Some(Problem::Hung) => "hangs",
        Some(Problem::Failed) => "failed",
        Some(Problem::Suspended) | None => "recovered",
    };
    let text = format!("GPU {} ({}) {what}", gpu.index, gpu.name);
    match now {
        Some(_) => Some((EventSeverity::Critical, with_reason(text, gpu.message.as_deref()))),
        None => Some((EventSeverity::Info, text)),
    }
}

/// Identifies a GPU as the kernel log does.
fn subject(gpu: &Gpu) -> String {
    let address = gpu.pci_address.as_deref();
    let parsed = address.and_then(PciAddress::parse).map(|address| address.to_string());
    let known = || address.or(gpu.uuid.as_deref()).map(str::to_owned);
    parsed.or_else(known).unwrap_or_else(|| format!("GPU {}", gpu.index))
}

fn with_reason(text: String, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{text}: {}", escape_for_log(reason, MAX_REASON_CHARS)),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(unix: f64, since_boot: f64) -> Clocks {
        Clocks {
            unix: Duration::from_secs_f64(unix),
            since_boot: Duration::from_secs_f64(since_boot),
        }
    }

    fn observe(observer: &mut StateObserver, sample: &RawSample) -> Vec<String> {
        let events = observer.observe(sample, clocks(1000.0, 10.0));
        events.iter().map(|event| format!("{} {}", event.severity.name(), event.text)).collect()
    }

    fn with_gpus(driver: DriverState, problems: &[Option<Problem>]) -> RawSample {
        let nvidia =
            NvidiaDriver { state: driver, message: Some("x".into()), ..Default::default() };
        let gpu = |(index, problem): (u32, &Option<Problem>)| Gpu {
            index,
            name: "H200".into(),
            pci_address: Some(format!("00000000:{index:02X}:00.0")),
            problem: *problem,
            message: problem.map(|_| "y".into()),
            ..Gpu::default()
        };
        let each = (0..).zip(problems).map(gpu).collect();
        RawSample { gpus: Arc::new(Gpus { nvidia: Some(nvidia), each }), ..Default::default() }
    }

    #[test]
    fn healthy_start_has_no_events() {
        let mut observer = StateObserver::default();
        for state in [DriverState::Starting, DriverState::Ok, DriverState::Ok] {
            let sample = with_gpus(state, &[None, Some(Problem::Suspended)]);
            assert_eq!(observe(&mut observer, &sample), <[String; 0]>::default());
        }
        let awake = with_gpus(DriverState::Ok, &[None, None]);
        assert_eq!(observe(&mut observer, &awake), <[String; 0]>::default());
    }

    #[test]
    fn reports_gpus_that_are_lost_hang_recover_or_are_removed() {
        let mut observer = StateObserver::default();
        let ok = DriverState::Ok;
        observe(&mut observer, &with_gpus(ok, &[None, None]));
        let lost = with_gpus(ok, &[None, Some(Problem::Lost)]);
        assert_eq!(observe(&mut observer, &lost), ["critical GPU 1 (H200) is lost: y"]);
        assert_eq!(observe(&mut observer, &lost), <[String; 0]>::default());
        let hung = with_gpus(ok, &[Some(Problem::Hung), None]);
        assert_eq!(
            observe(&mut observer, &hung),
            ["critical GPU 0 (H200) hangs: y", "info GPU 1 (H200) recovered"]
        );
        let removed = with_gpus(ok, &[Some(Problem::Hung)]);
        assert_eq!(observe(&mut observer, &removed), ["warning GPU removed"]);
        let events = observer.observe(&with_gpus(ok, &[None]), clocks(1000.0, 10.0));
        assert_eq!(events[0].subject, "0000:00:00.0");
    }

    #[test]
    fn reports_driver_that_fails_and_recovers_once() {
        let mut observer = StateObserver::default();
        observe(&mut observer, &with_gpus(DriverState::Ok, &[None]));
        let hung = with_gpus(DriverState::Hung, &[]);
        assert_eq!(observe(&mut observer, &hung), ["critical NVIDIA driver does not respond: x"]);
        assert_eq!(observe(&mut observer, &hung), <[String; 0]>::default());
        let ok = with_gpus(DriverState::Ok, &[None]);
        assert_eq!(observe(&mut observer, &ok), ["info NVIDIA driver recovered: x"]);
    }

    #[test]
    fn reports_upstream_that_is_lost_even_between_two_samples() {
        let mut observer = StateObserver::default();
        let mut with = |state: &str, disconnects: u64| {
            let status = UpstreamStatus {
                name: "hm".into(),
                state: state.into(),
                since_unix_seconds: 0,
                last_response_unix_seconds: None,
                backlog: 0,
                dropped: 0,
                last_dropped_unix_seconds: None,
                last_disconnect_reason: (disconnects > 0).then(|| "reset".into()),
                disconnects: [("reset".to_owned(), disconnects)].into(),
            };
            let sample = RawSample { upstreams: [status].into(), ..Default::default() };
            observe(&mut observer, &sample).join(" ")
        };
        assert_eq!(with("connecting", 1), "");
        assert_eq!(with("online", 1), "info hm: online");
        assert_eq!(with("online", 1), "");
        assert_eq!(with("waiting", 2), "warning hm: lost: reset");
        assert_eq!(with("online", 2), "info hm: restored");
        assert_eq!(with("online", 3), "warning hm: lost and restored: reset");
    }

    #[test]
    fn reports_mounts_that_hang_and_recover() {
        let mut observer = StateObserver::default();
        let mut with = |points: &[&str]| {
            let stuck_mount_points = points.iter().map(|point| Arc::from(*point)).collect();
            observe(&mut observer, &RawSample { stuck_mount_points, ..Default::default() })
        };
        assert_eq!(with(&["/a"]), ["warning filesystem is not responding: /a"]);
        let changed = ["warning filesystem is not responding: /b", "info filesystem recovered: /a"];
        assert_eq!(with(&["/b"]), changed);
        assert_eq!(with(&["/b"]), <[String; 0]>::default());
    }

    #[test]
    fn reports_steps_of_the_clock_but_no_suspension() {
        let mut observer = StateObserver::default();
        let mut at = |unix, since_boot| {
            let events = observer.observe(&RawSample::default(), clocks(unix, since_boot));
            events.into_iter().map(|event| event.text).next()
        };
        assert_eq!(at(1000.0, 10.0), None);
        assert_eq!(at(1005.4, 15.0), None);
        assert_eq!(at(9005.4, 8015.0), None, "suspended");
        assert_eq!(at(12_610.4, 8020.0).as_deref(), Some("clock stepped by +3600.0 s"));
        assert_eq!(at(12_555.4, 8025.0).as_deref(), Some("clock stepped by -60.0 s"));
    }
}
