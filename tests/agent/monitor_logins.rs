//! `/monitor`: failed logins and lost hosts.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::monitor::Monitor;
use crate::support::netns::{BLACKHOLE_ADDRESS, SERVER_ADDRESS, TwoHosts};
use crate::support::sshd::{CC, PASSWORD, Sshd, User};
use crate::support::{SLACK, TEST_TIMEOUT, reserve_port, wait_until};
use serde_json::json;

#[test]
#[ignore = "needs root and sshd"]
fn names_each_failed_host_and_starts_the_others() {
    let sshd = Sshd::start(&[CC, User { name: "dd", shell: "/usr/sbin/nologin", ..CC }]);
    let closed_port = reserve_port();
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let hosts = json!([
        sshd.host("cc", Some(PASSWORD)),
        sshd.host("unknown.user", Some(PASSWORD)),
        sshd.host("dd", Some(PASSWORD)),
        {"host": "127.0.0.1", "port": closed_port, "user": "cc", "passwd": "x"},
        {"host": "no.such.host.invalid", "user": "cc", "passwd": "x"},
        {"host": "-x", "user": "cc"},
    ]);
    let error = client.request("ssh.start_monitor", hosts);
    let error = error.as_str().unwrap();
    let rejected = "login rejected: unknown user or wrong password";
    for expected in [
        "params[5]: -x is not a valid host".to_owned(),
        format!("{}: {rejected}", sshd.key("unknown.user")),
        format!(
            "{}: the host's shell failed: This account is currently not available.",
            sshd.key("dd")
        ),
        format!("cc@127.0.0.1:{closed_port}: connection refused"),
        "cc@no.such.host.invalid:22: DNS lookup failed".to_owned(),
    ] {
        assert!(error.contains(&expected), "{expected}: {error}");
    }
    assert!(!error.contains(&format!("{}:", sshd.key("cc"))), "{error}");
    client.wait_event("uptime", &sshd.key("cc"));
}

#[test]
#[ignore = "needs root and sshd"]
fn tries_wrong_password_once_per_request() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let failed = || sshd.log().matches("Failed password").count();
    let start = Instant::now();
    for attempt in 1..=3 {
        let error = client.start_error(&sshd.host("cc", Some("wrong")));
        assert!(error.contains("login rejected"), "{error}");
        assert_eq!(failed(), attempt, "{}", sshd.log());
    }
    assert!(start.elapsed() > Duration::from_secs(5), "{:?}", start.elapsed());
    // A client with the right password is not blocked.
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    client.wait_event("uptime", &sshd.key("cc"));
    assert_eq!(failed(), 3);
}

#[test]
#[ignore = "needs root and sshd"]
fn rejects_changed_host_key_and_names_both_keys() {
    let mut sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    sshd.kill();
    sshd.change_host_key();
    sshd.run();
    let known = monitor.known_hosts.0.join("known").display().to_string();
    let deadline = Instant::now() + TEST_TIMEOUT;
    let reason = loop {
        let event = client.wait_event("connection", &sshd.key("cc"));
        let reason = event["reason"].as_str().unwrap_or_default().to_owned();
        if reason.contains("host key has changed") {
            break reason;
        }
        assert!(Instant::now() < deadline, "{event}");
    };
    assert!(reason.contains("SHA256:") && reason.contains(&known), "{reason}");
    // The password was not sent to the host with the new key.
    assert_eq!(sshd.log().matches("Accepted password").count(), 1, "{}", sshd.log());
}

#[test]
#[ignore = "needs root and sshd"]
fn reports_lost_host_and_reconnects_when_it_returns() {
    let mut sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    let key = sshd.key("cc");
    assert_eq!(client.wait_event("connection", &key)["state"], "connected");
    client.wait_event("uptime", &key);
    sshd.kill();
    let lost = client.wait_event("connection", &key);
    assert!(lost["state"] == "waiting" && lost["reason"].is_string(), "{lost}");
    sshd.run();
    while client.wait_event("connection", &key)["state"] != "connected" {}
    client.wait_event("uptime", &key);
}

/// What ssh prints of itself when the key of a host has changed, and when logins fail.
const WORDS_OF_SSH: [&str; 4] = [
    "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nSHA256:AAAA.\nOffending ED25519 key in /root/.ssh/known_hosts:1\nHost key verification failed.",
    "cc@127.0.0.1: Permission denied (password).",
    "jump@jump: Permission denied (publickey).\nkex_exchange_identification: Connection closed by remote host",
    "ssh: connect to host 127.0.0.1 port 22: Connection refused",
];

#[test]
#[ignore = "needs root and sshd"]
fn words_of_ssh_from_login_shell_are_not_the_reason() {
    let shells = WORDS_OF_SSH.map(|words| {
        Sshd::write_shell("forger", &format!("#!/bin/sh\necho '{words}' >&2\nexit 255\n"))
    });
    let names: Vec<String> = (0..shells.len()).map(|at| format!("user{at}")).collect();
    let users = names.iter().zip(&shells);
    let users: Vec<User> = users.map(|(name, (_, shell))| User { name, shell, ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    for name in &names {
        let error = monitor.connect().start_error(&sshd.host(name, Some(PASSWORD)));
        assert!(error.contains(": the host's shell failed: "), "{error}");
    }
}

#[test]
#[ignore = "needs root and sshd"]
fn words_of_ssh_after_the_login_are_not_the_reason() {
    // Answers as collect.sh does, up to the first request.
    let shell = format!(
        "#!/bin/sh\nwhile read -r line; do case $line in m=*) m=${{line#m=}}; break ;; esac; done\nprintf '\\n%s page-size\\n4096\\n%s .\\n' $m $m\nwhile read -r line; do case $line in -*) break ;; esac; done\necho '{}' >&2\nexit 255\n",
        WORDS_OF_SSH[0]
    );
    let (_directory, shell) = Sshd::write_shell("late-forger", &shell);
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    // A later state replaces "connected" if the client has not read that yet.
    let lost = wait_until("the end of the connection", || {
        let state = client.wait_event("connection", &sshd.key("cc"));
        (state["state"] != "connected").then_some(state)
    });
    monitor.agent.wait_log("logged in");
    assert_eq!((&lost["state"], &lost["reason"]), (&json!("waiting"), &json!("connection lost")));
}

#[test]
#[ignore = "needs root and sshd"]
fn words_of_ssh_in_banner_are_not_the_reason() {
    let sshd = Sshd::start_with_banner(&[CC], &WORDS_OF_SSH.join("\n"));
    let monitor = Monitor::start(&[]);
    let error = monitor.connect().start_error(&sshd.host("cc", Some("wrong")));
    assert!(error.ends_with("login rejected: unknown user or wrong password"), "{error}");
}

#[test]
#[ignore = "needs root and sshd"]
fn hanging_hosts_of_one_client_do_not_delay_logins_of_another() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    // Each hangs until the login times out, and all together are as many as the agent monitors.
    let hanging = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = hanging.local_addr().unwrap().port();
    let attempts = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let accepted = attempts.clone();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = hanging.accept() {
            let _ = socket.write_all(b"SSH-2.0-hanging\r\n");
            accepted.lock().unwrap().push(socket);
        }
    });
    let hosts: Vec<_> = (1..=255)
        .map(|at| json!({"host": format!("127.0.0.{at}"), "port": port, "user": "cc"}))
        .chain([json!({"host": "127.0.1.1", "port": port, "user": "cc"})])
        .collect();
    let mut greedy = monitor.connect();
    let request = json!({"id": "greedy", "method": "ssh.start_monitor", "params": hosts});
    greedy.socket.send_text(&request.to_string());
    wait_until("attempts", || (attempts.lock().unwrap().len() >= 16).then_some(()));
    let mut other = monitor.connect();
    other.start(&[sshd.host("cc", Some(PASSWORD))]);
    let tried = attempts.lock().unwrap().len();
    assert!(tried < hosts.len(), "the other client waited for all {tried} hosts");
}

#[test]
#[ignore = "needs root and sshd"]
fn login_times_out_when_server_hangs() {
    // One server sends nothing, the other an endless banner.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = [silent.local_addr().unwrap().port(), endless.local_addr().unwrap().port()];
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = endless.accept() {
            std::thread::spawn(move || {
                while socket.write_all(b"Welcome to a host with a very long banner\r\n").is_ok() {
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
    });
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let start = Instant::now();
    let host = |port| json!({"host": "127.0.0.1", "port": port, "user": "cc", "passwd": "x"});
    let error = client.request("ssh.start_monitor", json!([host(ports[0]), host(ports[1])]));
    assert!(start.elapsed() < Duration::from_secs(35) + SLACK, "{:?}", start.elapsed());
    for port in ports {
        assert!(error.as_str().unwrap().contains(&format!("cc@127.0.0.1:{port}: ")), "{error}");
    }
    wait_until("exit of ssh", || monitor.children("ssh").is_empty().then_some(()));
}

#[test]
#[ignore = "needs root and sshd"]
fn detects_cut_network_and_reconnects_when_it_returns() {
    let cable = TwoHosts::new();
    let sshd = Sshd::start_in(&["ip", "netns", "exec", &cable.far], SERVER_ADDRESS, &[CC]);
    let monitor = Monitor::start_in(&cable.near);
    let mut client = monitor.connect();
    let host = |address: &str| json!({"host": address, "port": sshd.port, "user": "cc", "passwd": PASSWORD});
    client.start(&[host(SERVER_ADDRESS)]);
    let key = format!("cc@{SERVER_ADDRESS}:{}", sshd.port);
    client.wait_event("uptime", &key);
    cable.cut();
    let cut = Instant::now();
    while client.wait_event("connection", &key)["state"] == "connected" {}
    assert!(cut.elapsed() < Duration::from_secs(30) + SLACK, "{:?}", cut.elapsed());
    let start = Instant::now();
    let error = monitor.connect().start_error(&host(BLACKHOLE_ADDRESS));
    assert!(error.ends_with("connection timed out"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(12) + SLACK, "{:?}", start.elapsed());
    // The processes on the host exit by themselves, though the agent cannot reach them.
    let runs = |process: &String| process.ends_with(" sh ") || process.contains("sleep");
    wait_until_in(2 * TEST_TIMEOUT, "exit of collect.sh", || {
        (!sshd.processes().iter().any(runs)).then_some(())
    });
    cable.restore();
    // A new request brings the next attempt forward, but waits for one in progress.
    let mut other = monitor.connect();
    while !other.request("ssh.start_monitor", json!([host(SERVER_ADDRESS)])).is_null() {}
    while client.wait_event("connection", &key)["state"] != "connected" {}
    client.wait_event("uptime", &key);
}

/// Waits longer than `wait_until`.
fn wait_until_in(timeout: Duration, what: &str, mut found: impl FnMut() -> Option<()>) {
    let deadline = Instant::now() + timeout;
    while found().is_none() {
        assert!(Instant::now() < deadline, "timeout waiting for {what}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
fn error_names_package_when_ssh_is_not_installed() {
    let monitor = Monitor::start_with(&[], |command| {
        command.env("PATH", "/nonexistent");
    });
    let error = monitor.connect().start_error(&json!({"host": "a", "user": "b"}));
    assert!(
        error.contains("program \"ssh\" not found") && error.contains("openssh-client"),
        "{error}"
    );
}

#[test]
fn warns_when_host_keys_cannot_be_stored() {
    let monitor = Monitor::start(&["monitor.known_hosts=/proc/known hosts"]);
    monitor.agent.wait_log(
        "monitor: cannot store host keys, changed keys will go unnoticed: /proc/known hosts: ",
    );
    let monitor = Monitor::start(&[]);
    assert!(monitor.connect().request("ssh.stop_monitor", json!([])).is_null());
    assert_eq!(monitor.agent.count_log("host keys"), 0);
}
