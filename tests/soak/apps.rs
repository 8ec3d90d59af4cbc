//! Applications that send heartbeats. Some stay silent until the agent has dropped them, and then start again. From this follows
//! what `heartbeat.on_overdue` has to be run for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::fault_log::{FaultLog, NO_DESCRIPTORS};
use super::support::Agent;
use super::support::heartbeat::{HttpConnection, lines_of};
use super::support::rng::Rng;

const APPS_PER_THREAD: usize = 50;
pub const THREADS: usize = 4;
const POLL_INTERVAL: Duration = Duration::from_millis(300);
const TRANSITIONS: [&str; 4] = ["WARNING", "CRITICAL", "DROPPED", "OK"];

/// How many times each application was silent until dropped, and whether a lack of descriptors may have prevented a hook.
pub type Silences = BTreeMap<String, (usize, bool)>;

#[derive(PartialEq)]
enum AppBehaviour {
    Beats,
    SilentUntilDropped,
}

struct App {
    id: String,
    interval_ms: u64,
    behaviour: AppBehaviour,
    /// The agent cannot drop an application that it has never seen.
    is_known: bool,
    since: Instant,
    due: Instant,
}

/// Runs the applications of one thread, on one connection.
pub fn run(agent: &Agent, thread: usize, log: &FaultLog, mut rng: Rng) -> Silences {
    let now = Instant::now();
    let mut apps: Vec<App> = (0..APPS_PER_THREAD)
        .map(|number| App {
            id: format!("app-{thread}-{number}"),
            interval_ms: 1500 + rng.below(4500),
            behaviour: AppBehaviour::Beats,
            is_known: false,
            since: now,
            due: now + Duration::from_millis(rng.below(1500)),
        })
        .collect();
    let mut connection = HttpConnection::open(agent);
    let mut silences = Silences::new();
    // Silent applications are waited for, meanwhile the others go on.
    while !log.is_stopping() || apps.iter().any(|app| app.behaviour != AppBehaviour::Beats) {
        let now = Instant::now();
        for app in apps.iter_mut().filter(|app| app.due <= now) {
            if app.behaviour == AppBehaviour::SilentUntilDropped {
                app.poll(&mut connection, log, &mut silences);
            } else if app.is_known && !log.is_stopping() && rng.below(100) == 0 {
                (app.behaviour, app.since) = (AppBehaviour::SilentUntilDropped, now);
            } else {
                app.beat(&mut connection, log);
            }
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    for app in &apps {
        connection.get(&format!("/hb_done?0&appid={}", app.id));
    }
    silences
}

impl App {
    fn beat(&mut self, connection: &mut HttpConnection, log: &FaultLog) {
        let answer = connection.get(&format!("/hb_ping?{}&appid={}", self.interval_ms, self.id));
        self.is_known = true;
        log.count("heartbeats", 1);
        if answer.body.trim() != (self.interval_ms + 1000).to_string() {
            log.fail(format!("{}: the answer to a heartbeat is {:?}", self.id, answer.body));
        }
        self.due = Instant::now() + Duration::from_millis(self.interval_ms * 4 / 5);
    }

    fn poll(&mut self, connection: &mut HttpConnection, log: &FaultLog, silences: &mut Silences) {
        let status = connection.get(&format!("/status?0&appid={}", self.id)).body;
        self.due = Instant::now() + POLL_INTERVAL;
        // An application that is not known has no overdue ratio.
        if status.starts_with("CRITICAL") && !status.contains("od=") {
            self.behaviour = AppBehaviour::Beats;
            self.beat(connection, log);
            let (count, may_lack_hooks) = silences.entry(self.id.clone()).or_default();
            *count += 1;
            *may_lack_hooks |= log.was_active(NO_DESCRIPTORS, self.since, Instant::now());
        }
    }
}

/// Compares the transitions that the hook appended to `file` with the silences.
pub fn check_results(silences: &Silences, file: &Path, log: &FaultLog) {
    let mut hooks = BTreeMap::<String, Vec<String>>::new();
    for line in lines_of(file) {
        let (id, state) = line.split_once(' ').unwrap();
        hooks.entry(id.to_owned()).or_default().push(state.to_owned());
    }
    let none = (0, false);
    for id in silences.keys().chain(hooks.keys().filter(|id| !silences.contains_key(*id))) {
        let (count, may_lack_hooks) = silences.get(id).unwrap_or(&none);
        let found = hooks.get(id).map(Vec::as_slice).unwrap_or_default();
        let expected = TRANSITIONS.repeat(*count);
        let mut rest = expected.iter();
        let is_subsequence = found.iter().all(|state| rest.any(|expected| expected == state));
        log.count("on_overdue hooks", found.len() as u64);
        if !is_subsequence || (!may_lack_hooks && found.len() != expected.len()) {
            log.fail(format!("{id}: on_overdue ran for {found:?}, not for {expected:?}"));
        }
    }
}
