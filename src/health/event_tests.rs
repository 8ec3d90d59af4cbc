use crate::health::events::findings;
use crate::model::event::{Event, EventKind, EventSeverity};
use crate::model::finding::Action;
use crate::model::gpu::Values;
use crate::model::gpu::{Gpu, Gpus};
use crate::model::nvidia::RecoveryAction;

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
    let week = [xid(300, 79), reboot(250), xid(200, 119), reboot(150), xid(100, 79), xid(90, 48)];
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
        let text = format!("NVRM: Xid (PCI:0000:9b:00): 31, pid=7, name=job{pid}, Ch 8");
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
    // Of a soft mount: its operation has ended with an error.
    assert_eq!(actions(&[nfs(20, "nfs: server 10.0.0.3 not responding, timed out")]), []);
    let hangs = nfs(20, "nfs: server 10.0.0.3 not responding, still trying");
    assert_eq!(actions(std::slice::from_ref(&hangs)).len(), 1);
    assert_eq!(actions(&[hangs, nfs(10, "nfs: server 10.0.0.3 OK")]), []);
    let warning = |kind| Event { severity: EventSeverity::Warning, ..event(9, kind, "x") };
    let kinds = EventKind::ALL.iter().map(|kind| warning(*kind));
    assert_eq!(actions(&kinds.collect::<Vec<_>>()), []);
    let memory =
        |text| Event { severity: EventSeverity::Warning, ..event(9, EventKind::OomKill, text) };
    assert_eq!(actions(&[memory("oom-kill:constraint=CONSTRAINT_MEMCG,…")]), []);
    let forged = "oom-kill:constraint=CONSTRAINT_MEMCG,task=CONSTRAINT_NONE,pid=1";
    assert_eq!(actions(&[memory(forged)]), []);
    let of = |subject: &str| Event {
        subject: subject.into(),
        ..memory("oom-kill:constraint=CONSTRAINT_NONE,…")
    };
    assert_eq!(actions(&[of("a[1]"), of("b[2]")]), [("memory-oom".into(), Action::None, 0)]);
}
