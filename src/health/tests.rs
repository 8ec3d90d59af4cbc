use std::sync::Arc;

use super::*;
use crate::model::finding::{Action, HealthStatus};
use crate::model::gpu::{
    DriverState, Ecc, Gpu, Gpus, NvLink, NvidiaDriver, Problem, RemappedRows, Values, Xid,
};
use crate::model::node::Measurement;
use crate::model::node::infiniband::{Infiniband, InfinibandPort, PortId};
use crate::model::node::systemd::{Systemd, Unit};
use crate::model::node::timex::{Pps, Timex};
use crate::model::nvidia::{Fabric, FabricState};
use crate::model::status::{AppState, AppStatus};
use crate::model::{FailedFileSystem, FileSystem};
use crate::util::state_io::tests::Dir;

const NOW: u64 = 1_718_000_000;

struct Checks {
    _dir: Dir,
    health: Health,
}

impl Checks {
    fn new(name: &str) -> Self {
        let dir = Dir::new(name);
        Self { health: Health::open(&dir.state), _dir: dir }
    }

    fn at(&self, sample: &RawSample, now: u64) -> HealthReport {
        let expected = HealthConfig::default();
        let none = |_| std::iter::empty();
        self.health.check(sample, EventCounts::default(), none, &expected, now)
    }
}

fn texts(sample: &RawSample) -> Vec<String> {
    let report = Checks::new("health").at(sample, NOW);
    report.findings.iter().map(|it| format!("{:?} {}", it.severity, it.text())).collect()
}

fn with_gpus(each: Vec<Gpu>) -> RawSample {
    RawSample { gpus: Arc::new(Gpus { nvidia: None, each }), ..RawSample::default() }
}

fn with_measurement(measurement: Measurement) -> RawSample {
    RawSample { measurements: vec![Arc::new(measurement)], ..RawSample::default() }
}

#[test]
fn healthy_machine_has_no_findings() {
    let healthy = Gpu {
        values: Values { utilization_percent: Some(99), ..Values::default() },
        ..Gpu::default()
    };
    let suspended = Gpu { problem: Some(Problem::Suspended), ..Gpu::default() };
    assert_eq!(texts(&with_gpus(vec![healthy, suspended])), <[String; 0]>::default());
}

/// An H100 NVL uses a part of its links, a GPU in MIG mode has no utilization, and the fan of an idle GPU stands still.
#[test]
fn peculiar_but_healthy_gpus_have_no_findings() {
    let links = NvLink {
        links_up: Some(12),
        links_down: Some(6),
        links_lost: Some(0),
        ..NvLink::default()
    };
    let unused_links = Values { nvlink: Some(links), ..Values::default() };
    let mig = Values { mig_enabled: Some(true), utilization_percent: None, ..Values::default() };
    let idle = Values {
        fan_percent: Some(0),
        utilization_percent: Some(0),
        clock_event_reasons: Some(vec!["gpu_idle".into(), "sw_power_cap".into()]),
        persistence_mode: Some(false),
        ..Values::default()
    };
    let remapped = Values {
        remapped_rows: Some(RemappedRows {
            correctable: 3,
            uncorrectable: 1,
            ..Default::default()
        }),
        ..Values::default()
    };
    let gpu = |(index, values)| Gpu { index, values, ..Gpu::default() };
    let each = (0..).zip([unused_links, mig, idle, remapped]).map(gpu).collect();
    let (checks, sample) = (Checks::new("peculiar"), with_gpus(each));
    for now in [NOW, NOW + 601, NOW + 7200] {
        assert_eq!(checks.at(&sample, now).findings, []);
    }
}

#[test]
fn names_each_problem_of_a_gpu_worst_first() {
    let throttled = Values {
        clock_event_reasons: Some(vec!["gpu_idle".into(), "hw_thermal_slowdown".into()]),
        remapped_rows: Some(RemappedRows { pending: true, ..RemappedRows::default() }),
        nvlink: Some(NvLink { links_lost: Some(2), ..NvLink::default() }),
        ecc: Some(Ecc { volatile_uncorrected: Some(1), ..Ecc::default() }),
        ..Values::default()
    };
    let xid = |code, count, age| Xid { code, count, last_unix_seconds: NOW - age };
    let xids = vec![xid(79, 2, 10), xid(13, 1, 86_400)];
    let first = Gpu { index: 0, values: throttled, xids, ..Gpu::default() };
    let second = Gpu {
        index: 1,
        problem: Some(Problem::Lost),
        message: Some("not on the PCI bus".into()),
        ..Gpu::default()
    };
    let sample = with_gpus(vec![first, second]);
    assert_eq!(
        texts(&sample),
        [
            "Critical GPU 1: lost: not on the PCI bus",
            "Critical GPU 0: XID 79, GPU has fallen off the bus",
            "Critical GPU 0: 1 uncorrected memory error",
            "Warning GPU 0: row remapping pending, GPU reset required",
            "Warning GPU 0: 2 NVLinks down",
        ]
    );
}

#[test]
fn names_driver_applications_and_filesystems() {
    let hung = NvidiaDriver { state: DriverState::Hung, ..NvidiaDriver::default() };
    let app = |id: &str, state| AppStatus {
        id: id.to_owned(),
        state,
        overdue_ratio: 4.0,
        timeout: std::time::Duration::from_secs(1),
        maintenance: None,
    };
    let file_system = |mount_point: &str, used: u64, read_only| FileSystem {
        mount_point: mount_point.into(),
        device: "d".into(),
        fs_type: "ext4".into(),
        device_number: None,
        read_only,
        total_bytes: 100,
        free_bytes: 100 - used,
        available_bytes: 100 - used,
        files: 0,
        files_free: 0,
    };
    let apps = vec![app("late", AppState::Warning), app("well", AppState::Ok)];
    let sample = RawSample {
        gpus: Arc::new(Gpus { nvidia: Some(hung), each: Vec::new() }),
        heartbeats: Arc::new(apps.into()),
        file_systems: vec![
            file_system("/", 97, false),
            file_system("/data", 90, false),
            file_system("/home", 89, false),
            file_system("/image", 100, true),
        ],
        ..RawSample::default()
    };
    assert_eq!(
        texts(&sample),
        [
            "Critical NVIDIA driver does not respond",
            "Critical /: 97 % full",
            "Warning Application late: heartbeat overdue",
            "Warning /data: 90 % full",
        ]
    );
    let many = (0..6).map(|id| app(&id.to_string(), AppState::Dropped)).collect::<Vec<_>>();
    let sample = RawSample { heartbeats: Arc::new(many.into()), ..RawSample::default() };
    assert_eq!(texts(&sample), ["Critical 6 applications are overdue"]);
}

fn throttled() -> RawSample {
    let reasons = Some(vec!["hw_thermal_slowdown".to_owned()]);
    let values = Values { clock_event_reasons: reasons, ..Values::default() };
    with_gpus(vec![Gpu { values, ..Gpu::default() }])
}

#[test]
fn short_conditions_are_no_findings() {
    let checks = Checks::new("hold");
    let count = |sample: &RawSample, now| checks.at(sample, now).findings.len();
    assert_eq!(count(&throttled(), NOW), 0);
    assert_eq!(count(&throttled(), NOW + 599), 0);
    let report = checks.at(&throttled(), NOW + 600);
    assert_eq!((report.findings[0].since, report.status), (NOW, HealthStatus::Warning));
    assert_eq!(report.findings[0].evidence[0].text, "hw thermal slowdown");
    assert_eq!(count(&RawSample::default(), NOW + 700), 0, "it has ended");
    assert_eq!(count(&throttled(), NOW + 800), 1, "it has returned");
    assert_eq!(count(&RawSample::default(), NOW + 2000), 0);
    assert_eq!(count(&throttled(), NOW + 2001), 0, "another one");
    assert_eq!(count(&throttled(), NOW - 9000), 0, "the clock was set back");
}

#[test]
fn port_that_was_active_and_missing_ones_are_findings() {
    let port = |number, state| InfinibandPort {
        id: PortId { device: "mlx5_0".into(), port: number },
        state: Some(state),
        physical_state: None,
        rate_bytes_per_second: None,
    };
    let sample = |state| {
        let ports = vec![port(1, state), port(2, 1)];
        with_measurement(Measurement::Infiniband(Infiniband { ports, ..Infiniband::default() }))
    };
    let checks = Checks::new("ports");
    for (state, now) in [(4, NOW), (1, NOW + 10)] {
        assert_eq!(checks.at(&sample(state), now).findings.len(), 0, "{state}");
    }
    let report = checks.at(&sample(1), NOW + 250);
    assert_eq!(report.findings[0].text(), "mlx5_0 port 1: the port went down");
    assert_eq!(report.findings[0].id, "infiniband-down-mlx5_0_port_1");
    assert_eq!(checks.at(&sample(4), NOW + 260).findings.len(), 0);
    let expected = HealthConfig { gpus: Some(8), infiniband_ports: Some(2) };
    let none = || |_| std::iter::empty();
    let check = |now| {
        let counts = EventCounts::default();
        let report = checks.health.check(&sample(4), counts, none(), &expected, now);
        report.findings.iter().map(Finding::text).collect::<Vec<_>>()
    };
    assert_eq!(check(NOW + 300), ["0 of 8 GPUs work"]);
    assert_eq!(check(NOW + 540), ["1 of 2 ports active", "0 of 8 GPUs work"]);
}

#[test]
fn failed_unit_of_gpus_is_a_finding_until_it_works() {
    let sample = |name: &str, state: &str| {
        let unit = Unit { name: name.into(), active_state: state.into(), ..Unit::default() };
        with_measurement(Measurement::Systemd(Systemd { units: vec![unit], ..Systemd::default() }))
    };
    let checks = Checks::new("units");
    checks.at(&sample("nvidia-fabricmanager.service", "failed"), NOW);
    let report = checks.at(&sample("nvidia-fabricmanager.service", "failed"), NOW + 60);
    let found = &report.findings[0];
    assert_eq!(
        (found.action, found.service.as_deref(), report.status),
        (Action::RestartService, Some("nvidia-fabricmanager"), HealthStatus::Critical)
    );
    let works = sample("nvidia-fabricmanager.service", "active");
    assert_eq!(checks.at(&works, NOW + 70).findings, []);
    checks.at(&sample("backup.service", "failed"), NOW + 80);
    assert_eq!(checks.at(&sample("backup.service", "failed"), NOW + 900).findings, []);
}

#[test]
fn clock_counts_if_a_time_daemon_does_not_synchronize_it() {
    let clock = |is_synchronized| Timex { is_synchronized, ..timex() };
    let daemon = |state: &str| {
        let unit =
            Unit { name: "chronyd.service".into(), active_state: state.into(), ..Unit::default() };
        Measurement::Systemd(Systemd { units: vec![unit], ..Systemd::default() })
    };
    let service = |is_synchronized, state| {
        let checks = Checks::new("clock");
        let clock = Arc::new(Measurement::Timex(clock(is_synchronized)));
        let measurements = vec![clock, Arc::new(daemon(state))];
        let sample = RawSample { measurements, ..RawSample::default() };
        assert_eq!(checks.at(&sample, NOW).findings, []);
        checks.at(&sample, NOW + 3600).findings.pop().and_then(|found| found.service)
    };
    assert_eq!(service(false, "active").as_deref(), Some("chronyd"));
    assert_eq!((service(false, "inactive"), service(true, "active")), (None, None));
}

#[test]
fn stopped_fabric_manager_counts_on_nodes_with_a_fabric_only() {
    let sample = |state, active_state: &str| {
        let fabric = Fabric { state: Some(state), ..Fabric::default() };
        let values = Values { fabric: Some(fabric), ..Values::default() };
        let unit = Unit {
            name: "nvidia-fabricmanager.service".into(),
            active_state: active_state.into(),
            ..Unit::default()
        };
        let systemd = Systemd { units: vec![unit], ..Systemd::default() };
        RawSample {
            gpus: with_gpus(vec![Gpu { values, ..Gpu::default() }]).gpus,
            ..with_measurement(Measurement::Systemd(systemd))
        }
    };
    for (state, before, count) in [
        (FabricState::NotSupported, "active", 0),
        (FabricState::Completed, "active", 1),
        (FabricState::Completed, "inactive", 0),
    ] {
        let checks = Checks::new("fabric");
        checks.at(&sample(state, before), NOW);
        checks.at(&sample(state, "inactive"), NOW + 1);
        let findings = checks.at(&sample(state, "inactive"), NOW + 61).findings;
        assert_eq!(findings.len(), count);
        assert!(findings.iter().all(|it| it.summary == "the service is stopped"), "{findings:?}");
    }
}

#[test]
fn persistence_mode_counts_if_other_gpus_have_it() {
    let gpu = |index, persistence_mode| Gpu {
        index,
        values: Values { persistence_mode, ..Values::default() },
        ..Gpu::default()
    };
    let texts = |modes: [Option<bool>; 2]| {
        let checks = Checks::new("persistence");
        let sample = with_gpus(vec![gpu(0, modes[0]), gpu(1, modes[1])]);
        checks.at(&sample, NOW);
        let report = checks.at(&sample, NOW + 60);
        report.findings.iter().map(Finding::text).collect::<Vec<_>>()
    };
    assert_eq!(texts([Some(false), Some(false)]), [""; 0]);
    assert_eq!(texts([Some(true), None]), [""; 0]);
    assert_eq!(texts([Some(true), Some(false)]), ["GPU 1: persistence mode is off"]);
}

#[test]
fn mounts_that_are_closed_to_the_agent_are_no_findings() {
    let failed = |reason: &str| FailedFileSystem {
        mount_point: "/data".into(),
        device: "server:/export".into(),
        fs_type: "nfs4".into(),
        read_only: false,
        reason: reason.into(),
    };
    let findings = |reason| {
        let file_systems_failed = vec![failed(reason)];
        let sample = RawSample { file_systems_failed, ..RawSample::default() };
        let checks = Checks::new("mounts");
        checks.at(&sample, NOW);
        let found = checks.at(&sample, NOW + 60).findings;
        found.iter().map(Finding::text).collect::<Vec<_>>()
    };
    assert_eq!(findings("permission denied"), [""; 0]);
    assert_eq!(findings("stale file handle"), ["/data: cannot be read: stale file handle"]);
}

#[test]
fn devices_with_equal_slugs_have_different_ids() {
    let file_system = |mount_point: &str| FileSystem {
        mount_point: mount_point.into(),
        device: "d".into(),
        fs_type: "ext4".into(),
        device_number: None,
        read_only: false,
        total_bytes: 100,
        free_bytes: 0,
        available_bytes: 0,
        files: 100,
        files_free: 50,
    };
    let file_systems = vec![file_system("/a b"), file_system("/a_b")];
    let report = Checks::new("ids").at(&RawSample { file_systems, ..RawSample::default() }, NOW);
    let ids: Vec<_> = report.findings.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(ids, ["filesystem-full-_a_b", "filesystem-full-_a_b.2"]);
}

fn timex() -> Timex {
    Timex {
        is_synchronized: true,
        offset_nanoseconds: 0,
        frequency_scaled_ppm: 0,
        max_error_microseconds: 0,
        estimated_error_microseconds: 0,
        status: 0,
        loop_time_constant: 0,
        tick_microseconds: 0,
        tai_offset_seconds: 0,
        pps: Pps {
            frequency_scaled_ppm: 0,
            stability_scaled_ppm: 0,
            jitter_nanoseconds: 0,
            shift: 0,
            jitter_exceeded: 0,
            calibrations: 0,
            calibration_errors: 0,
            stability_exceeded: 0,
        },
    }
}
