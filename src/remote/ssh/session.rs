//! One SSH session: login, requests on a schedule, and notifications made of the responses.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::config::Secret;
use crate::remote::client_outbox::NotificationKind;
use crate::remote::collect::output::{MAX_PART_BYTES, OutputParser, OutputPart};
use crate::remote::collect::sample::{RemoteInventory, RemoteSample, Sections};
use crate::remote::host::Host;
use crate::remote::protocol::events;
use crate::remote::protocol::request::NotificationSet;
use crate::remote::ssh::error::SshError;
use crate::remote::ssh::process::{Progress, SshProcess};
use crate::util::sync::lock;

/// Time from the start of ssh to the first output of the host's shell. Some servers query DNS first, for ten seconds.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// A host that has not completed a response within this is lost. ssh itself notices a cut network within 15 s.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// A session without watchers ends after this: a page that is reloaded reconnects sooner.
const UNWATCHED_TIMEOUT: Duration = Duration::from_secs(3);
/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// Time between the first sample, which has no previous one to compute rates from, and the second.
const FIRST_SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two lists of processes.
const PROCESS_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two reads of what seldom changes.
const INVENTORY_INTERVAL: Duration = Duration::from_secs(10);
/// Limit of all output between two requests.
const MAX_BYTES_PER_REQUEST: usize = 8 << 20;
/// Limit of asynchronous parts between two requests: filesystems and GPUs, and late ones of the previous request.
const MAX_ASYNC_PARTS_PER_REQUEST: u32 = 4;
/// Limit of sections in one response; collect.sh prints at most fifteen.
const MAX_SECTIONS: usize = 32;

/// Why a session ended.
pub(super) enum SshSessionEnd {
    /// There are no watchers, they have another password, or the agent is shutting down.
    Unwanted,
    /// The login failed, or the session broke.
    Failed(SshError),
}

/// A session with a host.
pub(super) struct SshSession<'a> {
    host: &'a Host,
    process: SshProcess,
    password_generation: u64,
    output: OutputParser,
    /// Received sections of the response in progress.
    sections: Sections,
    section_count: usize,
    inventory: RemoteInventory,
    /// The last sample, and the uptime at which the host read it.
    previous: Option<(f64, RemoteSample)>,
    started_at: Instant,
    progress: Progress,
    /// When the request without a complete response was sent.
    request_sent_at: Option<Instant>,
    next_request_at: Instant,
    /// When to request processes next, since the start.
    processes_due: Duration,
    /// When to request the inventory next, since the start.
    inventory_due: Duration,
    requests: u64,
    bytes_since_request: usize,
    async_parts_since_request: u32,
    unwatched_since: Option<Instant>,
}

impl<'a> SshSession<'a> {
    /// Starts ssh for a host.
    pub(super) fn start(
        host: &'a Host,
        password: Option<&Secret>,
        password_generation: u64,
        known_hosts: Option<&std::path::Path>,
    ) -> Result<Self, SshError> {
        let marker = random_marker()
            .ok_or_else(|| SshError::temporary("random number generator is not available"))?;
        let process = SshProcess::start(&host.target, password, known_hosts, &marker)
            .map_err(|error| SshError::from_spawn_error(&error))?;
        let now = Instant::now();
        Ok(Self {
            host,
            process,
            password_generation,
            output: OutputParser::new(&marker, MAX_PART_BYTES),
            sections: Sections::default(),
            section_count: 0,
            inventory: RemoteInventory::default(),
            previous: None,
            started_at: now,
            progress: Progress::Connecting,
            request_sent_at: None,
            next_request_at: now,
            processes_due: Duration::ZERO,
            inventory_due: Duration::ZERO,
            requests: 0,
            bytes_since_request: 0,
            async_parts_since_request: 0,
            unwatched_since: None,
        })
    }

    pub(super) fn is_logged_in(&self) -> bool {
        self.progress == Progress::LoggedIn
    }

    /// Waits for output, for a change of the host's state or for the shutdown, and processes the output.
    pub(super) fn wait(
        &mut self,
        shutdown: BorrowedFd<'_>,
        timeout: Duration,
        buffer: &mut [u8],
    ) -> Result<(), SshSessionEnd> {
        if self.process.wait([self.host.changed.as_fd(), shutdown], timeout) {
            self.read(buffer)?;
        }
        Ok(())
    }

    /// Does what is due at `now`, and returns how long to wait at most.
    pub(super) fn step(&mut self, now: Instant) -> Result<Duration, SshSessionEnd> {
        let left = |deadline: Instant| deadline.saturating_duration_since(now);
        let (is_watched, generation) = {
            let state = lock(&self.host.state);
            (!state.watchers.is_empty(), state.password_generation)
        };
        if generation != self.password_generation {
            return Err(SshSessionEnd::Unwanted);
        }
        if !is_watched {
            let since = *self.unwatched_since.get_or_insert(now);
            return match left(since + UNWATCHED_TIMEOUT) {
                wait if self.is_logged_in() && !wait.is_zero() => Ok(wait),
                _ => Err(SshSessionEnd::Unwanted),
            };
        }
        self.unwatched_since = None;
        let awaited = match self.request_sent_at {
            _ if !self.is_logged_in() => Some((self.started_at, LOGIN_TIMEOUT, "login timeout")),
            Some(sent_at) => Some((sent_at, RESPONSE_TIMEOUT, "response timeout")),
            None => None,
        };
        if let Some((since, timeout, name)) = awaited {
            let wait = left(since + timeout);
            if wait.is_zero() {
                return Err(failed(&format!("{name} ({} s)", timeout.as_secs())));
            }
            return Ok(wait);
        }
        if now >= self.next_request_at {
            self.send_request(now)?;
        }
        Ok(left(self.next_request_at))
    }

    /// Requests the next sample, and whatever else is due.
    fn send_request(&mut self, now: Instant) -> Result<(), SshSessionEnd> {
        let since_start = now.duration_since(self.started_at);
        // The letters that collect.sh understands; the first character keeps the line from being empty.
        let mut request = String::from("-");
        let (needs_full_update, has_detailed_watcher) = {
            let mut state = lock(&self.host.state);
            let detailed =
                state.watchers.iter().any(|watcher| watcher.set == NotificationSet::Detailed);
            (std::mem::take(&mut state.needs_full_update), detailed)
        };
        let processes_due = since_start >= self.processes_due;
        // The second request follows the first one soon: processor time needs two lists of processes.
        if has_detailed_watcher && (needs_full_update || self.requests == 1 || processes_due) {
            request.push('p');
        }
        if processes_due {
            self.processes_due = next_due(self.processes_due, since_start, PROCESS_INTERVAL);
        }
        if needs_full_update || since_start >= self.inventory_due {
            // The totals of `rough` need to know which interfaces are hardware.
            request.push_str(if has_detailed_watcher { "cndg" } else { "n" });
            if self.requests == 0 || self.inventory.needs_topology() {
                request.push('t');
            }
            self.inventory_due = next_due(self.inventory_due, since_start, INVENTORY_INTERVAL);
        }
        let interval = if self.requests == 0 { FIRST_SAMPLE_INTERVAL } else { SAMPLE_INTERVAL };
        let due = self.next_request_at.saturating_duration_since(self.started_at);
        self.next_request_at = self.started_at + next_due(due, since_start, interval);
        self.request_sent_at = Some(now);
        (self.bytes_since_request, self.async_parts_since_request) = (0, 0);
        self.requests += 1;
        request.push('\n');
        self.process.write(&request).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => failed("the host's shell reads no requests"),
            _ => self.exited(),
        })
    }

    /// ssh has exited.
    fn exited(&mut self) -> SshSessionEnd {
        let unframed = self.output.unframed_output();
        let error = self.process.wait_for_exit(self.progress, unframed);
        SshSessionEnd::Failed(error)
    }

    /// Reads and processes output of the host.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), SshSessionEnd> {
        let read = self.process.read(buffer).unwrap_or(0);
        if read == 0 {
            return Err(self.exited());
        }
        if self.progress == Progress::Connecting {
            self.progress = Progress::Authenticated;
        }
        self.bytes_since_request += read;
        let parts = self.output.push(&buffer[..read]);
        let is_small = self.bytes_since_request <= MAX_BYTES_PER_REQUEST;
        let Some(parts) = parts.ok().filter(|_| is_small) else {
            return Err(output_too_large());
        };
        parts.into_iter().try_for_each(|part| self.process_part(part))
    }

    fn process_part(&mut self, part: OutputPart) -> Result<(), SshSessionEnd> {
        match part {
            OutputPart::Section(name, body) => {
                self.section_count += 1;
                self.sections.insert(&name, body);
            }
            OutputPart::EndOfResponse if self.request_sent_at.is_some() => self.publish_sample(),
            OutputPart::EndOfResponse if !self.is_logged_in() => self.complete_login()?,
            OutputPart::EndOfResponse => {
                return Err(failed("the host sent a response without a request"));
            }
            OutputPart::Async(letter, text) => {
                self.async_parts_since_request += 1;
                if self.inventory.update_async(letter, text) {
                    let event = events::gpu(&self.host.key, &self.inventory);
                    self.host.publish(NotificationKind::Gpu, &[event]);
                }
            }
        }
        if self.section_count > MAX_SECTIONS
            || self.async_parts_since_request > MAX_ASYNC_PARTS_PER_REQUEST
        {
            return Err(output_too_large());
        }
        Ok(())
    }

    fn complete_login(&mut self) -> Result<(), SshSessionEnd> {
        if !self.host.on_login(self.password_generation) {
            return Err(SshSessionEnd::Unwanted);
        }
        self.progress = Progress::LoggedIn;
        self.process.close_login_pipes();
        let sections = self.take_sections();
        self.inventory.update(&sections, 0.0);
        self.next_request_at = Instant::now();
        Ok(())
    }

    fn take_sections(&mut self) -> Sections {
        self.section_count = 0;
        std::mem::take(&mut self.sections)
    }

    /// Publishes the notifications of a complete response.
    fn publish_sample(&mut self) {
        self.request_sent_at = None;
        let sections = self.take_sections();
        // The host's own clock is independent of network delays.
        let uptime =
            sections.uptime_seconds().unwrap_or_else(|| self.started_at.elapsed().as_secs_f64());
        let changes = self.inventory.update(&sections, uptime);
        let sample = RemoteSample::parse(&sections, &self.inventory);
        let (host, key, inventory) = (self.host, &self.host.key, &self.inventory);
        if changes.processors {
            host.publish(NotificationKind::CpuInfo, &[events::cpu_info(key, inventory)]);
        }
        let previous = changes.previous_processes;
        if let Some(event) = previous.and_then(|list| events::process(key, inventory, &list)) {
            host.publish(NotificationKind::Process, &[event]);
        }
        if let Some((previous_uptime, previous)) = &self.previous
            && uptime > *previous_uptime
        {
            let seconds = uptime - previous_uptime;
            if host.has_watchers(NotificationSet::Detailed) {
                let events = events::of_sample(key, inventory, previous, &sample, seconds);
                host.publish(NotificationKind::Sample, &events);
            }
            if host.has_watchers(NotificationSet::Rough) {
                let event = events::rough(key, inventory, previous, &sample, seconds);
                host.publish(NotificationKind::Rough, &[event]);
            }
        }
        self.previous = Some((uptime, sample));
    }
}

/// Marks the lines of collect.sh; random, so that no user of the host can know it in advance.
fn random_marker() -> Option<String> {
    let random = ring::rand::SystemRandom::new();
    let bytes: [u8; 16] = ring::rand::generate(&random).ok()?.expose();
    Some(data_encoding::HEXLOWER.encode(&bytes))
}

fn failed(reason: &str) -> SshSessionEnd {
    SshSessionEnd::Failed(SshError::temporary(reason))
}

fn output_too_large() -> SshSessionEnd {
    failed("the host's output exceeds the limit")
}

/// The next time on a fixed grid; missed times are skipped.
fn next_due(due: Duration, now: Duration, interval: Duration) -> Duration {
    let next = due + interval;
    if next > now { next } else { now + interval }
}
