//! `/monitor`: passwords of hosts, and the clients and hosts that may see them.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::monitor::{Monitor, MonitorClient};
use crate::support::sshd::{CC, Keys, PASSWORD, Sshd, User};
use crate::support::{TempDir, wait_until};
use serde_json::{Value, json};

#[test]
#[ignore = "needs root and sshd"]
fn accepts_every_password_without_line_breaks() {
    let long = "x'\"".repeat(150);
    let passwords = [
        " leading and trailing ",
        "-oProxyCommand=x",
        "--",
        "$(id) `id` ${HOME} %s%n\\n",
        "\ttab\u{7f}\u{1b}[2J",
        "Schlüßel 密码 🔑",
        "'",
        &long,
    ];
    let names: Vec<String> = (0..passwords.len()).map(|number| format!("user{number}")).collect();
    let users = names.iter().zip(passwords);
    let users: Vec<User> =
        users.map(|(name, password)| User { name, password: Some(password), ..CC }).collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&["log_level=trace"]);
    let mut client = monitor.connect();
    let hosts: Vec<Value> = users.iter().map(|user| sshd.host(user.name, user.password)).collect();
    client.start(&hosts);
    for name in &names {
        client.wait_event("uptime", &sshd.key(name));
    }
    for bad in ["two\nlines", "two\rlines", "nul\0", &"x".repeat(1001)] {
        let error = client.start_error(&sshd.host("user0", Some(bad)));
        assert_eq!(error, "params[0]: \"passwd\" is too long or has more than one line");
    }
    let error = client.start_error(&json!({"host": "a", "user": "b", "passwd": 12345}));
    assert_eq!(error, "params[0]: \"passwd\" is not a string");
    // A wrong password of the maximal length.
    let error = monitor.connect().start_error(&sshd.host("unknown.user", Some(&"y".repeat(1000))));
    assert!(error.contains("login rejected"), "{error}");
    let log = monitor.stop().join("\n");
    assert!(!log.contains("ProxyCommand=x") && !log.contains("leading and"), "{log}");
    assert!(!log.contains("密码") && !log.contains("yyyy"), "{log}");
}

#[test]
#[ignore = "needs root and sshd"]
fn limits_password_guesses_for_monitored_host() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let host = |password: &str| sshd.host("cc", Some(password));
    let (mut owner, mut guesser) = (monitor.connect(), monitor.connect());
    owner.start(&[host(PASSWORD)]);
    let guess = |guesser: &mut MonitorClient| {
        let guessed_at = Instant::now();
        let error = guesser.start_error(&host("guessed"));
        assert!(error.ends_with("already monitored with different credentials"), "{error}");
        guessed_at
    };
    // Even the right password is refused during the pause, unless a busy machine has let it pass.
    let guessed_at = loop {
        let guessed_at = guess(&mut guesser);
        let error = guesser.request("ssh.start_monitor", json!([host(PASSWORD)]));
        if guessed_at.elapsed() < Duration::from_secs(3) {
            let error = error.as_str().unwrap_or_default();
            assert!(error.ends_with("wrong password given recently, retry in 3 s"), "{error}");
            break guessed_at;
        }
        guesser.request("ssh.stop_monitor", json!([host(PASSWORD)]));
    };
    wait_until("end of the pause", || {
        // At more than one request per second the agent would disconnect the client, after a burst of 60.
        guesser.collect_events(Duration::from_millis(200));
        let error = guesser.request("ssh.start_monitor", json!([host(PASSWORD)]));
        error.is_null().then_some(())
    });
    assert!(guessed_at.elapsed() >= Duration::from_secs(3), "{:?}", guessed_at.elapsed());
    owner.wait_event("uptime", &sshd.key("cc"));
    guesser.wait_event("uptime", &sshd.key("cc"));
    assert_eq!(sshd.log().matches("Failed password").count(), 0, "no guess reached the host");
}

#[test]
#[ignore = "needs root and sshd"]
fn changed_password_displaces_clients_with_old_one() {
    const CHANGED: &str = "changed";
    let mut sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let key = sshd.key("cc");
    let (mut old, mut again, mut new) = (monitor.connect(), monitor.connect(), monitor.connect());
    let host = |password: &str, sshd: &Sshd| sshd.host("cc", Some(password));
    old.start(&[host(PASSWORD, &sshd)]);
    again.start(&[host(PASSWORD, &sshd)]);
    sshd.change_password("cc", CHANGED);
    sshd.kill();
    sshd.run();
    loop {
        let event = old.wait_event("connection", &key);
        if event["reason"].as_str().is_some_and(|reason| reason.contains("login rejected")) {
            break;
        }
    }
    // A new request with the old password fails, although the session had been established with it.
    let error = again.start_error(&host(PASSWORD, &sshd));
    assert!(error.contains("login rejected"), "{error}");
    new.start(&[host(CHANGED, &sshd)]);
    new.wait_event("uptime", &key);
    // A client that has only the old password receives nothing of the new session.
    while old.wait_event("connection", &key)["state"] != "ended" {}
    let rest = old.collect_events(Duration::from_secs(4));
    assert!(rest.is_empty(), "{rest:?}");
    let error = old.start_error(&host(PASSWORD, &sshd));
    assert!(error.ends_with("already monitored with different credentials"), "{error}");
}

#[test]
#[ignore = "needs root and sshd"]
fn jump_host_does_not_receive_password_of_target() {
    let jump = Sshd::start(&[User { name: "jump", ..CC }]);
    let sshd = Sshd::start_in(&[], "127.0.0.2", &[CC]);
    let keys = Keys::accepted_by(&jump);
    let directory = TempDir::new("ssh config");
    let config = format!(
        "Host 127.0.0.2\nProxyJump jump@127.0.0.1:{}\nHost 127.0.0.1\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n",
        jump.port
    );
    let config = directory.write("config", &config);
    let start = |agent: Option<String>| {
        Monitor::start_with(&[], |command| {
            let mount =
                format!("mount --bind '{config}' /etc/ssh/ssh_config && exec \"$0\" \"$@\"");
            let mut outer = Command::new("unshare");
            outer.args(["--mount", "sh", "-c", &mount]).arg(command.get_program());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => outer.env(name, value),
                    None => outer.env_remove(name),
                };
            }
            outer.env_remove("SSH_AUTH_SOCK");
            outer.envs(agent.map(|socket| ("SSH_AUTH_SOCK", socket)));
            *command = outer;
        })
    };
    let host = json!({"host": "127.0.0.2", "port": sshd.port, "user": "cc", "passwd": PASSWORD});
    let error = start(None).connect().start_error(&host);
    assert!(
        error.contains("jump host rejected the login") && error.contains(": jump@127.0.0.1: "),
        "{error}"
    );
    // The password would have been accepted there.
    assert!(!jump.log().contains("Accepted password"), "{}", jump.log());
    let monitor = start(Some(keys.socket()));
    let mut client = monitor.connect();
    client.start(&[host]);
    client.wait_event("uptime", &format!("cc@127.0.0.2:{}", sshd.port));
    assert!(jump.log().contains("Accepted publickey"), "{}", jump.log());
    assert!(sshd.log().contains("Accepted password"), "{}", sshd.log());
    drop(client);
    wait_until("exit of the hosts' processes", || {
        (jump.processes().is_empty() && sshd.processes().is_empty()).then_some(())
    });
}
