//! The health check: findings on this node, from the latest sample and the event log. Keep the conditions of GPUs in step with
//! `src/telemetry/dashboard/alerts.js`, which has those of nodes whose agent has no `/health`.

mod acknowledgements;
mod apps;
mod conditions;
mod events;
mod gpu;
mod node;
pub mod nvidia;
mod xid;

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::config::HealthConfig;
use crate::health::acknowledgements::Acknowledgements;
pub use crate::health::acknowledgements::{SPOOL, is_id};
use crate::health::conditions::Condition;
use crate::health::events::{EventFinding, LOOK_BACK_S};
use crate::model::event::{Event, EventCounts};
use crate::model::finding::{Action, Finding, HealthReport};
use crate::model::health_problem::Severity;
use crate::model::{RawSample, Snapshot};
use crate::util::state_io::StateIo;
use crate::util::sync::lock;

/// An error of a GPU counts for this long.
const XID_AGE_S: u64 = 86_400;
/// A condition that returns within this time is the same one.
const RETURN_S: u64 = 600;

pub struct Health {
    state: Mutex<State>,
}

struct State {
    acknowledgements: Acknowledgements,
    /// When each condition was first and last seen, by id.
    seen: BTreeMap<String, Seen>,
    /// Names of InfiniBand ports and services that have been active.
    worked: Vec<String>,
    events: Vec<EventFinding>,
    /// What `events` was found in.
    event_counts: EventCounts,
    events_checked: u64,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: u64,
    last: u64,
    severity: Severity,
    action: Action,
    /// When it became worse; 0: never.
    worse: u64,
}

impl Health {
    /// Reads what operators have acknowledged.
    pub fn open(state: &StateIo) -> Self {
        let state = State {
            acknowledgements: Acknowledgements::open(state),
            seen: BTreeMap::new(),
            worked: Vec::new(),
            events: Vec::new(),
            event_counts: EventCounts::default(),
            events_checked: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Checks the node. Call it with each sample: some conditions count only when they last. `events` returns those from a time on,
    /// in Unix seconds as `now` is, and `counts` changes with each new one.
    pub fn check<I: Iterator<Item = Event>>(
        &self,
        sample: &RawSample,
        counts: EventCounts,
        events: impl FnOnce(u64) -> I,
        expected: &HealthConfig,
        now: u64,
    ) -> HealthReport {
        let state = &mut *lock(&self.state);
        state.check_events(sample, counts, events, now);
        let mut conditions = gpu::conditions(&sample.gpus, expected.gpus, now);
        conditions.extend(apps::applications(&sample.heartbeats));
        conditions.extend(apps::upstreams(&sample.upstreams, now));
        conditions.extend(node::conditions(sample, expected.infiniband_ports, &mut state.worked));
        // The kernel log knows more of an error than the driver does.
        let is_event = |id: &str| state.events.iter().any(|event| event.finding.id == id);
        conditions.retain(|condition| !is_event(&condition.finding.id));
        let mut findings = state.lasting(conditions, now);
        let of_events = state.events.iter();
        findings.extend(of_events.map(|it| Checked { finding: it.finding.clone(), last: it.last }));
        number_equal_ids(&mut findings);
        let ids = findings.iter().map(|it| it.finding.id.as_str());
        let present = state.seen.iter().filter(|(_, seen)| seen.last == now);
        state.acknowledgements.update(ids, present.map(|(id, _)| id.as_str()), now);
        let findings = findings.into_iter().map(|Checked { finding, last }| {
            let acknowledged = state.acknowledgements.time(&finding.id);
            // `last` may be later than now after a clock was set back.
            let is_valid = |at: &u64| *at >= last.min(now);
            Finding { acknowledged: acknowledged.filter(is_valid), ..finding }
        });
        HealthReport::new(now, findings.collect())
    }
}

/// A finding, and when its cause occurred last: an earlier acknowledgement does not count.
struct Checked {
    finding: Finding,
    last: u64,
}

impl State {
    fn check_events<I: Iterator<Item = Event>>(
        &mut self,
        sample: &RawSample,
        counts: EventCounts,
        events: impl FnOnce(u64) -> I,
        now: u64,
    ) {
        // GPUs show which errors the driver has recovered from, and errors grow old.
        let interval = if self.events.is_empty() { 60 } else { 5 };
        if counts != self.event_counts || now.abs_diff(self.events_checked) >= interval {
            let since = now.saturating_sub(LOOK_BACK_S);
            self.events = events::findings(events(since), &sample.gpus, now);
            (self.event_counts, self.events_checked) = (counts, now);
        }
    }

    /// Conditions that have lasted, with their start.
    fn lasting(&mut self, conditions: Vec<Condition>, now: u64) -> Vec<Checked> {
        let mut lasting = Vec::new();
        for Condition { finding, hold } in conditions {
            let (severity, action) = (finding.severity, finding.action);
            let new = Seen { first: now, last: now, severity, action, worse: 0 };
            let seen = self.seen.entry(finding.id.clone()).or_insert(new);
            seen.last = now;
            if severity < seen.severity || action > seen.action {
                seen.worse = now;
            }
            (seen.severity, seen.action) = (severity, action);
            // After a clock was set back.
            seen.first = seen.first.min(now);
            if now - seen.first >= hold {
                // An acknowledgement outlives a restart of the agent. It is forgotten when the condition has ended, and does not
                // count when it has become worse.
                let (since, last) = (seen.first, seen.worse);
                lasting.push(Checked { finding: Finding { since, ..finding }, last });
            }
        }
        self.seen.retain(|_, seen| now.abs_diff(seen.last) < RETURN_S);
        lasting
    }
}

/// Devices whose names differ only in characters that an id cannot have.
fn number_equal_ids(findings: &mut [Checked]) {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for Checked { finding, .. } in findings {
        let count = known.entry(finding.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            finding.id = format!("{}.{count}", finding.id);
        }
    }
}

/// Number of GPU errors, each code of each GPU once, that have occurred within the last day.
pub fn recent_xids(snapshot: &Snapshot) -> usize {
    let xids = snapshot.gpus.each.iter().flat_map(|gpu| &gpu.xids);
    let is_recent = |at: u64| snapshot.unix_seconds.saturating_sub(at) < XID_AGE_S;
    xids.filter(|xid| is_recent(xid.last_unix_seconds)).count()
}

#[cfg(test)]
mod acknowledgement_tests;
#[cfg(test)]
mod event_tests;
#[cfg(test)]
mod tests;
