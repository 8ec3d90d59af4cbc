//! Commands of Core: what they are given, what is reported of them, how many run, and which are refused.
//! Results that do not arrive are in `results.rs`, commands that mean harm in `tests/core_hostile.rs`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::SLACK;
use crate::support::core::Core;
use crate::support::node::{Scene, User, behind, command};
use crate::support::{Agent, Scratch, wait_until};

/// Exit code, standard output, standard error.
fn told(data: &Value) -> (i64, &str, &str) {
    let text = |name: &str| data[name].as_str().unwrap();
    (data["exit_code"].as_i64().unwrap(), text("stdout"), text("stderr"))
}

fn milliseconds(data: &Value) -> u64 {
    data["execution_time_ms"].as_u64().unwrap()
}

#[test]
fn a_command_is_started_and_told_of() {
    let scene = Scene::new(&[]);
    let text = "echo out; echo err >&2; sleep 0.3; exit 7";
    let request = scene.core.execute("c1", text, 10);
    let result = scene.core.result("c1");
    assert_eq!(told(&result.data), (7, "out\n", "err\n"));
    assert!((300..10_000).contains(&milliseconds(&result.data)), "{}", result.data);
    let started = &scene.core.seen("command_started")[0];
    assert_eq!((&started.id, &started.data), (&request, &json!({"command_id": "c1"})));
    assert!(started.at < result.at - Duration::from_millis(200), "at once");
    assert_ne!(result.id, request);
    wait_until("the acknowledgement", || {
        (scene.core.acknowledged() == [result.id.clone()]).then_some(())
    });
    scene.assert_gone("a command");
    scene.agent.stop();
}

#[test]
fn exit_codes_are_those_of_a_shell() {
    let scene = Scene::new(&[]);
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
        let data = scene.run(text, 10);
        assert_eq!(data["exit_code"], code, "{text}: {data}");
    }
    scene.agent.stop();
    let allowed = "core.allow=/no/such/program, no-such-program, /etc/passwd, /etc";
    let scene = Scene::new(&["core.commands=allow", allowed]);
    for (text, code) in
        [("/no/such/program x", 127), ("no-such-program", 127), ("/etc/passwd", 126), ("/etc", 126)]
    {
        let data = scene.run(text, 10);
        let (_, stdout, stderr) = told(&data);
        assert_eq!((&data["exit_code"], stdout), (&json!(code), ""), "{text}: {data}");
        assert!(stderr.contains(text.split(' ').next().unwrap()), "{text}: {data}");
    }
    scene.agent.stop();
}

#[test]
fn a_command_gets_a_clean_environment() {
    let (core, user, state) = (Core::start(), User::new(), Scratch::new("commands"));
    let settings = ["core.commands=allow", "core.allow=cat, ls, readlink"];
    let mut command = user.known_to(&command(&core.setting(), &state, &settings));
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
    // As nohup has it, and what a shell starts in the background.
    let ignoring = ["sh", "-c", "trap '' HUP INT QUIT PIPE; exec \"$0\" \"$@\""];
    let agent = Agent::spawn(behind(&ignoring, &command));
    let scene = Scene { agent, core, user, state };
    let read = |text: &str| {
        let data = scene.run(text, 10);
        assert_eq!(data["exit_code"], 0, "{data}");
        told(&data).1.to_owned()
    };
    let environment = read("cat /proc/self/environ");
    let mut variables: Vec<(&str, &str)> =
        environment.split_terminator('\0').map(|pair| pair.split_once('=').unwrap()).collect();
    variables.sort_unstable();
    let names: Vec<&str> = variables.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"], "{environment}");
    assert!(variables[3].1.contains("/usr/bin"), "{environment}");
    assert_eq!(read("readlink /proc/self/fd/0 /proc/self/cwd"), "/dev/null\n/\n");
    // The last one is the directory itself.
    assert_eq!(read("ls /proc/self/fd"), "0\n1\n2\n3\n");
    let status = read("cat /proc/self/status");
    let field = |name: &str| -> Vec<String> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(field("Umask:"), ["0022"]);
    for signals in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let mask = u64::from_str_radix(&field(signals)[0], 16).unwrap();
        // Those from 32 on are the C library's own.
        assert_eq!(mask & 0x7fff_ffff, 0, "{signals} {status}");
    }
    if scene.user.is_own() {
        assert_eq!((variables[0].1, variables[2].1, variables[5].1), ("/tmp", "hmtest", "hmtest"));
        let id = scene.user.id.to_string();
        let more = (scene.user.id + 1).to_string();
        assert_eq!((field("Uid:"), field("Gid:")), (vec![id.clone(); 4], vec![id.clone(); 4]));
        let mut groups = field("Groups:");
        groups.sort_unstable();
        groups.dedup();
        assert!(groups == [id, more.clone()] || groups == [more], "{groups:?}");
        for capabilities in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities} {status}");
        }
        // What other processes were started with, nobody but their users may read.
        let data = scene.run("cat /proc/1/environ", 10);
        assert_ne!(data["exit_code"], 0, "{data}");
    }
    scene.agent.stop();
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let scene = Scene::new(&[]);
    let long = ["core-1", "core-2", "core-3"];
    let start = Instant::now();
    scene.core.execute(long[0], "echo begun; sleep 1000", 1);
    // Is given time to clean up.
    scene.core.execute(long[1], "trap 'echo cleaned >&2; exit 3' TERM; sleep 1000 & wait", 1);
    // Does not want to go, nor do its children.
    let stubborn =
        "trap '' TERM; (trap '' TERM; sleep 1000) & echo begun; while :; do sleep 1; done";
    scene.core.execute(long[2], stubborn, 1);
    for (id, stdout, least) in [(long[0], "begun\n", 1), (long[1], "", 1), (long[2], "begun\n", 3)]
    {
        let result = scene.core.result(id);
        let (code, out, stderr) = told(&result.data);
        assert_eq!((code, out), (124, stdout), "{}", result.data);
        assert!(stderr.trim_end().lines().last().unwrap().contains("COMMAND_TIMEOUT"), "{stderr}");
        let bounds = least * 1000 - 100..least * 1000 + SLACK.as_millis() as u64;
        assert!(bounds.contains(&milliseconds(&result.data)), "{}", result.data);
        assert_eq!(stderr.contains("cleaned"), id == long[1], "{stderr}");
    }
    assert!(start.elapsed() < Duration::from_secs(3) + SLACK, "{:?}", start.elapsed());
    scene.assert_gone("commands that take too long");
    scene.agent.stop();
}

#[test]
#[ignore = "waits for the 30 s that a command has if nothing is said"]
fn a_command_without_a_timeout_has_thirty_seconds() {
    let scene = Scene::new(&[]);
    let start = Instant::now();
    scene.core.request(&json!({"command_id": "c", "command_text": "sleep 1000"}));
    while scene.core.results("c").is_empty() {
        assert!(start.elapsed() < Duration::from_secs(30) + SLACK);
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let data = scene.core.result("c").data;
    assert_eq!(data["exit_code"], 124, "{data}");
    assert!((29_900..40_000).contains(&milliseconds(&data)), "{data}");
    scene.assert_gone("sleep");
    scene.agent.stop();
}

#[test]
fn long_output_is_cut_in_the_middle() {
    const HALF: usize = 128 << 10;
    let scene = Scene::new(&[]);
    let all: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    for (text, name) in [("seq 1 100000", "stdout"), ("seq 1 100000 >&2", "stderr")] {
        let data = scene.run(text, 20);
        let kept = data[name].as_str().unwrap();
        let (head, tail) = (&all[..HALF], &all[all.len() - HALF..]);
        assert!(kept.starts_with(head) && kept.ends_with(tail), "{} bytes", kept.len());
        let middle = kept[HALF..kept.len() - HALF].trim_matches('\n');
        assert_eq!(middle, format!("[… {} bytes left out …]", all.len() - 2 * HALF), "{text}");
    }
    // One that just fits, one that does not.
    let data = scene.run("head -c 262144 /dev/zero | tr '\\0' a", 20);
    assert_eq!(told(&data), (0, "a".repeat(2 * HALF).as_str(), ""));
    let data = scene.run("head -c 262145 /dev/zero | tr '\\0' a", 20);
    assert!(
        told(&data).1.contains("[… 1 bytes left out …]"),
        "{}",
        data["stdout"].as_str().unwrap().len()
    );
    scene.agent.stop();
}

#[test]
fn output_that_is_no_text_is_replaced() {
    let scene = Scene::new(&[]);
    let data = scene.run("printf 'a\\377\\303\\0z\\033'; printf '\\303\\244\\342\\202' >&2", 10);
    assert_eq!(told(&data), (0, "a\u{fffd}\u{fffd}\0z\u{1b}", "ä\u{fffd}"));
    scene.agent.stop();
}

#[test]
fn without_the_setting_every_command_is_refused() {
    let (core, user, state) = (Core::start(), User::new(), Scratch::new("commands"));
    let agent = Agent::spawn(command(&core.setting(), &state, &[]));
    let touched = user.scratch().0.join("touched");
    let request = core.execute("c", &format!("touch {}", touched.display()), 10);
    let result = core.result("c");
    let (code, stdout, stderr) = told(&result.data);
    assert_eq!((code, stdout), (126, ""));
    assert!(stderr.contains("core.commands"), "{stderr}");
    assert!(result.id != request && !touched.exists());
    agent.stop();
}

#[test]
fn allowed_commands_are_run_without_a_shell() {
    let allow = r#"core.allow=["echo", "printf %s", "ls '/a b'"]"#;
    let scene = Scene::new(&["core.commands=allow", allow]);
    for (text, stdout) in [
        ("echo a   b", "a b\n"),
        ("  echo", "\n"),
        (r#"echo 'a  b' "c \" d" e\ f ''g"#, "a  b c \" d e f g\n"),
        (r#"echo '$(id)' '*' ';' \; '`' \* "a;b|c" 'x"y'"#, "$(id) * ; ; ` * a;b|c x\"y\n"),
        ("echo --x=y a~ b#c %", "--x=y a~ b#c %\n"),
        ("'ec'ho x", "x\n"),
        ("printf %s x", "x"),
    ] {
        assert_eq!(told(&scene.run(text, 10)), (0, stdout, ""), "{text}");
    }
    assert_eq!(scene.run("ls '/a b'/c", 10)["exit_code"], 126, "no prefix of a word");
    assert_eq!(scene.run(r"ls /a\ b", 10)["exit_code"], 2, "the same word, not there");
    let refused = [
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
    for text in refused {
        let data = scene.run(text, 10);
        let (code, stdout, stderr) = told(&data);
        assert_eq!((code, stdout), (126, ""), "{text:?}: {data}");
        assert!(!stderr.trim().is_empty(), "{text:?}");
    }
    scene.agent.stop();
    let scene = Scene::new(&["core.commands=allow"]);
    assert_eq!(scene.run("true", 10)["exit_code"], 126, "nothing is allowed");
    scene.agent.stop();
}

#[test]
fn four_run_sixteen_wait_and_the_next_is_refused() {
    let scene = Scene::new(&[]);
    let scratch = scene.user.scratch();
    let (go, order) = (scratch.0.join("go"), scratch.0.join("order"));
    let block = format!("until [ -e {} ]; do sleep 0.1; done", go.display());
    for number in 0..4 {
        scene.core.execute(&format!("block-{number}"), &block, 60);
    }
    scene.core.wait("command_started", 4);
    for number in 0..16 {
        let text = format!("echo {number} >> {}", order.display());
        scene.core.execute(&format!("wait-{number}"), &text, 60);
    }
    for id in ["over-1", "over-2"] {
        scene.core.execute(id, "true", 60);
        let data = scene.core.result(id).data;
        let (code, _, stderr) = told(&data);
        assert!(code == 126 && stderr.contains("16"), "{data}");
    }
    assert!(!order.exists(), "a fifth runs");
    assert_eq!(scene.core.seen("command_result").len(), 2);
    scratch.write("go", "");
    for number in 0..4 {
        assert_eq!(scene.core.result(&format!("block-{number}")).data["exit_code"], 0);
    }
    for number in 0..16 {
        assert_eq!(scene.core.result(&format!("wait-{number}")).data["exit_code"], 0);
    }
    let mut ran: Vec<u32> = std::fs::read_to_string(&order)
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    ran.sort_unstable();
    assert_eq!(ran, (0..16).collect::<Vec<_>>(), "each once");
    assert_eq!(scene.run("echo again", 10)["stdout"], "again\n");
    scene.assert_gone("twenty commands");
    scene.agent.stop();
}

#[test]
fn the_same_command_runs_once_and_is_answered_each_time() {
    let scene = Scene::new(&[]);
    let scratch = scene.user.scratch();
    let file = scratch.0.join("ran");
    let text = format!("echo x >> {}; sleep 1; echo done", file.display());
    let ids = |count: usize| -> Vec<String> {
        wait_until("results", || Some(scene.core.results("c")).filter(|seen| seen.len() >= count))
            .into_iter()
            .map(|seen| {
                assert_eq!(told(&seen.data), (0, "done\n", ""));
                seen.id
            })
            .collect()
    };
    let first = scene.core.execute("c", &text, 10);
    let second = scene.core.execute("c", &text, 10);
    assert_eq!(ids(2).len(), 2);
    wait_until("both received", || (scene.core.acknowledged().len() == 2).then_some(()));
    let third = scene.core.execute("c", "echo another text", 10);
    let mut ids = ids(3);
    ids.extend([first, second, third]);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6, "each message has its id");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n", "it ran once");
    scene.agent.stop();
}

#[test]
fn the_log_has_every_command_and_never_its_output() {
    let scene = Scene::new(&["log_level=trace"]);
    let text =
        "echo pass$((40+2))word; echo err$((40+2))or >&2; exit 3\n2026-01-01T00:00:00Z error fake";
    scene.core.execute("id\n2026-01-01T00:00:00Z error fake", text, 10);
    scene.core.wait("command_result", 1);
    let user = if scene.user.is_own() { "hmtest".to_owned() } else { String::new() };
    let ended = wait_until("a line that says how it ended", || {
        let log = scene.agent.log();
        log.into_iter().find(|line| line.contains("exit code 3") || line.contains("exits with 3"))
    });
    println!("{ended}");
    let log = scene.agent.stop();
    let text = log.join("\n");
    assert!(text.contains("pass$((40+2))word"), "what it was: {log:#?}");
    assert!(text.contains(&user), "who ran it: {log:#?}");
    assert!(!text.contains("pass42word") && !text.contains("err42or"), "{log:#?}");
    assert!(!log.iter().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log:#?}");
}
