//! Findings from the event log: errors of the kernel log that only a reboot, a reset or an operator ends.

use std::collections::BTreeMap;

use crate::health::xid;
use crate::metrics::xid_names;
use crate::model::event::{Event, EventKind, EventSeverity};
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
        let key = (event.kind.name(), event.subject.clone(), event.code);
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

/// The last error of each application that has failed on a GPU, by process.
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
        let action = if reboots >= MAX_REBOOTS { Action::InspectHardware } else { action };
        let device = device(gpus, &event.subject);
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
        (EventKind::Xid, Some(154)) => xid::changed_action(&event.text).is_none(),
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
                .filter(|_| event.text.contains("not responding"))
        }
        EventKind::OomKill => {
            of(Component::Memory, "oom", "the node ran out of memory", Action::None)
                .filter(|_| event.text.contains("CONSTRAINT_NONE"))
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
        154 => xid::changed_action(line)?,
        code if xid::is_fatal_nvlink(code, line) => Action::ResetGpu,
        code => xid::action(code)?,
    };
    let summary = format!("XID {code}, {}", xid_names::name(code.into()));
    Some((Component::Gpu, format!("xid{code}"), summary, action))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::Values;

    const NOW: u64 = 1_795_216_253;
    const DAY: u64 = 86_400;

    fn event(age: u64, kind: EventKind, text: &str) -> Event {
        let at = NOW - age;
        Event {
            id: at,
            unix_seconds: at,
            last_unix_seconds: at,
            count: 1,
            kind,
            severity: EventSeverity::Critical,
            subject: String::new(),
            code: None,
            text: text.to_owned(),
        }
    }

    fn xid(age: u64, code: u32) -> Event {
        let text = format!("NVRM: Xid (PCI:0000:9b:00): {code}, something");
        let subject = "0000:9b:00.0".to_owned();
        Event { subject, code: Some(code), ..event(age, EventKind::Xid, &text) }
    }

    fn reboot(age: u64) -> Event {
        event(age, EventKind::Reboot, "host rebooted")
    }

    fn gpus(recovery_action: Option<RecoveryAction>) -> Gpus {
        let gpu = Gpu {
            index: 5,
            pci_address: Some("0000:9B:00.0".into()),
            values: Values { recovery_action, ..Values::default() },
            ..Gpu::default()
        };
        Gpus { each: vec![gpu], ..Gpus::default() }
    }

    fn actions(events: &[Event]) -> Vec<(String, Action, u32)> {
        let found = findings(events.iter().cloned(), &gpus(None), NOW);
        found.into_iter().map(|it| (it.finding.id, it.finding.action, it.finding.reboots)).collect()
    }

    #[test]
    fn reboot_ends_an_error_and_two_of_them_are_not_enough() {
        let id = || "gpu-xid79-gpu_5".to_owned();
        let mut week = vec![xid(6 * DAY, 79)];
        week.push(reboot(5 * DAY));
        assert_eq!(actions(&week), []);
        week.push(xid(2 * DAY + 9, 79));
        assert_eq!(actions(&week), [(id(), Action::Reboot, 1)]);
        week.push(reboot(2 * DAY));
        week.push(xid(DAY, 79));
        assert_eq!(actions(&week), [(id(), Action::InspectHardware, 2)]);
        week.push(reboot(60));
        assert_eq!(actions(&week), []);
    }

    #[test]
    fn causes_are_counted_each_for_itself() {
        let week =
            [xid(300, 79), reboot(250), xid(200, 119), reboot(150), xid(100, 79), xid(90, 48)];
        assert_eq!(
            actions(&week),
            [
                ("gpu-xid48-gpu_5".to_owned(), Action::ResetGpu, 0),
                ("gpu-xid79-gpu_5".to_owned(), Action::Reboot, 1),
            ]
        );
    }

    #[test]
    fn errors_of_applications_and_old_errors_are_no_findings() {
        assert_eq!(actions(&[xid(10, 31), xid(10, 13), xid(10, 63), xid(3 * DAY, 79)]), []);
    }

    #[test]
    fn the_drivers_own_advice_goes_first() {
        let found = |age, action| findings([xid(age, 119)].into_iter(), &gpus(action), NOW).len();
        assert_eq!(found(119, Some(RecoveryAction::None)), 1, "it may still recommend something");
        assert_eq!(found(120, Some(RecoveryAction::None)), 0);
        assert_eq!(found(120, Some(RecoveryAction::GpuReset)), 1);
        let changed = |to: &str, age| Event {
            text: format!("GPU recovery action changed from 0x0 (None) to {to}"),
            ..xid(age, 154)
        };
        let drain = changed("0x4 (Drain and Reset)", 20);
        assert_eq!(actions(std::slice::from_ref(&drain))[0].1, Action::Drain);
        assert_eq!(actions(&[drain, changed("0x0 (None)", 10)]), []);
    }

    #[test]
    fn gpu_on_which_three_applications_failed_is_suspect() {
        let failure = |age, pid: u32| {
            let text = format!("NVRM: Xid (PCI:0000:9b:00): 31, pid={pid}, name=python, Ch 8");
            Event { text, ..xid(age, 31) }
        };
        let two = vec![failure(30, 1), failure(20, 1), failure(10, 2)];
        assert_eq!(actions(&two), []);
        let mut three = vec![failure(DAY, 7)];
        three.extend(two);
        assert_eq!(actions(&three), [], "one of them is too old");
        three.push(failure(5, 3));
        assert_eq!(actions(&three), [("gpu-suspect-gpu_5".to_owned(), Action::Drain, 0)]);
        three.push(reboot(1));
        assert_eq!(actions(&three), []);
    }

    #[test]
    fn evidence_is_the_line_with_its_time() {
        let event = Event { count: 3, last_unix_seconds: NOW - 5, ..xid(10, 79) };
        let found = findings([event].into_iter(), &gpus(None), NOW).remove(0);
        assert_eq!((found.finding.since, found.last), (NOW - 10, NOW - 5));
        assert_eq!(found.finding.text(), "GPU 5: XID 79, GPU has fallen off the bus");
        let evidence = &found.finding.evidence;
        assert_eq!(evidence[0].text, "NVRM: Xid (PCI:0000:9b:00): 79, something");
        assert_eq!((evidence[0].time, evidence[1].text.as_str()), (Some(NOW - 5), "3 times"));
    }

    #[test]
    fn lines_distinguish_lockups_and_links() {
        let lockup = |text| actions(&[event(9, EventKind::Lockup, text)]);
        let soft = "watchdog: BUG: soft lockup - CPU#18 stuck for 27s! [python3:2254956]";
        assert_eq!(lockup(soft), []);
        let hard = lockup("watchdog: Watchdog detected hard LOCKUP on cpu 3");
        assert_eq!(hard, [("kernel-lockup".to_owned(), Action::Reboot, 0)]);
        let driver = |text| actions(&[event(9, EventKind::GpuDriver, text)]);
        let init = driver("NVRM: GPU 0000:00:03.0: RmInitAdapter failed! (0x22:0x65:884)");
        assert_eq!(init, [("driver-kernel".to_owned(), Action::Reboot, 0)]);
        let link = driver("NVRM: knvlinkCoreGetRemoteDeviceInfo: NVLink: GPU0 failed to train");
        assert_eq!(link, [("nvlink-training".to_owned(), Action::ResetGpu, 0)]);
        assert_eq!(driver("NVIDIA driver crashed"), []);
    }

    #[test]
    fn nfs_server_that_responds_again_and_warnings_are_no_findings() {
        let nfs = |age, text: &str| Event {
            subject: "10.0.0.3".into(),
            severity: EventSeverity::Warning,
            ..event(age, EventKind::Nfs, text)
        };
        let hangs = nfs(20, "nfs: server 10.0.0.3 not responding, still trying");
        assert_eq!(actions(std::slice::from_ref(&hangs)).len(), 1);
        assert_eq!(actions(&[hangs, nfs(10, "nfs: server 10.0.0.3 OK")]), []);
        let warning = |kind| Event { severity: EventSeverity::Warning, ..event(9, kind, "x") };
        let kinds = EventKind::ALL.iter().map(|kind| warning(*kind));
        assert_eq!(actions(&kinds.collect::<Vec<_>>()), []);
        let memory =
            |text| Event { severity: EventSeverity::Warning, ..event(9, EventKind::OomKill, text) };
        assert_eq!(actions(&[memory("oom-kill:constraint=CONSTRAINT_MEMCG,…")]), []);
        assert_eq!(actions(&[memory("oom-kill:constraint=CONSTRAINT_NONE,…")]).len(), 1);
    }
}
