//! What Core sends is bounded before it is kept or logged.

use std::time::Duration;

use serde_json::json;

use crate::support::core::Core;
use crate::support::core_fixture::{CoreFixture, User, command};
use crate::support::core_wire::{fresh_id, message};
use crate::support::{Agent, TempDir};

/// Lines that the agent may log in this time: those of its start, and for each of three levels or kinds a burst of 20 and one
/// a second.
fn allowed_lines(time: Duration) -> usize {
    10 + 3 * (21 + time.as_secs() as usize)
}

/// Waits until the agent has handled everything that Core has sent.
fn wait_handled(core: &Core) {
    core.wait("heartbeat", core.seen("heartbeat").len() + 2);
}

fn growth_kb(agent: &Agent, before: u64) -> u64 {
    agent.status("RssAnon").saturating_sub(before)
}

#[test]
fn ids_of_megabytes_are_not_kept() {
    let (core, state) = (Core::start(), TempDir::new("limits"));
    let agent = Agent::spawn(command(&core.setting(), &state, &[]));
    core.wait("heartbeat", 1);
    let before = agent.status("RssAnon");
    let long = |number: usize| format!("{number}{}", "x".repeat(3_900_000));
    for number in 0..8 {
        let data = json!({"command_id": long(number), "command_text": "true"});
        core.push(message("execute_command", &fresh_id(), &data).to_string());
        let data = json!({"command_id": format!("c{number}"), "command_text": "true"});
        core.push(message("execute_command", &long(number), &data).to_string());
        core.push(message(&long(number), &fresh_id(), &json!({})).to_string());
        core.push(message("command_received", &long(number), &json!({})).to_string());
    }
    agent.wait_log("execute_command with an id longer than 1 KiB");
    wait_handled(&core);
    assert!(growth_kb(&agent, before) < 24 << 10, "{} kB", growth_kb(&agent, before));
    let journal = std::fs::metadata(state.0.join("core-commands")).unwrap().len();
    assert!(journal < 1000, "{journal} bytes");
    assert!(core.seen("command_result").is_empty());
    assert_eq!(core.connections(), 1);
    agent.stop();
}

#[test]
fn waiting_commands_of_many_words_take_little_memory() {
    let settings = ["core.commands=allow", r#"core.allow=["sleep", "echo"]"#];
    let fixture = CoreFixture::new(&settings);
    for number in 0..4 {
        fixture.core.execute(&format!("runs-{number}"), "sleep 1000", 60);
    }
    fixture.core.wait("command_started", 4);
    let before = fixture.agent.status("RssAnon");
    let words = format!("echo{}", " a".repeat(500_000));
    for number in 0..16 {
        fixture.core.execute(&format!("waits-{number}"), &words, 60);
    }
    fixture.core.execute("over", "echo", 60);
    assert_eq!(fixture.core.result("over").data["exit_code"], 126);
    // A megabyte for each, and one line that is being split.
    let growth = growth_kb(&fixture.agent, before);
    assert!(growth < 96 << 10, "{growth} kB");
    fixture.agent.stop();
}

#[test]
fn command_longer_than_a_megabyte_is_rejected() {
    let fixture = CoreFixture::new(&[]);
    let data = fixture.run(&format!("true {}", "x".repeat(1 << 20)), 10);
    assert_eq!(data["exit_code"], 126, "{data}");
    assert!(data["stderr"].as_str().unwrap().contains("longer than 1 MiB"), "{data}");
    fixture.agent.stop();
}

#[test]
fn requests_for_commands_do_not_flood_the_log() {
    let (core, user, state) = (Core::start(), User::new(), TempDir::new("limits"));
    let settings = ["core.commands=allow", r#"core.allow=["true"]"#];
    let agent = Agent::spawn(user.with_user_database(&command(&core.setting(), &state, &settings)));
    core.wait("heartbeat", 1);
    for number in 0..500 {
        core.execute(&format!("refused-{number}"), "id", 10);
        core.execute("again", "true", 10);
        core.push(message("execute_command", &fresh_id(), &json!({})).to_string());
        if number % 10 == 0 {
            core.execute(&format!("runs-{number}"), "true", 10);
        }
    }
    core.result("refused-499");
    wait_handled(&core);
    let time = agent.started.elapsed();
    let log = agent.stop();
    let allowed = allowed_lines(time);
    assert!(log.len() < allowed, "{} lines, allowed are {allowed}", log.len());
    // What runs is logged however many requests are refused.
    assert!(log.iter().any(|line| line.contains("requests command runs-0 as ")), "{log:#?}");
}
