//! Commands that mean harm, or do it: each is answered as it should be, nothing of it is left, and meanwhile the agent
//! beats on time and keeps its size.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;

use support::core::Core;
use support::node::{Scene, User};

/// Beats are a second apart. On two busy processors some are late.
const BEAT: Duration = Duration::from_secs(5);
/// What an agent may have grown by in the first round: results that it keeps, and buffers. glibc keeps for each thread
/// what that has freed, which is no measure of anything.
const KEPT_KB: u64 = if cfg!(target_env = "musl") { 2560 } else { 24 << 10 };
/// And in the next one.
const MORE_KB: u64 = if cfg!(target_env = "musl") { 256 } else { 4096 };
const CUT: usize = 256 << 10;

/// A command, its timeout, and what is expected of its result.
struct Case {
    name: &'static str,
    text: String,
    timeout: u64,
    code: i64,
    is_right: fn(&str, &str) -> bool,
}

fn case(name: &'static str, text: &str, timeout: u64, code: i64) -> Case {
    Case { name, text: text.to_owned(), timeout, code, is_right: |_, _| true }
}

impl Case {
    fn that(self, is_right: fn(&str, &str) -> bool) -> Self {
        Self { is_right, ..self }
    }
}

fn is_cut(text: &str) -> bool {
    (CUT..CUT + 100).contains(&text.len()) && text.contains(" bytes left out …]")
}

/// `user` may have so many processes; without a user of its own, whoever runs the tests has more than that.
fn cases(user: &User, runner: &str) -> Vec<Case> {
    let mut cases = vec![
        case("endless output", "yes", 2, 124).that(|out, _| is_cut(out)),
        case("no newline", "tr '\\0' a < /dev/zero", 2, 124).that(|out, _| is_cut(out)),
        case("endless errors", "yes >&2", 2, 124)
            .that(|out, err| out.is_empty() && is_cut(&err[..err.len().min(CUT + 90)])),
        case("control characters", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2", 10, 0)
            .that(|out, err| is_cut(out) && is_cut(err)),
        case("ignores SIGTERM", "trap '' TERM HUP INT QUIT; echo a; exec sleep 1000", 1, 124)
            .that(|out, _| out == "a\n"),
        case("stops itself", "echo a; kill -STOP $$; echo b", 1, 124).that(|out, _| out == "a\n"),
        case("leaves a daemon", "(setsid sh -c 'trap \"\" TERM HUP; sleep 1000; sleep 1000' > /dev/null 2>&1 &); echo a", 20, 0)
            .that(|out, _| out == "a\n"),
        case("leaves one that holds its output", "setsid sleep 1000 & nohup sleep 1000 & echo a", 20, 0)
            .that(|out, _| out.contains("a\n")),
        case("closes its output", "exec >&- 2>&- <&-; sleep 0.5; exit 4", 20, 4),
        case("kills its group", "echo a; kill -9 0", 20, 137).that(|out, _| out == "a\n"),
        case("a daemon in the time limit", "setsid setsid sleep 1000; sleep 1000", 1, 124),
        case("a name that is not there", "no-such-command-here", 20, 127),
        case("a path that is not there", "PATH=/nonexistent; ls", 20, 127),
        case("byte 0", "echo a\0b", 20, 126).that(|out, err| out.is_empty() && !err.is_empty()),
        case("environment", "env -i PATH= IFS=x PS4='$(id)' BASH_ENV=/etc/passwd /bin/echo a", 20, 0)
            .that(|out, _| out == "a\n"),
        case("runs from its keeper", &format!("sh {runner}; echo a"), 20, 0).that(|out, _| out == "a\n"),
        // One argument has at most 128 KiB on Linux.
        case("a megabyte of arguments", &format!("echo {}", "x".repeat(1 << 20)), 20, 126)
            .that(|out, err| out.is_empty() && !err.is_empty()),
    ];
    if user.is_own() {
        let bomb = |rest: &str| {
            format!("prlimit --nproc=80 sh -c 'f() {{ f | f & }}; f' 2> /dev/null & {rest}")
        };
        cases.push(case("fork bomb", &bomb("exec sleep 1000"), 3, 124));
        cases.push(case("fork bomb that is left behind", &bomb("sleep 0.3; exit 5"), 20, 5));
    }
    cases
}

/// All of them at once, four at a time; the agent beats meanwhile.
fn all(scene: &Scene, cases: &[Case], round: usize) {
    let start = Instant::now();
    let id = |case: &Case| format!("{}, {round}", case.name);
    for case in cases {
        scene.core.execute(&id(case), &case.text, case.timeout);
    }
    for case in cases {
        let data = patiently(scene, &id(case)).data;
        let text = |name: &str| data[name].as_str().unwrap_or_default();
        let (out, err) = (text("stdout"), text("stderr"));
        let tail = |text: &str| {
            text.chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect::<String>()
        };
        let shown = format!(
            "{}: {} {} {:?} {} {:?}",
            case.name,
            data["exit_code"],
            out.len(),
            tail(out),
            err.len(),
            tail(err)
        );
        assert_eq!(data["exit_code"], case.code, "{shown}");
        assert!((case.is_right)(out, err), "{shown}");
        assert_eq!(err.contains("COMMAND_TIMEOUT"), case.code == 124, "{shown}");
    }
    scene.assert_gone("hostile commands");
    println!("round {round}: {:.1?}", start.elapsed());
    assert_beats(&scene.core, start);
}

/// Some have to wait for others.
fn patiently(scene: &Scene, id: &str) -> support::core::Seen {
    let start = Instant::now();
    loop {
        if let Some(result) = scene.core.results(id).into_iter().next() {
            return result;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{id}: {:#?}", scene.agent.log());
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// On time, from then on, and on one connection.
fn assert_beats(core: &Core, since: Instant) {
    core.wait("heartbeat", core.seen("heartbeat").len() + 1);
    let beats = core.seen("heartbeat");
    for pair in beats.windows(2).filter(|pair| pair[1].at > since) {
        let apart = pair[1].at - pair[0].at;
        assert!(apart < BEAT, "{apart:?} without a heartbeat");
    }
    assert_eq!(core.connections(), 1);
}

#[test]
#[ignore = "needs root; 20 s of two processors"]
fn hostile_commands_are_answered_and_leave_nothing() {
    let scene = Scene::new(&[]);
    let scratch = scene.user.scratch();
    // Each of them lives for a moment, and has begun the next one in another session.
    let runner = scratch.write("runner", "setsid sh \"$0\" > /dev/null 2>&1 &\n");
    let cases = cases(&scene.user, &runner);
    let held = || (scene.agent.status("Threads"), scene.agent.descriptors());
    let (before, small) = (held(), scene.agent.status("VmRSS"));
    all(&scene, &cases, 1);
    let large = scene.agent.status("VmRSS");
    all(&scene, &cases, 2);
    assert_eq!(held(), before, "threads and descriptors");
    let end = scene.agent.status("VmRSS");
    println!("{small} kB, {large} kB, {end} kB");
    assert!(large <= small + KEPT_KB && end <= large + MORE_KB, "{small} {large} {end}");
    scene.agent.stop();
}

/// Whoever runs as the same user may be killed by the command, its keeper too.
#[test]
#[ignore = "needs root"]
fn a_command_cannot_get_rid_of_its_keeper() {
    let scene = Scene::new(&[]);
    if !scene.user.is_own() {
        return;
    }
    let agent = scene.agent.pid();
    let daemon = "setsid sleep 1000 > /dev/null 2>&1 & ";
    for attack in [
        "kill -9 $PPID",
        "kill -STOP $PPID",
        "kill -9 -1",
        "kill -STOP -1",
        &format!("kill -9 {agent}"),
    ] {
        let start = Instant::now();
        let data = scene.run(&format!("{daemon} {attack}; sleep 1000"), 2);
        println!(
            "{attack}: {} after {:.1?}, {}",
            data["exit_code"],
            start.elapsed(),
            data["stderr"]
        );
        assert_ne!(data["exit_code"], 0, "{data}");
        scene.assert_gone(attack);
        assert_beats(&scene.core, start);
    }
    assert_eq!(scene.run("echo a", 10)["stdout"], "a\n");
    scene.agent.stop();
}

#[test]
fn a_megabyte_of_allowed_words_is_run_or_refused() {
    let scene = Scene::new(&["core.commands=allow", "core.allow=echo"]);
    let run = |text: &str| -> Value { scene.run(text, 20) };
    // All arguments together have at most 2 MB where stacks have 8.
    let data = run(&format!("echo{}", " xxxxxxxxx".repeat(100_000)));
    assert_eq!(data["exit_code"], 0, "{}", data["stderr"]);
    assert!(is_cut(data["stdout"].as_str().unwrap()));
    let data = run(&format!("echo {}", "x".repeat(200_000)));
    assert_eq!(data["exit_code"], 126, "{}", data["stderr"]);
    assert!(!data["stderr"].as_str().unwrap().is_empty());
    assert_eq!(run("echo a")["stdout"], "a\n");
    scene.agent.stop();
}
