use super::*;
use crate::model::FileSystem;
use crate::model::event::{EventKind, EventSeverity};
use crate::model::finding::HealthStatus;
use crate::util::state_io::tests::Dir;

const NOW: u64 = 1_718_000_000;

fn xid(at: u64) -> Event {
    Event {
        id: at,
        unix_seconds: at,
        last_unix_seconds: at,
        count: 1,
        kind: EventKind::Xid,
        severity: EventSeverity::Critical,
        subject: "0000:9b:00.0".into(),
        code: Some(79),
        text: "NVRM: Xid (PCI:0000:9b:00): 79, GPU has fallen off the bus.".into(),
    }
}

#[test]
fn acknowledged_finding_counts_again_when_its_cause_occurs_again() {
    let dir = Dir::new("acknowledge");
    let id = "gpu-xid79-0000_9b_00.0";
    let open = || Health::open(&dir.state);
    let check = |health: &Health, events: &[Event], now| {
        let mut counts = EventCounts::default();
        events.iter().for_each(|event| counts.add(event.kind));
        let since = |_| events.iter().cloned();
        let report =
            health.check(&RawSample::default(), counts, since, &HealthConfig::default(), now);
        dir.flush();
        (report.status, report.findings.first().and_then(|it| it.acknowledged))
    };
    let health = open();
    let once = [xid(NOW - 10)];
    assert_eq!(check(&health, &once, NOW), (HealthStatus::Critical, None));
    let spool = dir.path.join(SPOOL);
    std::fs::write(&spool, format!("{id}\n../x\nunknown-id\n")).unwrap();
    check(&health, &once, NOW + 5);
    assert_eq!(check(&health, &once, NOW + 10), (HealthStatus::Ok, Some(NOW + 10)));
    assert!(!spool.exists());
    let restarted = open();
    assert_eq!(check(&restarted, &once, NOW + 20), (HealthStatus::Ok, Some(NOW + 10)));
    let again = [xid(NOW - 10), xid(NOW + 30)];
    assert_eq!(check(&restarted, &again, NOW + 40), (HealthStatus::Critical, None));
    // Forgotten some time after it has ended.
    check(&restarted, &[], NOW + 700);
    check(&restarted, &[], NOW + 1400);
    let text = std::fs::read_to_string(dir.path.join("health")).unwrap();
    assert!(!text.contains(id), "{text}");
}

#[test]
fn acknowledged_condition_stays_so_until_it_ends() {
    let dir = Dir::new("acknowledge-condition");
    let config = HealthConfig { gpus: Some(1), infiniband_ports: None };
    let check = |health: &Health, config: &HealthConfig, now| {
        let none = |_| std::iter::empty();
        let report = health.check(&RawSample::default(), EventCounts::default(), none, config, now);
        dir.flush();
        report.status
    };
    let health = Health::open(&dir.state);
    assert_eq!(check(&health, &config, NOW), HealthStatus::Critical);
    std::fs::write(dir.path.join(SPOOL), "gpu-missing\n").unwrap();
    check(&health, &config, NOW + 5);
    assert_eq!(check(&health, &config, NOW + 10), HealthStatus::Ok);
    let restarted = Health::open(&dir.state);
    assert_eq!(check(&restarted, &config, NOW + 900), HealthStatus::Ok);
    // It ends and returns.
    let healthy = HealthConfig::default();
    check(&restarted, &healthy, NOW + 1000);
    check(&restarted, &healthy, NOW + 1700);
    assert_eq!(check(&restarted, &config, NOW + 1710), HealthStatus::Critical);
}

#[test]
fn acknowledged_condition_counts_when_it_becomes_worse() {
    let dir = Dir::new("acknowledge-worse");
    let health = Health::open(&dir.state);
    let check = |available_bytes, now| {
        let file_system = FileSystem {
            mount_point: "/data".into(),
            device: "d".into(),
            fs_type: "ext4".into(),
            device_number: None,
            read_only: false,
            total_bytes: 100,
            free_bytes: available_bytes,
            available_bytes,
            files: 0,
            files_free: 0,
        };
        let sample = RawSample { file_systems: vec![file_system], ..RawSample::default() };
        let (counts, none) = (EventCounts::default(), |_| std::iter::empty());
        let report = health.check(&sample, counts, none, &HealthConfig::default(), now);
        dir.flush();
        report.status
    };
    assert_eq!(check(9, NOW), HealthStatus::Warning);
    std::fs::write(dir.path.join(SPOOL), b"\xff\nfilesystem-full-_data\n").unwrap();
    check(9, NOW + 5);
    assert_eq!(check(8, NOW + 10), HealthStatus::Ok);
    assert_eq!(check(1, NOW + 20), HealthStatus::Critical);
}

#[test]
fn damaged_state_file_and_links_lose_no_findings() {
    let dir = Dir::new("acknowledge-damaged");
    std::fs::write(dir.path.join("health"), "not a journal\n\0\u{1}").unwrap();
    let health = Health::open(&dir.state);
    std::os::unix::fs::symlink("/etc/passwd", dir.path.join(SPOOL)).unwrap();
    let none = |_| std::iter::empty();
    let counts = EventCounts::default();
    let config = HealthConfig { gpus: Some(1), infiniband_ports: None };
    let report = health.check(&RawSample::default(), counts, none, &config, NOW);
    dir.flush();
    assert_eq!(report.findings.len(), 1);
}
