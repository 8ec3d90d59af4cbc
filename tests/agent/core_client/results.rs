//! Delivery of results: they are repeated until Core confirms them, across connections and restarts of the agent. A command
//! that runs when the agent stops is killed, reported as interrupted, and not run again.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::core_client::SLACK;
use crate::support::core::{Core, Seen};
use crate::support::core_fixture::{CoreFixture, User, children, start};
use crate::support::supervised::signal;
use crate::support::{Agent, TempDir, wait_until};

/// Waits until a result was sent `copies` times, and compares the last with the first.
fn again(core: &Core, first: &Seen, copies: usize, timeout: Duration) -> Seen {
    let start = Instant::now();
    let command = first.data["command_id"].as_str().unwrap();
    loop {
        let results = core.results(command);
        if results.len() >= copies {
            let last = results.last().unwrap().clone();
            assert_eq!((&last.id, &last.data), (&first.id, &first.data));
            return last;
        }
        assert!(start.elapsed() < timeout, "no copy {copies} of {command}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Several more heartbeats, and no more results.
fn assert_no_more(core: &Core, results: usize) {
    core.wait("heartbeat", core.seen("heartbeat").len() + 4);
    assert_eq!(core.seen("command_result").len(), results);
}

#[test]
#[ignore = "waits for the 30 s between two copies"]
fn repeats_result_until_confirmed() {
    let fixture = CoreFixture::new(&[]);
    fixture.core.respond_once("command_result", &Value::Null);
    fixture.core.execute("c", "echo a", 10);
    let first = fixture.core.result("c");
    let second = again(&fixture.core, &first, 2, Duration::from_secs(30) + SLACK);
    let apart = second.at - first.at;
    assert!(apart > Duration::from_secs(28), "{apart:?}");
    wait_until("the confirmation", || (fixture.core.acknowledged().len() == 1).then_some(()));
    assert_no_more(&fixture.core, 2);
    assert_eq!(fixture.core.connections(), 1);
    fixture.agent.stop();
}

#[test]
fn repeats_result_after_registration_and_reconnect() {
    let fixture = CoreFixture::new(&[]);
    let CoreFixture { agent, core, user, state } = fixture;
    core.ignore_kinds(&["command_result"]);
    core.execute("c", "echo a", 10);
    let first = core.result("c");
    core.error("heartbeat", "NODE_NOT_FOUND");
    again(&core, &first, 2, SLACK);
    assert_eq!(core.connections(), 1);
    let address = core.address;
    core.stop();
    let core = Core::on(address);
    let again = core.result("c");
    assert_eq!((&again.id, &again.data), (&first.id, &first.data));
    wait_until("a confirmation", || (core.acknowledged().len() == 1).then_some(()));
    assert_no_more(&core, 1);
    // Confirmed results are not sent on later connections.
    core.shut_down();
    let core = Core::on(address);
    core.wait("heartbeat", 1);
    assert_no_more(&core, 0);
    agent.stop();
    drop((user, state));
}

#[test]
fn command_continues_while_core_is_down() {
    let CoreFixture { agent, core, user, state } = CoreFixture::new(&[]);
    core.execute("c", "sleep 1; echo a", 10);
    core.wait("command_started", 1);
    let address = core.address;
    core.stop();
    let core = Core::on(address);
    let result = core.result("c");
    assert_eq!((&result.data["exit_code"], &result.data["stdout"]), (&0.into(), &"a\n".into()));
    assert_no_more(&core, 1);
    agent.stop();
    drop((user, state));
}

#[test]
fn delivers_result_after_restart_of_the_agent() {
    for signal in ["-TERM", "-KILL"] {
        let CoreFixture { mut agent, core, user, state } = CoreFixture::new(&[]);
        let scratch = user.scratch();
        let ran = scratch.0.join("ran");
        core.ignore_kinds(&["command_result"]);
        let text = format!("echo x >> {}; echo a", ran.display());
        core.execute("c", &text, 10);
        let first = core.result("c");
        agent.signal(signal);
        agent.wait();
        let agent = start(&core, &user, &state, &[]);
        let second = again(&core, &first, 2, SLACK * 2);
        assert!(second.connection > first.connection);
        // A repeated request gets the result again.
        core.ignore_kinds(&[]);
        core.execute("c", &text, 10);
        wait_until("another result", || {
            let results = core.results("c");
            results
                .iter()
                .any(|seen| seen.id != first.id && seen.data["stdout"] == "a\n")
                .then_some(())
        });
        assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n", "{signal}: ran once");
        agent.stop();
        // The first copy is still unconfirmed.
        let agent = start(&core, &user, &state, &[]);
        wait_until("its confirmation", || core.acknowledged().contains(&first.id).then_some(()));
        agent.stop();
    }
}

/// Writes a line when it starts, ignores SIGTERM, and leaves a daemon.
fn long_command(scratch: &TempDir) -> (String, PathBuf) {
    let ran = scratch.0.join("ran");
    let shown = ran.display();
    let daemon = "setsid sh -c 'trap \"\" TERM HUP; sleep 1000; sleep 1000' > /dev/null 2>&1 & ";
    (format!("{daemon} trap '' TERM; echo x >> {shown}; echo a; sleep 1000; sleep 1000"), ran)
}

fn assert_interrupted(data: &Value) {
    assert_eq!(data["exit_code"], 125, "{data}");
    assert!(data["stderr"].as_str().unwrap().contains("interrupted"), "{data}");
}

#[test]
fn running_command_is_interrupted_when_agent_ends() {
    for signal in ["-TERM", "-KILL"] {
        let CoreFixture { mut agent, core, user, state } = CoreFixture::new(&[]);
        let scratch = user.scratch();
        let (text, ran) = long_command(&scratch);
        core.execute("c", &text, 600);
        wait_until("the command", || ran.exists().then_some(()));
        agent.signal(signal);
        let (status, took) = agent.wait();
        assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
        assert_eq!(status.code(), (signal == "-TERM").then_some(0), "{:#?}", agent.log());
        user.assert_no_processes("an agent that has exited");
        let agent = start(&core, &user, &state, &[]);
        let result = core.result("c");
        assert_interrupted(&result.data);
        wait_until("the confirmation", || (core.acknowledged().len() == 1).then_some(()));
        // A repeated request does not run it again.
        core.execute("c", &text, 600);
        wait_until("another result", || (core.results("c").len() == 2).then_some(()));
        assert_interrupted(&core.results("c")[1].data);
        assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n", "{signal}: ran once");
        assert_no_more(&core, 2);
        agent.stop();
    }
}

#[test]
fn waiting_commands_get_results_when_agent_stops() {
    let CoreFixture { agent, core, user, state } = CoreFixture::new(&[]);
    let scratch = user.scratch();
    let ran = scratch.0.join("ran");
    for number in 0..4 {
        core.execute(&format!("runs-{number}"), "sleep 1000", 600);
    }
    core.wait("command_started", 4);
    for number in 0..3 {
        let text = format!("echo {number} >> {}", ran.display());
        core.execute(&format!("waits-{number}"), &text, 600);
    }
    // Its rejection shows that the requests before it were read.
    core.execute("", "echo \0", 5);
    core.wait("heartbeat", core.seen("heartbeat").len() + 2);
    agent.stop();
    user.assert_no_processes("an agent that has exited");
    let agent = start(&core, &user, &state, &[]);
    for number in 0..4 {
        assert_interrupted(&core.result(&format!("runs-{number}")).data);
    }
    for number in 0..3 {
        let data = core.result(&format!("waits-{number}")).data;
        let lines = std::fs::read_to_string(&ran).unwrap_or_default();
        let has_run = lines.lines().filter(|line| *line == number.to_string()).count();
        assert_eq!(has_run, usize::from(data["exit_code"] == 0), "{data}");
        println!("{data}");
    }
    agent.stop();
}

/// Kills an agent with unconfirmed results, damages its journal, and starts it again.
fn restart_with_damage(damage: impl Fn(&mut Vec<u8>)) -> (Agent, Core, User, TempDir) {
    let CoreFixture { mut agent, core, user, state } = CoreFixture::new(&[]);
    core.ignore_kinds(&["command_result"]);
    for id in ["one", "two", "three"] {
        core.execute(id, &format!("echo {id}"), 10);
        core.result(id);
    }
    agent.signal("-KILL");
    agent.wait();
    let address = core.address;
    core.stop();
    let journal = state.0.join("core-commands");
    let mut bytes = std::fs::read(&journal).unwrap();
    damage(&mut bytes);
    std::fs::write(&journal, bytes).unwrap();
    let core = Core::on(address);
    let agent = start(&core, &user, &state, &[]);
    (agent, core, user, state)
}

#[test]
fn torn_journal_line_loses_only_itself() {
    // The last line is the third result.
    let (agent, core, user, state) = restart_with_damage(|bytes| bytes.truncate(bytes.len() - 10));
    for id in ["one", "two"] {
        assert_eq!(core.result(id).data["stdout"], format!("{id}\n"));
    }
    // Only its start is known.
    assert_interrupted(&core.result("three").data);
    agent.wait_log("skipped 1 damaged lines");
    core.execute("four", "echo four", 10);
    assert_eq!(core.result("four").data["stdout"], "four\n");
    agent.stop();
    drop((user, state));
}

#[test]
fn survives_garbage_in_journal() {
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.extend(b"0123456789abcdef r17"),
        |bytes| bytes.splice(0..0, [0xff; 3000]).for_each(drop),
        |bytes| bytes.iter_mut().step_by(7).for_each(|byte| *byte ^= 0x10),
        |bytes| *bytes = vec![b'\n'; 100_000],
    ];
    for damage in damages {
        let (agent, core, user, state) = restart_with_damage(damage);
        core.execute("four", "echo four", 10);
        assert_eq!(core.result("four").data["stdout"], "four\n");
        for result in core.seen("command_result") {
            let (id, out) = (result.data["command_id"].as_str().unwrap(), &result.data["stdout"]);
            assert!(
                *out == format!("{id}\n") || result.data["exit_code"] == 125,
                "{}",
                result.data
            );
        }
        agent.stop();
        drop((user, state));
    }
}

/// It would run again after a restart.
#[test]
fn command_that_cannot_be_recorded_is_not_run() {
    let (core, user, state) = (Core::start(), User::new(), TempDir::new("results"));
    let scratch = user.scratch();
    let ran = scratch.0.join("ran");
    // A file in place of the directory, because root may write anywhere.
    let blocked = TempDir(state.0.join("state"));
    state.write("state", "");
    let agent = start(&core, &user, &blocked, &[]);
    let text = format!("echo x >> {}", ran.display());
    for id in ["c", "d"] {
        core.execute(id, &text, 10);
        let data = core.result(id).data;
        assert_eq!(data["exit_code"], 126, "{data}");
        let reason = data["stderr"].as_str().unwrap();
        assert!(reason.contains("cannot be recorded: not a directory"), "{reason}");
    }
    agent.wait_log("core: command c is not run: command cannot be recorded");
    let in_memory = "results of commands are kept in memory only";
    assert_eq!(agent.count_log(in_memory), 1, "{:#?}", agent.log());
    // The refused command may run when it can be recorded.
    std::fs::remove_file(&blocked.0).unwrap();
    std::fs::create_dir(&blocked.0).unwrap();
    core.execute("c", &text, 10);
    wait_until("the second result", || {
        core.results("c").iter().any(|seen| seen.data["exit_code"] == 0).then_some(())
    });
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n");
    agent.stop();
}

#[test]
fn command_runs_once_although_its_journal_was_removed() {
    let CoreFixture { mut agent, core, user, state } = CoreFixture::new(&[]);
    let scratch = user.scratch();
    let ran = scratch.0.join("ran");
    let text = format!("echo x >> {}", ran.display());
    std::fs::remove_dir_all(&state.0).unwrap();
    // The first request finds that the file is gone, and the next one writes a new one.
    wait_until("a command that runs", || {
        let count = core.results("c").len();
        core.execute("c", &text, 10);
        wait_until("its result", || (core.results("c").len() > count).then_some(()));
        core.results("c").iter().any(|seen| seen.data["exit_code"] == 0).then_some(())
    });
    agent.signal("-KILL");
    agent.wait();
    let agent = start(&core, &user, &state, &[]);
    let count = core.results("c").len();
    core.execute("c", &text, 10);
    wait_until("another result", || (core.results("c").len() > count).then_some(()));
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n");
    agent.stop();
}

#[test]
fn unreadable_journal_is_kept_and_named_in_the_log() {
    let oversized = |path: &Path| File::create(path).unwrap().set_len(65 << 20).unwrap();
    type Create<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Create); 4] = [
        ("not a regular file", &|path| std::fs::create_dir(path).unwrap()),
        ("symbolic link", &|path| symlink("/etc/hostname", path).unwrap()),
        ("file too large", &oversized),
        ("skipped 2 damaged lines", &|path| std::fs::write(path, "one\ntwo\n").unwrap()),
    ];
    for (reason, create) in cases {
        let (core, user, state) = (Core::start(), User::new(), TempDir::new("results"));
        let journal = state.0.join("core-commands");
        create(&journal);
        let before = std::fs::symlink_metadata(&journal).unwrap();
        let agent = start(&core, &user, &state, &[]);
        let line = agent.wait_log(reason);
        let kept = state.0.join("core-commands.damaged");
        assert!(line.contains(&kept.display().to_string()), "{line}");
        let after = std::fs::symlink_metadata(&kept).unwrap();
        assert_eq!((after.ino(), after.len()), (before.ino(), before.len()), "{reason}");
        core.execute("c", "echo a", 10);
        assert_eq!(core.result("c").data["stdout"], "a\n");
        agent.stop();
    }
}

#[test]
fn second_agent_on_the_directory_runs_no_commands() {
    let first = CoreFixture::new(&[]);
    let second = Core::start();
    let agent = start(&second, &first.user, &first.state, &[]);
    agent.wait_log("is used by another hm-agent; running without state");
    second.execute("c", "echo a", 10);
    let data = second.result("c").data;
    assert_eq!(data["exit_code"], 126, "{data}");
    assert!(data["stderr"].as_str().unwrap().contains("used by another hm-agent"), "{data}");
    let journal = std::fs::metadata(first.state.0.join("core-commands")).unwrap().ino();
    agent.stop();
    assert_eq!(first.run("echo a", 10)["stdout"], "a\n");
    assert_eq!(std::fs::metadata(first.state.0.join("core-commands")).unwrap().ino(), journal);
    first.agent.stop();
}

#[test]
fn stopped_supervisor_does_not_delay_the_result_and_is_reaped() {
    let fixture = CoreFixture::new(&[]);
    fixture.core.execute("stopped", "sleep 1000", 1);
    let supervisor = wait_until("a supervisor", || {
        let supervisors = children(fixture.agent.pid()).into_iter();
        supervisors.map(|(pid, _)| pid).find(|pid| !children(*pid).is_empty())
    });
    signal(supervisor, "-STOP");
    let result = fixture.core.result("stopped");
    assert_eq!(result.data["exit_code"], 124, "{}", result.data);
    let stderr = result.data["stderr"].as_str().unwrap();
    assert!(stderr.contains("processes are still being killed"), "{stderr}");
    fixture.assert_no_processes("the supervisor that was stopped");
    fixture.agent.stop();
}
