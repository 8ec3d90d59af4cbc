//! Reads optional values: profiling metrics (GPM), and states that change rarely.
//!
//! One thread makes these calls for all GPUs, and not the threads of the GPUs, so that a call that hangs affects only these
//! values. Concurrent GPM calls crashed in the driver's library.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use gpu_probe::nvidia::{Profiling, SlowCall};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::health::{Health, HealthReader};
use crate::profiler::Profiler;
use crate::worker::Target;

/// How often a GPU that could not be opened is opened again.
const REOPEN_DELAY: Duration = Duration::from_secs(60);

/// A GPU that replied in this round.
pub struct ExtrasRequest {
    pub slot: usize,
    pub target: Target,
    /// GPU instances; `None` if the GPU is not in MIG mode.
    pub instances: Option<Vec<u32>>,
    pub utilization_percent: Option<u32>,
}

pub enum ExtrasMsg {
    /// The GPUs of a round.
    Round(Vec<ExtrasRequest>),
    /// Frees what is held in the driver and confirms it.
    Stop(Sender<()>),
}

/// Values of a GPU.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    pub slot: usize,
    pub health: Option<Health>,
    pub profiling: Option<Profiling>,
    /// By GPU instance.
    pub instances: Vec<(u32, Profiling)>,
    pub slow_calls: Vec<SlowCall>,
}

/// Thread function: `reply` is called once for each round.
pub fn run(
    nvml: &'static Nvml,
    requests: &Receiver<ExtrasMsg>,
    reply: impl Fn(Vec<Extras>) -> bool,
) {
    let mut gpus: BTreeMap<usize, GpuExtras> = BTreeMap::new();
    for request in requests {
        match request {
            ExtrasMsg::Round(round) => {
                // A GPU that skipped a round starts anew: its last GPM sample would span two intervals.
                gpus.retain(|slot, _| round.iter().any(|request| request.slot == *slot));
                let extras = round.iter().map(|request| {
                    let gpu = gpus.entry(request.slot).or_insert_with(GpuExtras::new);
                    gpu.read(nvml, request)
                });
                if !reply(extras.collect()) {
                    return;
                }
            }
            ExtrasMsg::Stop(stopped) => {
                gpus.clear();
                // The receiver may have stopped waiting.
                let _ = stopped.send(());
                return;
            }
        }
    }
}

struct GpuExtras {
    /// A handle of this thread's own; `Err`: when it could not be opened last.
    device: Option<Result<Device<'static>, Instant>>,
    health: HealthReader,
    profiler: Profiler,
}

impl GpuExtras {
    fn new() -> Self {
        Self { device: None, health: HealthReader::new(), profiler: Profiler::new() }
    }

    fn read(&mut self, nvml: &'static Nvml, request: &ExtrasRequest) -> Extras {
        if let Some(Err(failed)) = self.device
            && failed.elapsed() >= REOPEN_DELAY
        {
            self.device = None;
        }
        let device = self
            .device
            .get_or_insert_with(|| open(nvml, &request.target).map_err(|_| Instant::now()));
        let Ok(device) = device else {
            return Extras { slot: request.slot, ..Extras::default() };
        };
        let health = Some(self.health.read(device));
        let metrics = self.profiler.read(device, request);
        let instances =
            metrics.iter().filter_map(|(scope, found)| Some(((*scope)?, found.clone())));
        Extras {
            slot: request.slot,
            health,
            profiling: metrics.get(&None).cloned(),
            instances: instances.collect(),
            slow_calls: self.health.slow_calls().chain(self.profiler.slow_call()).collect(),
        }
    }
}

fn open(nvml: &'static Nvml, target: &Target) -> Result<Device<'static>, NvmlError> {
    match target {
        Target::Index(index) => nvml.device_by_index(*index),
        Target::Address(address) => nvml.device_by_pci_bus_id(address.as_str()),
    }
}
