//! Commands of Core: environment, results, limits and policies. Delivery of results is in `results.rs`, misbehaving commands
//! in `tests/measured/core_adversarial.rs`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::core_client::SLACK;
use crate::support::core::Core;
use crate::support::core_fixture::{CoreFixture, User, command, wrap};
use crate::support::{Agent, TempDir, wait_until};

/// Exit code, standard output, standard error.
fn outcome(data: &Value) -> (i64, &str, &str) {
    let text = |name: &str| data[name].as_str().unwrap();
    (data["exit_code"].as_i64().unwrap(), text("stdout"), text("stderr"))
}

fn milliseconds(data: &Value) -> u64 {
    data["execution_time_ms"].as_u64().unwrap()
}

#[test]
fn reports_start_and_result_of_a_command() {
    let fixture = CoreFixture::new(&[]);
    let text = "echo out; echo err >&2; sleep 0.3; exit 7";
    let request = fixture.core.execute("c1", text, 10);
    let result = fixture.core.result("c1");
    assert_eq!(outcome(&result.data), (7, "out\n", "err\n"));
    assert!((300..10_000).contains(&milliseconds(&result.data)), "{}", result.data);
    let started = &fixture.core.seen("command_started")[0];
    assert_eq!((&started.id, &started.data), (&request, &json!({"command_id": "c1"})));
    assert!(started.at < result.at - Duration::from_millis(200), "immediately");
    assert_ne!(result.id, request);
    wait_until("the acknowledgement", || {
        (fixture.core.acknowledged() == [result.id.clone()]).then_some(())
    });
    fixture.assert_no_processes("a command");
    fixture.agent.stop();
}

#[test]
fn exit_codes_match_a_shell() {
    let fixture = CoreFixture::new(&[]);
    for (text, code) in [
        ("true", 0),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("kill -SEGV $$", 139),
        ("/no/such/program", 127),
        ("/etc/passwd", 126),
        ("", 0),
    ] {
        let data = fixture.run(text, 10);
        assert_eq!(data["exit_code"], code, "{text}: {data}");
    }
    fixture.agent.stop();
    let allowed = "core.allow=/no/such/program, no-such-program, /etc/passwd, /etc";
    let fixture = CoreFixture::new(&["core.commands=allow", allowed]);
    for (text, code) in
        [("/no/such/program x", 127), ("no-such-program", 127), ("/etc/passwd", 126), ("/etc", 126)]
    {
        let data = fixture.run(text, 10);
        let (_, stdout, stderr) = outcome(&data);
        assert_eq!((&data["exit_code"], stdout), (&json!(code), ""), "{text}: {data}");
        assert!(stderr.contains(text.split(' ').next().unwrap()), "{text}: {data}");
    }
    fixture.agent.stop();
}

#[test]
fn command_gets_a_clean_environment() {
    let (core, user, state) = (Core::start(), User::new(), TempDir::new("commands"));
    let settings = ["core.commands=allow", "core.allow=cat, ls, readlink"];
    let mut command = user.with_user_database(&command(&core.setting(), &state, &settings));
    for (name, value) in [
        ("LD_LIBRARY_PATH", "/tmp"),
        ("BASH_ENV", "/tmp/x"),
        ("ENV", "/tmp/x"),
        ("IFS", "/"),
        ("HM_AGENT_USAGE_TOKEN", "s3cret-in-the-environment"),
        ("SSH_AUTH_SOCK", "/tmp/agent"),
        ("TMPDIR", "/nowhere"),
    ] {
        command.env(name, value);
    }
    // As nohup and shells start background processes.
    let ignoring = ["sh", "-c", "trap '' HUP INT QUIT PIPE; exec \"$0\" \"$@\""];
    let agent = Agent::spawn(wrap(&ignoring, &command));
    let fixture = CoreFixture { agent, core, user, state };
    let read = |text: &str| {
        let data = fixture.run(text, 10);
        assert_eq!(data["exit_code"], 0, "{data}");
        outcome(&data).1.to_owned()
    };
    let environment = read("cat /proc/self/environ");
    let mut variables: Vec<(&str, &str)> =
        environment.split_terminator('\0').map(|pair| pair.split_once('=').unwrap()).collect();
    variables.sort_unstable();
    let names: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"], "{environment}");
    assert!(variables[3].1.contains("/usr/bin"), "{environment}");
    assert_eq!(read("readlink /proc/self/fd/0 /proc/self/cwd"), "/dev/null\n/\n");
    // 3 is the directory itself.
    assert_eq!(read("ls /proc/self/fd"), "0\n1\n2\n3\n");
    let status = read("cat /proc/self/status");
    let field = |name: &str| -> Vec<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(field("Umask:"), ["0022"]);
    for signals in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let mask = u64::from_str_radix(&field(signals)[0], 16).unwrap();
        // Signals from 32 on are used by the C library.
        assert_eq!(mask & 0x7fff_ffff, 0, "{signals} {status}");
    }
    if fixture.user.is_dedicated() {
        assert_eq!((variables[0].1, variables[2].1, variables[5].1), ("/tmp", "hmtest", "hmtest"));
        let id = fixture.user.id.to_string();
        let more = (fixture.user.id + 1).to_string();
        assert_eq!((field("Uid:"), field("Gid:")), (vec![id.clone(); 4], vec![id.clone(); 4]));
        let mut groups = field("Groups:");
        groups.sort_unstable();
        groups.dedup();
        assert!(groups == [id, more.clone()] || groups == [more], "{groups:?}");
        for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities} {status}");
        }
        // The environment of other users' processes is not readable.
        let data = fixture.run("cat /proc/1/environ", 10);
        assert_ne!(data["exit_code"], 0, "{data}");
    }
    fixture.agent.stop();
}

#[test]
fn timeout_ends_commands_and_their_children() {
    let fixture = CoreFixture::new(&[]);
    let long = ["core-1", "core-2", "core-3"];
    let start = Instant::now();
    fixture.core.execute(long[0], "echo started; sleep 1000", 1);
    // Handles SIGTERM.
    fixture.core.execute(long[1], "trap 'echo cleaned >&2; exit 3' TERM; sleep 1000 & wait", 1);
    // Ignores SIGTERM, as do its children.
    let stubborn =
        "trap '' TERM; (trap '' TERM; sleep 1000) & echo started; while :; do sleep 1; done";
    fixture.core.execute(long[2], stubborn, 1);
    for (id, stdout, least) in
        [(long[0], "started\n", 1), (long[1], "", 1), (long[2], "started\n", 3)]
    {
        let result = fixture.core.result(id);
        let (code, out, stderr) = outcome(&result.data);
        assert_eq!((code, out), (124, stdout), "{}", result.data);
        assert!(stderr.trim_end().lines().last().unwrap().contains("COMMAND_TIMEOUT"), "{stderr}");
        let bounds = least * 1000 - 100..least * 1000 + SLACK.as_millis() as u64;
        assert!(bounds.contains(&milliseconds(&result.data)), "{}", result.data);
        assert_eq!(stderr.contains("cleaned"), id == long[1], "{stderr}");
    }
    assert!(start.elapsed() < Duration::from_secs(3) + SLACK, "{:?}", start.elapsed());
    fixture.assert_no_processes("commands that time out");
    fixture.agent.stop();
}

#[test]
#[ignore = "waits for the default timeout of 30 s"]
fn default_timeout_is_30_s() {
    let fixture = CoreFixture::new(&[]);
    let start = Instant::now();
    fixture.core.request(&json!({"command_id": "c", "command_text": "sleep 1000"}));
    while fixture.core.results("c").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30) + SLACK);
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let data = fixture.core.result("c").data;
    assert_eq!(data["exit_code"], 124, "{data}");
    assert!((29_900..40_000).contains(&milliseconds(&data)), "{data}");
    fixture.assert_no_processes("sleep");
    fixture.agent.stop();
}

#[test]
fn long_output_keeps_head_and_tail() {
    const HALF: usize = 128 << 10;
    let fixture = CoreFixture::new(&[]);
    let all: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    for (text, name) in [("seq 1 100000", "stdout"), ("seq 1 100000 >&2", "stderr")] {
        let data = fixture.run(text, 20);
        let kept = data[name].as_str().unwrap();
        let (head, tail) = (&all[..HALF], &all[all.len() - HALF..]);
        assert!(kept.starts_with(head) && kept.ends_with(tail), "{} bytes", kept.len());
        let middle = kept[HALF..kept.len() - HALF].trim_matches('\n');
        assert_eq!(middle, format!("[… {} bytes omitted …]", all.len() - 2 * HALF), "{text}");
    }
    // The limit, and one byte more.
    let data = fixture.run("head -c 262144 /dev/zero | tr '\\0' a", 20);
    assert_eq!(outcome(&data), (0, "a".repeat(2 * HALF).as_str(), ""));
    let data = fixture.run("head -c 262145 /dev/zero | tr '\\0' a", 20);
    assert!(
        outcome(&data).1.contains("[… 1 bytes omitted …]"),
        "{}",
        data["stdout"].as_str().unwrap().len()
    );
    fixture.agent.stop();
}

#[test]
fn invalid_utf8_in_output_is_replaced() {
    let fixture = CoreFixture::new(&[]);
    let data = fixture.run("printf 'a\\377\\303\\0z\\033'; printf '\\303\\244\\342\\202' >&2", 10);
    assert_eq!(outcome(&data), (0, "a\u{fffd}\u{fffd}\0z\u{1b}", "ä\u{fffd}"));
    fixture.agent.stop();
}

#[test]
fn rejects_every_command_by_default() {
    let (core, user, state) = (Core::start(), User::new(), TempDir::new("commands"));
    let agent = Agent::spawn(command(&core.setting(), &state, &[]));
    let touched = user.scratch().0.join("touched");
    let request = core.execute("c", &format!("touch {}", touched.display()), 10);
    let result = core.result("c");
    let (code, stdout, stderr) = outcome(&result.data);
    assert_eq!((code, stdout), (126, ""));
    assert!(stderr.contains("core.commands"), "{stderr}");
    assert!(result.id != request && !touched.exists());
    agent.stop();
}

#[test]
fn allowed_commands_run_without_a_shell() {
    let allow = r#"core.allow=["echo", "printf %s", "ls '/a b'"]"#;
    let fixture = CoreFixture::new(&["core.commands=allow", allow]);
    for (text, stdout) in [
        ("echo a   b", "a b\n"),
        ("  echo", "\n"),
        (r#"echo 'a  b' "c \" d" e\ f ''g"#, "a  b c \" d e f g\n"),
        (r#"echo '$(id)' '*' ';' \; '`' \* "a;b|c" 'x"y'"#, "$(id) * ; ; ` * a;b|c x\"y\n"),
        ("echo --x=y a~ b#c %", "--x=y a~ b#c %\n"),
        ("'ec'ho x", "x\n"),
        ("printf %s x", "x"),
    ] {
        assert_eq!(outcome(&fixture.run(text, 10)), (0, stdout, ""), "{text}");
    }
    assert_eq!(
        fixture.run("ls '/a b'/c", 10)["exit_code"],
        126,
        "a prefix of a word does not match"
    );
    assert_eq!(fixture.run(r"ls /a\ b", 10)["exit_code"], 2, "the same word, but no such file");
    let rejected = [
        "printf %d 5",
        "printf",
        "echoes",
        "/bin/echo x",
        "Echo",
        "id",
        "sh -c 'echo x'",
        "ls",
        "ls /a b",
        "echo $(id)",
        "echo `id`",
        "echo a; id",
        "echo a | id",
        "echo a || id",
        "echo a && id",
        "echo a & id",
        "echo *",
        "echo a?",
        "echo [a]",
        "echo {a,b}",
        "echo > /tmp/x",
        "echo < /etc/passwd",
        "echo \"$HOME\"",
        "echo $HOME",
        "echo \"`id`\"",
        "echo ~",
        "echo # x",
        "echo !x",
        "echo 'a",
        "echo \"a",
        "echo \\",
        "A=b echo x",
        "PATH=/tmp echo x",
        "echo a\nid",
        "echo \"\\$x\"",
        "echo \0",
        "echo 'a\0b'",
        "",
        "  ",
        "(echo)",
        "\necho x",
    ];
    for text in rejected {
        let data = fixture.run(text, 10);
        let (code, stdout, stderr) = outcome(&data);
        assert_eq!((code, stdout), (126, ""), "{text:?}: {data}");
        assert!(!stderr.trim().is_empty(), "{text:?}");
    }
    fixture.agent.stop();
    let fixture = CoreFixture::new(&["core.commands=allow"]);
    assert_eq!(fixture.run("true", 10)["exit_code"], 126, "empty core.allow");
    fixture.agent.stop();
}

#[test]
fn runs_4_queues_16_and_rejects_the_next() {
    let fixture = CoreFixture::new(&[]);
    let scratch = fixture.user.scratch();
    let (go, order) = (scratch.0.join("go"), scratch.0.join("order"));
    let block = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
    for number in 0..4 {
        fixture.core.execute(&format!("block-{number}"), &block, 60);
    }
    fixture.core.wait("command_started", 4);
    for number in 0..16 {
        let text = format!("echo {number} >> {}", order.display());
        fixture.core.execute(&format!("wait-{number}"), &text, 60);
    }
    for id in ["over-1", "over-2"] {
        fixture.core.execute(id, "true", 60);
        let data = fixture.core.result(id).data;
        let (code, _, stderr) = outcome(&data);
        assert!(code == 126 && stderr.contains("16"), "{data}");
    }
    assert!(!order.exists(), "a fifth command runs");
    assert_eq!(fixture.core.seen("command_result").len(), 2);
    scratch.write("go", "");
    for number in 0..4 {
        assert_eq!(fixture.core.result(&format!("block-{number}")).data["exit_code"], 0);
    }
    for number in 0..16 {
        assert_eq!(fixture.core.result(&format!("wait-{number}")).data["exit_code"], 0);
    }
    let mut ran: Vec<u32> = std::fs::read_to_string(&order)
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..16).collect::<Vec<_>>(), "each once");
    assert_eq!(fixture.run("echo again", 10)["stdout"], "again\n");
    fixture.assert_no_processes("twenty commands");
    fixture.agent.stop();
}

#[test]
fn repeated_command_runs_once_and_each_request_gets_a_result() {
    let fixture = CoreFixture::new(&[]);
    let scratch = fixture.user.scratch();
    let file = scratch.0.join("ran");
    let text = format!("echo x >> {}; sleep 1; echo done", file.display());
    let ids = |count: usize| -> Vec<String> {
        wait_until("results", || Some(fixture.core.results("c")).filter(|seen| seen.len() >= count))
            .into_iter()
            .map(|seen| {
                assert_eq!(outcome(&seen.data), (0, "done\n", ""));
                seen.id
            })
            .collect()
    };
    let first = fixture.core.execute("c", &text, 10);
    let second = fixture.core.execute("c", &text, 10);
    assert_eq!(ids(2).len(), 2);
    wait_until("both received", || (fixture.core.acknowledged().len() == 2).then_some(()));
    let third = fixture.core.execute("c", "echo another text", 10);
    let mut ids = ids(3);
    ids.extend([first, second, third]);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6, "each message has a unique id");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n", "ran once");
    fixture.agent.stop();
}

#[test]
fn log_contains_commands_but_not_their_output() {
    let fixture = CoreFixture::new(&["log_level=trace"]);
    let text =
        "echo pass$((40+2))word; echo err$((40+2))or >&2; exit 3\n2026-01-01T00:00:00Z error fake";
    fixture.core.execute("id\n2026-01-01T00:00:00Z error fake", text, 10);
    fixture.core.wait("command_result", 1);
    let user = if fixture.user.is_dedicated() { "hmtest".to_owned() } else { String::new() };
    let line = wait_until("a line with the exit code", || {
        let log = fixture.agent.log();
        log.into_iter().find(|line| line.contains("finished with exit code 3"))
    });
    println!("{line}");
    let log = fixture.agent.stop();
    let text = log.join("\n");
    assert!(text.contains("pass$((40+2))word"), "command line: {log:#?}");
    assert!(text.contains(&user), "user: {log:#?}");
    assert!(!text.contains("pass42word") && !text.contains("err42or"), "{log:#?}");
    assert!(!log.iter().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log:#?}");
}
