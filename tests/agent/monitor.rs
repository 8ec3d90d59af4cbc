//! `/monitor` with real hosts, for well-behaved clients.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::monitor::Monitor;
use crate::support::sshd::{CC, Keys, PASSWORD, Sshd, User};
use crate::support::{SLACK, TEST_TIMEOUT, wait_until};
use serde_json::{Value, json};

const SAMPLE_EVENTS: [&str; 7] =
    ["cpu_performance", "memory_performance", "uptime", "loadavg", "net_dev", "net_stat", "disk"];

#[test]
#[ignore = "needs root and sshd"]
fn sends_every_event_at_its_interval_until_stopped() {
    let sshd = Sshd::start(&[CC]);
    let (monitor, key) = (Monitor::start(&[]), sshd.key("cc"));
    let mut client = monitor.connect();
    let hosts = json!([sshd.host("cc", Some(PASSWORD))]);
    assert_eq!(client.request("ssh.start_monitor", hosts.clone()), Value::Null);
    let events = client.collect_events(Duration::from_secs(17));
    let mut by_name: BTreeMap<String, Vec<(Instant, Value)>> = BTreeMap::new();
    for (at, event) in events {
        assert_eq!(event["message"]["ssh_key"], key.as_str());
        let name = event["event"].as_str().unwrap().to_owned();
        by_name.entry(name).or_default().push((at, event["message"].clone()));
    }
    // Every 2 s, 5 s and 10 s; on a busy machine some are late, and then the others are as late.
    let count = |name: &str| by_name.get(name).map_or(0, Vec::len);
    let samples = count("uptime");
    for name in SAMPLE_EVENTS {
        assert!((3..=10).contains(&count(name)), "{name}: {}", count(name));
        assert!(count(name).abs_diff(samples) <= 1, "{name}: {} of {samples}", count(name));
    }
    assert!((1..=6).contains(&count("process")), "{}", count("process"));
    assert!((1..=3).contains(&count("cpu_info")), "{}", count("cpu_info"));
    assert_eq!((count("connection"), count("rough")), (1, 0));
    let has_gpus = std::process::Command::new("nvidia-smi").output().is_ok();
    assert!(has_gpus || count("gpu") == 0);
    assert_eq!(client.request("ssh.stop_monitor", hosts), Value::Null);
    // What was sent before the reply.
    client.collect_events(Duration::from_millis(1));
    assert!(client.collect_events(Duration::from_secs(3)).is_empty());
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("exit of the host's processes", || sshd.processes().is_empty().then_some(()));
    let home = sshd.directory.0.join("cc");
    assert_eq!(std::fs::read_dir(home).unwrap().count(), 0, "no file is written to the host");
    let log = monitor.stop().join("\n");
    assert!(log.contains(&format!("{key} logged in")) && !log.contains(PASSWORD), "{log}");
}

#[test]
#[ignore = "needs root and sshd"]
fn sends_rough_events_separately_from_other_events() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let hosts = json!([sshd.host("cc", Some(PASSWORD))]);
    assert_eq!(client.request("ssh.start_rough_monitor", hosts.clone()), Value::Null);
    let rough = client.wait_event("rough", &sshd.key("cc"));
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
    assert_eq!(names(client.collect_events(Duration::from_secs(5))), ["rough".to_owned()].into());
    assert_eq!(client.request("ssh.start_monitor", hosts.clone()), Value::Null);
    for event in ["cpu_info", "net_dev", "rough"] {
        client.wait_event(event, &sshd.key("cc"));
    }
    assert_eq!(client.request("ssh.stop_rough_monitor", hosts), Value::Null);
    // What was sent before the reply.
    client.collect_events(Duration::from_millis(1));
    client.wait_event("net_dev", &sshd.key("cc"));
    let rest = names(client.collect_events(Duration::from_secs(5)));
    assert!(!rest.contains("rough"), "{rest:?}");
    assert_eq!(monitor.children("ssh").len(), 1);
}

#[test]
#[ignore = "needs root and sshd"]
fn clients_share_a_session_if_they_have_its_password() {
    let sshd = Sshd::start(&[CC]);
    let (monitor, host) = (Monitor::start(&[]), sshd.host("cc", Some(PASSWORD)));
    let (mut first, mut second) = (monitor.connect(), monitor.connect());
    let mut third = monitor.connect();
    first.start(std::slice::from_ref(&host));
    second.start(std::slice::from_ref(&host));
    for password in [None, Some("guessed")] {
        let error = third.start_error(&sshd.host("cc", password));
        assert_eq!(
            error,
            format!("{}: already monitored with different credentials", sshd.key("cc"))
        );
    }
    let ssh = monitor.children("ssh");
    assert_eq!(ssh.len(), 1);
    drop(first);
    second.wait_event("uptime", &sshd.key("cc"));
    second.wait_event("uptime", &sshd.key("cc"));
    assert_eq!(monitor.children("ssh"), ssh, "the session continues");
    drop(second);
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
    wait_until("exit of the host's processes", || sshd.processes().is_empty().then_some(()));
    assert!(third.collect_events(Duration::from_millis(100)).is_empty());
}

#[test]
#[ignore = "needs root and sshd"]
fn password_is_in_no_command_line_environment_file_or_log() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&["log_level=trace"]);
    let mut client = monitor.connect();
    let secret = PASSWORD.as_bytes();
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    // Searches continuously, from before the login until after it.
    let login = format!(
        r#"{{"id":1,"method":"ssh.start_monitor","params":[{}]}}"#,
        sshd.host("cc", Some(PASSWORD))
    );
    client.socket.send_text(&login);
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
    assert!(seen > 0, "no ssh was searched");
    assert_eq!(client.response()["error"], Value::Null);
    let known = std::fs::read(monitor.known_hosts.0.join("known")).unwrap();
    assert!(!known.is_empty() && !holds(&known));
    assert!(!holds(monitor.stop().join("\n").as_bytes()));
}

#[test]
#[ignore = "needs root and sshd"]
fn logs_in_with_keys_without_a_password() {
    let sshd = Sshd::start(&[User { password: None, ..CC }]);
    let keys = Keys::accepted_by(&sshd);
    let monitor = Monitor::start_with(&[], |command| {
        command.env("SSH_AUTH_SOCK", keys.socket());
    });
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", None)]);
    client.wait_event("loadavg", &sshd.key("cc"));
    let without = Monitor::start_with(&[], |command| {
        command.env_remove("SSH_AUTH_SOCK");
    });
    let error = without.connect().start_error(&sshd.host("cc", None));
    assert!(error.contains("login rejected: no password given, and no key"), "{error}");
}

#[test]
#[ignore = "needs root and sshd"]
fn leaves_no_process_when_agent_is_stopped_or_killed() {
    for signal in ["-TERM", "-KILL"] {
        let sshd = Sshd::start(&[CC]);
        let mut monitor = Monitor::start(&[]);
        let mut client = monitor.connect();
        client.start(&[sshd.host("cc", Some(PASSWORD))]);
        client.wait_event("uptime", &sshd.key("cc"));
        let ssh = monitor.children("ssh");
        assert!(ssh.len() == 1 && !sshd.processes().is_empty());
        monitor.agent.signal(signal);
        let (_, duration) = monitor.agent.wait();
        assert!(duration < Duration::from_secs(2) + SLACK, "{duration:?}");
        let exists = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
        wait_until("exit of ssh", || (!ssh.iter().any(exists)).then_some(()));
        wait_until("exit of the host's processes", || sshd.processes().is_empty().then_some(()));
    }
}

#[test]
#[ignore = "needs root and sshd"]
fn disconnects_client_that_does_not_read_without_delaying_others() {
    let names: Vec<String> = (0..5).map(|number| format!("user{number}")).collect();
    let users: Vec<User> = names.iter().map(|name| User { name, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    let hosts: Vec<Value> = names.iter().map(|name| sshd.host(name, Some(PASSWORD))).collect();
    let (mut reader, mut idle) = (monitor.connect(), monitor.connect());
    reader.start(&hosts);
    idle.start(&hosts);
    let deadline = Instant::now() + 4 * TEST_TIMEOUT;
    let is_disconnected =
        || monitor.agent.log().iter().any(|line| line.contains("write timeout (10 s)"));
    while !is_disconnected() {
        assert!(Instant::now() < deadline, "{:#?}", monitor.agent.log());
        for name in &names {
            reader.wait_event("uptime", &sshd.key(name));
        }
    }
    assert!(monitor.agent.status("VmRSS") < 32 << 10, "{} kB", monitor.agent.status("VmRSS"));
}
