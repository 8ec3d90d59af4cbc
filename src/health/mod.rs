//! Problems of this machine, found in a snapshot: those that the dashboard shows as alerts. Keep in step with
//! `src/telemetry/dashboard/alerts.js`.

pub mod nvidia;

use crate::model::Snapshot;
use crate::model::gpu::{DriverState, Gpu, Problem};
use crate::model::health_problem::{HealthProblem, Severity};
use crate::model::status::{AppState, AppStatus};

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
pub fn problems(snapshot: &Snapshot) -> Vec<HealthProblem> {
    let mut problems = Vec::new();
    check_driver(snapshot, &mut problems);
    for gpu in &snapshot.gpus.each {
        check_gpu(gpu, snapshot.unix_seconds, &mut problems);
    }
    check_apps(snapshot, &mut problems);
    check_upstreams(snapshot, &mut problems);
    check_file_systems(snapshot, &mut problems);
    problems.sort_by_key(|problem| problem.severity);
    problems
}

/// Number of GPU errors, each code of each GPU once, that have occurred within the last day.
pub fn recent_xids(snapshot: &Snapshot) -> usize {
    let xids = snapshot.gpus.each.iter().flat_map(|gpu| &gpu.xids);
    xids.filter(|xid| is_recent(snapshot.unix_seconds, xid.last_unix_seconds)).count()
}

fn is_recent(now: u64, at: u64) -> bool {
    now.saturating_sub(at) < XID_AGE_S
}

fn add(problems: &mut Vec<HealthProblem>, severity: Severity, text: String) {
    problems.push(HealthProblem { severity, text });
}

fn check_driver(snapshot: &Snapshot, problems: &mut Vec<HealthProblem>) {
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
    add(problems, Severity::Critical, text);
}

fn with_message(text: String, message: Option<&str>) -> String {
    match message {
        Some(message) => format!("{text}: {message}"),
        None => text,
    }
}

fn check_gpu(gpu: &Gpu, now: u64, problems: &mut Vec<HealthProblem>) {
    let index = gpu.index;
    let mut add = |severity, text: String| add(problems, severity, format!("GPU {index}: {text}"));
    let problem = match gpu.problem {
        Some(Problem::Lost) => Some("lost"),
        Some(Problem::Hung) => Some("hung"),
        Some(Problem::Failed) => Some("failed"),
        Some(Problem::Suspended) | None => None,
    };
    if let Some(problem) = problem {
        add(Severity::Critical, with_message(problem.to_owned(), gpu.message.as_deref()));
    }
    let values = &gpu.values;
    if values.remapped_rows.is_some_and(|rows| rows.failed) {
        add(Severity::Critical, "row remapping failed".to_owned());
    }
    for (severity, text) in nvidia::problems(values) {
        add(severity, text);
    }
    let uncorrected = values.ecc.and_then(|ecc| ecc.volatile_uncorrected);
    if let Some(count @ 1..) = uncorrected {
        add(Severity::Critical, count_of(count, "uncorrected memory error"));
    }
    let reasons = values.clock_event_reasons.iter().flatten();
    let throttled: Vec<_> =
        reasons.filter(|reason| THROTTLE_REASONS.contains(&reason.as_str())).collect();
    if !throttled.is_empty() {
        let reasons: Vec<_> = throttled.iter().map(|reason| reason.replace('_', " ")).collect();
        add(Severity::Warning, format!("throttled: {}", reasons.join(", ")));
    }
    if values.remapped_rows.is_some_and(|rows| rows.pending) {
        add(Severity::Warning, "row remapping pending, GPU reset required".to_owned());
    }
    if let Some(count @ 1..) = values.nvlink.and_then(|nvlink| nvlink.links_lost) {
        add(Severity::Warning, format!("{} down", count_of(count.into(), "NVLink")));
    }
    for xid in gpu.xids.iter().filter(|xid| is_recent(now, xid.last_unix_seconds)) {
        let times = if xid.count > 1 { format!(" ({} times)", xid.count) } else { String::new() };
        add(Severity::Warning, format!("XID {}{times}", xid.code));
    }
}

fn count_of(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn check_apps(snapshot: &Snapshot, problems: &mut Vec<HealthProblem>) {
    let apps = &snapshot.heartbeats;
    let states = [AppState::Warning, AppState::Critical, AppState::Dropped];
    let is_overdue = |app: &&AppStatus| states.contains(&app.state) && app.maintenance.is_none();
    let count = apps.shown.iter().filter(is_overdue).count();
    if count > MAX_LISTED_APPS {
        return add(problems, Severity::Critical, format!("{count} applications are overdue"));
    }
    for app in apps.shown.iter().filter(is_overdue) {
        let (severity, what) = match app.state {
            AppState::Warning => (Severity::Warning, "is overdue"),
            AppState::Dropped => (Severity::Critical, "was dropped"),
            AppState::Critical | AppState::Ok => (Severity::Critical, "is overdue"),
        };
        add(problems, severity, format!("Application {} {what}", app.id));
    }
}

fn check_upstreams(snapshot: &Snapshot, problems: &mut Vec<HealthProblem>) {
    for upstream in &*snapshot.upstreams {
        let name = &upstream.name;
        let reason = upstream.last_disconnect_reason.as_deref();
        if upstream.state != "online" && (upstream.state == "waiting" || reason.is_some()) {
            let text = with_message(format!("{name} is not online"), reason);
            add(problems, Severity::Warning, text);
        }
        if upstream.dropped > 0 {
            let text = format!("{name}: {} dropped", count_of(upstream.dropped, "report"));
            add(problems, Severity::Warning, text);
        }
    }
}

fn check_file_systems(snapshot: &Snapshot, problems: &mut Vec<HealthProblem>) {
    for file_system in snapshot.file_systems.iter().filter(|it| !it.read_only) {
        let used = file_system.used_percent().unwrap_or_default();
        let severity = match used {
            CRITICAL_USED_PERCENT.. => Severity::Critical,
            WARNING_USED_PERCENT.. => Severity::Warning,
            _ => continue,
        };
        add(problems, severity, format!("{} is {used:.0} % full", file_system.mount_point));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::FileSystem;
    use crate::model::gpu::{Ecc, Gpus, NvLink, NvidiaDriver, RemappedRows, Values, Xid};

    const NOW: u64 = 1_718_000_000;

    fn texts(snapshot: &Snapshot) -> Vec<String> {
        problems(snapshot).into_iter().map(|it| format!("{:?} {}", it.severity, it.text)).collect()
    }

    fn with_gpus(each: Vec<Gpu>) -> Snapshot {
        let gpus = Arc::new(Gpus { nvidia: None, each });
        Snapshot { unix_seconds: NOW, gpus, ..Snapshot::default() }
    }

    #[test]
    fn healthy_machine_has_no_problems() {
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
                "Critical GPU 0: 1 uncorrected memory error",
                "Critical GPU 1: lost: not on the PCI bus",
                "Warning GPU 0: throttled: hw thermal slowdown",
                "Warning GPU 0: row remapping pending, GPU reset required",
                "Warning GPU 0: 2 NVLinks down",
                "Warning GPU 0: XID 79 (2 times)",
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
            device_number: None,
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
