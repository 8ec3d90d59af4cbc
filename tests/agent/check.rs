//! `hm-agent check` tests the settings as the agent's user, and finds what would fail later.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::core_fixture::wrap;
use crate::support::heartbeat::list_setting;
use crate::support::{Agent, TempDir, hm_agent};

/// Exit code and output, both streams.
fn run(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
}

/// `hm-agent check` on a machine that has these users and none else.
fn check_with_users(users: &str, arguments: &[&str]) -> (i32, String) {
    let mut check = hm_agent();
    check.arg("check").args(arguments);
    let script = "printf \"$0\" >\"$HM_USERS\" && mount --bind \"$HM_USERS\" /etc/passwd && mount -t tmpfs none /run && exec \"$@\"";
    let scratch = TempDir::new("users");
    let mut command = wrap(&["unshare", "-m", "sh", "-c", script, users], &check);
    command.env("HM_USERS", scratch.0.join("passwd"));
    run(command)
}

const ROOT: &str = "root:x:0:0::/root:/bin/sh\\n";
const WITH_AGENT: &str = "root:x:0:0::/root:/bin/sh\\nhm-agent:x:64123:64123::/:/bin/false\\nother:x:64124:64124::/:/bin/false\\n";

#[test]
#[ignore = "needs root"]
fn root_checks_files_as_the_agents_user() {
    let scratch = TempDir::new("check");
    std::fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o755)).unwrap();
    let token = scratch.write("token", "s3cret");
    for key in ["usage.token_file", "monitor.token_file", "core.token_file", "hm.token_file"] {
        let setting = format!("{key}={token}");
        let (core, hm) = ("core.url=ws://127.0.0.1:9/", "hm.url=ws://127.0.0.1:9/");
        let arguments = ["-s", &setting, "-s", core, "-s", hm, "-s", "monitor.enabled=true"];
        std::fs::set_permissions(&token, PermissionsExt::from_mode(0o600)).unwrap();
        let (code, text) = check_with_users(WITH_AGENT, &arguments);
        let expected = "permission denied (checked as user hm-agent)";
        assert!(code == 2 && text.contains(expected), "{key}: {code} {text}");
        let as_root = [&arguments[..], &["--user", "root"]].concat();
        let (code, text) = check_with_users(WITH_AGENT, &as_root);
        assert!(code == 0 && text.contains("; checked as user root\n"), "{key}: {code} {text}");
        // The user that the agent runs as is not known.
        let (code, text) = check_with_users(ROOT, &arguments);
        assert!(code == 0 && text.contains("; checked as user root\n"), "{key}: {code} {text}");
        std::os::unix::fs::chown(&token, None, Some(64123)).unwrap();
        std::fs::set_permissions(&token, PermissionsExt::from_mode(0o640)).unwrap();
        let (code, text) = check_with_users(WITH_AGENT, &arguments);
        assert!(code == 0 && text.contains("; checked as user hm-agent\n"), "{key}: {code} {text}");
        let as_other = [&arguments[..], &["--user", "other"]].concat();
        assert_eq!(check_with_users(WITH_AGENT, &as_other).0, 2, "{key}");
    }
}

#[test]
#[ignore = "needs root"]
fn root_checks_settings_file_as_the_agents_user() {
    let scratch = TempDir::new("check");
    std::fs::set_permissions(&scratch.0, PermissionsExt::from_mode(0o755)).unwrap();
    let file = scratch.write("settings.toml", "interval = 1\n");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let (code, text) = check_with_users(WITH_AGENT, &["-c", &file]);
    assert!(code == 2 && text.contains("permission denied (checked as user hm-agent)"), "{text}");
    let (code, text) = check_with_users(WITH_AGENT, &["-c", &file, "--user", "nosuch"]);
    assert!(code == 2 && text.contains("there is no user \"nosuch\""), "{text}");
}

#[test]
fn names_ports_without_a_token() {
    let settings = ["-s", "usage.token=x", "-s", "monitor.enabled=true"];
    let mut check = hm_agent();
    let (code, text) = run({
        check.arg("check").args(settings);
        check
    });
    assert_eq!(code, 0, "{text}");
    for line in [
        "# usage: clients need a token\n",
        "# heartbeat: no token, every client that reaches 127.0.0.1:",
        "# monitor: no token, every client that reaches 127.0.0.1:9097 has access\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn start_and_reload_log_whether_ports_need_a_token() {
    let scratch = TempDir::new("token");
    let file = scratch.write("a.toml", "");
    let agent = Agent::start_with(&[], &["-c", &file]);
    agent.wait_log("started; settings");
    let log = agent.log();
    let line = |text: &str| log.iter().position(|line| line.contains(text));
    let started = line("started; settings").unwrap();
    for open in ["usage: no token, every client that reaches", "heartbeat: no token, every client"]
    {
        assert!(line(open).is_some_and(|at| at < started), "{open}: {log:#?}");
    }
    scratch.write("a.toml", "[usage]\ntoken = \"s3cret\"\n");
    agent.signal("-HUP");
    agent.wait_log("usage: clients need a token");
    agent.wait_log(&format!("{file} contains a secret and every user can read it"));
    agent.stop();
}

#[test]
fn reports_a_hook_that_cannot_be_run() {
    let scratch = TempDir::new("hook");
    let plain = scratch.write("plain", "#!/bin/sh\n");
    for (program, why) in [
        ("/nonexistent/alert", "no such file or directory"),
        ("nonexistent-alert", "no such file or directory"),
        (plain.as_str(), "permission denied"),
        ("/", "permission denied"),
    ] {
        let setting = list_setting("heartbeat.on_overdue", &[program, "argument"]);
        let mut check = hm_agent();
        check.args(["check", "-s", &setting]);
        let (code, text) = run(check);
        let expected = format!("heartbeat.on_overdue: cannot run {program}: {why}");
        assert!(code == 2 && text.contains(&expected), "{code} {text}");
        // Monitoring is worth more than the hook, whose filesystem may be mounted later.
        let agent = Agent::start(&[&setting]);
        agent.wait_log(&expected);
        agent.stop();
    }
    let setting = list_setting("heartbeat.on_overdue", &["true"]);
    let mut check = hm_agent();
    check.args(["check", "-s", &setting]);
    assert_eq!(run(check).0, 0);
}

#[test]
#[ignore = "needs root"]
fn sample_measures_when_only_the_agent_can_read_the_settings() {
    let script = "mount -t tmpfs none /etc && mkdir /etc/hm-agent && touch /etc/hm-agent/hm-agent.toml && \
                  chmod 600 /etc/hm-agent/hm-agent.toml && exec setpriv --reuid 65534 --clear-groups \"$@\"";
    let mut sample = hm_agent();
    sample.args(["sample", "-s", "gpu.source=none"]);
    let (code, text) = run(wrap(&["unshare", "-m", "sh", "-c", script, "sh"], &sample));
    let expected =
        "default settings are used: cannot read /etc/hm-agent/hm-agent.toml: permission denied";
    assert!(code == 0 && text.contains(expected) && text.contains("memory"), "{code} {text}");
}
