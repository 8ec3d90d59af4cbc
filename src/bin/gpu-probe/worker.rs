//! One GPU's thread. A driver call that hangs for one GPU hangs that thread alone; the others go on.

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use hm_agent::model::gpu::{Gpu, Problem, Values};
use hm_agent::sys::nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::{Device, Nvml};

use crate::measure::{self, Asking};

/// XIDs taken in one go; a GPU in trouble can report them faster than anybody reads.
const XIDS_AT_ONCE: usize = 64;

/// A GPU that the driver refuses is asked for again so much later: each time it tries to start it, and
/// writes into the kernel's log that it cannot.
const ASK_AGAIN: Duration = Duration::from_secs(60);

const LOST: &str = "it fell off the bus, or cannot be reached for another reason";

/// Which GPU to ask about.
#[derive(Debug, Clone)]
pub enum Target {
    /// The one at this place in NVML's list.
    Index(u32),
    /// The one at this PCI address.
    Address(String),
}

/// What a worker says.
pub struct Word {
    /// Which worker.
    pub slot: usize,
    /// What.
    pub said: Said,
}

/// See [`Word`].
pub enum Said {
    /// Codes of errors that were reported since it was asked last. Said at once: what it is asked for next
    /// may hang, just because of them.
    Xids(Vec<u64>),
    /// What came of a round: the GPU; `None`: it is not for us to see.
    Answer(u64, Option<Box<Gpu>>),
}

/// The thread's life: one answer for each round.
pub fn work(
    nvml: &'static Nvml,
    slot: usize,
    target: &Target,
    rounds: &Receiver<u64>,
    words: &Sender<Word>,
) {
    let mut state = State::New;
    for round in rounds {
        if let State::New = state {
            state = find(nvml, target);
        }
        let gpu = match &state {
            State::New => Some(unknown(target)),
            State::Found(known) => {
                let xids = known.events.as_ref().map(xids).unwrap_or_default();
                if !xids.is_empty() && words.send(Word { slot, said: Said::Xids(xids) }).is_err() {
                    return;
                }
                Some(look(known))
            }
            State::Refused(gpu, since) => {
                let gpu = gpu.clone();
                if since.elapsed() >= ASK_AGAIN {
                    state = State::New;
                }
                gpu
            }
        };
        if words.send(Word { slot, said: Said::Answer(round, gpu.map(Box::new)) }).is_err() {
            return;
        }
    }
}

enum State {
    New,
    Found(Known),
    /// What the driver's refusal comes to, and since when.
    Refused(Option<Gpu>, Instant),
}

fn find(nvml: &'static Nvml, target: &Target) -> State {
    match Known::find(nvml, target) {
        Ok(known) => State::Found(known),
        Err(NvmlError::NoPermission) => State::Refused(None, Instant::now()),
        Err(error) => State::Refused(Some(refused(target, &error)), Instant::now()),
    }
}

/// A GPU that was found, with what does not change about it.
struct Known {
    device: Device<'static>,
    events: Option<EventSet<'static>>,
    identity: Gpu,
}

impl Known {
    fn find(nvml: &'static Nvml, target: &Target) -> Result<Self, NvmlError> {
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
        Ok(Self { device, events, identity })
    }
}

/// Watches for critical errors, where the GPU can report them.
fn xid_events(nvml: &'static Nvml, device: &Device<'static>) -> Option<EventSet<'static>> {
    let wanted = EventTypes::CRITICAL_XID_ERROR;
    if !device.supported_event_types().ok()?.contains(wanted) {
        return None;
    }
    device.register_events(wanted, nvml.create_event_set().ok()?).ok()
}

fn look(known: &Known) -> Gpu {
    let asking = Asking::default();
    let values = measure::values(&known.device, &asking);
    let mut gpu = Gpu { values, ..known.identity.clone() };
    if asking.is_lost() {
        gpu.values = Values::default();
        gpu.problem = Some(Problem::Lost);
        gpu.message = Some(LOST.to_owned());
    } else if let Some(error) = asking.refusal()
        && gpu.values == Values::default()
    {
        gpu.problem = Some(Problem::Failed);
        gpu.message = Some(error.to_string());
    }
    gpu
}

fn xids(events: &EventSet<'_>) -> Vec<u64> {
    let next = || nvml::next_xid(events).ok().flatten();
    std::iter::from_fn(next).take(XIDS_AT_ONCE).collect()
}

/// A GPU of which nothing but its place is known.
fn refused(target: &Target, error: &NvmlError) -> Gpu {
    let (problem, message) = match error {
        NvmlError::GpuLost => (Problem::Lost, LOST.to_owned()),
        NvmlError::NotFound => (Problem::Lost, "the driver does not list it".to_owned()),
        error => (Problem::Failed, error.to_string()),
    };
    Gpu { problem: Some(problem), message: Some(message), ..unknown(target) }
}

/// A GPU of which nothing but its place is known yet.
pub fn unknown(target: &Target) -> Gpu {
    match target {
        Target::Index(index) => Gpu { index: *index, ..Gpu::default() },
        Target::Address(address) => Gpu { pci_address: Some(address.clone()), ..Gpu::default() },
    }
}
