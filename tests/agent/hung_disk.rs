//! A disk under `state_dir` that does not respond delays nothing: overdue applications are detected, hooks run, upstreams stay
//! connected, and the agent starts and stops.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::core_fixture::{self, User};
use crate::support::heartbeat::{lines_of, list_setting};
use crate::support::hm_server::HmServer;
use crate::support::hung_disk::HungDisk;
use crate::support::{Agent, SLACK, TempDir, wait_until};

/// The agent takes a disk that is slower than this for one that hangs.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a script that appends the application's state to a file in `scratch`.
fn hook(scratch: &TempDir) -> String {
    let script = format!("echo \"$APP_ID $HB_STATE\" >> {}/ran", scratch.0.display());
    list_setting("heartbeat.on_overdue", &["sh", "-c", &script])
}

fn state_dir(disk: &HungDisk) -> String {
    format!("state_dir={}/state", disk.directory.0.display())
}

fn wait_alerts(scratch: &TempDir, id: &str) {
    let expected: Vec<_> =
        ["WARNING", "CRITICAL", "DROPPED"].iter().map(|state| format!("{id} {state}")).collect();
    wait_until("the hooks", || (lines_of(&scratch.0.join("ran")) == expected).then_some(()));
}

/// Waits until the agent has saved a table with this application.
fn wait_saved(disk: &HungDisk, id: &str) {
    let file = disk.directory.0.join("state/heartbeat.json");
    wait_until("the saved table", || {
        std::fs::read_to_string(&file).unwrap_or_default().contains(id).then_some(())
    });
}

fn assert_responsive(agent: &Agent) {
    let start = Instant::now();
    assert_eq!(agent.http("/-/healthy", "Connection: close\r\n").0, 200);
    agent.list();
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
}

#[test]
#[ignore = "needs root, a loop device and fsfreeze"]
fn overdue_applications_are_detected_and_hooks_run() {
    let Some(disk) = HungDisk::new() else { return };
    let scratch = TempDir::new("hooks");
    let agent = Agent::start(&[&state_dir(&disk), &hook(&scratch)]);
    agent.get_ok("/hb_init?600000&appid=saved");
    wait_saved(&disk, "saved");
    let frozen = disk.freeze();
    let start = Instant::now();
    agent.get_ok("/hb_init?0&appid=late");
    wait_alerts(&scratch, "late");
    assert!(start.elapsed() < Duration::from_secs(6) + SLACK, "{:?}", start.elapsed());
    // Each transition enqueues a save.
    agent.wait_log("is not responding; state is kept in memory only");
    assert_responsive(&agent);
    drop(frozen);
    agent.wait_log("/state recovered");
    agent.get_ok("/hb_init?600000&appid=after");
    wait_saved(&disk, "after");
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains("stalled")), "{log:#?}");
}

#[test]
#[ignore = "needs root, a loop device and fsfreeze"]
fn upstreams_stay_connected_and_commands_are_refused() {
    let Some(disk) = HungDisk::new() else { return };
    let (user, core, hub) = (User::new(), Core::start(), HmServer::start());
    let state = TempDir(disk.directory.0.join("state"));
    let agent =
        core_fixture::start(&core, &user, &state, &[&hub.setting(), "hm.report_interval=1"]);
    core.execute("before", "echo a", 10);
    assert_eq!(core.result("before").data["exit_code"], 0);
    hub.wait_reports(1);
    let frozen = disk.freeze();
    let start = Instant::now();
    core.execute("during", "echo a", 10);
    let refused = core.result("during").data;
    assert_eq!(refused["exit_code"], 126, "{refused}");
    assert!(refused["stderr"].as_str().unwrap().contains("disk does not respond"), "{refused}");
    assert!(start.elapsed() > DISK_TIMEOUT - SLACK, "{:?}", start.elapsed());
    hub.wait_reports(hub.reports().len() + 2);
    core.wait("heartbeat", core.seen("heartbeat").len() + 2);
    assert_eq!((core.connections(), agent.count_log(": online as n1, ")), (1, 1));
    assert_responsive(&agent);
    drop(frozen);
    agent.wait_log("/state recovered");
    core.execute("after", "echo a", 10);
    assert_eq!(core.result("after").data["exit_code"], 0);
    agent.stop();
}

#[test]
#[ignore = "needs root, a loop device and fsfreeze"]
fn agent_starts_without_state_and_detects() {
    let Some(disk) = HungDisk::new() else { return };
    let scratch = TempDir::new("hooks");
    let first = Agent::start(&[&state_dir(&disk)]);
    first.get_ok("/hb_init?600000&appid=saved");
    wait_saved(&disk, "saved");
    first.stop();
    let frozen = disk.freeze();
    let agent = Agent::start(&[&state_dir(&disk), &hook(&scratch)]);
    agent.wait_log("/state does not respond; running without state");
    agent.get_ok("/hb_init?0&appid=late");
    wait_alerts(&scratch, "late");
    assert_responsive(&agent);
    drop(frozen);
    agent.stop();
    // What was saved before is still there.
    assert!(saved(&disk.directory.0).contains("saved"));
}

fn saved(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("state/heartbeat.json")).unwrap()
}

#[test]
#[ignore = "needs root, a loop device and fsfreeze"]
fn agent_stops_in_time() {
    let Some(disk) = HungDisk::new() else { return };
    let mut agent = Agent::start(&[&state_dir(&disk)]);
    agent.get_ok("/hb_init?600000&appid=saved");
    wait_saved(&disk, "saved");
    let frozen = disk.freeze();
    agent.get_ok("/hb_init?600000&appid=late");
    agent.signal("-TERM");
    agent.wait_log("state_dir is not responding: last changes are not saved");
    // The kernel ends the process after its write.
    drop(frozen);
    agent.wait();
}
