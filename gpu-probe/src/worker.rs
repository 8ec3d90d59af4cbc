//! Worker thread of a GPU. A driver call that hangs for one GPU blocks only the thread of this GPU.

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use gpu_probe::gpu::{Gpu, Problem, Values};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml};

use crate::fields::FieldReader;
use crate::measure::{self, Query};
use crate::nvml;

/// XIDs read per round. A failing GPU can report them faster than they are read.
const MAX_XIDS_PER_ROUND: usize = 64;

/// Delay before a GPU that the driver cannot open is opened again. With each attempt the driver tries to initialize the
/// GPU and logs the failure in the kernel log.
const REOPEN_DELAY: Duration = Duration::from_secs(60);

const LOST: &str = "fell off the bus or is unreachable";

/// Which GPU to query.
#[derive(Debug, Clone)]
pub enum Target {
    /// NVML index.
    Index(u32),
    /// PCI address.
    Address(String),
}

/// Message from a worker to the main thread.
pub struct WorkerMsg {
    /// Which worker.
    pub slot: usize,
    pub reply: WorkerReply,
}

pub enum WorkerReply {
    /// XIDs reported since the last round. Sent before the GPU is queried, because those calls may hang after an error.
    Xids(Vec<u64>),
    /// The round and the GPU; `None` if access is denied.
    Gpu(u64, Option<Box<Gpu>>),
}

/// Thread function: sends one reply for each round.
pub fn run(
    nvml: &'static Nvml,
    slot: usize,
    target: &Target,
    rounds: &Receiver<u64>,
    messages: &Sender<WorkerMsg>,
) {
    let mut state = State::New;
    for round in rounds {
        if let State::New = state {
            state = open(nvml, target);
        }
        let gpu = match &mut state {
            State::New => Some(Box::new(unidentified(target))),
            State::Opened(opened) => {
                let xids = opened.events.as_ref().map(read_xids).unwrap_or_default();
                if !xids.is_empty() {
                    let reply = WorkerReply::Xids(xids);
                    if messages.send(WorkerMsg { slot, reply }).is_err() {
                        return;
                    }
                }
                Some(Box::new(measure_gpu(opened)))
            }
            State::Failed(gpu, since) => {
                let gpu = gpu.clone();
                if since.elapsed() >= REOPEN_DELAY {
                    state = State::New;
                }
                gpu
            }
        };
        let reply = WorkerReply::Gpu(round, gpu);
        if messages.send(WorkerMsg { slot, reply }).is_err() {
            return;
        }
    }
}

enum State {
    New,
    Opened(Box<OpenedGpu>),
    /// What to report for a GPU that could not be opened, and when that was.
    Failed(Option<Box<Gpu>>, Instant),
}

fn open(nvml: &'static Nvml, target: &Target) -> State {
    match OpenedGpu::open(nvml, target) {
        Ok(opened) => State::Opened(Box::new(opened)),
        Err(NvmlError::NoPermission) => State::Failed(None, Instant::now()),
        Err(error) => State::Failed(Some(Box::new(failed(target, &error))), Instant::now()),
    }
}

struct OpenedGpu {
    device: Device<'static>,
    events: Option<EventSet<'static>>,
    identity: Gpu,
    fields: FieldReader,
}

impl OpenedGpu {
    fn open(nvml: &'static Nvml, target: &Target) -> Result<Self, NvmlError> {
        let device = match target {
            Target::Index(index) => nvml.device_by_index(*index),
            Target::Address(address) => nvml.device_by_pci_bus_id(address.as_str()),
        }?;
        let identity = Gpu {
            index: device.index()?,
            name: device.name()?,
            uuid: device.uuid().ok(),
            pci_address: nvml::pci_address(&device).ok(),
            ..Gpu::default()
        };
        let events = xid_events(nvml, &device);
        Ok(Self { device, events, identity, fields: FieldReader::new() })
    }
}

/// Subscribes to critical errors if the GPU can report them.
fn xid_events(nvml: &'static Nvml, device: &Device<'static>) -> Option<EventSet<'static>> {
    let wanted = EventTypes::CRITICAL_XID_ERROR;
    if !device.supported_event_types().ok()?.contains(wanted) {
        return None;
    }
    device.register_events(wanted, nvml.create_event_set().ok()?).ok()
}

fn measure_gpu(opened: &mut OpenedGpu) -> Gpu {
    let query = Query::default();
    let mut values = measure::values(&opened.device, &query);
    // Kept values must not hide that the GPU returns nothing but errors.
    if values != Values::default() {
        opened.fields.add(&opened.device, &query, &mut values);
        values.slow_calls = opened.fields.slow_call().map(|slow| vec![slow]);
    }
    let mut gpu = Gpu { values, ..opened.identity.clone() };
    if query.is_lost() {
        opened.fields = FieldReader::new();
        gpu.values = Values::default();
        gpu.problem = Some(Problem::Lost);
        gpu.message = Some(LOST.to_owned());
    } else if let Some(error) = query.error()
        && gpu.values == Values::default()
    {
        gpu.problem = Some(Problem::Failed);
        gpu.message = Some(error.to_string());
    }
    gpu
}

fn read_xids(events: &EventSet<'_>) -> Vec<u64> {
    let next = || nvml::next_xid(events).ok().flatten();
    std::iter::from_fn(next).take(MAX_XIDS_PER_ROUND).collect()
}

/// A GPU that could not be opened.
fn failed(target: &Target, error: &NvmlError) -> Gpu {
    let (problem, message) = match error {
        NvmlError::GpuLost => (Problem::Lost, LOST.to_owned()),
        NvmlError::NotFound => (Problem::Lost, "not listed by the driver".to_owned()),
        error => (Problem::Failed, error.to_string()),
    };
    Gpu { problem: Some(problem), message: Some(message), ..unidentified(target) }
}

/// A GPU of which only the index or the address is known.
pub fn unidentified(target: &Target) -> Gpu {
    match target {
        Target::Index(index) => Gpu { index: *index, ..Gpu::default() },
        Target::Address(address) => Gpu { pci_address: Some(address.clone()), ..Gpu::default() },
    }
}
