//! The thread of a host: waits for a login permit, runs sessions one after the other, and retries with backoff.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;

use crate::config::Secret;
use crate::remote::host::{Host, REJECTED_LOGIN_PAUSE};
use crate::remote::hosts::Hosts;
use crate::remote::login_limiter::LoginPermit;
use crate::remote::ssh::error::SshError;
use crate::remote::ssh::session::{SshSession, SshSessionEnd};
use crate::sys;
use crate::util::backoff::{Backoff, random_unit};
use crate::util::sync::lock;

/// Clients that request a host again shorten the wait for the next attempt, but not below this.
const MIN_LOGIN_INTERVAL: Duration = Duration::from_secs(1);
/// The first and the longest wait between two attempts.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));
/// A session that lasted this long was good: the next failure starts a new backoff.
const STABLE_AFTER: Duration = Duration::from_secs(120);
const READ_BUFFER_BYTES: usize = 16 << 10;

impl Hosts<'_> {
    /// Keeps a host logged in until it has no watchers or the agent shuts down.
    pub(in crate::remote) fn run_host(&self, host: &Arc<Host>) {
        let (first, longest) = RETRY_BACKOFF;
        let mut backoff = Backoff::new(first, longest);
        while !self.shutdown.is_triggered() {
            let Some(permit) = self.login_limiter.acquire(host, self.shutdown) else {
                if self.shutdown.is_triggered() || self.remove_if_unwatched(host) {
                    return;
                }
                continue;
            };
            let start = Instant::now();
            let (password, generation) = {
                let state = lock(&host.state);
                (state.password.clone(), state.password_generation)
            };
            let end = self.run_session(host, permit, password.as_ref(), generation);
            host.on_session_end();
            match end {
                SshSessionEnd::Unwanted if self.remove_if_unwatched(host) => return,
                SshSessionEnd::Unwanted => {}
                SshSessionEnd::Failed(error) => {
                    if start.elapsed() >= STABLE_AFTER {
                        backoff.reset();
                    }
                    self.log
                        .write(Level::Info, || format!("monitor: {}: {}", host.key, error.reason));
                    host.on_failure(&error, generation);
                    let delay = backoff.next_delay(random_unit(), error.min_retry_delay());
                    self.wait_before_retry(host, &error, delay);
                }
            }
        }
    }

    /// Waits for the delay; less if a client requests the host, or all watchers leave.
    fn wait_before_retry(&self, host: &Host, error: &SshError, delay: Duration) {
        let start = Instant::now();
        let min = if error.is_rejected { REJECTED_LOGIN_PAUSE } else { MIN_LOGIN_INTERVAL };
        loop {
            host.changed.reset();
            let (is_unwatched, is_requested) = {
                let state = lock(&host.state);
                (state.watchers.is_empty(), state.has_pending_request())
            };
            // After a rejected login the host stays registered for the pause, even without watchers. Otherwise a client
            // could try passwords faster by requesting the host anew.
            let delay = match (is_unwatched, is_requested) {
                (true, _) if !error.is_rejected => return,
                (true, _) | (_, true) => min,
                _ => delay,
            };
            let left = delay.saturating_sub(start.elapsed());
            if left.is_zero() || self.shutdown.is_triggered() {
                return;
            }
            sys::wait_readable([host.changed.as_fd(), self.shutdown.as_fd()], Some(left));
        }
    }

    /// Runs one session, from the start of ssh to its exit. The permit is held until the login is complete, its slot not
    /// longer than a quick login takes.
    fn run_session(
        &self,
        host: &Host,
        permit: LoginPermit<'_>,
        password: Option<&Secret>,
        generation: u64,
    ) -> SshSessionEnd {
        let known_hosts = self.known_hosts();
        let known_hosts = known_hosts.as_deref();
        let mut session = match SshSession::start(host, password, generation, known_hosts) {
            Ok(session) => session,
            Err(error) => return SshSessionEnd::Failed(error),
        };
        let mut permit = Some(permit);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        loop {
            host.changed.reset();
            if self.shutdown.is_triggered() {
                return SshSessionEnd::Unwanted;
            }
            let now = Instant::now();
            let slot = permit.as_mut().and_then(|permit| permit.free_slot_when_slow(now));
            let step = session.step(now).and_then(|wait| {
                let wait = slot.map_or(wait, |left| left.min(wait));
                session.wait(self.shutdown.as_fd(), wait, &mut buffer)
            });
            if let Err(end) = step {
                return end;
            }
            if session.is_logged_in() && permit.take().is_some() {
                self.log.write(Level::Info, || format!("monitor: {} logged in", host.key));
            }
        }
    }
}
