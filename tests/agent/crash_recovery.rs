//! Kills the agent with SIGKILL at random moments under load. Its state files stay readable, every report that it accepted is
//! delivered, applications stay known, and no command runs twice. `tests/soak/run kills 200` does this 200 times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::support::core::Core;
use crate::support::core_fixture::{self, User};
use crate::support::heartbeat::lines_of;
use crate::support::hm_server::HmServer;
use crate::support::netns::taken;
use crate::support::rng::Rng;
use crate::support::{Agent, TempDir, wait_until};

/// A heartbeat this long before the kill has been saved: the agent saves after a second, later on a busy machine.
const SAVED_AFTER: Duration = Duration::from_millis(2500);
/// Warnings that are expected. The second one appears on a busy machine.
const EXPECTED_WARNINGS: [&str; 2] = [" was interrupted", "read sensors and interfaces: timed out"];

struct Fixture {
    hub: HmServer,
    core: Core,
    user: User,
    state: TempDir,
    /// Commands append their ids to a file in it.
    marks: TempDir,
    rng: Rng,
    /// Timestamps of the accepted reports, from the journals of all runs.
    accepted: BTreeSet<u64>,
    /// Applications whose first heartbeat was certainly saved.
    known: BTreeSet<String>,
    commands: Vec<String>,
}

#[test]
#[ignore = "takes a minute"]
fn loses_and_repeats_nothing_when_killed_at_random_moments() {
    let kills = std::env::var("HM_KILLS").map_or(20, |text| text.parse().unwrap());
    let rng = Rng::new();
    println!("{kills} kills, HM_SEED={}", rng.seed);
    let user = User::new();
    let marks = user.scratch();
    let mut fixture = Fixture {
        hub: HmServer::start(),
        core: Core::start(),
        user,
        state: TempDir::new("crash"),
        marks,
        rng,
        accepted: BTreeSet::new(),
        known: BTreeSet::new(),
        commands: Vec::new(),
    };
    for number in 0..kills {
        fixture.run_and_kill(number);
    }
    fixture.run_to_completion();
}

impl Fixture {
    fn start(&self) -> Agent {
        let settings = [self.hub.setting(), "hm.report_interval=1".to_owned()];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let agent = core_fixture::start(&self.core, &self.user, &self.state, &settings);
        let listed: BTreeSet<String> = agent.list().into_iter().collect();
        let lost: Vec<&String> = self.known.difference(&listed).collect();
        assert!(lost.is_empty(), "forgotten applications: {lost:?}");
        agent
    }

    fn run_and_kill(&mut self, number: usize) {
        let mut agent = self.start();
        let length = Duration::from_millis(self.rng.below(5000));
        let start = Instant::now();
        let mut beats = Vec::new();
        let mut subscriber = None;
        let mut step = 0;
        while start.elapsed() < length {
            let app = format!("run-{number}-{step}");
            agent.get_ok(&format!("/hb_init?600000&appid={app}"));
            beats.push((app, Instant::now()));
            if step % 3 == 0 {
                let command = format!("c-{number}-{step}");
                let millis = self.rng.below(400);
                let marks = self.marks.0.join("ran");
                let text = format!("echo {command} >> {}; sleep 0.{millis:03}", marks.display());
                self.core.execute(&command, &text, 60);
                self.commands.push(command);
            }
            subscriber.get_or_insert_with(|| agent.subscribe());
            step += 1;
            let pause = Duration::from_millis(self.rng.below(300));
            std::thread::park_timeout(pause.min(length.saturating_sub(start.elapsed())));
        }
        agent.signal("-KILL");
        let killed = Instant::now();
        agent.wait();
        let saved = beats.into_iter().filter(|(_, at)| killed - *at > SAVED_AFTER);
        self.known.extend(saved.map(|(app, _)| app));
        self.accepted.extend(taken(&self.state.0));
        assert_no_unexpected_warning(&agent.log());
    }

    /// Everything that was accepted is delivered.
    fn run_to_completion(self) {
        let agent = self.start();
        for command in &self.commands {
            if self.core.results(command).is_empty() {
                // It may not have reached the agent before the kill, or its result is still to be sent.
                let marks = self.marks.0.join("ran");
                let text = format!("echo {command} >> {}", marks.display());
                self.core.execute(command, &text, 60);
                self.core.result(command);
            }
        }
        wait_until("all reports", || {
            let delivered: BTreeSet<u64> = self.hub.reports().into_iter().collect();
            self.accepted.is_subset(&delivered).then_some(())
        });
        assert_no_unexpected_warning(&agent.stop());
        let mut ran: BTreeMap<String, usize> = BTreeMap::new();
        for line in lines_of(&self.marks.0.join("ran")) {
            *ran.entry(line).or_default() += 1;
        }
        let twice: Vec<_> = ran.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "commands that ran twice: {twice:?}");
        let mut interrupted = 0;
        for command in &self.commands {
            for result in self.core.results(command) {
                match result.data["exit_code"].as_i64().unwrap() {
                    0 => assert!(
                        ran.contains_key(command),
                        "{command}: exit code 0, but it did not run"
                    ),
                    125 => interrupted += 1,
                    other => panic!("{command}: {other}: {}", result.data),
                }
            }
        }
        self.user.assert_no_processes("the agent was killed");
        println!(
            "{} reports, {} applications, {} commands, {} of them ran, {interrupted} interrupted",
            self.accepted.len(),
            self.known.len(),
            self.commands.len(),
            ran.len(),
        );
        assert!(self.accepted.len() > 5 && !ran.is_empty() && !self.known.is_empty());
    }
}

fn assert_no_unexpected_warning(log: &[String]) {
    let is_warning = |line: &&String| line.contains(" warn ") || line.contains(" error ");
    let expected = |line: &&String| EXPECTED_WARNINGS.iter().any(|known| line.contains(known));
    let warnings: Vec<_> = log.iter().filter(is_warning).filter(|line| !expected(line)).collect();
    assert!(warnings.is_empty(), "{warnings:#?}");
}
