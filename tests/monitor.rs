//! `/monitor` with real hosts: what a client that does everything right sees.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::sshd::{CC, Keys, PASSWORD, Sshd, User};
use support::{PATIENCE, SLACK, wait_until};

const OF_EACH_LOOK: [&str; 7] =
    ["cpu_performance", "memory_performance", "uptime", "loadavg", "net_dev", "net_stat", "disk"];

#[test]
fn every_event_comes_at_its_pace_until_it_is_stopped() {
    let sshd = Sshd::start(&[CC]);
    let (monitor, key) = (Monitor::start(&[]), sshd.key("cc"));
    let mut watcher = monitor.connect();
    let hosts = json!([sshd.host("cc", Some(PASSWORD))]);
    assert_eq!(watcher.ask("ssh.start_monitor", hosts.clone()), Value::Null);
    let events = watcher.gather(Duration::from_secs(17));
    let mut by_name: BTreeMap<String, Vec<(Instant, Value)>> = BTreeMap::new();
    for (at, event) in events {
        assert_eq!(event["message"]["ssh_key"], key.as_str());
        let name = event["event"].as_str().unwrap().to_owned();
        by_name.entry(name).or_default().push((at, event["message"].clone()));
    }
    // Every 2 s, every 5 s, every 10 s; a busy machine may be late.
    let counts = |name: &str| by_name.get(name).map_or(0, Vec::len);
    for name in OF_EACH_LOOK {
        assert!((6..=10).contains(&counts(name)), "{name}: {}", counts(name));
    }
    assert!((3..=6).contains(&counts("process")), "{}", counts("process"));
    assert!((2..=3).contains(&counts("cpu_info")), "{}", counts("cpu_info"));
    assert_eq!((counts("connection"), counts("rough")), (1, 0));
    let has_gpus = std::process::Command::new("nvidia-smi").output().is_ok();
    assert!(has_gpus || counts("gpu") == 0);
    assert_eq!(watcher.ask("ssh.stop_monitor", hosts), Value::Null);
    assert!(watcher.gather(Duration::from_secs(3)).is_empty());
    wait_until("the session's end", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
    let home = sshd.directory.0.join("cc");
    assert_eq!(std::fs::read_dir(home).unwrap().count(), 0, "nothing is written there");
    let log = monitor.stop().join("\n");
    assert!(log.contains(&format!("{key} logged in")) && !log.contains(PASSWORD), "{log}");
}

#[test]
fn rough_is_rough_alone_and_both_is_both() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    let hosts = json!([sshd.host("cc", Some(PASSWORD))]);
    assert_eq!(watcher.ask("ssh.start_rough_monitor", hosts.clone()), Value::Null);
    let rough = watcher.event("rough", &sshd.key("cc"));
    assert!(
        rough["cpu"]["utilization"].is_number() && rough["memory"]["used_mem_occupy"].is_number()
    );
    assert!(
        rough["net"]["up_speed"].is_number() && rough["disk"]["read_iops"].is_number(),
        "{rough}"
    );
    let names = |events: Vec<(Instant, Value)>| -> std::collections::BTreeSet<String> {
        events.iter().map(|(_, event)| event["event"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(watcher.gather(Duration::from_secs(5))), ["rough".to_owned()].into());
    assert_eq!(watcher.ask("ssh.start_monitor", hosts.clone()), Value::Null);
    let both = names(watcher.gather(Duration::from_secs(5)));
    assert!(
        both.contains("rough") && both.contains("cpu_info") && both.contains("net_dev"),
        "{both:?}"
    );
    assert_eq!(watcher.ask("ssh.stop_rough_monitor", hosts), Value::Null);
    let rest = names(watcher.gather(Duration::from_secs(5)));
    assert!(!rest.contains("rough") && rest.contains("net_dev"), "{rest:?}");
    assert_eq!(monitor.children("ssh").len(), 1);
}

#[test]
fn clients_share_a_session_if_they_know_its_password() {
    let sshd = Sshd::start(&[CC]);
    let (monitor, host) = (Monitor::start(&[]), sshd.host("cc", Some(PASSWORD)));
    let (mut one, mut two, mut three) = (monitor.connect(), monitor.connect(), monitor.connect());
    one.start(std::slice::from_ref(&host));
    two.start(std::slice::from_ref(&host));
    for password in [None, Some("guessed")] {
        let error = three.refused(&sshd.host("cc", password));
        assert_eq!(
            error,
            format!("{}: is watched already, with another password or none", sshd.key("cc"))
        );
    }
    let ssh = monitor.children("ssh");
    assert_eq!(ssh.len(), 1);
    drop(one);
    two.event("uptime", &sshd.key("cc"));
    two.event("uptime", &sshd.key("cc"));
    assert_eq!(monitor.children("ssh"), ssh, "the session goes on");
    drop(two);
    wait_until("its end", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
    assert!(three.gather(Duration::from_millis(100)).is_empty());
}

#[test]
fn a_password_is_in_no_argument_no_environment_no_file_and_no_log() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&["log_level=trace"]);
    let mut watcher = monitor.connect();
    let secret = PASSWORD.as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    // Looked at all the time, from before the login to after it.
    let login = format!(
        r#"{{"id":1,"method":"ssh.start_monitor","params":[{}]}}"#,
        sshd.host("cc", Some(PASSWORD))
    );
    watcher.client.say(&login);
    let mut seen = 0;
    let deadline = Instant::now() + Duration::from_secs(4);
    while Instant::now() < deadline {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            if !entry
                .file_name()
                .to_string_lossy()
                .starts_with(|first: char| first.is_ascii_digit())
            {
                continue;
            }
            for file in ["cmdline", "environ"] {
                let text = std::fs::read(entry.path().join(file)).unwrap_or_default();
                seen += usize::from(text.windows(12).any(|window| window == b"SSH_ASKPASS="));
                assert!(!holds(&text), "{file} of {}", String::from_utf8_lossy(&text));
            }
        }
    }
    assert!(seen > 0, "ssh was not looked at");
    assert_eq!(watcher.answer()["error"], Value::Null);
    let known = std::fs::read(monitor.known_hosts.0.join("known")).unwrap();
    assert!(!known.is_empty() && !holds(&known));
    assert!(!holds(monitor.stop().join("\n").as_bytes()));
}

#[test]
fn without_a_password_keys_are_used() {
    let sshd = Sshd::start(&[User { password: None, ..CC }]);
    let keys = Keys::of(&sshd);
    let monitor = Monitor::start_with(&[], |command| {
        command.env("SSH_AUTH_SOCK", keys.socket());
    });
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", None)]);
    watcher.event("loadavg", &sshd.key("cc"));
    let without = Monitor::start_with(&[], |command| {
        command.env_remove("SSH_AUTH_SOCK");
    });
    let error = without.connect().refused(&sshd.host("cc", None));
    assert!(error.ends_with("or not with the agent's keys, and no password was given"), "{error}");
}

#[test]
fn nothing_is_left_whichever_way_the_agent_goes() {
    for signal in ["-TERM", "-KILL"] {
        let sshd = Sshd::start(&[CC]);
        let mut monitor = Monitor::start(&[]);
        let mut watcher = monitor.connect();
        watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
        watcher.event("uptime", &sshd.key("cc"));
        let ssh = monitor.children("ssh");
        assert!(ssh.len() == 1 && !sshd.processes().is_empty());
        monitor.agent.signal(signal);
        let (_, took) = monitor.agent.wait();
        assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
        let is_there = |number: &u32| std::path::Path::new(&format!("/proc/{number}")).exists();
        wait_until("ssh's end", || (!ssh.iter().any(is_there)).then_some(()));
        wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_and_the_others_do_not_notice() {
    let names: Vec<String> = (0..5).map(|number| format!("user{number}")).collect();
    let users: Vec<User> = names.iter().map(|name| User { name, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    let hosts: Vec<Value> = names.iter().map(|name| sshd.host(name, Some(PASSWORD))).collect();
    let (mut reader, mut idle) = (monitor.connect(), monitor.connect());
    reader.start(&hosts);
    idle.start(&hosts);
    let deadline = Instant::now() + 4 * PATIENCE;
    let is_cut = || monitor.agent.log().iter().any(|line| line.contains("write timeout (10 s)"));
    while !is_cut() {
        assert!(Instant::now() < deadline, "{:#?}", monitor.agent.log());
        for name in &names {
            reader.event("uptime", &sshd.key(name));
        }
    }
    assert!(monitor.agent.status("VmRSS") < 32 << 10, "{} kB", monitor.agent.status("VmRSS"));
}
