//! Handles replies of the probe: updates the shared state and logs when the driver's state changes.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::collector::gpu::nvidia::driver_log::{describe, log_state};
use crate::collector::gpu::nvidia::probe_process::{ProbeEvent, ProbeProcess};
use crate::collector::gpu::nvidia::probe_state::{ProbeState, StopReason};
use crate::collector::gpu::nvidia::probe_supervisor::{NVIDIA_DEVICE, ProbeSupervisor};
use crate::collector::gpu::nvidia::protocol::ProbeReply;
use crate::config::GpuSource;
use crate::model::gpu::{DriverState, Gpu, NvidiaDriver, Problem};

/// Replies after which a probe counts as stable and the restart delay is reset. A probe can crash after its first reply.
pub(super) const STABLE_AFTER_REPLIES: u32 = 2;

impl ProbeSupervisor<'_> {
    /// Reads from the probe and handles its reply.
    pub(super) fn on_probe_output(&mut self, now: Instant) {
        let (mut probe, since) = match self.take_probe() {
            ProbeState::Querying(probe, since) => (probe, since),
            ProbeState::Idle(probe) => (probe, now),
            state => {
                self.probe = state;
                return;
            }
        };
        self.probe = match probe.read() {
            ProbeEvent::Incomplete => ProbeState::Querying(probe, since),
            ProbeEvent::Eof => ProbeState::stop(probe, now, StopReason::Crashed),
            ProbeEvent::Malformed(what) => {
                let message = format!("malformed reply of the GPU probe: {what}");
                self.on_failure(DriverState::Crashed, message, now);
                ProbeState::stop(probe, now, StopReason::Failed)
            }
            ProbeEvent::Reply(reply) => self.on_reply(probe, *reply, since, now),
        };
    }

    fn on_reply(
        &mut self,
        probe: ProbeProcess,
        reply: ProbeReply,
        since: Instant,
        now: Instant,
    ) -> ProbeState {
        if reply.partial {
            self.inventory.count_partial_xids(reply.gpus);
            return ProbeState::Querying(probe, since);
        }
        if let Some(failure) = reply.failure {
            self.on_failure(failure.state, describe(&failure), now);
            return ProbeState::stop(probe, now, StopReason::Failed);
        }
        self.on_result(reply, since, now);
        let poll_pending = std::mem::take(&mut self.poll_pending);
        match poll_pending && !self.must_be_replaced(&probe, now) {
            true => ProbeState::query(probe, now),
            false => ProbeState::Idle(probe),
        }
    }

    /// Reports why no probe is needed: all GPUs are suspended, there is none, or `gpu.source` is `none`.
    pub(super) fn report_idle(&mut self, now: Instant) {
        if self.pci.all_suspended() {
            let gpus = self.inventory.merge(Vec::new(), 0, &self.pci.expected());
            self.driver.message = None;
            self.report(DriverState::Suspended, gpus, now, Duration::ZERO);
        } else {
            self.inventory.clear();
            self.driver = NvidiaDriver { state: self.driver.state, ..NvidiaDriver::default() };
            self.report(DriverState::NoGpu, Vec::new(), now, Duration::ZERO);
        }
    }

    /// Handles a complete reply without failure to the request sent at `since`.
    fn on_result(&mut self, reply: ProbeReply, since: Instant, now: Instant) {
        (self.good_replies, self.failed_starts) = (self.good_replies.saturating_add(1), 0);
        if self.good_replies >= STABLE_AFTER_REPLIES {
            self.restart_backoff.reset();
            self.extras.on_stable();
        }
        let mut gpus = self.inventory.merge(reply.gpus, reply.denied, &self.pci.expected());
        self.processes.describe(&mut gpus, now);
        match gpus.iter().any(|gpu| gpu.problem == Some(Problem::Hung) || has_hung_call(gpu)) {
            true => self.gpu_hung_since = self.gpu_hung_since.or(Some(now)),
            false => self.gpu_hung_since = None,
        }
        self.driver.message = None;
        self.driver.driver_version = reply.driver_version;
        self.driver.cuda_version = reply.cuda_version;
        self.report(DriverState::Ok, gpus, since, now - since);
    }

    /// Reports that the driver as a whole does not work.
    pub(super) fn on_failure(&mut self, state: DriverState, message: String, now: Instant) {
        if state == DriverState::NoDriver && self.is_wsl_without_nvidia() {
            return self.report(DriverState::NoGpu, Vec::new(), now, Duration::ZERO);
        }
        let problem = if state == DriverState::Hung { Problem::Hung } else { Problem::Failed };
        let gpus = self.inventory.failed(problem, &message, &self.pci.expected());
        self.driver = NvidiaDriver {
            state: self.driver.state,
            message: Some(message),
            ..NvidiaDriver::default()
        };
        self.report(state, gpus, now, Duration::ZERO);
    }

    /// Whether the probe was started only because WSL has a GPU device, which may belong to a GPU of another vendor.
    fn is_wsl_without_nvidia(&self) -> bool {
        let is_configured = self.gpu.source != GpuSource::Auto || self.gpu.nvml_library.is_some();
        !is_configured && self.pci.gpus.is_empty() && !Path::new(NVIDIA_DEVICE).exists()
    }

    fn report(&mut self, state: DriverState, mut gpus: Vec<Gpu>, at: Instant, duration: Duration) {
        self.events.update(&mut gpus, at);
        let previous = std::mem::replace(&mut self.driver.state, state);
        if previous != state {
            log_state(&self.driver, gpus.len());
        }
        let is_enabled = self.gpu.source != GpuSource::Nothing;
        let driver = is_enabled.then(|| self.driver.clone());
        let count = gpus.len().max(self.pci.managed.len());
        self.state.set_nvidia(driver, gpus, count, at, duration);
        self.state.set_has_result();
    }
}

/// Whether calls for values that the agent can do without have not returned.
fn has_hung_call(gpu: &Gpu) -> bool {
    gpu.values.slow_calls.iter().flatten().any(|call| call.interval_seconds.is_none())
}
