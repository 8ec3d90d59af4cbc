//! The sampler's thread: collects a sample each interval and publishes it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::collector::gpu::state::GpuState;
use crate::collector::latest::{LatestSample, PublishedSample};
use crate::collector::sampler::Sampler;
use crate::config::{Config, CurrentConfig};
use crate::model::RawSample;
use crate::model::status::{AppSummary, UpstreamStatus};
use crate::sys;
use crate::sys::EventFd;
use crate::util::liveness::Liveness;
use crate::util::sync::Shutdown;

/// The first sample has no predecessor, so its rates are absent and its CPU usage is the mean since boot. The next one
/// replaces it this much later, not a whole interval later. On a machine with one CPU, usage has steps of 2 %
/// then: 50 ticks.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long the first clients may wait for the first GPU result: the driver may take seconds to initialize.
pub const FIRST_GPU_RESULT_TIMEOUT: Duration = Duration::from_secs(3);

/// What the loop shares with other threads.
pub struct SamplerLoop<'a> {
    pub config: &'a CurrentConfig,
    /// Notified when the settings in force have changed.
    pub reloaded: &'a EventFd,
    pub gpus: &'a GpuState,
    pub latest: &'a LatestSample,
    /// Notified once samples include the first GPU result, or when it did not arrive in time.
    pub gpus_ready: &'a EventFd,
    pub liveness: &'a Liveness,
    pub shutdown: &'a Shutdown,
    /// Returns the status of the agent's own services. Must not block.
    pub services: &'a dyn Fn() -> ServiceStatus,
    /// Called with each sample before it is published, to find and count events. Must not block.
    pub observe: &'a dyn Fn(&mut RawSample),
    /// Called with each sample after it was published, to record it. Must not block.
    pub record: &'a dyn Fn(&PublishedSample),
}

/// Status of the agent's own services, which is part of each sample.
#[derive(Default)]
pub struct ServiceStatus {
    pub heartbeats: Arc<AppSummary>,
    pub upstreams: Arc<[UpstreamStatus]>,
}

/// What is due next. Ticks lie on a grid from the start, so they neither drift nor bunch up.
struct Schedule {
    last_tick: Instant,
    /// `None` once the first sample has been replaced.
    warm_up: Option<Instant>,
    /// When to stop waiting for the first GPU result; `None` once `gpus_ready` is notified.
    gpu_deadline: Option<Instant>,
    /// Whether a sample includes the first GPU result.
    has_gpu_result: bool,
    /// Whether the GPUs have been polled for the next tick.
    gpus_polled: bool,
}

impl SamplerLoop<'_> {
    /// Runs until shutdown. `sampler` has collected the sample that `latest` holds.
    pub fn run(&self, mut sampler: Sampler) {
        let start = Instant::now();
        let mut schedule = Schedule {
            last_tick: start,
            warm_up: Some(start + WARM_UP),
            gpu_deadline: Some(start + FIRST_GPU_RESULT_TIMEOUT),
            has_gpu_result: false,
            gpus_polled: false,
        };
        while !self.shutdown.is_triggered() {
            self.liveness.busy();
            self.step(&mut sampler, &mut schedule);
        }
    }

    /// Does what is due, or waits until something is.
    fn step(&self, sampler: &mut Sampler, schedule: &mut Schedule) {
        let config = self.config.get();
        let now = Instant::now();
        let next_tick = schedule.last_tick + config.interval;
        let poll_at = next_tick.checked_sub(self.gpus.prefetch_lead(&config)).unwrap_or(now);
        if now >= next_tick {
            let mut sample = self.collect(sampler, &config);
            (self.observe)(&mut sample);
            self.latest.publish(sample);
            (self.record)(&self.latest.current());
            schedule.last_tick = latest_tick(next_tick, now, config.interval);
            (schedule.warm_up, schedule.gpus_polled) = (None, false);
        } else if schedule.warm_up.is_some_and(|at| now >= at) {
            self.latest.replace_current(self.collect(sampler, &config));
            schedule.warm_up = None;
        } else if !schedule.has_gpu_result && self.gpus.take_first_result() {
            self.latest.replace_gpus(self.gpus.gpus(&config, now));
            self.gpus_ready.notify();
            (schedule.has_gpu_result, schedule.gpu_deadline) = (true, None);
        } else if schedule.gpu_deadline.is_some_and(|at| now >= at) {
            self.gpus_ready.notify();
            schedule.gpu_deadline = None;
        } else if !schedule.gpus_polled && now >= poll_at {
            if self.gpus.is_poll_needed() {
                self.gpus.request_poll();
            }
            schedule.gpus_polled = true;
        } else {
            // A machine without GPUs is not woken to poll them.
            let poll_at = (!schedule.gpus_polled && self.gpus.is_poll_needed()).then_some(poll_at);
            let due = [schedule.warm_up, schedule.gpu_deadline, poll_at].into_iter().flatten();
            self.wait(due.fold(next_tick, Instant::min).saturating_duration_since(now));
        }
    }

    fn wait(&self, timeout: Duration) {
        let events = [self.shutdown.as_fd(), self.reloaded.as_fd(), self.gpus.first_result()];
        self.liveness.idle(Some(timeout));
        let [_, reloaded, _] = sys::wait_readable(events, Some(timeout));
        if reloaded {
            self.reloaded.reset();
        }
    }

    fn collect(&self, sampler: &mut Sampler, config: &Config) -> RawSample {
        let gpus = self.gpus.gpus(config, Instant::now());
        if let Some(success) = gpus.nvidia.as_ref().and_then(|nvidia| nvidia.state.is_healthy()) {
            sampler.record("nvidia", success, self.gpus.poll_duration());
        }
        let ServiceStatus { heartbeats, upstreams } = (self.services)();
        RawSample { gpus, heartbeats, upstreams, ..sampler.collect(Some(config.interval)) }
    }
}

/// The latest tick of the grid at or before `now`. Ticks missed while the machine was suspended or the process was stopped are
/// skipped, not made up for.
fn latest_tick(due: Instant, now: Instant, interval: Duration) -> Instant {
    let late = now.saturating_duration_since(due).as_nanos();
    let missed = u32::try_from(late / interval.as_nanos().max(1)).unwrap_or(u32::MAX);
    due.checked_add(interval.saturating_mul(missed)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_ticks_on_grid_and_skips_missed_ones() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let interval = Duration::from_secs(5);
        assert_eq!(latest_tick(at(5.0), at(5.0), interval), at(5.0));
        assert_eq!(latest_tick(at(5.0), at(5.3), interval), at(5.0));
        assert_eq!(latest_tick(at(5.0), at(9.9), interval), at(5.0));
        assert_eq!(latest_tick(at(5.0), at(3605.1), interval), at(3605.0));
    }
}
