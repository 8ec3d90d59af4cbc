//! Supervisor of the GPU probe: starts it, requests values, kills it when the driver hangs, restarts it and reports the
//! state of the GPUs. It also reads AMD and Intel GPUs, which need no probe.
//!
//! Runs in its own thread, so that a slow driver does not delay the sampler. The probe's parent-death signal is bound to
//! this thread: the kernel kills the probe when the thread ends.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::collector::gpu::RESCAN_INTERVAL;
use crate::collector::gpu::drm::DrmCollector;
use crate::collector::gpu::nvidia::event_window::EventWindow;
use crate::collector::gpu::nvidia::extras_policy::ExtrasPolicy;
use crate::collector::gpu::nvidia::inventory::GpuInventory;
use crate::collector::gpu::nvidia::pci_scan::PciScan;
use crate::collector::gpu::nvidia::probe_process::ProbeProcess;
use crate::collector::gpu::nvidia::probe_reply::STABLE_AFTER_REPLIES;
use crate::collector::gpu::nvidia::probe_state::{ProbeState, StopReason};
use crate::collector::gpu::processes::ProcessDirectory;
use crate::collector::gpu::state::GpuState;
use crate::config::{CurrentConfig, GpuConfig, GpuSource, Roots};
use crate::model::gpu::{DriverState, NvidiaDriver};
use crate::sys;
use crate::util::backoff::Backoff;
use crate::util::sync::Shutdown;

/// Device files of the driver on Linux and of GPUs in WSL.
pub(super) const NVIDIA_DEVICE: &str = "/dev/nvidiactl";
const WSL_DEVICE: &str = "/dev/dxg";

/// Delay before a failed probe is restarted. It doubles with each failure.
const MIN_RESTART_DELAY: Duration = Duration::from_secs(1);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(30);
/// Upper limit of the timeout for a probe's first reply. Initializing eight GPUs one after the other takes 20 s.
const MAX_START_TIMEOUT: Duration = Duration::from_secs(60);
/// If a killed probe still exists after this time, it is blocked in a driver call.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// A probe in which a single GPU hangs is restarted after this time. That may help, and costs the other GPUs one sample.
const HUNG_GPU_RESTART_AFTER: Duration = Duration::from_secs(600);
/// How long a killed probe is waited for at shutdown: a fraction of the agent's own shutdown timeout of 1.8 s.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(450);

pub(crate) struct ProbeSupervisor<'a> {
    pub(super) state: &'a GpuState,
    config: &'a CurrentConfig,
    pub(super) roots: Roots,
    /// The probe's executable in zlib format.
    program: &'static [u8],
    /// The settings `gpu.*` in force.
    pub(super) gpu: GpuConfig,
    pub(super) probe: ProbeState,
    pub(super) restart_backoff: Backoff,
    pub(super) pci: PciScan,
    pub(super) inventory: GpuInventory,
    drm: DrmCollector,
    has_drm_gpus: bool,
    pub(super) processes: ProcessDirectory,
    pub(super) events: EventWindow,
    pub(super) driver: NvidiaDriver,
    /// Since when a GPU hangs while others reply.
    pub(super) gpu_hung_since: Option<Instant>,
    /// Complete replies of this probe.
    pub(super) good_replies: u32,
    /// Number of consecutive probes that were killed before their first reply.
    pub(super) failed_starts: u32,
    pub(super) extras: ExtrasPolicy,
    /// A poll was requested while the previous request was outstanding.
    pub(super) poll_pending: bool,
}

impl<'a> ProbeSupervisor<'a> {
    pub(crate) fn new(
        state: &'a GpuState,
        config: &'a CurrentConfig,
        program: &'static [u8],
    ) -> Self {
        let at_start = config.get();
        Self {
            state,
            config,
            roots: at_start.roots.clone(),
            program,
            gpu: at_start.gpu.clone(),
            probe: ProbeState::Disabled,
            restart_backoff: Backoff::new(MIN_RESTART_DELAY, MAX_RESTART_DELAY),
            pci: PciScan::default(),
            inventory: GpuInventory::default(),
            drm: DrmCollector::new(&at_start.roots),
            has_drm_gpus: false,
            processes: ProcessDirectory::new(&at_start.roots),
            events: EventWindow::default(),
            driver: NvidiaDriver::default(),
            gpu_hung_since: None,
            good_replies: 0,
            failed_starts: 0,
            extras: ExtrasPolicy::default(),
            poll_pending: false,
        }
    }

    /// Runs until shutdown. On return the probe is reaped, unless it cannot be killed.
    pub(crate) fn run(mut self, shutdown: &Shutdown) {
        self.update_gpus(Instant::now());
        while !shutdown.is_triggered() {
            self.advance(Instant::now());
            let (poll_requested, has_output) = self.wait(shutdown);
            if poll_requested {
                self.state.poll_requested().reset();
                self.apply_settings();
                self.update_gpus(Instant::now());
                self.poll(Instant::now());
            }
            if has_output {
                self.on_probe_output(Instant::now());
            }
        }
        self.stop();
    }

    /// Waits for a poll request, output of the probe or the next timeout. Returns which of the first two occurred.
    fn wait(&self, shutdown: &Shutdown) -> (bool, bool) {
        let now = Instant::now();
        let timeout = Some(self.next_timeout(now).saturating_duration_since(now));
        let (shutdown, poll) = (shutdown.as_fd(), self.state.poll_requested().as_fd());
        match &self.probe {
            ProbeState::Querying(probe, _) | ProbeState::Idle(probe) => {
                let [_, poll, output] =
                    sys::wait_readable([shutdown, poll, probe.as_fd()], timeout);
                (poll, output || probe.has_line())
            }
            _ => {
                let [_, poll] = sys::wait_readable([shutdown, poll], timeout);
                (poll, false)
            }
        }
    }

    fn next_timeout(&self, now: Instant) -> Instant {
        let rescan = self.pci.scanned_at.map_or(now, |at| at + RESCAN_INTERVAL);
        match &self.probe {
            ProbeState::Querying(probe, _) | ProbeState::Idle(probe) if probe.has_line() => now,
            ProbeState::Disabled | ProbeState::Idle(_) => rescan,
            ProbeState::Backoff(until) => *until,
            ProbeState::Querying(_, since) => *since + self.reply_timeout(),
            // Polls for the exit of the process, at first often, then less often.
            ProbeState::Stopping { since, .. } => {
                now + (now - *since).clamp(Duration::from_millis(2), Duration::from_secs(1))
            }
        }
    }

    /// Handles timeouts and starts or replaces the probe if necessary.
    fn advance(&mut self, now: Instant) {
        if self.pci.is_scan_due(now) {
            self.update_gpus(now);
        }
        let timeout = self.reply_timeout();
        self.probe = match self.take_probe() {
            ProbeState::Disabled if self.probe_needed() => self.start(now),
            ProbeState::Backoff(_) if !self.probe_needed() => ProbeState::Disabled,
            ProbeState::Backoff(until) if now >= until => self.start(now),
            // If this process was stopped meanwhile, the reply may have arrived in time.
            ProbeState::Querying(probe, since) if now >= since + timeout && !probe.has_output() => {
                self.on_reply_timeout(probe, timeout, now)
            }
            ProbeState::Idle(probe) if self.must_be_replaced(&probe, now) => {
                ProbeState::stop(probe, now, StopReason::Replaced)
            }
            stopping @ ProbeState::Stopping { .. } => self.check_exit(stopping, now),
            state => state,
        };
        if matches!(self.probe, ProbeState::Disabled) && !self.probe_needed() {
            self.report_idle(now);
        }
        self.state.set_poll_needed(self.poll_needed());
    }

    fn on_reply_timeout(
        &mut self,
        probe: ProbeProcess,
        timeout: Duration,
        now: Instant,
    ) -> ProbeState {
        let message = format!("no reply for {} s", timeout.as_secs());
        self.on_failure(DriverState::Hung, message, now);
        log::debug!("killing the GPU probe (PID {})", probe.pid());
        self.failed_starts += u32::from(self.good_replies == 0);
        ProbeState::stop(probe, now, StopReason::Failed)
    }

    /// Reaps a stopping probe. Reports one that SIGKILL does not end.
    fn check_exit(&mut self, state: ProbeState, now: Instant) -> ProbeState {
        let ProbeState::Stopping { mut process, since, reason, mut logged } = state else {
            return state;
        };
        if let Some(status) = process.try_wait() {
            return self.on_exit(reason, status, now);
        }
        if !logged && now - since >= KILL_TIMEOUT {
            let pid = process.pid();
            let message = format!("process {pid} is blocked in the driver and cannot be killed");
            log::warn!("GPU probe: {message}; waiting for it to exit before starting another one");
            self.on_failure(DriverState::Hung, message, now);
            logged = true;
        }
        ProbeState::Stopping { process, since, reason, logged }
    }

    /// Timeout of the outstanding request. The first reply may take longer, because the driver may have to initialize the
    /// GPUs: after each probe that was killed before its first reply, the next one gets twice the time.
    fn reply_timeout(&self) -> Duration {
        let timeout = self.config.get().gpu.timeout;
        if self.good_replies > 0 {
            return timeout;
        }
        let doubled = timeout * 2u32.pow(self.failed_starts.min(6));
        doubled.min(MAX_START_TIMEOUT.max(timeout))
    }

    /// Whether the sampler should request polls.
    fn poll_needed(&self) -> bool {
        let is_enabled = self.gpu.source != GpuSource::Nothing;
        let has_nvidia = !matches!(self.probe, ProbeState::Disabled) || self.pci.all_suspended();
        is_enabled && has_nvidia || self.is_drm_enabled() && self.has_drm_gpus
    }

    fn is_drm_enabled(&self) -> bool {
        self.gpu.source == GpuSource::Auto
    }

    /// Whether there may be an NVIDIA GPU that is not suspended.
    fn probe_needed(&self) -> bool {
        match self.gpu.source {
            GpuSource::Nothing => false,
            _ if self.pci.all_suspended() => false,
            GpuSource::Nvml => true,
            GpuSource::Auto => {
                self.gpu.nvml_library.is_some()
                    || !self.pci.gpus.is_empty()
                    || [NVIDIA_DEVICE, WSL_DEVICE].iter().any(|device| Path::new(device).exists())
            }
        }
    }

    /// Whether the probe should be stopped and, if still needed, started again. A probe that could not be killed is kept:
    /// it would block the start of another one, and may still reply for the other GPUs.
    pub(super) fn must_be_replaced(&self, probe: &ProbeProcess, now: Instant) -> bool {
        let gpu_hangs =
            self.gpu_hung_since.is_some_and(|since| now >= since + HUNG_GPU_RESTART_AFTER);
        let is_outdated = self.pci.has_changed() || gpu_hangs || self.extras.is_retry_due(now);
        !self.probe_needed() || is_outdated && !probe.is_uninterruptible()
    }

    fn start(&mut self, now: Instant) -> ProbeState {
        let config = self.config.get();
        self.pci.at_probe_start = self.pci.managed.clone();
        (self.gpu_hung_since, self.good_replies, self.poll_pending) = (None, 0, false);
        let started = match self.program {
            [] => {
                Err("this agent was built without the probe; see docs/installation.md".to_owned())
            }
            program => {
                let arguments = self.probe_arguments(now);
                ProbeProcess::start(program, &arguments, &config.state_dir)
            }
        };
        match started {
            Ok(probe) => {
                log::debug!("GPU probe started (PID {})", probe.pid());
                ProbeState::query(probe, now)
            }
            Err(why) => {
                let message = format!("cannot run the GPU probe: {why}");
                self.on_failure(DriverState::Unavailable, message, now);
                self.back_off(now)
            }
        }
    }

    fn probe_arguments(&mut self, now: Instant) -> Vec<OsString> {
        let timeout = self.config.get().gpu.timeout.as_millis().to_string();
        let mut arguments: Vec<OsString> = vec!["--timeout".into(), timeout.into()];
        if self.extras.on_start(now) {
            arguments.push("--without-extras".into());
        }
        if let Some(library) = &self.gpu.nvml_library {
            arguments.extend(["--library".into(), library.into()]);
        }
        if self.pci.managed.iter().any(|(_, suspended)| *suspended) {
            let awake = self.pci.managed.iter().filter(|(_, suspended)| !suspended);
            arguments
                .extend(awake.flat_map(|(gpu, _)| ["--only".into(), gpu.address.clone().into()]));
        }
        arguments
    }

    fn back_off(&mut self, now: Instant) -> ProbeState {
        ProbeState::Backoff(now + self.restart_backoff.next_full_delay())
    }

    fn on_exit(&mut self, reason: StopReason, status: ExitStatus, now: Instant) -> ProbeState {
        match reason {
            StopReason::Replaced => return ProbeState::Backoff(now),
            StopReason::Failed => log::debug!("GPU probe exited: {status}"),
            StopReason::Crashed => {
                // A crash of the driver's library ends the probe with another signal.
                let cause = match status.signal() {
                    Some(libc::SIGKILL) => {
                        "the GPU probe was killed, perhaps by the kernel's OOM killer"
                    }
                    _ => {
                        if self.good_replies < STABLE_AFTER_REPLIES {
                            self.extras.on_early_crash();
                        }
                        "the GPU probe crashed in the driver's library"
                    }
                };
                self.on_failure(DriverState::Crashed, format!("{cause}: {status}"), now);
            }
        }
        self.back_off(now)
    }

    /// Stops the probe if the GPU settings changed.
    fn apply_settings(&mut self) {
        let new = self.config.get().gpu.clone();
        let is_unchanged = new.source == self.gpu.source
            && new.nvml_library == self.gpu.nvml_library
            && new.timeout == self.gpu.timeout;
        self.gpu = new;
        if is_unchanged {
            return;
        }
        let now = Instant::now();
        self.restart_backoff.reset();
        (self.failed_starts, self.extras) = (0, ExtrasPolicy::default());
        // The last scan is outdated: while collection is disabled the bus is not scanned.
        self.pci = PciScan::default();
        if !self.is_drm_enabled() {
            self.state.set_drm(Vec::new(), now);
        }
        self.probe = match self.take_probe() {
            ProbeState::Querying(probe, _) | ProbeState::Idle(probe) => {
                ProbeState::stop(probe, now, StopReason::Replaced)
            }
            ProbeState::Backoff(_) => ProbeState::Disabled,
            state => state,
        };
    }

    /// Updates the NVIDIA GPUs on the bus and reads the others.
    fn update_gpus(&mut self, now: Instant) {
        if self.gpu.source == GpuSource::Nothing {
            self.pci = PciScan::default();
            self.pci.scanned_at = Some(now);
            return;
        }
        self.pci.update(&self.roots, now);
        if self.is_drm_enabled() {
            let mut gpus = self.drm.read();
            self.processes.describe(&mut gpus, now);
            self.has_drm_gpus = !gpus.is_empty();
            self.state.set_drm(gpus, now);
        }
    }

    fn poll(&mut self, now: Instant) {
        self.probe = match self.take_probe() {
            ProbeState::Idle(probe) if !self.must_be_replaced(&probe, now) => {
                ProbeState::query(probe, now)
            }
            ProbeState::Querying(probe, since) => {
                self.poll_pending = true;
                ProbeState::Querying(probe, since)
            }
            state => state,
        };
    }

    /// Kills the probe and waits shortly for its exit.
    fn stop(self) {
        let mut process = match self.probe {
            ProbeState::Querying(probe, _) | ProbeState::Idle(probe) => probe.kill(),
            ProbeState::Stopping { process, .. } => process,
            ProbeState::Disabled | ProbeState::Backoff(_) => return,
        };
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while process.try_wait().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn take_probe(&mut self) -> ProbeState {
        std::mem::replace(&mut self.probe, ProbeState::Disabled)
    }
}
