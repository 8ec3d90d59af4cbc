//! The life of a host's thread: waits for its turn, logs in, asks for a look every two seconds, and tells those who watch.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use crate::config::Secret;
use crate::limits;
use crate::net::backoff::{Backoff, random_unit};
use crate::remote::client_outbox::Kind;
use crate::remote::hosts::{Host, Hosts, Phase};
use crate::remote::login_limiter::Turn;
use crate::remote::output::{Part, Parts};
use crate::remote::protocol::events;
use crate::remote::sample;
use crate::remote::sample::{Look, Sections};
use crate::remote::ssh_error::Failure;
use crate::remote::ssh_process::Client;
use crate::sys;
use crate::util::sync::lock;

/// How a session ended.
enum End {
    /// Nobody watches, or the agent stops.
    Unwanted,
    /// It broke, or never was.
    Failed(Failure),
}

impl Hosts<'_> {
    /// The thread's life.
    pub(super) fn keep(&self, host: &Arc<Host>) {
        let (first, most) = limits::RECONNECT;
        let mut backoff = Backoff::new(first, most);
        while !self.stop.is_triggered() {
            let Some(turn) = self.logins.wait(host, self.stop) else {
                if self.stop.is_triggered() || self.end(host) {
                    return;
                }
                continue;
            };
            let start = Instant::now();
            let (password, era) = {
                let state = lock(&host.state);
                (state.password.clone(), state.era)
            };
            let end = self.session(host, turn, password.as_ref(), era);
            lock(&host.state).phase = Phase::Trying;
            match end {
                End::Unwanted if self.end(host) => return,
                End::Unwanted => {}
                End::Failed(failure) => {
                    if start.elapsed() >= limits::STABLE {
                        backoff.reset();
                    }
                    self.log.write(Level::Info, || {
                        format!("monitor: {}: {}", host.key, failure.reason)
                    });
                    host.failed(&failure, era);
                    self.rest(host, &failure, backoff.next_delay(random_unit(), failure.floor()));
                }
            }
        }
    }

    /// Waits before the next try, unless somebody new wants the host or nobody does.
    fn rest(&self, host: &Host, failure: &Failure, wait: Duration) {
        let start = Instant::now();
        let least = if failure.refused { limits::REFUSED_LOGIN } else { limits::LOGIN_PAUSE };
        loop {
            host.bell.reset();
            let (unwanted, asked) = {
                let state = lock(&host.state);
                (state.watchers.is_empty(), state.watchers.iter().any(|one| one.ticket.is_some()))
            };
            // Who asks again and again with wrong passwords finds the host taken meanwhile.
            let until = match (unwanted, asked) {
                (true, _) if !failure.refused => return,
                (true, _) | (_, true) => least,
                _ => wait,
            };
            let left = until.saturating_sub(start.elapsed());
            if left.is_zero() || self.stop.is_triggered() {
                return;
            }
            sys::wait_readable([host.bell.as_fd(), self.stop.as_fd()], Some(left));
        }
    }

    /// One session, from the start of ssh to its end.
    fn session(&self, host: &Host, turn: Turn<'_>, password: Option<&Secret>, era: u64) -> End {
        let known_hosts = self.known_hosts();
        let Some(marker) = marker() else {
            return End::Failed(Failure::new("no random numbers can be had"));
        };
        let client = Client::start(&host.target, password, known_hosts.as_deref(), &marker);
        let mut session = Session {
            host,
            client: match client {
                Ok(client) => client,
                Err(error) => return End::Failed(Failure::to_start(&error)),
            },
            by_password: password.is_some(),
            era,
            parts: Parts::new(&marker, limits::REMOTE_FILE_BYTES),
            sections: Sections::default(),
            known: sample::Host::default(),
            earlier: None,
            started: Instant::now(),
            up: false,
            asked: None,
            next: Instant::now(),
            due: [Duration::ZERO; 2],
            looks: 0,
            printed: (0, 0),
            unwanted: None,
        };
        let mut turn = Some(turn);
        let mut buffer = vec![0; 16 << 10];
        loop {
            host.bell.reset();
            if self.stop.is_triggered() {
                return End::Unwanted;
            }
            let wait = match session.step(Instant::now()) {
                Ok(wait) => wait,
                Err(end) => return end,
            };
            if session.client.wait([host.bell.as_fd(), self.stop.as_fd()], wait)
                && let Err(end) = session.read(&mut buffer)
            {
                return end;
            }
            if session.up && turn.take().is_some() {
                self.log.write(Level::Info, || format!("monitor: {} logged in", host.key));
            }
        }
    }
}

/// What the host's lines are marked with: nobody there can know it before.
fn marker() -> Option<String> {
    let random = ring::rand::SystemRandom::new();
    let bytes: [u8; 16] = ring::rand::generate(&random).ok()?.expose();
    Some(data_encoding::HEXLOWER.encode(&bytes))
}

/// A session with a host.
struct Session<'a> {
    host: &'a Host,
    client: Client,
    by_password: bool,
    /// That of the password.
    era: u64,
    parts: Parts,
    /// What came of the look that is under way.
    sections: Sections,
    known: sample::Host,
    earlier: Option<(f64, Look)>,
    started: Instant,
    up: bool,
    /// When a look was asked for that has not come yet.
    asked: Option<Instant>,
    /// When to ask for the next one.
    next: Instant,
    /// When processes, and when what seldom changes, are asked for next, since the start.
    due: [Duration; 2],
    looks: u64,
    /// Bytes, and what goes on beside, since it was asked last.
    printed: (usize, u32),
    unwanted: Option<Instant>,
}

impl Session<'_> {
    /// Does what is due; how long to wait then.
    fn step(&mut self, now: Instant) -> Result<Duration, End> {
        let left = |deadline: Instant| deadline.saturating_duration_since(now);
        let (wanted, era) = {
            let state = lock(&self.host.state);
            (!state.watchers.is_empty(), state.era)
        };
        if era != self.era {
            return Err(End::Unwanted);
        }
        if wanted {
            self.unwanted = None;
        } else {
            let since = *self.unwanted.get_or_insert(now);
            let linger = if self.up { left(since + limits::REMOTE_LINGER) } else { Duration::ZERO };
            if linger.is_zero() {
                return Err(End::Unwanted);
            }
            return Ok(linger);
        }
        if !self.up {
            let left = left(self.started + limits::SSH_LOGIN);
            if left.is_zero() {
                let seconds = limits::SSH_LOGIN.as_secs();
                return Err(self.lost(&format!("no login within {seconds} s")));
            }
            return Ok(left);
        }
        if let Some(asked) = self.asked {
            let left = left(asked + limits::REMOTE_ANSWER);
            if left.is_zero() {
                let seconds = limits::REMOTE_ANSWER.as_secs();
                return Err(self.lost(&format!("the host has printed nothing for {seconds} s")));
            }
            return Ok(left);
        }
        if now >= self.next {
            self.ask(now)?;
        }
        Ok(left(self.next))
    }

    fn lost(&self, why: &str) -> End {
        End::Failed(Failure::new(why))
    }

    /// Asks for the next look, and for what else is due.
    fn ask(&mut self, now: Instant) -> Result<(), End> {
        let since = now.duration_since(self.started);
        let mut wanted = String::from("-");
        let (fresh, in_full) = {
            let mut state = lock(&self.host.state);
            (std::mem::take(&mut state.fresh), state.watchers.iter().any(|one| !one.rough))
        };
        // A list of processes is to be compared with another one.
        if in_full && (fresh || self.looks == 1 || since >= self.due[0]) {
            wanted.push('p');
        }
        if since >= self.due[0] {
            self.due[0] = advanced(self.due[0], since, limits::REMOTE_PROCESSES);
        }
        if fresh || since >= self.due[1] {
            // Which interfaces are hardware is wanted for their total, too.
            wanted.push_str(if in_full { "cndg" } else { "n" });
            if self.looks == 0 || self.known.wants_places() {
                wanted.push('t');
            }
            self.due[1] = advanced(self.due[1], since, limits::REMOTE_SLOW);
        }
        // The first one has nothing to be compared with, so the next one comes soon.
        let pace = if self.looks == 0 { limits::WARM_UP } else { limits::REMOTE_LOOK };
        self.next = advanced_instant(self.next, now, pace);
        self.asked = Some(now);
        self.printed = (0, 0);
        self.looks += 1;
        wanted.push('\n');
        self.client.say(&wanted).map_err(|_| self.end())
    }

    /// ssh has ended.
    fn end(&mut self) -> End {
        End::Failed(self.client.end(self.up, self.by_password, self.parts.noise()))
    }

    /// Takes in what the host printed.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), End> {
        let read = self.client.read(buffer).unwrap_or(0);
        if read == 0 {
            return Err(self.end());
        }
        self.printed.0 += read;
        let parts = self.parts.push(&buffer[..read]);
        let Some(parts) = parts.ok().filter(|_| self.printed.0 <= limits::REMOTE_LOOK_BYTES) else {
            return Err(self.too_much());
        };
        parts.into_iter().try_for_each(|part| self.take(part))
    }

    fn too_much(&self) -> End {
        self.lost("the host prints more than it may")
    }

    fn take(&mut self, part: Part) -> Result<(), End> {
        match part {
            Part::Section(name, body) => self.sections.0.push((name, body)),
            Part::Whole if self.asked.is_some() => self.take_look(),
            Part::Whole if !self.up => {
                if !self.host.is_up(self.era) {
                    return Err(End::Unwanted);
                }
                self.up = true;
                self.client.forget_password();
                self.known.take(&std::mem::take(&mut self.sections), 0.0);
                self.next = Instant::now();
            }
            Part::Whole => return Err(self.lost("the host says what it was not asked for")),
            Part::BlockingWorker(letter, text) => {
                self.printed.1 += 1;
                if self.known.take_aside(letter, &text) {
                    let event = events::gpu(&self.host.key, &self.known);
                    self.host.post(Kind::Gpu, &[event]);
                }
            }
        }
        if self.sections.0.len() > limits::REMOTE_PARTS || self.printed.1 > limits::REMOTE_ASIDES {
            return Err(self.too_much());
        }
        Ok(())
    }

    /// A look is complete.
    fn take_look(&mut self) {
        self.asked = None;
        let sections = std::mem::take(&mut self.sections);
        let look = Look::new(&sections);
        // The host's own clock knows nothing of the network's delays.
        let uptime = look.uptime_seconds.unwrap_or_else(|| self.started.elapsed().as_secs_f64());
        let news = self.known.take(&sections, uptime);
        let (host, key, known) = (self.host, &self.host.key, &self.known);
        if news.processors {
            host.post(Kind::CpuInfo, &[events::cpu_info(key, known)]);
        }
        if let Some(event) = news.processes.and_then(|before| events::process(key, known, &before))
        {
            host.post(Kind::Process, &[event]);
        }
        if let Some((then, earlier)) = &self.earlier
            && uptime > *then
        {
            let seconds = uptime - then;
            if host.has_watchers(false) {
                host.post(Kind::Look, &events::of_look(key, known, earlier, &look, seconds));
            }
            if host.has_watchers(true) {
                host.post(Kind::Rough, &[events::rough(key, known, earlier, &look, seconds)]);
            }
        }
        self.earlier = Some((uptime, look));
    }
}

/// The next point of a grid; those that were missed are not made up for.
fn advanced(due: Duration, now: Duration, pace: Duration) -> Duration {
    let next = due + pace;
    if next > now { next } else { now + pace }
}

fn advanced_instant(due: Instant, now: Instant, pace: Duration) -> Instant {
    let next = due + pace;
    if next > now { next } else { now + pace }
}
