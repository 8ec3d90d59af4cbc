//! Results that do not arrive: they are repeated until Core has them, across connections and lives of the agent; and
//! what was running when the agent ended is neither forgotten nor run again, nor does it go on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::SLACK;
use crate::support::core::{Core, Seen};
use crate::support::node::{Scene, User, start};
use crate::support::{Agent, Scratch, wait_until};

/// Waits for the next copy of a result, and compares it with the first.
fn again(core: &Core, first: &Seen, copies: usize, patience: Duration) -> Seen {
    let start = Instant::now();
    let command = first.data["command_id"].as_str().unwrap();
    loop {
        let results = core.results(command);
        if results.len() >= copies {
            let last = results.last().unwrap().clone();
            assert_eq!((&last.id, &last.data), (&first.id, &first.data));
            return last;
        }
        assert!(start.elapsed() < patience, "no copy {copies} of {command}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Several more heartbeats, and no result among them.
fn assert_no_more(core: &Core, results: usize) {
    core.wait("heartbeat", core.seen("heartbeat").len() + 4);
    assert_eq!(core.seen("command_result").len(), results);
}

#[test]
#[ignore = "waits for the 30 s between two copies"]
fn a_result_is_repeated_until_it_is_received() {
    let scene = Scene::new(&[]);
    scene.core.instead("command_result", &Value::Null);
    scene.core.execute("c", "echo a", 10);
    let first = scene.core.result("c");
    let second = again(&scene.core, &first, 2, Duration::from_secs(30) + SLACK);
    let apart = second.at - first.at;
    assert!(apart > Duration::from_secs(28), "{apart:?}");
    wait_until("the acknowledgement", || (scene.core.acknowledged().len() == 1).then_some(()));
    assert_no_more(&scene.core, 2);
    assert_eq!(scene.core.connections(), 1);
    scene.agent.stop();
}

#[test]
fn a_result_follows_to_the_next_connection_and_registration() {
    let scene = Scene::new(&[]);
    let Scene { agent, core, user, state } = scene;
    core.withhold(&["command_result"]);
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
    wait_until("an acknowledgement", || (core.acknowledged().len() == 1).then_some(()));
    assert_no_more(&core, 1);
    // Not on further connections either.
    core.shut_down();
    let core = Core::on(address);
    core.wait("heartbeat", 1);
    assert_no_more(&core, 0);
    agent.stop();
    drop((user, state));
}

#[test]
fn a_command_goes_on_while_core_is_away() {
    let Scene { agent, core, user, state } = Scene::new(&[]);
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
fn a_result_outlives_the_agent() {
    for signal in ["-TERM", "-KILL"] {
        let Scene { mut agent, core, user, state } = Scene::new(&[]);
        let scratch = user.scratch();
        let ran = scratch.0.join("ran");
        core.withhold(&["command_result"]);
        let text = format!("echo x >> {}; echo a", ran.display());
        core.execute("c", &text, 10);
        let first = core.result("c");
        agent.signal(signal);
        agent.wait();
        let agent = start(&core, &user, &state, &[]);
        let second = again(&core, &first, 2, SLACK * 2);
        assert!(second.connection > first.connection);
        // The same command is known; its result is told again.
        core.withhold(&[]);
        core.execute("c", &text, 10);
        wait_until("another answer", || {
            let results = core.results("c");
            results
                .iter()
                .any(|seen| seen.id != first.id && seen.data["stdout"] == "a\n")
                .then_some(())
        });
        assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n", "{signal}: it ran once");
        agent.stop();
        // The first answer is still wanted.
        let agent = start(&core, &user, &state, &[]);
        wait_until("its acknowledgement", || core.acknowledged().contains(&first.id).then_some(()));
        agent.stop();
    }
}

/// Leaves a mark when it begins and when it goes on for too long, and a daemon.
fn long_command(scratch: &Scratch) -> (String, PathBuf) {
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
fn what_runs_when_the_agent_ends_is_interrupted() {
    for signal in ["-TERM", "-KILL"] {
        let Scene { mut agent, core, user, state } = Scene::new(&[]);
        let scratch = user.scratch();
        let (text, ran) = long_command(&scratch);
        core.execute("c", &text, 600);
        wait_until("the command", || ran.exists().then_some(()));
        agent.signal(signal);
        let (status, took) = agent.wait();
        assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
        assert_eq!(status.code(), (signal == "-TERM").then_some(0), "{:#?}", agent.log());
        user.assert_gone("an agent that has ended");
        let agent = start(&core, &user, &state, &[]);
        let result = core.result("c");
        assert_interrupted(&result.data);
        wait_until("the acknowledgement", || (core.acknowledged().len() == 1).then_some(()));
        // Core may ask again; it is not run again.
        core.execute("c", &text, 600);
        wait_until("another answer", || (core.results("c").len() == 2).then_some(()));
        assert_interrupted(&core.results("c")[1].data);
        assert_eq!(std::fs::read_to_string(&ran).unwrap(), "x\n", "{signal}: it ran once");
        assert_no_more(&core, 2);
        agent.stop();
    }
}

/// Those that wait for their turn are not forgotten either.
#[test]
fn what_waits_when_the_agent_ends_is_answered() {
    let Scene { agent, core, user, state } = Scene::new(&[]);
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
    // Refused, which shows that those before it were read.
    core.execute("", "echo \0", 5);
    core.wait("heartbeat", core.seen("heartbeat").len() + 2);
    agent.stop();
    user.assert_gone("an agent that has ended");
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

/// Ends an agent that has results to tell, does something to its journal, and starts the next one.
fn after(harm: impl Fn(&mut Vec<u8>)) -> (Agent, Core, User, Scratch) {
    let Scene { mut agent, core, user, state } = Scene::new(&[]);
    core.withhold(&["command_result"]);
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
    harm(&mut bytes);
    std::fs::write(&journal, bytes).unwrap();
    let core = Core::on(address);
    let agent = start(&core, &user, &state, &[]);
    (agent, core, user, state)
}

#[test]
fn a_torn_journal_costs_what_was_torn() {
    // The last line is half there: it is the third one's result.
    let (agent, core, user, state) = after(|bytes| bytes.truncate(bytes.len() - 10));
    for id in ["one", "two"] {
        assert_eq!(core.result(id).data["stdout"], format!("{id}\n"));
    }
    // It has begun, as far as is known.
    assert_interrupted(&core.result("three").data);
    agent.wait_log("damaged");
    core.execute("four", "echo four", 10);
    assert_eq!(core.result("four").data["stdout"], "four\n");
    agent.stop();
    drop((user, state));
}

#[test]
fn a_journal_of_rubbish_costs_only_itself() {
    let harms: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes.extend(b"0123456789abcdef r17"),
        |bytes| bytes.splice(0..0, [0xff; 3000]).for_each(drop),
        |bytes| bytes.iter_mut().step_by(7).for_each(|byte| *byte ^= 0x10),
        |bytes| *bytes = vec![b'\n'; 100_000],
    ];
    for harm in harms {
        let (agent, core, user, state) = after(harm);
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

#[test]
fn without_a_place_for_its_journal_commands_run_all_the_same() {
    let (core, user, state) = (Core::start(), User::new(), Scratch::new("results"));
    // A directory is where the file should be.
    std::fs::create_dir(state.0.join("core-commands")).unwrap();
    let agent = start(&core, &user, &state, &[]);
    core.execute("c", "echo a", 10);
    assert_eq!(core.result("c").data["stdout"], "a\n");
    core.execute("d", "echo b", 10);
    core.result("d");
    assert_eq!(agent.count_log("kept in memory only"), 1, "{:#?}", agent.log());
    agent.stop();
}
