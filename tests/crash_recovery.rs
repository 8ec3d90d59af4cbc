//! An agent that is killed at any moment, again and again, in the middle of everything: what it wrote down can be read,
//! reports that it has taken arrive, applications stay known, and no command runs twice. `tests/soak kills 200` does it
//! 200 times.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use support::cable::taken;
use support::core::Core;
use support::heartbeat::lines_of;
use support::hub::Hub;
use support::node::{self, User};
use support::rng::Rng;
use support::{Agent, Scratch, wait_until};

/// A beat that came so long before the end is written down: the agent waits a second, and a busy machine some more.
const SAVED: Duration = Duration::from_millis(2500);
/// What a life may say that is more than information; the latter where the machine is busy.
const TROUBLES: [&str; 2] = [" was interrupted", "read sensors and interfaces: timed out"];

struct Scene {
    hub: Hub,
    core: Core,
    user: User,
    state: Scratch,
    /// Commands write their names here when they run.
    marks: Scratch,
    rng: Rng,
    /// When reports were taken, as the journals of all lives say.
    taken: BTreeSet<u64>,
    /// Applications that must be known, those of whom it is not sure left out.
    known: BTreeSet<String>,
    commands: Vec<String>,
}

#[test]
#[ignore = "takes a minute"]
fn killed_at_any_moment_it_loses_nothing_and_repeats_nothing() {
    let kills = std::env::var("HM_KILLS").map_or(20, |text| text.parse().unwrap());
    let rng = Rng::new();
    println!("{kills} kills, HM_SEED={}", rng.seed);
    let user = User::new();
    let marks = user.scratch();
    let mut scene = Scene {
        hub: Hub::start(),
        core: Core::start(),
        user,
        state: Scratch::new("killed"),
        marks,
        rng,
        taken: BTreeSet::new(),
        known: BTreeSet::new(),
        commands: Vec::new(),
    };
    for number in 0..kills {
        scene.life(number);
    }
    scene.last_life();
}

impl Scene {
    fn start(&self) -> Agent {
        let settings = [self.hub.setting(), "hm.report_interval=1".to_owned()];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let agent = node::start(&self.core, &self.user, &self.state, &settings);
        let listed: BTreeSet<String> = agent.list().into_iter().collect();
        let lost: Vec<&String> = self.known.difference(&listed).collect();
        assert!(lost.is_empty(), "applications that are not known any more: {lost:?}");
        agent
    }

    /// From a start to a kill.
    fn life(&mut self, number: usize) {
        let mut agent = self.start();
        let length = Duration::from_millis(self.rng.below(5000));
        let start = Instant::now();
        let mut beats = Vec::new();
        let mut watcher = None;
        let mut step = 0;
        while start.elapsed() < length {
            let app = format!("life-{number}-{step}");
            agent.tell(&format!("/hb_init?600000&appid={app}"));
            beats.push((app, Instant::now()));
            if step % 3 == 0 {
                let command = format!("c-{number}-{step}");
                let rest = self.rng.below(400);
                let marks = self.marks.0.join("ran");
                let text = format!("echo {command} >> {}; sleep 0.{rest:03}", marks.display());
                self.core.execute(&command, &text, 60);
                self.commands.push(command);
            }
            watcher.get_or_insert_with(|| agent.subscribe());
            step += 1;
            let rest = Duration::from_millis(self.rng.below(300));
            std::thread::park_timeout(rest.min(length.saturating_sub(start.elapsed())));
        }
        agent.signal("-KILL");
        let killed = Instant::now();
        agent.wait();
        let saved = beats.into_iter().filter(|(_, at)| killed - *at > SAVED);
        self.known.extend(saved.map(|(app, _)| app));
        self.taken.extend(taken(&self.state.0));
        assert_nothing_wrong(&agent.log());
    }

    /// Everything arrives in the end.
    fn last_life(self) {
        let agent = self.start();
        for command in &self.commands {
            if self.core.results(command).is_empty() {
                // It may have been on its way when the agent was killed, or be known and its result still to come.
                let marks = self.marks.0.join("ran");
                let text = format!("echo {command} >> {}", marks.display());
                self.core.execute(command, &text, 60);
                self.core.result(command);
            }
        }
        wait_until("all reports", || {
            let arrived: BTreeSet<u64> = self.hub.reports().into_iter().collect();
            self.taken.is_subset(&arrived).then_some(())
        });
        assert_nothing_wrong(&agent.stop());
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
                    0 => assert!(ran.contains_key(command), "{command}: done, and it never ran"),
                    125 => interrupted += 1,
                    other => panic!("{command}: {other}: {}", result.data),
                }
            }
        }
        self.user.assert_gone("the agent was killed");
        println!(
            "{} reports, {} applications, {} commands of which {} ran and {interrupted} results are of interrupted ones",
            self.taken.len(),
            self.known.len(),
            self.commands.len(),
            ran.len(),
        );
        assert!(self.taken.len() > 5 && !ran.is_empty() && !self.known.is_empty());
    }
}

fn assert_nothing_wrong(log: &[String]) {
    let is_trouble = |line: &&String| line.contains(" warn ") || line.contains(" error ");
    let known = |line: &&String| TROUBLES.iter().any(|known| line.contains(known));
    let troubles: Vec<_> = log.iter().filter(is_trouble).filter(|line| !known(line)).collect();
    assert!(troubles.is_empty(), "{troubles:#?}");
}
