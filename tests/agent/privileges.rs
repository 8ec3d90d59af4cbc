//! Privileges of programs that the agent starts: they inherit only its user, and commands of Core not even that. See also
//! `gpu_probe.rs`, `heartbeat_action.rs` and `core/commands.rs` for their environment.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use crate::support::core::Core;
use crate::support::core_fixture::{CoreFixture, User, command, wrap};
use crate::support::heartbeat::list_setting;
use crate::support::monitor::Monitor;
use crate::support::{Agent, TempDir, hm_agent, wait_until};
use serde_json::json;

/// Runs a command with open files, ignored signals and, as root, inheritable and ambient capabilities.
fn with_inheritable_state(before: &Command) -> Command {
    let script = "caps=+setuid,+setgid,+dac_override,+kill,+sys_ptrace; trap '' HUP INT QUIT PIPE USR1; exec 7</etc/passwd 9>/dev/null; \
                  [ \"$(id -u)\" != 0 ] || set -- setpriv --inh-caps $caps --ambient-caps $caps \"$@\"; exec \"$@\"";
    let mut command = wrap(&["sh", "-c", script, "sh"], before);
    command.env("HM_AGENT_USAGE_TOKEN", "us4ge").env("NOTIFY_SOCKET", "/nonexistent");
    command
}

/// A script that writes its status, descriptors and environment to a file.
const REPORT: &str = "{ cat /proc/self/status; for fd in 3 4 5 6 7 8 9; do \
     [ ! -e /proc/$$/fd/$fd ] || echo \"open: $fd\"; done; tr '\\0' '\\n' </proc/$$/environ; } >$D/new; mv $D/new $D/report";

/// The value of a field in a report.
fn field(report: &str, name: &str) -> String {
    let line = report.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {report}")).trim().to_owned()
}

/// Nothing but the user was inherited.
fn assert_nothing_inherited(report: &str) {
    for signals in ["SigBlk:", "SigIgn:"] {
        let mask = u64::from_str_radix(&field(report, signals), 16).unwrap();
        assert_eq!(mask & 0x7fff_ffff, 0, "{signals} {report}");
    }
    for kept in ["open: ", "HM_AGENT_USAGE", "us4ge", "NOTIFY_SOCKET"] {
        assert!(!report.contains(kept), "{kept}: {report}");
    }
}

fn wait_report(scratch: &TempDir) -> String {
    wait_until("a report", || std::fs::read_to_string(scratch.0.join("report")).ok())
}

#[test]
fn hook_inherits_nothing_but_the_user() {
    let scratch = TempDir::new("action");
    let script = REPORT.replace("$D", &scratch.0.display().to_string());
    let mut command = hm_agent();
    let action = list_setting("heartbeat.on_overdue", &["/bin/sh", "-c", &script]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", &action]);
    let agent = Agent::spawn(with_inheritable_state(&command));
    agent.get_ok("/hb_init?1&appid=a");
    assert_nothing_inherited(&wait_report(&scratch));
    agent.stop();
}

#[test]
fn ssh_inherits_nothing_and_forwards_nothing() {
    let scratch = TempDir::new("ssh");
    let script = format!("#!/bin/sh\necho \"$*\" >$D/arguments\n{REPORT}\n")
        .replace("$D", &scratch.0.display().to_string());
    let ssh = scratch.write("ssh", &script);
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", scratch.0.display(), std::env::var("PATH").unwrap());
    let monitor = Monitor::start_with(&[], |command| {
        command.env("PATH", &path);
        *command = with_inheritable_state(command);
    });
    let host = json!({"host": "a", "user": "b", "passwd": "pa55word"});
    monitor.connect().start_error(&host);
    let report = wait_report(&scratch);
    assert_nothing_inherited(&report);
    assert!(!report.contains("pa55word"), "{report}");
    monitor.stop();
    // Whatever the user's ssh_config contains, nothing is forwarded.
    let arguments = std::fs::read_to_string(scratch.0.join("arguments")).unwrap();
    for wanted in [
        " -a ",
        " -x ",
        " ClearAllForwardings=yes ",
        " Tunnel=no ",
        " LocalCommand=echo ",
        " ControlPath=none ",
        " StrictHostKeyChecking=accept-new ",
        " PubkeyAuthentication=no ",
        " -l b -- a ",
    ] {
        assert!(format!(" {arguments}").contains(wanted), "{wanted}: {arguments}");
    }
}

/// What another user tries against the agent; `AGENT` is its pid, `STATE` its `state_dir`.
const ATTEMPTS: &[&str] = &[
    "kill -0 AGENT",
    "kill -STOP AGENT",
    "kill -9 AGENT",
    "cat /proc/AGENT/environ",
    "cat /proc/AGENT/mem",
    "ls /proc/AGENT/fd",
    "readlink /proc/AGENT/exe",
    "cat STATE/core-commands",
    "ls STATE",
    "touch STATE/x",
    "cat /etc/shadow",
    "cat /proc/1/environ",
    "perl -e 'use POSIX; POSIX::setuid(0) or exit 1'",
    "perl -e 'use POSIX; POSIX::setgid(0) or exit 1'",
    "perl -e '$( = 0; $) = \"0 0\"; exit($! ? 1 : 0)'",
    "setpriv --inh-caps +kill --ambient-caps +kill true",
    "setpriv --reuid 0 true",
    "chroot / true",
    "mknod /tmp/hm-node-$$ c 1 3",
    "mount -t tmpfs none /mnt",
    "hostname x",
    "date -s 2000-01-01",
];

#[test]
fn command_cannot_regain_privileges() {
    let (core, user, state) = (Core::start(), User::new(), TempDir::new("state"));
    std::fs::set_permissions(&state.0, std::fs::Permissions::from_mode(0o750)).unwrap();
    let settings = ["core.commands=any"];
    let command = user.with_user_database(&command(&core.setting(), &state, &settings));
    let fixture =
        CoreFixture { agent: Agent::spawn(with_inheritable_state(&command)), core, user, state };
    let status = fixture.run("cat /proc/self/status", 10)["stdout"].as_str().unwrap().to_owned();
    for signals in ["SigBlk:", "SigIgn:"] {
        let mask = u64::from_str_radix(&field(&status, signals), 16).unwrap();
        assert_eq!(mask & 0x7fff_ffff, 0, "{signals} {status}");
    }
    assert_eq!(fixture.run("ls /proc/self/fd", 10)["stdout"], "0\n1\n2\n3\n");
    if !fixture.user.is_dedicated() {
        fixture.agent.stop();
        return;
    }
    let id = fixture.user.id.to_string();
    for name in ["Uid:", "Gid:"] {
        let four: Vec<String> = field(&status, name).split('\t').map(str::to_owned).collect();
        assert_eq!(four, [&*id; 4], "{status}");
    }
    for sets in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(&status, sets), "0000000000000000", "{status}");
    }
    // Unchanged: sudo works, unless the service unit forbids it.
    assert_eq!(field(&status, "NoNewPrivs:"), "0");
    for attempt in ATTEMPTS {
        let text = attempt
            .replace("AGENT", &fixture.agent.pid().to_string())
            .replace("STATE", &fixture.state.0.display().to_string());
        let data = fixture.run(&text, 10);
        assert_ne!(data["exit_code"], 0, "{text}: {data}");
        assert!(!data["stderr"].as_str().unwrap().contains("not found"), "{text}: {data}");
    }
    assert_ne!(fixture.agent.state(), "T");
    fixture.assert_no_processes("attempts");
    fixture.agent.stop();
}

/// Looks for the key that [`with_privileged_state`] adds, in the session keyring: keyctl(2). x86-64 and aarch64.
const FIND_KEY: &str = "import ctypes, platform\n\
    number = {'x86_64': 250, 'aarch64': 219}[platform.machine()]\n\
    print(ctypes.CDLL(None).syscall(number, 10, -3, b'user', b'hm-test', 0) > 0)";

/// Runs a command as root's session would, and better: with a key in the session keyring, real-time scheduling, protection from
/// the OOM killer, and umask 0.
fn with_privileged_state(before: &Command) -> Command {
    let script = "import ctypes, os, platform, sys\n\
        call = ctypes.CDLL(None).syscall\n\
        join, add = {'x86_64': (250, 248), 'aarch64': (219, 217)}[platform.machine()]\n\
        assert call(join, 1, 0) > 0 and call(add, b'user', b'hm-test', b'secret', 6, -3) > 0\n\
        os.setpriority(os.PRIO_PROCESS, 0, -5)\n\
        open('/proc/self/oom_score_adj', 'w').write('-500')\n\
        os.umask(0)\n\
        os.execvp(sys.argv[1], sys.argv[1:])";
    wrap(&["python3", "-c", script], before)
}

#[test]
#[ignore = "needs root and python3"]
fn command_inherits_no_keyring_priority_or_protection() {
    let (core, user, state) = (Core::start(), User::new(), TempDir::new("state"));
    std::fs::set_permissions(&state.0, std::fs::Permissions::from_mode(0o750)).unwrap();
    let command =
        user.with_user_database(&command(&core.setting(), &state, &["core.commands=any"]));
    let agent = Agent::spawn(with_privileged_state(&command));
    let fixture = CoreFixture { agent, core, user, state };
    for (text, expected) in [
        (format!("python3 -c \"{FIND_KEY}\""), "False\n"),
        ("nice".to_owned(), "0\n"),
        ("cat /proc/self/oom_score_adj".to_owned(), "0\n"),
        ("umask".to_owned(), "0022\n"),
        ("pwd".to_owned(), "/\n"),
        ("tty; ps -o tty= -p $$".to_owned(), "not a tty\n?\n"),
    ] {
        assert_eq!(fixture.run(&text, 10)["stdout"], expected, "{text}");
    }
    fixture.agent.stop();
}

#[test]
fn world_writable_state_dir_does_not_redirect_or_block_writes() {
    let (state, other) = (TempDir::new("open"), TempDir::new("other"));
    std::fs::set_permissions(&state.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    let precious = other.write("precious", "precious");
    for name in ["heartbeat.json.new", "hm-reports.new", "core-commands.new"] {
        symlink(&precious, state.0.join(name)).unwrap();
    }
    for name in ["heartbeat.json", "hm-reports"] {
        let made = Command::new("mkfifo").arg(state.0.join(name)).status();
        assert!(made.unwrap().success());
    }
    let settings = [
        &format!("state_dir={}", state.0.display()),
        "interval=1",
        "gpu.source=none",
        "hm.url=ws://127.0.0.1:1/",
        "hm.report_interval=1",
    ];
    let agent = Agent::start(&settings.map(|setting| setting as &str));
    agent.wait_log("is world-writable");
    agent.get_ok("/hb_init?1&appid=a");
    for name in ["heartbeat.json", "hm-reports"] {
        let file = wait_until(name, || {
            std::fs::symlink_metadata(state.0.join(name)).ok().filter(std::fs::Metadata::is_file)
        });
        assert_eq!(file.mode() & 0o777, 0o600, "{name}");
    }
    agent.stop();
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
}
