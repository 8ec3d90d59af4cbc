//! Findings from the event log: errors of the kernel log that only a reboot, a reset or an operator ends.

use std::collections::BTreeMap;

use crate::health::xid;
use crate::metrics::xid_names;
use crate::model::event::{Event, EventKind, EventSeverity, RECOVERY_ACTION_CHANGED};
use crate::model::finding::{Action, Component, Finding};
use crate::model::gpu::{Gpu, Gpus};
use crate::model::health_problem::Severity;
use crate::model::nvidia::RecoveryAction;
use crate::model::pci_address::PciAddress;

/// An error counts for this long unless a reboot ends it.
const ERROR_AGE_S: u64 = 3 * 86_400;
/// Reboots with the same cause are counted over this time.
pub const LOOK_BACK_S: u64 = 14 * 86_400;
/// The driver takes this long to recommend something after an error.
const RECOMMENDATION_DELAY_S: u64 = 120;
/// A GPU on which this number of applications have failed within a day is suspect: a fault of one application is its own.
const SUSPECT_APPLICATIONS: usize = 3;
const DAY_S: u64 = 86_400;
/// The start of a line; processes choose the names at its end.
const NODE_OUT_OF_MEMORY: &str = "oom-kill:constraint=CONSTRAINT_NONE,";
/// After this number of reboots, another one will not help.
const MAX_REBOOTS: u32 = 2;

/// A finding, and when its cause occurred last.
#[derive(Debug, Clone, PartialEq)]
pub struct EventFinding {
    pub finding: Finding,
    pub last: u64,
}

/// What is known about errors of one kind, subject and code.
struct Cause {
    event: Event,
    first: u64,
    /// It has occurred since the last reboot.
    is_standing: bool,
    reboots: u32,
}

/// Findings from the events of the last [`LOOK_BACK_S`] seconds, the oldest event first.
pub fn findings(events: impl Iterator<Item = Event>, gpus: &Gpus, now: u64) -> Vec<EventFinding> {
    let mut causes: BTreeMap<(&'static str, String, Option<u32>), Cause> = BTreeMap::new();
    let mut failures = BTreeMap::new();
    for event in events {
        add_failure(&mut failures, &event, now);
        if event.kind == EventKind::Reboot {
            failures.clear();
            for cause in causes.values_mut().filter(|cause| cause.is_standing) {
                (cause.is_standing, cause.reboots) = (false, cause.reboots + 1);
            }
            continue;
        }
        let subject = match event.kind {
            // The node has one memory, whichever process was killed.
            EventKind::OomKill => String::new(),
            _ => event.subject.clone(),
        };
        let key = (event.kind.name(), subject, event.code);
        if is_end(&event) {
            causes.remove(&key);
        } else if describe(&event).is_some() {
            let first = event.unix_seconds;
            let cause = causes.entry(key).or_insert_with(|| Cause {
                event: event.clone(),
                first,
                is_standing: false,
                reboots: 0,
            });
            if !cause.is_standing {
                cause.first = first;
            }
            (cause.event, cause.is_standing) = (event, true);
        }
    }
    let standing = causes.into_values().filter(|cause| {
        cause.is_standing && now.saturating_sub(cause.event.last_unix_seconds) < ERROR_AGE_S
    });
    let mut found: Vec<EventFinding> =
        standing.filter_map(|cause| cause.finding(gpus, now)).collect();
    found.extend(
        failures.into_iter().filter_map(|(subject, failures)| suspect(&subject, &failures, gpus)),
    );
    found
}

/// The last error of each application that has failed on a GPU, by its name: one that is started again and again has many processes.
type Failures = BTreeMap<String, (u64, String)>;

/// Adds an error that an application has caused.
fn add_failure(failures: &mut BTreeMap<String, Failures>, event: &Event, now: u64) {
    let at = event.last_unix_seconds;
    let is_of_application = event.kind == EventKind::Xid
        && event.code.is_some_and(xid::is_of_application)
        && now.saturating_sub(at) < DAY_S;
    let Some(process) = xid::process(&event.text).filter(|_| is_of_application) else { return };
    let of_gpu = failures.entry(event.subject.clone()).or_default();
    of_gpu.insert(process.to_owned(), (at, event.text.clone()));
}

fn suspect(subject: &str, failures: &Failures, gpus: &Gpus) -> Option<EventFinding> {
    if failures.len() < SUSPECT_APPLICATIONS {
        return None;
    }
    let text = format!("{} applications have failed on it within a day", failures.len());
    let finding = Finding::new(Component::Gpu, Severity::Warning, "suspect", text);
    let mut finding = finding.of(device(gpus, subject)).action(Action::Drain);
    let mut failures: Vec<_> = failures.values().collect();
    failures.sort();
    let (since, last) = (failures.first()?.0, failures.last()?.0);
    for (at, line) in failures.iter().rev().take(SUSPECT_APPLICATIONS) {
        finding = finding.evidence(Some(*at), line.as_str());
    }
    Some(EventFinding { finding: Finding { since, ..finding }, last })
}

/// `GPU 5`, or what the event is about.
fn device(gpus: &Gpus, subject: &str) -> String {
    gpu_at(gpus, subject).map_or_else(|| subject.to_owned(), |gpu| format!("GPU {}", gpu.index))
}

impl Cause {
    fn finding(self, gpus: &Gpus, now: u64) -> Option<EventFinding> {
        let Self { event, first, reboots, .. } = self;
        let (component, rule, summary, action) = describe(&event)?;
        let gpu = gpu_at(gpus, &event.subject);
        let is_settled = now.saturating_sub(event.last_unix_seconds) >= RECOMMENDATION_DELAY_S;
        if event.kind == EventKind::Xid && is_settled && gpu.is_some_and(has_recovered) {
            return None;
        }
        let is_futile = action != Action::None && reboots >= MAX_REBOOTS;
        let action = if is_futile { Action::InspectHardware } else { action };
        let device = match event.kind {
            EventKind::OomKill => String::new(),
            _ => device(gpus, &event.subject),
        };
        let severity = match event.kind {
            EventKind::Nfs | EventKind::OomKill => Severity::Warning,
            _ => Severity::Critical,
        };
        let finding = Finding::new(component, severity, &rule, summary).action(action);
        let finding = if device.is_empty() { finding } else { finding.of(device) };
        let last = event.last_unix_seconds;
        let mut finding = finding.evidence(Some(last), event.text);
        if event.count > 1 {
            finding = finding.evidence(Some(last), format!("{} times", event.count));
        }
        if reboots > 0 {
            let times =
                if reboots == 1 { "a reboot".to_owned() } else { format!("{reboots} reboots") };
            finding = finding.evidence(None, format!("occurred again after {times}"));
        }
        Some(EventFinding { finding: Finding { since: first, reboots, ..finding }, last })
    }
}

/// Whether the driver says of its own accord that nothing is to be done.
fn has_recovered(gpu: &Gpu) -> bool {
    gpu.problem.is_none() && gpu.values.recovery_action == Some(RecoveryAction::None)
}

fn gpu_at<'a>(gpus: &'a Gpus, subject: &str) -> Option<&'a Gpu> {
    let address = PciAddress::parse(subject)?;
    gpus.each.iter().find(|gpu| {
        gpu.pci_address.as_deref().and_then(PciAddress::parse).is_some_and(|it| it == address)
    })
}

/// Whether an event ends those before it.
fn is_end(event: &Event) -> bool {
    match (event.kind, event.code) {
        (EventKind::Nfs, _) => event.text.trim_end().ends_with(" OK"),
        (EventKind::Xid, Some(RECOVERY_ACTION_CHANGED)) => {
            xid::changed_action(&event.text).is_none()
        }
        _ => false,
    }
}

/// Component, rule, summary and action of an event that is a finding.
fn describe(event: &Event) -> Option<(Component, String, String, Action)> {
    let is_critical = event.severity == EventSeverity::Critical;
    let of = |component, rule: &str, summary: &str, action| {
        Some((component, rule.to_owned(), summary.to_owned(), action))
    };
    match event.kind {
        EventKind::Xid => describe_xid(event.code?, &event.text),
        EventKind::Nfs => {
            of(Component::FileSystem, "nfs", "the NFS server does not respond", Action::None)
                .filter(|_| event.text.trim_end().ends_with("not responding, still trying"))
        }
        EventKind::OomKill => {
            of(Component::Memory, "oom", "the node ran out of memory", Action::None)
                .filter(|_| event.text.starts_with(NODE_OUT_OF_MEMORY))
        }
        _ if !is_critical => None,
        EventKind::Sxid => {
            let code = event.code?;
            let summary = format!("fatal NVSwitch error, SXid {code}");
            Some((Component::Fabric, format!("sxid{code}"), summary, Action::Reboot))
        }
        EventKind::GpuDriver if event.text.ends_with("failed to train") => {
            of(Component::NvLink, "training", "a link failed to train", Action::ResetGpu)
        }
        EventKind::GpuDriver if event.text.starts_with("NVRM: ") => {
            of(Component::Driver, "kernel", "the driver could not start a GPU", Action::Reboot)
        }
        EventKind::AmdGpu => of(Component::Gpu, "amdgpu", "hardware error", Action::Reboot),
        EventKind::MachineCheck => {
            of(Component::Processor, "mce", "uncorrected hardware error", Action::InspectHardware)
        }
        EventKind::Edac => {
            of(Component::Memory, "edac", "uncorrected memory error", Action::InspectHardware)
        }
        EventKind::Pcie => {
            of(Component::Kernel, "pcie", "fatal PCIe error", Action::InspectHardware)
        }
        EventKind::Nvme => of(Component::Disk, "nvme", "the drive failed", Action::Reboot),
        EventKind::DiskIo => of(
            Component::Disk,
            "medium",
            "the drive cannot read its medium",
            Action::InspectHardware,
        ),
        EventKind::FileSystem => {
            of(Component::FileSystem, "error", "the filesystem has an error", Action::Reboot)
        }
        // On a busy virtual machine a soft lockup is one of its host, and ends.
        EventKind::Lockup if event.text.contains("soft lockup") => None,
        EventKind::Lockup => {
            of(Component::Kernel, "lockup", "a processor locked up", Action::Reboot)
        }
        EventKind::Crash => of(Component::Kernel, "crash", "the kernel has a bug", Action::Reboot),
        EventKind::NetworkHardware => {
            of(Component::Network, "hardware", "hardware error", Action::InspectHardware)
        }
        _ => None,
    }
}

fn describe_xid(code: u32, line: &str) -> Option<(Component, String, String, Action)> {
    let action = match code {
        RECOVERY_ACTION_CHANGED => xid::changed_action(line)?,
        code if xid::is_fatal_nvlink(code, line) => Action::ResetGpu,
        code => xid::action(code)?,
    };
    let summary = format!("XID {code}, {}", xid_names::name(code.into()));
    Some((Component::Gpu, format!("xid{code}"), summary, action))
}
