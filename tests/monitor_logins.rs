//! `/monitor`: hosts that do not let us in, and those that are lost.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use support::monitor::Monitor;
use support::netns::{FAR, NOWHERE, TwoHosts};
use support::sshd::{CC, PASSWORD, Sshd, User};
use support::{PATIENCE, SLACK, wait_until};

#[test]
fn each_host_that_fails_is_named_with_its_reason_and_the_others_hold() {
    let sshd = Sshd::start(&[CC, User { name: "dd", shell: "/usr/sbin/nologin", ..CC }]);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    let hosts = json!([
        sshd.host("cc", Some(PASSWORD)),
        sshd.host("nobody.knows", Some(PASSWORD)),
        sshd.host("dd", Some(PASSWORD)),
        {"host": "127.0.0.1", "port": nobody, "user": "cc", "passwd": "x"},
        {"host": "no.such.host.invalid", "user": "cc", "passwd": "x"},
        {"host": "-x", "user": "cc"},
    ]);
    let error = watcher.ask("ssh.start_monitor", hosts);
    let error = error.as_str().unwrap();
    let refused = "login refused: no such user, or not with this password";
    for expected in [
        "params[5]: -x is no host".to_owned(),
        format!("{}: {refused}", sshd.key("nobody.knows")),
        format!(
            "{}: the host's shell says: This account is currently not available.",
            sshd.key("dd")
        ),
        format!("cc@127.0.0.1:{nobody}: cannot be reached: connection refused"),
        "cc@no.such.host.invalid:22: its name has no address".to_owned(),
    ] {
        assert!(error.contains(&expected), "{expected}: {error}");
    }
    assert!(!error.contains(&format!("{}:", sshd.key("cc"))), "{error}");
    watcher.event("uptime", &sshd.key("cc"));
}

#[test]
fn a_wrong_password_is_tried_once_and_not_again_and_again() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    let failed = || sshd.log().matches("Failed password").count();
    let start = Instant::now();
    for tried in 1..=3 {
        let error = watcher.refused(&sshd.host("cc", Some("wrong")));
        assert!(error.contains("login refused"), "{error}");
        assert_eq!(failed(), tried, "{}", sshd.log());
    }
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
    // Whoever knows better gets in, and has not to wait for long.
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    watcher.event("uptime", &sshd.key("cc"));
    assert_eq!(failed(), 3);
}

#[test]
fn a_changed_host_key_is_refused_and_named() {
    let mut sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    sshd.kill();
    sshd.new_host_key();
    sshd.run();
    let known = monitor.known_hosts.0.join("known").display().to_string();
    let deadline = Instant::now() + PATIENCE;
    let reason = loop {
        let event = watcher.event("connection", &sshd.key("cc"));
        let reason = event["reason"].as_str().unwrap_or_default().to_owned();
        if reason.contains("host key has changed") {
            break reason;
        }
        assert!(Instant::now() < deadline, "{event}");
    };
    assert!(reason.contains("SHA256:") && reason.contains(&known), "{reason}");
    // Whoever it is was not told the password.
    assert_eq!(sshd.log().matches("Accepted password").count(), 1, "{}", sshd.log());
}

#[test]
fn a_host_that_dies_and_comes_back_is_told_as_it_happens() {
    let mut sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    let key = sshd.key("cc");
    assert_eq!(watcher.event("connection", &key)["state"], "connected");
    watcher.event("uptime", &key);
    sshd.kill();
    let lost = watcher.event("connection", &key);
    assert!(lost["state"] == "waiting" && lost["reason"].is_string(), "{lost}");
    sshd.run();
    while watcher.event("connection", &key)["state"] != "connected" {}
    watcher.event("uptime", &key);
}

#[test]
fn servers_that_hang_end_at_their_deadlines() {
    // One that says nothing, and one whose greeting never ends.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [silent.local_addr().unwrap().port(), endless.local_addr().unwrap().port()];
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = endless.accept() {
            std::thread::spawn(move || {
                while socket
                    .write_all(b"Welcome to a host that greets everybody at length\r\n")
                    .is_ok()
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    let start = Instant::now();
    let host = |port| json!({"host": "127.0.0.1", "port": port, "user": "cc", "passwd": "x"});
    let error = watcher.ask("ssh.start_monitor", json!([host(ports[0]), host(ports[1])]));
    assert!(start.elapsed() < Duration::from_secs(35) + SLACK, "{:?}", start.elapsed());
    for port in ports {
        assert!(error.as_str().unwrap().contains(&format!("cc@127.0.0.1:{port}: ")), "{error}");
    }
    wait_until("ssh's end", || monitor.children("ssh").is_empty().then_some(()));
}

#[test]
fn a_host_behind_a_network_that_is_cut() {
    let cable = TwoHosts::new();
    let sshd = Sshd::start_in(&["ip", "netns", "exec", &cable.far], FAR, &[CC]);
    let monitor = Monitor::start_in(&cable.near);
    let mut watcher = monitor.connect();
    let host = |address: &str| json!({"host": address, "port": sshd.port, "user": "cc", "passwd": PASSWORD});
    watcher.start(&[host(FAR)]);
    let key = format!("cc@{FAR}:{}", sshd.port);
    watcher.event("uptime", &key);
    cable.cut();
    let cut = Instant::now();
    while watcher.event("connection", &key)["state"] == "connected" {}
    assert!(cut.elapsed() < Duration::from_secs(30) + SLACK, "{:?}", cut.elapsed());
    let start = Instant::now();
    let error = monitor.connect().refused(&host(NOWHERE));
    assert!(error.ends_with("cannot be reached: no answer"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(12) + SLACK, "{:?}", start.elapsed());
    // What runs there ends by itself, though nobody could tell it to.
    let runs = |one: &String| one.ends_with(" sh ") || one.contains("sleep");
    wait_until_in(2 * PATIENCE, "the loop's end", || {
        (!sshd.processes().iter().any(runs)).then_some(())
    });
    cable.mend();
    // Who asks for it anew need not wait for the next try, but for the end of one that is under way.
    let mut other = monitor.connect();
    while !other.ask("ssh.start_monitor", json!([host(FAR)])).is_null() {}
    while watcher.event("connection", &key)["state"] != "connected" {}
    watcher.event("uptime", &key);
}

/// Longer than the usual patience.
fn wait_until_in(patience: Duration, what: &str, mut found: impl FnMut() -> Option<()>) {
    let deadline = Instant::now() + patience;
    while found().is_none() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn without_an_ssh_program_the_error_names_the_package() {
    let monitor = Monitor::start_with(&[], |command| {
        command.env("PATH", "/nonexistent");
    });
    let error = monitor.connect().refused(&json!({"host": "a", "user": "b"}));
    assert!(error.contains("no program \"ssh\"") && error.contains("openssh-client"), "{error}");
}

#[test]
fn where_host_keys_cannot_be_remembered_the_log_says_so() {
    let monitor = Monitor::start(&["monitor.known_hosts=/proc/known hosts"]);
    monitor.agent.wait_log(
        "monitor: host keys are remembered nowhere, and a changed one will not be noticed: /proc/known hosts: ",
    );
    let monitor = Monitor::start(&[]);
    assert!(monitor.connect().ask("ssh.stop_monitor", json!([])).is_null());
    assert_eq!(monitor.agent.count_log("host keys"), 0);
}
