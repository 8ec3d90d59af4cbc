//! `/monitor`: who gets in with which password, and who is told it.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::monitor::Monitor;
use support::sshd::{CC, Keys, PASSWORD, Sshd, User};
use support::{Scratch, wait_until};

#[test]
fn passwords_may_hold_anything_but_a_line_break() {
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
    let mut watcher = monitor.connect();
    let hosts: Vec<Value> = users.iter().map(|user| sshd.host(user.name, user.password)).collect();
    watcher.start(&hosts);
    for name in &names {
        watcher.event("uptime", &sshd.key(name));
    }
    for bad in ["two\nlines", "two\rlines", "nul\0", &"x".repeat(1001)] {
        let error = watcher.refused(&sshd.host("user0", Some(bad)));
        assert_eq!(error, "params[0]: \"passwd\" is too long, or has more than one line");
    }
    let error = watcher.refused(&json!({"host": "a", "user": "b", "passwd": 12345}));
    assert_eq!(error, "params[0]: \"passwd\" is no text");
    // As long as they may be; it is wrong.
    let error = monitor.connect().refused(&sshd.host("nobody.knows", Some(&"y".repeat(1000))));
    assert!(error.contains("login refused"), "{error}");
    let log = monitor.stop().join("\n");
    assert!(!log.contains("ProxyCommand=x") && !log.contains("leading and"), "{log}");
    assert!(!log.contains("密码") && !log.contains("yyyy"), "{log}");
}

#[test]
fn passwords_of_a_watched_host_cannot_be_guessed_fast() {
    let sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let host = |password: &str| sshd.host("cc", Some(password));
    let (mut one, mut two) = (monitor.connect(), monitor.connect());
    one.start(&[host(PASSWORD)]);
    let start = Instant::now();
    let theirs = two.refused(&host("guessed"));
    assert!(theirs.ends_with("is watched already, with another password or none"), "{theirs}");
    // Not even the right one is told from others now.
    let theirs = two.refused(&host(PASSWORD));
    assert!(
        theirs.ends_with("somebody came with a wrong password just now; again in 3 s"),
        "{theirs}"
    );
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    std::thread::sleep(Duration::from_secs(3));
    two.start(&[host(PASSWORD)]);
    one.event("uptime", &sshd.key("cc"));
    two.event("uptime", &sshd.key("cc"));
    assert_eq!(sshd.log().matches("Failed password").count(), 0, "the host was not asked");
}

#[test]
fn a_password_that_was_changed_stands_in_nobodys_way() {
    const CHANGED: &str = "changed";
    let mut sshd = Sshd::start(&[CC]);
    let monitor = Monitor::start(&[]);
    let key = sshd.key("cc");
    let (mut old, mut again, mut new) = (monitor.connect(), monitor.connect(), monitor.connect());
    let host = |password: &str, sshd: &Sshd| sshd.host("cc", Some(password));
    old.start(&[host(PASSWORD, &sshd)]);
    again.start(&[host(PASSWORD, &sshd)]);
    sshd.new_password("cc", CHANGED);
    sshd.kill();
    sshd.run();
    loop {
        let event = old.event("connection", &key);
        if event["reason"].as_str().is_some_and(|reason| reason.contains("login refused")) {
            break;
        }
    }
    // Who asks anew with the old one is told what comes of it now, and not that all is well.
    let error = again.refused(&host(PASSWORD, &sshd));
    assert!(error.contains("login refused"), "{error}");
    new.start(&[host(CHANGED, &sshd)]);
    new.event("uptime", &key);
    // Who knows only the old one sees nothing of a session that was begun with the new one.
    while old.event("connection", &key)["state"] != "ended" {}
    let rest = old.gather(Duration::from_secs(4));
    assert!(rest.is_empty(), "{rest:?}");
    let error = old.refused(&host(PASSWORD, &sshd));
    assert!(error.ends_with("is watched already, with another password or none"), "{error}");
}

#[test]
fn a_jump_host_is_told_nobody_elses_password() {
    let jump = Sshd::start(&[User { name: "jump", ..CC }]);
    let sshd = Sshd::start_in(&[], "127.0.0.2", &[CC]);
    let keys = Keys::of(&jump);
    let directory = Scratch::new("ssh config");
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
    let error = start(None).connect().refused(&host);
    assert!(
        error.contains("a jump host lets only keys of the agent's in: jump@127.0.0.1: "),
        "{error}"
    );
    // It would have been the right one there, too.
    assert!(!jump.log().contains("Accepted password"), "{}", jump.log());
    let monitor = start(Some(keys.socket()));
    let mut watcher = monitor.connect();
    watcher.start(&[host]);
    watcher.event("uptime", &format!("cc@127.0.0.2:{}", sshd.port));
    assert!(jump.log().contains("Accepted publickey"), "{}", jump.log());
    assert!(sshd.log().contains("Accepted password"), "{}", sshd.log());
    drop(watcher);
    wait_until("the hosts' rest", || {
        (jump.processes().is_empty() && sshd.processes().is_empty()).then_some(())
    });
}
