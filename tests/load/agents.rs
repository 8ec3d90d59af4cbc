//! Many nodes that behave as hm-agent, on one thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use hm_agent::util::backoff::random_unit;
use hm_agent::util::logger::unix_milliseconds;
use mio::{Events, Poll, Token};
use serde_json::{Value, json};

use crate::agent::{Agent, Context, Record, Report};

/// Links that are opened per second at the start.
const OPENED_PER_SECOND: f64 = 1500.0;
/// Agents that are not online, and reports that are not delivered, after this time are counted as lost.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Longest wait for an event: a request on standard input is noticed after this.
const TICK: Duration = Duration::from_millis(20);
/// The time that a backlog is of, and the time of one report of it.
const BACKLOG_TIME: Duration = Duration::from_secs(3600);
const HISTOGRAM_STEP: Duration = Duration::from_secs(5);

pub struct Options {
    pub hubs: Vec<SocketAddr>,
    pub links: u32,
    /// Mean time between two reports of an agent; zero: none.
    pub interval: Duration,
    /// Reports of the last hour that each agent delivers after the first request.
    pub backlog: u32,
}

/// Prints a line when all agents are online. For each line of standard input, waits until all are online and a backlog is delivered, and
/// prints the figures since the last line. Ends with standard input.
pub fn run(options: Options) -> io::Result<()> {
    let mut agents = Agents::new(options)?;
    let opened = agents.run_until(|agents| agents.online() == agents.all.len())?;
    print(
        &json!({"links": agents.all.len(), "online": agents.online(), "opened_s": opened.as_secs_f64()}),
    )?;
    agents.take_figures();
    let requests = requests();
    loop {
        match requests.try_recv() {
            Ok(()) => {
                let is_backlog = agents.add_backlog();
                let waited = agents.run_until(|agents| {
                    agents.online() == agents.all.len()
                        && (!is_backlog || agents.undelivered() == 0)
                })?;
                let mut figures = agents.take_figures();
                figures["waited_s"] = waited.as_secs_f64().into();
                print(&figures)?;
            }
            Err(TryRecvError::Empty) => agents.turn()?,
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

fn print(line: &Value) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")?;
    io::stdout().flush()
}

/// An element for each line of standard input.
fn requests() -> Receiver<()> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let lines = io::stdin().lines().map_while(Result::ok);
        lines.map(|_| sender.send(())).take_while(Result::is_ok).count()
    });
    receiver
}

struct Agents {
    options: Options,
    start: Instant,
    poll: Poll,
    events: Events,
    all: Vec<Agent>,
    /// When each agent is due. An entry whose time is not the agent's is of the past.
    due: BinaryHeap<Reverse<(Duration, usize)>>,
    /// When each agent reports next.
    reports: BinaryHeap<Reverse<(Duration, usize)>>,
    /// When the figures began.
    since: Duration,
    longest_turn: Duration,
}

impl Agents {
    fn new(options: Options) -> io::Result<Self> {
        let ids = RandomState::new();
        let agent = |number: u32| {
            let due = Duration::from_secs_f64(f64::from(number) / OPENED_PER_SECOND);
            Agent::new(format!("{:016x}", ids.hash_one(number)), due)
        };
        let all: Vec<Agent> = (0..options.links).map(agent).collect();
        let due = all.iter().enumerate().map(|(index, agent)| Reverse((agent.due, index)));
        let first_report = |index| Reverse((options.interval.mul_f64(random_unit()), index));
        let reporting = if options.interval.is_zero() { 0 } else { all.len() };
        Ok(Self {
            due: due.collect(),
            reports: (0..reporting).map(first_report).collect(),
            options,
            start: Instant::now(),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            all,
            since: Duration::ZERO,
            longest_turn: Duration::ZERO,
        })
    }

    fn online(&self) -> usize {
        self.all.iter().filter(|agent| agent.is_online()).count()
    }

    fn undelivered(&self) -> usize {
        self.all.iter().map(Agent::undelivered).sum()
    }

    /// Returns how long it took.
    fn run_until(&mut self, is_done: impl Fn(&Self) -> bool) -> io::Result<Duration> {
        let begin = self.start.elapsed();
        let mut next_check = begin;
        loop {
            self.turn()?;
            let now = self.start.elapsed();
            if now >= next_check {
                if is_done(self) || now - begin >= MAX_WAIT {
                    return Ok(now - begin);
                }
                next_check = now + TICK;
            }
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut now = self.start.elapsed();
        let next = [self.due.peek(), self.reports.peek()];
        let next = next.into_iter().flatten().map(|Reverse((at, _))| *at).min();
        let timeout = next.map_or(TICK, |at| at.saturating_sub(now)).min(TICK);
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let begin = self.start.elapsed();
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        for index in ready {
            self.step(index, Agent::on_ready);
        }
        now = self.start.elapsed();
        while let Some(Reverse((at, index))) = self.reports.peek().copied()
            && at <= now
        {
            self.reports.pop();
            // From a half to one and a half of the interval.
            let next = at + self.options.interval.mul_f64(0.5 + random_unit());
            self.reports.push(Reverse((next, index)));
            self.all[index].add_report(Report { unix_milliseconds: unix_milliseconds(), at });
            self.step(index, Agent::step);
        }
        while let Some(Reverse((at, index))) = self.due.peek().copied()
            && at <= now
        {
            self.due.pop();
            if self.all[index].due == at {
                self.step(index, Agent::step);
            }
        }
        self.longest_turn = self.longest_turn.max(self.start.elapsed() - begin);
        Ok(())
    }

    fn step(&mut self, index: usize, step: impl Fn(&mut Agent, &Context<'_>)) {
        let context = Context {
            hubs: &self.options.hubs,
            registry: self.poll.registry(),
            token: Token(index),
            now: self.start.elapsed(),
        };
        let agent = &mut self.all[index];
        let before = agent.due;
        step(agent, &context);
        if agent.due != before || agent.due <= context.now {
            self.due.push(Reverse((agent.due, index)));
        }
    }

    /// Adds the backlog at the first call. Returns whether there is one.
    fn add_backlog(&mut self) -> bool {
        let count = std::mem::take(&mut self.options.backlog);
        let (now, at) = (unix_milliseconds(), self.start.elapsed());
        let step = BACKLOG_TIME / count.max(1);
        for index in 0..self.all.len() {
            for number in 0..count {
                let age = step.mul_f64(f64::from(count - number) - random_unit());
                let unix_milliseconds = now - age.as_millis() as u64;
                self.all[index].add_report(Report { unix_milliseconds, at });
            }
            if count > 0 {
                self.step(index, Agent::step);
            }
        }
        count > 0
    }

    /// The figures since the last call.
    fn take_figures(&mut self) -> Value {
        let now = self.start.elapsed();
        let records: Vec<Record> =
            self.all.iter_mut().map(|agent| std::mem::take(&mut agent.record)).collect();
        let seconds = (now - std::mem::replace(&mut self.since, now)).as_secs_f64();
        let longest_turn = std::mem::take(&mut self.longest_turn);
        let answers = Answers::of(&records, |_| true);
        // Of nodes whose link has not ended.
        let stayed = Answers::of(&records, |record| record.ended.is_none());
        let ended: Vec<&Record> = records.iter().filter(|it| it.ended.is_some()).collect();
        let first_end = ended.iter().filter_map(|record| record.ended).min().unwrap_or_default();
        let returned = ended.iter().filter_map(|it| it.online.filter(|at| Some(*at) > it.ended));
        let mut times: Vec<Duration> = returned.map(|at| at - first_end).collect();
        times.sort_unstable();
        let refused = |least| records.iter().filter(|it| it.refusals.len() >= least).count();
        let codes = records.iter().flat_map(|record| &record.refusals).map(ToString::to_string);
        let failures = records.iter().flat_map(|it| &it.failures);
        let failures = failures.map(|(hub, reason)| format!("{hub} {reason}"));
        json!({
            "seconds": seconds, "online": self.online(), "undelivered": self.undelivered(),
            "answered": answers.0.len(), "rejected": records.iter().map(|it| it.rejected).sum::<u32>(),
            "p50_ms": answers.at(50), "p99_ms": answers.at(99), "longest_ms": answers.at(100),
            "stayed": {"answered": stayed.0.len(), "p99_ms": stayed.at(99), "longest_ms": stayed.at(100)},
            "ended": ended.len(), "ended_again": ended.iter().filter(|record| record.ends > 1).count(),
            "returned": times.len(),
            "returned_s": times.last().map(Duration::as_secs_f64), "histogram": histogram(&times),
            "refused_once": refused(1), "refused_twice": refused(2), "refusals": count(codes),
            "failures": count(failures), "longest_turn_ms": longest_turn.as_secs_f64() * 1e3,
        })
    }
}

/// Times until reports were answered in microseconds, sorted.
struct Answers(Vec<u32>);

impl Answers {
    fn of(records: &[Record], is_wanted: impl Fn(&Record) -> bool) -> Self {
        let records = records.iter().filter(|record| is_wanted(record));
        let mut micros: Vec<u32> = records.flat_map(|record| &record.answered).copied().collect();
        micros.sort_unstable();
        Self(micros)
    }

    /// Milliseconds.
    fn at(&self, percent: usize) -> Option<f64> {
        let index = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(index).map(|&micros| f64::from(micros) / 1e3)
    }
}

/// Numbers of times in each step of the histogram.
fn histogram(times: &[Duration]) -> Vec<usize> {
    let step = |time: &Duration| (time.as_secs() / HISTOGRAM_STEP.as_secs()) as usize;
    let mut counts = vec![0; times.last().map_or(0, |last| step(last) + 1)];
    for time in times {
        counts[step(time)] += 1;
    }
    counts
}

fn count(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_has_steps_of_5_seconds() {
        let times = [0.0, 4.9, 5.0, 17.0].map(Duration::from_secs_f64);
        assert_eq!(histogram(&times), [2, 1, 0, 1]);
        assert!(histogram(&[]).is_empty());
    }
}
