//! Time that does what it should not: wall clocks that jump by hours and years, and an agent that stood still.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use hm_agent::limits;
use hm_agent::util::logger::{unix_seconds, utc};
use serde_json::Value;
use support::core::Core;
use support::heartbeat::{lines_of, list_setting};
use support::hub::Hub;
use support::manager::Manager;
use support::node;
use support::relay::{Certificate, Relay, Way};
use support::supervised::Post;
use support::wall_clock::WallClock;
use support::{Agent, Client, SLACK, Scratch, wait_until};

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// An agent with both uplinks, Core's over TLS, and a program for applications that are late.
struct Scene {
    // Ended in this order.
    agent: Agent,
    to_core: Relay,
    hub: Hub,
    core: Core,
    files: Scratch,
}

impl Scene {
    /// With Core away, if `alone`.
    fn new(alone: bool, manager: Option<&Manager>) -> Self {
        let (hub, core, files) = (Hub::start(), Core::start(), Scratch::new("time"));
        let certificate = Certificate::for_days(90);
        let to_core = Relay::to(core.address, Some(certificate.server.clone()));
        to_core.is(if alone { Way::Cut } else { Way::Open });
        let hook = format!("echo \"$APP_ID $HB_STATE\" >> {}", files.0.join("overdue").display());
        let url = format!("core.url=wss://localhost:{}/api/v1/ws", to_core.address.port());
        let more = [
            list_setting("heartbeat.on_overdue", &["sh", "-c", &hook]),
            format!("tls.ca_file={}", files.write("ca.pem", &certificate.authority)),
            hub.setting(),
            "hm.report_interval=1".to_owned(),
        ];
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let mut command = node::command(&url, &files, &more);
        if let Some(manager) = manager {
            command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "2000000");
        }
        let scene = Self { agent: Agent::spawn(command), to_core, hub, core, files };
        scene.hub.wait_reports(2);
        if !alone {
            scene.core.wait("heartbeat", 2);
        }
        scene
    }

    fn hooks(&self) -> Vec<String> {
        lines_of(&self.files.0.join("overdue"))
    }

    /// The uplinks go on, on the same connections.
    fn assert_linked(&self, what: &str) {
        let (reports, beats) = (self.hub.reports().len(), self.core.seen("heartbeat").len());
        self.hub.wait_reports(reports + 2);
        self.core.wait("heartbeat", beats + 2);
        let connections = (self.hub.connections(), self.core.connections());
        assert_eq!(connections, (1, 1), "{what}: a clock is no reason to go");
    }
}

/// An update comes each second; by the wall clock at so many seconds from ours.
fn assert_on_tick(client: &mut Client, error: i64, what: &str) {
    let is_so = |update: &Value| {
        let is = update["timestamp"].as_i64().unwrap() - unix_seconds() as i64;
        (is - error).abs() < 10
    };
    // Some may have been on their way.
    wait_until(what, || is_so(&client.json()).then_some(()));
    for _ in 0..3 {
        let last = Instant::now();
        assert!(is_so(&client.json()), "{what}");
        assert!(last.elapsed() < Duration::from_secs(1) + SLACK, "{what}: {:?}", last.elapsed());
    }
}

#[test]
fn clocks_that_jump_by_hours_and_years_change_nothing_but_what_is_dated() {
    let scene = Scene::new(false, None);
    let Some(clock) = WallClock::of(&scene.agent) else {
        eprintln!("skipped: a process' clock cannot be set on this kind of machine");
        return;
    };
    let mut client = scene.agent.subscribe();
    // By a wall clock they would be dropped at the first step, or never.
    for (id, promised) in [("long", 600_000), ("late", 1000)] {
        scene.agent.tell(&format!("/hb_init?{promised}&appid={id}"));
    }
    scene.agent.tell("/maintenance?600000&appid=long");
    let begun = Instant::now();
    for error in [HOUR, 0, -HOUR, 0, YEAR, -YEAR, 0] {
        clock.wrong_by(error);
        let what = format!("{error} s");
        assert_on_tick(&mut client, error, &what);
        scene.assert_linked(&what);
    }
    // The one that was silent all the while: 12 s after its last beat, whatever the clock says.
    wait_until("all of that", || (scene.hooks().len() >= 3).then_some(()));
    assert!(begun.elapsed() >= Duration::from_secs(12));
    assert_eq!(scene.hooks(), ["late WARNING", "late CRITICAL", "late DROPPED"]);
    assert_eq!(scene.agent.list(), ["long"]);
    let line = scene.agent.tell("/status?0&appid=long");
    assert!(line.starts_with("OK") && line.contains("maintenance"), "{line}");
    let log = scene.agent.stop();
    let set_back = log.iter().filter(|line| line.contains("hm: the clock was set back")).count();
    // From an hour ahead, to an hour behind, from a year ahead to a year behind: three times.
    assert_eq!(set_back, 3, "{log:#?}");
    let troubles = log.iter().filter(|line| line.contains(" warn ") || line.contains(" error "));
    let others = troubles.filter(|line| !line.contains("set back") && !line.contains("[late]"));
    assert_eq!(others.count(), 0, "{log:#?}");
}

#[test]
#[ignore = "a minute"]
fn a_certificate_is_not_for_the_year_that_the_clock_shows_until_the_clock_is_right() {
    std::thread::scope(|scope| {
        scope.spawn(|| certificate_by_a_wrong_clock(YEAR, "it has expired at 20"));
        scope.spawn(|| certificate_by_a_wrong_clock(-YEAR, "it is not valid before 20"));
    });
}

fn certificate_by_a_wrong_clock(error: i64, why: &str) {
    let scene = Scene::new(true, None);
    let Some(clock) = WallClock::of(&scene.agent) else {
        eprintln!("skipped: a process' clock cannot be set on this kind of machine");
        return;
    };
    clock.wrong_by(error);
    scene.to_core.is(Way::Open);
    let line = scene.agent.wait_log(&format!("TLS: invalid peer certificate: {why}"));
    let year = utc((unix_seconds() as i64 + error) as u64)[..4].to_owned();
    assert!(line.contains(&format!("; the clock here shows {year}")), "{line}");
    clock.wrong_by(0);
    scene.core.wait("heartbeat", 2);
    // The other uplink has not noticed.
    assert_eq!(scene.hub.connections(), 1);
    scene.agent.stop();
}

#[test]
fn an_agent_that_stood_still_blames_nobody_for_it() {
    let manager = Manager::new();
    let scene = Scene::new(false, Some(&manager));
    let mut client = scene.agent.subscribe();
    // They would have been dropped after 12 s.
    for number in 0..20 {
        scene.agent.tell(&format!("/hb_init?1000&appid=app-{number}"));
    }
    let slept = Duration::from_secs(13);
    scene.agent.signal("-STOP");
    wait_until("it stopped", || (scene.agent.state() == "T").then_some(()));
    // What it said before.
    client.0.get_ref().set_nonblocking(true).unwrap();
    while client.0.read().is_ok() {}
    client.0.get_ref().set_nonblocking(false).unwrap();
    while manager.hear(Duration::ZERO).is_some() {}
    client.silent_for(slept);
    scene.agent.signal("-CONT");
    let woken = Instant::now();
    // One sample, and then one a second.
    let mut came: Vec<Duration> = Vec::new();
    for _ in 0..4 {
        assert_eq!(client.json()["type"], "usage_update");
        came.push(woken.elapsed());
    }
    assert!(came[3] > Duration::from_secs(2), "a burst: {came:?}");
    assert!(manager.beats(Duration::from_secs(2)) >= 1, "the service manager hears of it again");
    for number in 0..20 {
        scene.agent.tell(&format!("/hb_ping?1000&appid=app-{number}"));
    }
    assert_eq!(scene.agent.list().len(), 20);
    scene.assert_linked("after a stop");
    assert_eq!(scene.hooks(), [""; 0], "nobody was late");
    for number in 0..20 {
        scene.agent.tell(&format!("/hb_done?0&appid=app-{number}"));
    }
    // Who is silent when it listens is late.
    scene.agent.tell("/hb_init?0&appid=late");
    wait_until("its end", || (scene.hooks().len() == 3).then_some(()));
    let log = scene.agent.stop();
    assert!(!log.iter().any(|line| line.contains("hangs")), "{log:#?}");
}

/// As in a container that is frozen, longer than an agent may be silent.
#[test]
#[ignore = "a minute"]
fn a_supervisor_that_stood_still_with_its_agent_does_not_kill_it() {
    let post = Post::new("frozen");
    let supervisor = post.in_background(&[]);
    let agent = supervisor.agent();
    let both = |signal: &str| {
        supervisor.signal(signal);
        support::supervised::signal(agent, signal);
    };
    both("-STOP");
    std::thread::sleep(limits::AGENT_SILENCE + Duration::from_secs(2));
    both("-CONT");
    wait_until("that it is served", || post.is_served().then_some(()));
    // Whoever is to be killed, is by then.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(supervisor.agent(), agent, "{}", post.read("log"));
    assert!(!post.read("log").contains("the agent is killed"), "{}", post.read("log"));
    supervisor.stop();
}
