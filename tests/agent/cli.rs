//! The command line: output, errors and exit codes.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Agent, TempDir, hm_agent};

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run_with_env(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let output = hm_agent().args(arguments).envs(environment.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn run(arguments: &[&str]) -> Output {
    run_with_env(&[], arguments)
}

/// Asserts that the command fails with one line on standard error.
fn assert_fails(arguments: &[&str], code: i32, message: &str) {
    let output = run(arguments);
    assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.stderr);
    assert_eq!(output.stderr, format!("hm-agent: {message}\n"), "{arguments:?}");
    assert_eq!(output.stdout, "");
}

#[test]
fn prints_help_and_version() {
    let help = run(&["--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("hm-agent check"));
    let version = run(&["--version"]).stdout;
    let (name, build) = version.trim_end().strip_suffix(')').unwrap().split_once(" (").unwrap();
    assert_eq!(name, format!("hm-agent {}", env!("CARGO_PKG_VERSION")));
    let (commit, target) = build.rsplit_once(", ").unwrap_or(("0000000", build));
    assert!(target.starts_with(&format!("{}-unknown-linux-", std::env::consts::ARCH)), "{version}");
    let is_commit = commit.len() == 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_commit, "{version}");
}

#[test]
fn invalid_arguments_and_settings_exit_with_code_2() {
    assert_fails(
        &["chek"],
        2,
        "unknown command \"chek\": expected run, check, sample, events, health, status or beat; see --help",
    );
    assert_fails(
        &["-s", "usage.lisen=x"],
        2,
        "command line: unknown key \"usage.lisen\", did you mean usage.listen?",
    );
    assert_fails(
        &["check", "-s", "usage.listen=localhost"],
        2,
        "command line: usage.listen: expected an address and port such as 0.0.0.0:33931 or [::]:33931, got \"localhost\"",
    );
    assert_fails(
        &["-c", "/nonexistent.toml"],
        2,
        "settings: cannot read /nonexistent.toml: no such file or directory",
    );
    let scratch = TempDir::new("settings");
    let file = scratch.write("a.toml", "interval = 5\n[usage]\nmax_connections = \"many\"\n");
    assert_fails(
        &["-c", &file],
        2,
        &format!(
            "{file} line 3: usage.max_connections: expected a number from 0 to 1000000, got \"many\""
        ),
    );
    let file = scratch.write("b.toml", "interval = \n");
    assert_fails(
        &["-c", &file],
        2,
        &format!("{file} line 1: string values must be quoted, expected literal string"),
    );
    assert_fails(
        &["check", "-s", "usage.token_file=/nonexistent"],
        2,
        "command line: usage.token_file: cannot read /nonexistent: no such file or directory",
    );
    let empty = scratch.write("token", "\n");
    assert_fails(
        &["check", "-s", &format!("usage.token_file={empty}")],
        2,
        &format!("command line: usage.token_file: {empty} is empty"),
    );
    assert_fails(
        &["check", "-s", "usage.token_file=/x", "-s", "usage.token=y"],
        2,
        "command line: usage.token_file: is set together with usage.token; remove one of them",
    );
    assert_fails(
        &["check", "-s", "usage.token="],
        2,
        "command line: usage.token: expected a text in quotes that is not empty",
    );
}

#[test]
fn misspelled_variables_prevent_start_so_that_no_port_is_open() {
    for (wrong, meant) in [
        ("HM_AGENT_USAGE_TOKEN_FIL", "HM_AGENT_USAGE_TOKEN_FILE"),
        ("HM_AGENT_USAGE_TOKENN_FILE", "HM_AGENT_USAGE_TOKEN_FILE"),
        ("HM_AGENT_MONITOR_TOKEM", "HM_AGENT_MONITOR_TOKEN"),
        ("HM_AGENT_USAGE_LITSEN", "HM_AGENT_USAGE_LISTEN"),
        ("HM_AGENT_usage_token", "HM_AGENT_USAGE_TOKEN"),
        ("HMAGENT_USAGE_TOKEN", "HM_AGENT_USAGE_TOKEN"),
    ] {
        let message =
            format!("hm-agent: environment {wrong}: unknown variable, did you mean {meant}?\n");
        for subcommand in ["run", "check", "sample"] {
            let output = run_with_env(&[(wrong, "/x")], &[subcommand]);
            assert_eq!((output.code, output.stderr), (Some(2), message.clone()), "{subcommand}");
        }
    }
}

#[test]
fn unknown_keys_get_a_suggestion_only_if_one_is_near() {
    assert_fails(
        &["check", "-s", "nosuch=1"],
        2,
        "command line: unknown key \"nosuch\"; hm-agent --help lists all keys",
    );
    assert_fails(
        &["-s", "usage.tokenfile=/x"],
        2,
        "command line: unknown key \"usage.tokenfile\", did you mean usage.token_file?",
    );
    assert_fails(
        &["check", "-s", "monitor=1"],
        2,
        "command line: \"monitor\" is a section, its keys are like monitor.enabled",
    );
    let scratch = TempDir::new("settings");
    let file = scratch.write("a.toml", "[nosuch]\nkey = 5\n");
    assert_fails(
        &["check", "-c", &file],
        2,
        &format!("{file} line 2: unknown key \"nosuch.key\"; hm-agent --help lists all keys"),
    );
}

#[test]
fn address_in_use_exits_with_code_1_and_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert_fails(
        &["-s", &format!("usage.listen={address}")],
        1,
        &format!(
            "usage cannot listen on {address}: {}; is another hm-agent running? see usage.listen",
            hm_agent::util::error::reason(&std::io::Error::from_raw_os_error(libc::EADDRINUSE))
        ),
    );
}

#[test]
fn unreadable_proc_exits_with_code_1() {
    assert_fails(
        &["-s", "path.proc=/nonexistent", "-s", "usage.listen=127.0.0.1:0"],
        1,
        "read /nonexistent/stat: no such file or directory; path.proc must be where the machine's /proc is",
    );
    let scratch = TempDir::new("proc");
    scratch.write("stat", "cpu  1 2 3 x4\n");
    let proc = format!("path.proc={}", scratch.0.display());
    let message =
        format!("parse {}/stat line 1: expected a number, got \"x4\"", scratch.0.display());
    assert_fails(&["sample", "-s", &proc], 1, &message);
    scratch.write("stat", "cpu  1 2 3 4\n");
    scratch.write("meminfo", "\0\0\0");
    let message =
        format!("parse {}/meminfo expected a line \"MemTotal\", found none", scratch.0.display());
    assert_fails(&["-s", &proc, "-s", "usage.listen=127.0.0.1:0"], 1, &message);
}

#[test]
fn check_prints_every_setting_with_its_source() {
    let scratch = TempDir::new("check");
    let file = scratch.write("a.toml", "interval = 7\n\n[usage]\ntoken = \"s3cret\"\n");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let environment = [("HM_AGENT_USAGE_MAX_CONNECTIONS", "9"), ("HM_AGENT_PORT", "tcp://x")];
    let output = run_with_env(&environment, &["check", "-c", &file, "-s", "log_level=debug"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let line = |start: &str| output.stdout.lines().find(|line| line.starts_with(start)).unwrap();
    assert!(line("interval = 7 ").ends_with(&format!("# {file} line 1")));
    assert!(
        line("usage.max_connections = 9 ")
            .ends_with("# environment HM_AGENT_USAGE_MAX_CONNECTIONS")
    );
    assert!(line("log_level = \"debug\" ").ends_with("# command line"));
    assert!(line("usage.listen = \"0.0.0.0:33931\" ").ends_with("# default"));
    assert!(line("# usage.token is set and not shown ").ends_with(&format!("# {file} line 4")));
    assert!(!output.stdout.contains("s3cret"));
    assert_eq!(
        output.stderr,
        "hm-agent: ignored environment variables that match no setting: HM_AGENT_PORT\n"
    );
    // The output is a valid configuration file.
    let again = scratch.write("b.toml", &output.stdout);
    let output = run(&["check", "-c", &again]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert!(output.stdout.contains("interval = 7 "));
}

#[test]
fn sample_prints_captured_machine() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/arm/b");
    let setting = |name: &str| format!("path.{name}={}/{name}", tree.display());
    let (proc, sys, root) = (setting("proc"), setting("sys"), setting("root"));
    let roots = ["-s", &proc, "-s", &sys, "-s", &root];
    let json = run(&[&["sample", "--json"], &roots[..]].concat());
    assert_eq!(json.code, Some(0), "{}", json.stderr);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["system_info"]["cpu_model"], "ARM Cortex-A72");
    assert_eq!(value["system_info"]["os"], "Debian GNU/Linux 12 (bookworm)");
    assert_eq!(value["usage_update"]["ram_used_mb"], 126);
    assert_eq!(value["usage_update"]["cpus"].as_array().unwrap().len(), 4);
    let text = run(&[&["sample"], &roots[..]].concat()).stdout;
    assert!(text.starts_with("host       arm-node "), "{text}");
    assert!(text.contains("4 × ARM Cortex-A72"), "{text}");
    assert!(text.contains("\nswap       0.0 %"), "{text}");
}

#[test]
fn sample_lists_applications_of_running_agent() {
    let agent = Agent::start(&[]);
    agent.get_ok("/hb_init?60000&appid=tetris");
    let listen = format!("heartbeat.listen={}", agent.heartbeat());
    let settings = ["-s", &listen, "-s", "gpu.source=none", "-s", "usage.enabled=false"];
    let output = hm_agent().arg("sample").args(settings).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("heartbeat  OK                   tetris, overdue ratio 0.0"), "{table}");
    agent.stop();
}

#[test]
fn closed_pipe_causes_no_panic() {
    let mut child = hm_agent().arg("--help").stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let code = child.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
}

#[test]
#[ignore = "needs root and unshare"]
fn unreadable_configuration_directory_prevents_start() {
    // A directory that the unprivileged user can read.
    let scratch = TempDir::new("closed");
    let program = scratch.0.join("hm-agent");
    std::fs::copy(hm_agent().get_program(), &program).unwrap();
    let check = |mode: &str, file: &str| {
        let script = format!(
            "mount -t tmpfs none /etc && mkdir -m {mode} /etc/hm-agent && \
             echo '{file}' >/etc/hm-agent/hm-agent.toml && exec setpriv --reuid 65534 --clear-groups \"$0\" check"
        );
        let mut command = Command::new("unshare");
        let output = command.args(["--mount", "sh", "-c", &script]).arg(&program).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text.into_owned())
    };
    let (code, text) = check("755", "usage.token = \"x\"");
    assert!(code == Some(0) && text.contains("# usage.token is set and not shown"), "{text}");
    // The file may contain the token without which every client has access.
    let (code, text) = check("700", "usage.token = \"x\"");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("cannot read /etc/hm-agent/hm-agent.toml"), "{text}");
}
