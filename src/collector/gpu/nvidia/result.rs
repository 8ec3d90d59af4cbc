//! What an answer of the probe comes to, or that there is none: the board is told, and the log when the state
//! has changed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::collector::gpu::nvidia::messages::say;
use crate::collector::gpu::nvidia::protocol::Line;
use crate::collector::gpu::nvidia::{NVIDIA_DEVICE, ProbeSupervisor};
use crate::config::{GpuSource, Roots};
use crate::limits;
use crate::model::gpu::{DriverState, Gpu, NvidiaDriver, Problem};

impl ProbeSupervisor<'_> {
    /// No probe is wanted: because of what there is.
    pub(super) fn say_why_off(&mut self, now: Instant) {
        if self.bus.all_asleep() {
            let gpus = self.roster.complete(Vec::new(), 0, &self.bus.expected());
            self.nvidia.message = None;
            self.report(DriverState::Suspended, gpus, now, Duration::ZERO);
        } else {
            self.roster.forget();
            self.nvidia = NvidiaDriver { state: self.nvidia.state, ..NvidiaDriver::default() };
            self.report(DriverState::NoGpu, Vec::new(), now, Duration::ZERO);
        }
    }

    /// A good answer.
    pub(super) fn take(&mut self, line: Line, since: Instant, now: Instant) {
        (self.answers, self.stillborn) = (self.answers.saturating_add(1), 0);
        if self.answers >= limits::GOOD_ANSWERS {
            self.rest = limits::PROBE_REST.0;
        }
        let mut gpus = self.roster.complete(line.gpus, line.denied, &self.bus.expected());
        for process in gpus.iter_mut().flat_map(|gpu| gpu.values.processes.iter_mut().flatten()) {
            process.name = command_name(&self.roots, process.pid);
        }
        match gpus.iter().any(|gpu| gpu.problem == Some(Problem::Hung)) {
            true => self.one_hangs = self.one_hangs.or(Some(now)),
            false => self.one_hangs = None,
        }
        self.nvidia.message = None;
        self.nvidia.driver_version = line.driver_version;
        self.nvidia.cuda_version = line.cuda_version;
        self.report(DriverState::Ok, gpus, since, now - since);
    }

    /// The driver as a whole is of no use now.
    pub(super) fn fail(&mut self, state: DriverState, message: String, now: Instant) {
        if state == DriverState::NoDriver && self.is_only_windows() {
            // Windows shows its Linux a GPU, and it is not NVIDIA's.
            return self.report(DriverState::NoGpu, Vec::new(), now, Duration::ZERO);
        }
        let problem = if state == DriverState::Hung { Problem::Hung } else { Problem::Failed };
        let gpus = self.roster.failed(problem, &message, &self.bus.expected());
        self.nvidia = NvidiaDriver {
            state: self.nvidia.state,
            message: Some(message),
            ..NvidiaDriver::default()
        };
        self.report(state, gpus, now, Duration::ZERO);
    }

    fn is_only_windows(&self) -> bool {
        let asked_for = self.gpu.source != GpuSource::Auto || self.gpu.nvml_library.is_some();
        !asked_for && self.bus.gpus.is_empty() && !Path::new(NVIDIA_DEVICE).exists()
    }

    fn report(&mut self, state: DriverState, gpus: Vec<Gpu>, at: Instant, took: Duration) {
        let before = std::mem::replace(&mut self.nvidia.state, state);
        if before != state {
            say(&self.nvidia, gpus.len());
        }
        let looked = self.gpu.source != GpuSource::Nothing;
        let nvidia = looked.then(|| self.nvidia.clone());
        let places = gpus.len().max(self.bus.ours.len());
        self.board.put_nvidia(nvidia, gpus, places, at, took);
        self.board.set_known();
    }
}

/// A process' name, which the kernel keeps at most 15 letters long.
fn command_name(roots: &Roots, pid: u32) -> Option<String> {
    let mut name = Vec::new();
    let file = File::open(roots.proc.join(pid.to_string()).join("comm")).ok()?;
    file.take(64).read_to_end(&mut name).ok()?;
    let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
    (!name.is_empty()).then_some(name)
}
