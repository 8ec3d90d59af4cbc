//! Problems of this machine, found in a snapshot: those that the dashboard shows as alerts.

use crate::model::Snapshot;
use crate::model::finding::{Finding, Level};
use crate::model::gpu::{DriverState, Gpu, Problem};
use crate::model::status::AppState;

/// An error of a GPU counts for this long.
const XID_AGE_S: u64 = 86_400;
/// From these shares of used space on, a filesystem is nearly full, and full.
const WARNING_USED_PERCENT: f64 = 90.0;
const CRITICAL_USED_PERCENT: f64 = 97.0;
/// More overdue applications are counted, not listed.
const MAX_LISTED_APPS: usize = 5;
/// Reasons for reduced clocks that a healthy GPU does not have.
const THROTTLE_REASONS: [&str; 4] =
    ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"];

/// The problems of a machine, critical ones first.
pub fn findings(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = Vec::new();
    check_driver(snapshot, &mut findings);
    for gpu in &snapshot.gpus.each {
        check_gpu(gpu, snapshot.unix_seconds, &mut findings);
    }
    check_apps(snapshot, &mut findings);
    check_upstreams(snapshot, &mut findings);
    check_file_systems(snapshot, &mut findings);
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// Number of GPU errors, each code of each GPU once, that have occurred within the last day.
pub fn recent_xids(snapshot: &Snapshot) -> usize {
    let xids = snapshot.gpus.each.iter().flat_map(|gpu| &gpu.xids);
    xids.filter(|xid| is_recent(snapshot.unix_seconds, xid.last_unix_seconds)).count()
}

fn is_recent(now: u64, at: u64) -> bool {
    now.saturating_sub(at) < XID_AGE_S
}

fn add(findings: &mut Vec<Finding>, level: Level, text: String) {
    findings.push(Finding { level, text });
}

fn check_driver(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let Some(driver) = &snapshot.gpus.nvidia else { return };
    let problem = match driver.state {
        DriverState::NoDriver => "not loaded",
        DriverState::VersionMismatch => "upgraded while loaded (library and kernel module differ)",
        DriverState::Hung => "does not respond",
        DriverState::Crashed => "crashed",
        DriverState::Unavailable => "cannot be queried",
        DriverState::Starting | DriverState::Ok | DriverState::NoGpu | DriverState::Suspended => {
            return;
        }
    };
    let text = with_message(format!("NVIDIA driver {problem}"), driver.message.as_deref());
    add(findings, Level::Critical, text);
}

fn with_message(text: String, message: Option<&str>) -> String {
    match message {
        Some(message) => format!("{text}: {message}"),
        None => text,
    }
}

fn check_gpu(gpu: &Gpu, now: u64, findings: &mut Vec<Finding>) {
    let index = gpu.index;
    let mut add = |level, text: String| add(findings, level, format!("GPU {index} {text}"));
    let problem = match gpu.problem {
        Some(Problem::Lost) => Some("lost"),
        Some(Problem::Hung) => Some("hung"),
        Some(Problem::Failed) => Some("failed"),
        Some(Problem::Suspended) | None => None,
    };
    if let Some(problem) = problem {
        add(Level::Critical, with_message(problem.to_owned(), gpu.message.as_deref()));
    }
    let values = &gpu.values;
    if values.remapped_rows.is_some_and(|rows| rows.failed) {
        add(Level::Critical, "row remapping failed".to_owned());
    }
    let uncorrected = values.ecc.and_then(|ecc| ecc.volatile_uncorrected);
    if let Some(count @ 1..) = uncorrected {
        add(Level::Critical, count_of(count, "uncorrected memory error"));
    }
    let reasons = values.clock_event_reasons.iter().flatten();
    let throttled: Vec<_> =
        reasons.filter(|reason| THROTTLE_REASONS.contains(&reason.as_str())).collect();
    if !throttled.is_empty() {
        let reasons: Vec<_> = throttled.iter().map(|reason| reason.replace('_', " ")).collect();
        add(Level::Warning, format!("throttled: {}", reasons.join(", ")));
    }
    if values.remapped_rows.is_some_and(|rows| rows.pending) {
        add(Level::Warning, "row remapping pending, needs a reset".to_owned());
    }
    if let Some(count @ 1..) = values.nvlink.and_then(|nvlink| nvlink.links_lost) {
        add(Level::Warning, format!("{} down", count_of(count.into(), "NVLink")));
    }
    for xid in gpu.xids.iter().filter(|xid| is_recent(now, xid.last_unix_seconds)) {
        let times = if xid.count > 1 { format!(" {} times", xid.count) } else { String::new() };
        add(Level::Warning, format!("XID {}{times}", xid.code));
    }
}

fn count_of(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn check_apps(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let apps = &snapshot.heartbeats;
    let states = [AppState::Warning, AppState::Critical, AppState::Dropped];
    let overdue: usize = states.iter().map(|state| apps.number(*state)).sum();
    if overdue > MAX_LISTED_APPS {
        return add(findings, Level::Critical, format!("{overdue} applications are overdue"));
    }
    let is_overdue = |state| states.contains(&state);
    for app in apps.shown.iter().filter(|app| is_overdue(app.state) && app.maintenance.is_none()) {
        let (level, what) = match app.state {
            AppState::Warning => (Level::Warning, "is overdue"),
            AppState::Dropped => (Level::Critical, "was dropped"),
            AppState::Critical | AppState::Ok => (Level::Critical, "is overdue"),
        };
        add(findings, level, format!("Application {} {what}", app.id));
    }
}

fn check_upstreams(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for upstream in &*snapshot.upstreams {
        let name = &upstream.name;
        let reason = upstream.last_disconnect_reason.as_deref();
        if upstream.state != "online" && (upstream.state == "waiting" || reason.is_some()) {
            let text = with_message(format!("{name} is not online"), reason);
            add(findings, Level::Warning, text);
        }
        if upstream.dropped > 0 {
            let text = format!("{name}: {} dropped", count_of(upstream.dropped, "report"));
            add(findings, Level::Warning, text);
        }
    }
}

fn check_file_systems(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    for file_system in snapshot.file_systems.iter().filter(|it| !it.read_only) {
        let used = file_system.used_percent().unwrap_or_default();
        let level = match used {
            CRITICAL_USED_PERCENT.. => Level::Critical,
            WARNING_USED_PERCENT.. => Level::Warning,
            _ => continue,
        };
        add(findings, level, format!("{} is {used:.0} % full", file_system.mount_point));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::FileSystem;
    use crate::model::gpu::{Ecc, Gpus, NvLink, NvidiaDriver, RemappedRows, Values, Xid};
    use crate::model::status::AppStatus;

    const NOW: u64 = 1_718_000_000;

    fn texts(snapshot: &Snapshot) -> Vec<String> {
        findings(snapshot).into_iter().map(|it| format!("{:?} {}", it.level, it.text)).collect()
    }

    fn with_gpus(each: Vec<Gpu>) -> Snapshot {
        let gpus = Arc::new(Gpus { nvidia: None, each });
        Snapshot { unix_seconds: NOW, gpus, ..Snapshot::default() }
    }

    #[test]
    fn healthy_machine_has_none() {
        let healthy = Gpu {
            values: Values { utilization_percent: Some(99), ..Values::default() },
            ..Gpu::default()
        };
        let suspended = Gpu { problem: Some(Problem::Suspended), ..Gpu::default() };
        assert_eq!(texts(&with_gpus(vec![healthy, suspended])), <[String; 0]>::default());
    }

    #[test]
    fn names_each_problem_of_a_gpu_critical_ones_first() {
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
        let snapshot = with_gpus(vec![first, second]);
        assert_eq!(
            texts(&snapshot),
            [
                "Critical GPU 0 1 uncorrected memory error",
                "Critical GPU 1 lost: not on the PCI bus",
                "Warning GPU 0 throttled: hw thermal slowdown",
                "Warning GPU 0 row remapping pending, needs a reset",
                "Warning GPU 0 2 NVLinks down",
                "Warning GPU 0 XID 79 2 times",
            ]
        );
        assert_eq!(recent_xids(&snapshot), 1);
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
            read_only,
            total_bytes: 100,
            free_bytes: 100 - used,
            available_bytes: 100 - used,
            files: 0,
            files_free: 0,
        };
        let apps = vec![app("late", AppState::Warning), app("well", AppState::Ok)];
        let snapshot = Snapshot {
            gpus: Arc::new(Gpus { nvidia: Some(hung), each: Vec::new() }),
            heartbeats: Arc::new(apps.into()),
            file_systems: vec![
                file_system("/", 97, false),
                file_system("/data", 90, false),
                file_system("/home", 89, false),
                file_system("/image", 100, true),
            ],
            ..Snapshot::default()
        };
        assert_eq!(
            texts(&snapshot),
            [
                "Critical NVIDIA driver does not respond",
                "Critical / is 97 % full",
                "Warning Application late is overdue",
                "Warning /data is 90 % full",
            ]
        );
        let many = (0..6).map(|id| app(&id.to_string(), AppState::Dropped)).collect::<Vec<_>>();
        let snapshot = Snapshot { heartbeats: Arc::new(many.into()), ..Snapshot::default() };
        assert_eq!(texts(&snapshot), ["Critical 6 applications are overdue"]);
    }
}
