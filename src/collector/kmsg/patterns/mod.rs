//! Lines of the kernel log that are events, a file per topic.
//!
//! A line matches from its start, or from a prefix that the kernel writes itself. Otherwise a process could forge an event with a name
//! that the kernel prints: of a program, a USB device or a filesystem. What follows a matched prefix may still be such a name.
#![deny(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::unwrap_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

mod amdgpu;
mod cpu_thermal;
mod crash;
mod disk;
mod edac;
mod filesystem;
mod gpu_driver;
mod limits;
mod machine_check;
mod network;
mod nfs;
mod nvme;
mod oom;
mod pcie;
mod raid;
mod segfault;
mod stall;
mod sxid;
mod xid;

use crate::model::event::{EventKind, EventSeverity};
use crate::model::pci_address::PciAddress;

/// What a line reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelEvent {
    pub kind: EventKind,
    pub severity: EventSeverity,
    pub subject: String,
    pub code: Option<u32>,
    /// Lines of the same kind, subject, severity and class are repetitions of one event, even if their texts differ. Empty: their texts must be
    /// the same, too.
    pub class: &'static str,
    /// The GPU of an XID.
    pub gpu: Option<PciAddress>,
}

impl KernelEvent {
    fn new(kind: EventKind, severity: EventSeverity, subject: impl Into<String>) -> Self {
        Self { kind, severity, subject: subject.into(), code: None, class: "line", gpu: None }
    }

    fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }
}

type Pattern = fn(&str) -> Option<KernelEvent>;

/// The first one that matches applies.
const PATTERNS: [Pattern; 19] = [
    xid::classify,
    sxid::classify,
    gpu_driver::classify,
    amdgpu::classify,
    oom::classify,
    machine_check::classify,
    edac::classify,
    cpu_thermal::classify,
    pcie::classify,
    nvme::classify,
    disk::classify,
    filesystem::classify,
    raid::classify,
    stall::classify,
    nfs::classify,
    network::classify,
    limits::classify,
    crash::classify,
    segfault::classify,
];

/// Lines that report one thing twice are this close to each other.
const SAME_INCIDENT_US: u64 = 60_000_000;
/// GPUs whose last loss is remembered. A machine has fewer.
const MAX_GPUS: usize = 64;

/// Recognizes events. Remembers what was reported, because the kernel has two lines for some incidents.
#[derive(Default)]
pub struct Classifier {
    /// The process that `oom-kill:` named last.
    oom_victim: Option<String>,
    /// When a GPU fell off the bus, and by which kind of line that was reported.
    fallen: Vec<(Option<PciAddress>, u64, &'static str)>,
}

impl Classifier {
    /// `microseconds` is the time of the record.
    pub fn classify(&mut self, text: &str, microseconds: u64) -> Option<KernelEvent> {
        let event = match names_process(text) {
            true => segfault::classify(text),
            false => PATTERNS.iter().find_map(|pattern| pattern(text)),
        }?;
        match (event.kind, event.code) {
            (EventKind::OomKill, _) => self.is_new_oom_kill(&event).then_some(event),
            (EventKind::Xid, Some(xid::FALLEN_OFF_THE_BUS)) => {
                self.is_new_loss(&event, microseconds).then_some(event)
            }
            _ => Some(event),
        }
    }

    /// Since Linux 5.0, a line `oom-kill:` with the control group precedes the line `Killed process` of the same kill.
    fn is_new_oom_kill(&mut self, event: &KernelEvent) -> bool {
        match event.class {
            oom::WITH_CGROUP => {
                self.oom_victim = Some(event.subject.clone());
                true
            }
            _ => self.oom_victim.take().is_none_or(|victim| victim != event.subject),
        }
    }

    /// The driver reports XID 79, and that the GPU has fallen off the bus, in either order.
    fn is_new_loss(&mut self, event: &KernelEvent, microseconds: u64) -> bool {
        let other = self.fallen.iter_mut().find(|(gpu, ..)| *gpu == event.gpu);
        let Some((_, at, class)) = other else {
            if self.fallen.len() < MAX_GPUS {
                self.fallen.push((event.gpu, microseconds, event.class));
            }
            return true;
        };
        let is_other_line = *class != event.class && at.abs_diff(microseconds) <= SAME_INCIDENT_US;
        if !is_other_line {
            (*at, *class) = (microseconds, event.class);
        }
        !is_other_line
    }
}

/// Whether a line begins with `NAME[PID]`, as that of a crash does. The process has chosen its name, and the name of the file behind it, so the
/// line may look like any other.
pub fn names_process(text: &str) -> bool {
    /// A name has at most 15 bytes, each of which may be escaped with four.
    const MAX_NAME_BYTES: usize = 4 * 15;
    let is_pid = |rest: &str| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let rest = rest.get(digits..).unwrap_or_default();
        digits > 0 && (rest.starts_with("]:") || rest.starts_with("] "))
    };
    let brackets = text.match_indices('[').take_while(|(at, _)| *at <= MAX_NAME_BYTES);
    brackets.filter_map(|(at, _)| text.get(at.checked_add(1)?..)).any(is_pid)
}

/// Cuts a text at the first character that a name of the kernel does not contain.
fn word(text: &str) -> &str {
    text.split([' ', ',', ':', ')', '(', ']', '[', ';']).next().unwrap_or_default()
}

/// Splits `PREFIX: REST` of drivers of PCI devices: `nvme 0000:01:00.0: text` into the address and the text.
fn of_pci_device<'a>(text: &'a str, driver: &str) -> Option<(&'a str, &'a str)> {
    let rest = text.strip_prefix(driver)?.strip_prefix(' ')?;
    let (address, rest) = rest.split_once(' ')?;
    let address = address.strip_suffix(':').unwrap_or(address);
    PciAddress::parse(address)?;
    Some((address, rest))
}

#[cfg(test)]
mod testing {
    use super::*;

    /// Classifies a line by the patterns of one topic: kind, severity, subject, code. It must not panic for any part of the line.
    pub fn found(
        classify: Pattern,
        line: &str,
    ) -> Option<(&'static str, &'static str, String, Option<u32>)> {
        for end in 0..=line.len() {
            if line.is_char_boundary(end) {
                let _ = classify(&line[..end]);
            }
        }
        let event = classify(line)?;
        Some((event.kind.name(), event.severity.name(), event.subject, event.code))
    }

    pub fn assert_events(classify: Pattern, lines: &[(&str, &str, &str, &str)]) {
        for (line, kind, severity, subject) in lines {
            let event = found(classify, line)
                .map(|(kind, severity, subject, _)| format!("{kind} {severity} {subject}"));
            assert_eq!(event.as_deref(), Some(&*format!("{kind} {severity} {subject}")), "{line}");
            let embedded = format!("usb 1-1: Product: {line}");
            assert_eq!(found(classify, &embedded), None, "{embedded}");
        }
    }

    pub fn assert_none(classify: Pattern, lines: &[&str]) {
        for line in lines {
            assert_eq!(found(classify, line), None, "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALLEN: &str = "NVRM: GPU 0000:9b:00.0: GPU has fallen off the bus.";
    const XID: &str = "NVRM: Xid (PCI:0000:9b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.";
    const EVENTS_OF_6_18: [&str; 3] =
        ["oom_kill gpu-probe[30733]", "hung_task state-io:28819", "limit /hm-agent-test-32198-0"];
    const OOM: &str = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=a,mems_allowed=0-1,oom_memcg=/kubepods/a,task_memcg=/kubepods/a/b,task=python,pid=12345,uid=0";
    const KILLED: &str = "Memory cgroup out of memory: Killed process 12345 (python) total-vm:1kB, anon-rss:1kB, file-rss:0kB";

    #[test]
    fn loss_of_a_gpu_is_one_event_in_either_order() {
        let second = 1_000_000;
        for [first, next] in [[XID, FALLEN], [FALLEN, XID]] {
            let mut classifier = Classifier::default();
            let mut at = |text, seconds: u64| classifier.classify(text, seconds * second).is_some();
            assert_eq!([at(first, 1), at(next, 1), at(first, 2)], [true, false, true]);
            assert!(at(next, 200), "another incident");
        }
    }

    #[test]
    fn killed_process_is_one_event() {
        let mut classifier = Classifier::default();
        let mut is_event = |text| classifier.classify(text, 0).is_some();
        assert!(is_event(OOM) && !is_event(KILLED));
        assert!(is_event(KILLED), "of a kernel before 5.0");
    }

    /// Any user can give names to a process and to its file. Records of a real kernel.
    #[test]
    fn crash_of_a_process_is_no_other_event() {
        let mut classifier = Classifier::default();
        for (name, file) in [
            ("Oops: 0002", "a"),
            ("NVRM: x", "NVLink failed to train"),
            ("I/O error, dev ", "x, sector 1"),
            ("NVRM: GPU 9b:0 ", "fallen off the bus"),
            ("BUG: [1]", "x"),
            ("a\\x0aNVRM: Xid (P", "a\\x0aNVRM: Xid (PCI:0000:9b:00): 79, a"),
        ] {
            let rest = "segfault at 0 ip 00007fd8cfede002 sp 00007ffc0cfc63d8 error 4 in";
            let line = format!("{name}[32285]: {rest} {file}[2,7fd8cfede000+1000] likely on CPU 0");
            assert_eq!(classifier.classify(&line, 0), None, "{line}");
            let line = format!("{name}[32285] bad frame in {file}[2] ip:0 sp:0");
            assert_eq!(classifier.classify(&line, 0), None, "{line}");
        }
    }

    /// Records of a real kernel: an OOM kill, a hung task and harmless lines.
    #[test]
    fn finds_the_events_in_the_log_of_a_real_kernel() {
        let mut classifier = Classifier::default();
        let text = include_bytes!("../../../../tests/fixtures/kmsg/6.18");
        let records = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let events = records.filter_map(|record| {
            let record = crate::procfs::kmsg::parse_record(record).unwrap();
            let text = String::from_utf8_lossy(record.line.text);
            let event = classifier.classify(&text, record.line.microseconds)?;
            Some(format!("{} {}", event.kind.name(), event.subject))
        });
        assert_eq!(events.collect::<Vec<_>>(), EVENTS_OF_6_18);
    }
}
