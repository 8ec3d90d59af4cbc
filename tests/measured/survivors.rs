//! Nothing that a command, a hook, ssh or the GPU probe has started survives it, however it was started, and however the program
//! or the agent ends. Needs a C compiler for the driver's library.

use std::path::Path;
use std::process::Command;

use crate::support::core_fixture::CoreFixture;
use crate::support::heartbeat::list_setting;
use crate::support::monitor::Monitor;
use crate::support::{Agent, TempDir, wait_until};
use serde_json::json;

/// Ways to start a process that outlives its parent. Each writes the PID of the process to `$D/NAME`.
const WAYS: [(&str, &str); 4] = [
    ("child", "sleep 300 & echo $! >$D/child;"),
    ("session", "setsid sh -c 'echo $$ >$D/session; exec sleep 300' &"),
    ("orphan", "(sleep 300 & echo $! >$D/orphan);"),
    (
        "daemon",
        "(setsid sh -c '(trap \"\" HUP TERM INT; setsid sh -c \"echo \\$\\$ >$D/daemon; exec sleep 300\" &)' &);",
    ),
];

/// A script that starts a process in each way, waits until all run, and ends as `end` says.
fn script(directory: &Path, end: &str) -> String {
    let start: String = WAYS.iter().map(|(_, start)| format!("{start}\n")).collect();
    let wait: String = WAYS
        .iter()
        .map(|(name, _)| format!("until [ -s $D/{name} ]; do sleep 0.02; done\n"))
        .collect();
    let script = format!("{start}{wait}echo $$ >$D/main\n{end}\n");
    script.replace("$D", &directory.display().to_string())
}

/// Waits for the processes of [`script`] and returns their PIDs.
fn started(directory: &Path) -> Vec<u32> {
    let pid = |name: &str| std::fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok();
    wait_until("all processes", || {
        let mut names = WAYS.iter().map(|(name, _)| *name).chain(["main"]);
        names.by_ref().map(pid).collect::<Option<Vec<u32>>>()
    })
}

fn runs(pid: &u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn wait_gone(what: &str, pids: &[u32]) {
    wait_until(&format!("the end of {what}: {pids:?}"), || (!pids.iter().any(runs)).then_some(()));
}

fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn nothing_survives_a_hook() {
    for (what, end) in
        [("a hook", "exit 0"), ("a failed hook", "exit 1"), ("a killed hook", "kill -KILL $$")]
    {
        let scratch = TempDir::new("hook");
        let script = script(&scratch.0, end);
        let agent =
            Agent::start(&[&list_setting("heartbeat.on_overdue", &["/bin/sh", "-c", &script])]);
        agent.get_ok("/hb_init?1&appid=a");
        wait_gone(what, &started(&scratch.0));
        agent.stop();
    }
}

#[test]
fn hook_outlives_agent_and_nothing_survives_the_hook() {
    let scratch = TempDir::new("hook");
    let end = "until [ -e $D/end ]; do sleep 0.02; done";
    let script = script(&scratch.0, end);
    let agent = Agent::start(&[&list_setting("heartbeat.on_overdue", &["/bin/sh", "-c", &script])]);
    agent.get_ok("/hb_init?1&appid=a");
    let pids = started(&scratch.0);
    agent.stop();
    assert!(pids.iter().all(runs), "{pids:?}");
    scratch.write("end", "");
    wait_gone("a hook", &pids);
}

#[test]
fn nothing_survives_ssh() {
    for end in ["exit 255", "exec sleep 300"] {
        let scratch = TempDir::new("ssh");
        let ssh = scratch.write("ssh", &format!("#!/bin/sh\n{}", script(&scratch.0, end)));
        assert!(Command::new("chmod").args(["755", &ssh]).status().unwrap().success());
        let path = format!("{}:{}", scratch.0.display(), std::env::var("PATH").unwrap());
        let monitor = Monitor::start_with(&[], |command| {
            command.env("PATH", &path);
        });
        let mut client = monitor.connect();
        let host = json!({"host": "a", "user": "b", "passwd": "c"});
        let start = json!({"id": "1", "method": "ssh.start_monitor", "params": [host]});
        client.socket.send_text(&start.to_string());
        let pids = started(&scratch.0);
        if end != "exit 255" {
            monitor.agent.signal("-KILL");
        }
        wait_gone(end, &pids);
    }
}

/// A library whose initialization runs the script and then ends as `end` says.
fn library(scratch: &TempDir, end: &str) -> String {
    let script = scratch.write("script", &script(&scratch.0, "exit 0"));
    let source = format!(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
         int nvmlInit_v2(void) {{ if (system(\"sh {script}\")) _exit(3); {end} return 9; }}\n\
         int nvmlInitWithFlags(unsigned f) {{ return f ? 9 : nvmlInit_v2(); }}\n\
         int nvmlShutdown(void) {{ return 0; }}\n\
         const char *nvmlErrorString(int r) {{ return r ? \"driver not loaded\" : \"\"; }}\n"
    );
    let source = scratch.write("nvml.c", &source);
    let library = scratch.0.join("libnvidia-ml.so.1").display().to_string();
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-o", &library, &source]).status();
    assert!(cc.unwrap().success());
    library
}

/// Starts an agent with such a library, waits for its processes, ends the probe or the agent, and waits for their end.
fn assert_nothing_survives_the_probe(what: &str, library_end: &str, end: impl Fn(&mut Agent)) {
    let scratch = TempDir::new("probe");
    let library = library(&scratch, library_end);
    let settings = ["gpu.source=nvml", &format!("gpu.nvml_library={library}"), "gpu.timeout=60"];
    let mut agent = Agent::start(&settings);
    let pids = started(&scratch.0);
    end(&mut agent);
    wait_gone(what, &pids);
}

/// The probe, at the end of a chain: the agent, a supervisor, the probe.
fn grandchild(agent: u32, generations: u32) -> u32 {
    let mut pid = agent;
    for _ in 0..generations {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let mut found = tasks.filter_map(|task| {
            let path = task.unwrap().path().join("children");
            let list = std::fs::read_to_string(path).unwrap_or_default();
            list.split_whitespace().next().and_then(|pid| pid.parse().ok())
        });
        pid = found.next().unwrap();
    }
    pid
}

#[test]
fn nothing_survives_a_probe() {
    let nothing = |_: &mut Agent| {};
    assert_nothing_survives_the_probe("a probe that failed", "", nothing);
    assert_nothing_survives_the_probe("a probe that crashed", "abort();", nothing);
    let hang = "for (;;) pause();";
    assert_nothing_survives_the_probe("a killed probe", hang, |agent| {
        kill(grandchild(agent.pid(), 2));
    });
    assert_nothing_survives_the_probe("a killed supervisor", hang, |agent| {
        kill(grandchild(agent.pid(), 1));
    });
    assert_nothing_survives_the_probe("a stopped agent", hang, |agent| agent.signal("-TERM"));
    assert_nothing_survives_the_probe("a killed agent", hang, |agent| agent.signal("-KILL"));
}

#[test]
#[ignore = "needs root"]
fn fork_bomb_does_not_outlive_its_command() {
    // As many processes as the user may have, each in a session of its own, which fork whenever there is room.
    let bomb = "use POSIX; $SIG{CHLD} = q(IGNORE); $end = time + 9; exit if fork; \
                while (time < $end) { POSIX::setsid() if defined($p = fork) && !$p; }";
    // The bomb takes nearly all of the processor: what ends by itself has much time for it.
    for (end, timeout, expected) in [("sleep 0.5", 60, 0), ("sleep 60", 2, 124)] {
        let fixture = CoreFixture::new(&["core.commands=any"]);
        let text = format!("prlimit --nproc=150 perl -e '{bomb}'; {end}");
        let result = fixture.run(&text, timeout);
        assert_eq!(result["exit_code"], expected, "{result}");
        fixture.assert_no_processes("the bomb");
        fixture.agent.stop();
    }
}
