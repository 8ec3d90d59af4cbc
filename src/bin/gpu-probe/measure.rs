//! What one GPU measures: every value that its driver offers, each asked for on its own.

use std::cell::RefCell;

use hm_agent::model::gpu::{
    CLOCK_EVENT_REASONS, Ecc, GpuProcess, MigInstance, NvLink, ProcessKind, RemappedRows, Values,
};
use hm_agent::sys::nvml;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PerformanceState, TemperatureSensor,
};
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;
use nvml_wrapper::enums::device::{SampleValue, UsedGpuMemory};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::structs::device::FieldId;

/// NVML_NVLINK_MAX_LINKS.
const MAX_LINKS: u32 = 18;

/// Asks the driver, and remembers how it refused. What is not supported is absent; once the GPU is lost
/// nothing more is asked.
#[derive(Default)]
pub struct Asking {
    refusal: RefCell<Option<NvmlError>>,
}

impl Asking {
    /// The answer, if there is one.
    pub fn ask<T>(&self, question: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        if self.is_lost() {
            return None;
        }
        match question() {
            Ok(answer) => Some(answer),
            Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => None,
            Err(error) => {
                let mut refusal = self.refusal.borrow_mut();
                if refusal.is_none() || matches!(error, NvmlError::GpuLost) {
                    *refusal = Some(error);
                }
                None
            }
        }
    }

    /// The driver says that the GPU is gone.
    pub fn is_lost(&self) -> bool {
        matches!(*self.refusal.borrow(), Some(NvmlError::GpuLost))
    }

    /// The first refusal that was not for want of support, or that the GPU is lost.
    pub fn refusal(self) -> Option<NvmlError> {
        self.refusal.into_inner()
    }
}

/// Everything.
pub fn values(device: &Device<'_>, asking: &Asking) -> Values {
    let mut values = Values::default();
    memory(device, asking, &mut values);
    use_of(device, asking, &mut values);
    power_and_clocks(device, asking, &mut values);
    fields(device, asking, &mut values);
    values.ecc = ecc(device, asking);
    values.pcie_generation = asking.ask(|| device.current_pcie_link_gen());
    values.pcie_width = asking.ask(|| device.current_pcie_link_width());
    values.pcie_replays = asking.ask(|| device.pcie_replay_counter()).map(u64::from);
    links(device, asking, &mut values);
    values.mig_enabled = asking.ask(|| device.mig_mode()).map(|mode| mode.current == 1);
    let mut instances = Vec::new();
    if values.mig_enabled == Some(true) {
        instances = mig_devices(device, asking);
        values.mig_instances = Some(instances.iter().map(|each| instance(each, asking)).collect());
    }
    values.processes = processes(device, &instances, asking);
    values
}

fn memory(device: &Device<'_>, asking: &Asking, values: &mut Values) {
    if let Some(memory) = asking.ask(|| device.memory_info()) {
        values.memory_total_bytes = Some(memory.total);
        values.memory_used_bytes = Some(memory.used);
        values.memory_free_bytes = Some(memory.free);
        values.memory_reserved_bytes = Some(memory.reserved);
    } else if let Some((total, used, free)) = asking.ask(|| nvml::memory_v1(device)) {
        values.memory_total_bytes = Some(total);
        values.memory_used_bytes = Some(used);
        values.memory_free_bytes = Some(free);
    }
}

fn use_of(device: &Device<'_>, asking: &Asking, values: &mut Values) {
    if let Some(rates) = asking.ask(|| device.utilization_rates()) {
        values.utilization_percent = Some(rates.gpu);
        values.memory_utilization_percent = Some(rates.memory);
    }
    let coder = |rate: nvml_wrapper::structs::device::UtilizationInfo| rate.utilization;
    values.encoder_utilization_percent = asking.ask(|| device.encoder_utilization()).map(coder);
    values.decoder_utilization_percent = asking.ask(|| device.decoder_utilization()).map(coder);
}

fn power_and_clocks(device: &Device<'_>, asking: &Asking, values: &mut Values) {
    let thousandths = |value: u32| f64::from(value) / 1000.0;
    let sensor = TemperatureSensor::Gpu;
    values.temperature_celsius =
        asking.ask(|| device.temperature(sensor)).and_then(|celsius| i32::try_from(celsius).ok());
    values.power_watts = asking.ask(|| device.power_usage()).map(thousandths);
    values.power_limit_watts = asking
        .ask(|| device.enforced_power_limit().or_else(|_| device.power_management_limit()))
        .map(thousandths);
    values.energy_joules =
        asking.ask(|| device.total_energy_consumption()).map(|mj| mj as f64 / 1000.0);
    values.sm_clock_mhz = asking.ask(|| device.clock_info(Clock::SM));
    values.memory_clock_mhz = asking.ask(|| device.clock_info(Clock::Memory));
    values.fan_percent = asking.ask(|| fan_percent(device));
    values.performance_state =
        asking.ask(|| device.performance_state()).and_then(|state| match state {
            PerformanceState::Unknown => None,
            state => Some(state.as_c()),
        });
    values.clock_event_reasons = asking.ask(|| nvml::clock_event_reasons(device)).map(reasons);
}

/// The fastest fan, so that one that stands still does not hide another one that races.
fn fan_percent(device: &Device<'_>) -> Result<u32, NvmlError> {
    match device.num_fans() {
        Ok(0) => Err(NvmlError::NotSupported),
        Ok(fans) => {
            let speeds: Result<Vec<u32>, _> = (0..fans).map(|fan| device.fan_speed(fan)).collect();
            Ok(speeds?.into_iter().max().unwrap_or_default())
        }
        Err(NvmlError::FailedToLoadSymbol(_)) => nvml::fan_speed_v1(device),
        Err(error) => Err(error),
    }
}

fn reasons(mask: u64) -> Vec<String> {
    let set = (0..u64::BITS).filter(|bit| mask & (1 << bit) != 0);
    set.map(|bit| match CLOCK_EVENT_REASONS.get(bit as usize) {
        Some(name) => (*name).to_owned(),
        None => format!("bit_{bit}"),
    })
    .collect()
}

/// Values that have no call of their own, by their NVML_FI_DEV_ numbers in nvml.h.
fn fields(device: &Device<'_>, asking: &Asking, values: &mut Values) {
    const MEMORY_TEMP: u32 = 82;
    const REMAPPED: [u32; 4] = [142, 143, 144, 145]; // corrected, uncorrected, pending, failure
    let ids = [&[MEMORY_TEMP][..], &REMAPPED].concat();
    let found = numbers(device, asking, &ids);
    // A GPU without the sensor says 0, or nothing.
    values.memory_temperature_celsius =
        found[0].and_then(|celsius| i32::try_from(celsius).ok()).filter(|celsius| *celsius != 0);
    if let [Some(correctable), Some(uncorrectable), Some(pending), Some(failed)] = found[1..] {
        values.remapped_rows = Some(RemappedRows {
            correctable: correctable as u32,
            uncorrectable: uncorrectable as u32,
            pending: pending != 0,
            failed: failed != 0,
        });
    }
}

/// Fields that are whole numbers, in the order asked for: newer drivers answer with other numbers than
/// those asked, so the place tells which is which.
fn numbers(device: &Device<'_>, asking: &Asking, ids: &[u32]) -> Vec<Option<u64>> {
    let ids: Vec<FieldId> = ids.iter().map(|id| FieldId(*id)).collect();
    let found = asking.ask(|| device.field_values_for(&ids)).unwrap_or_default();
    let number = |value: SampleValue| match value {
        SampleValue::U32(value) => Some(u64::from(value)),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    };
    let mut numbers: Vec<Option<u64>> =
        found.into_iter().map(|field| number(field.ok()?.value.ok()?)).collect();
    numbers.resize(ids.len(), None);
    numbers
}

fn ecc(device: &Device<'_>, asking: &Asking) -> Option<Ecc> {
    use {EccCounter::*, MemoryError::*};
    let count = |error, counter| asking.ask(|| device.total_ecc_errors(error, counter));
    let ecc = Ecc {
        volatile_corrected: count(Corrected, Volatile),
        volatile_uncorrected: count(Uncorrected, Volatile),
        aggregate_corrected: count(Corrected, Aggregate),
        aggregate_uncorrected: count(Uncorrected, Aggregate),
    };
    (ecc != Ecc::default()).then_some(ecc)
}

fn links(device: &Device<'_>, asking: &Asking, values: &mut Values) {
    // The first link that is refused is the first one there is not.
    let states: Vec<bool> =
        (0..MAX_LINKS).map_while(|link| device.link_wrapper_for(link).is_active().ok()).collect();
    if states.is_empty() {
        return;
    }
    let up = states.iter().filter(|up| **up).count();
    // NVLINK_{REPLAY,RECOVERY,CRC_FLIT,CRC_DATA}_ERROR_COUNT_TOTAL, over all links.
    const TOTALS: [u32; 4] = [52, 59, 38, 45];
    let totals = numbers(device, asking, &TOTALS);
    let errors = |at: usize, counter: ErrorCounter| {
        totals[at].or_else(|| {
            let links = (0..).zip(&states).filter(|(_, up)| **up);
            let each =
                links.map(|(link, _)| device.link_wrapper_for(link).error_counter(counter).ok());
            each.sum::<Option<u64>>().filter(|_| up > 0)
        })
    };
    values.nvlink = Some(NvLink {
        links_up: Some(up as u32),
        links_down: Some((states.len() - up) as u32),
        replay_errors: errors(0, ErrorCounter::DlReplay),
        recovery_errors: errors(1, ErrorCounter::DlRecovery),
        crc_flit_errors: errors(2, ErrorCounter::DlCrcFlit),
        crc_data_errors: errors(3, ErrorCounter::DlCrcData),
    });
}

/// The instances that exist, with their places; most places are empty.
fn mig_devices<'a>(device: &Device<'a>, asking: &Asking) -> Vec<(u32, Device<'a>)> {
    let places = asking.ask(|| device.mig_device_count()).unwrap_or_default();
    (0..places).filter_map(|place| Some((place, device.mig_device_by_index(place).ok()?))).collect()
}

fn instance((place, device): &(u32, Device<'_>), asking: &Asking) -> MigInstance {
    let (gpu, compute) = nvml::instance_ids(device);
    let memory = asking.ask(|| device.memory_info()).map(|memory| (memory.total, memory.used));
    let memory = memory
        .or_else(|| asking.ask(|| nvml::memory_v1(device)).map(|(total, used, _)| (total, used)));
    MigInstance {
        index: *place,
        name: asking.ask(|| device.name()),
        uuid: asking.ask(|| device.uuid()),
        gpu_instance: gpu.ok(),
        compute_instance: compute.ok(),
        memory_total_bytes: memory.map(|(total, _)| total),
        memory_used_bytes: memory.map(|(_, used)| used),
    }
}

/// A device's processes of one kind, by the best call that the driver has. Version 2 goes before
/// version 3, which says the same: drivers from 535.43 to 535.86 fill longer entries in version 3 than all
/// others do.
macro_rules! processes_of_kind {
    ($name:ident, $v2:ident, $v3:ident, $v1:path) => {
        fn $name(device: &Device<'_>) -> Result<Vec<ProcessInfo>, NvmlError> {
            let or_older = |error, older: &dyn Fn() -> Result<Vec<ProcessInfo>, NvmlError>| {
                if matches!(error, NvmlError::FailedToLoadSymbol(_)) { older() } else { Err(error) }
            };
            device.$v2().or_else(|error| {
                or_older(error, &|| device.$v3().or_else(|error| or_older(error, &|| $v1(device))))
            })
        }
    };
}
processes_of_kind!(
    compute_processes,
    running_compute_processes_v2,
    running_compute_processes,
    nvml::compute_processes_v1
);
processes_of_kind!(
    graphics_processes,
    running_graphics_processes_v2,
    running_graphics_processes,
    nvml::graphics_processes_v1
);

/// The GPU's processes. In MIG mode the GPU itself may refuse, and then its instances are asked.
fn processes(
    device: &Device<'_>,
    instances: &[(u32, Device<'_>)],
    asking: &Asking,
) -> Option<Vec<GpuProcess>> {
    let of = |device: &Device<'_>| {
        let computing = asking.ask(|| compute_processes(device));
        let drawing = asking.ask(|| graphics_processes(device));
        (computing.is_some() || drawing.is_some())
            .then(|| merge(computing.unwrap_or_default(), drawing.unwrap_or_default()))
    };
    let mut found = of(device);
    if found.as_ref().is_none_or(Vec::is_empty) {
        for (_, instance) in instances {
            found = match (found, of(instance)) {
                (Some(mut all), Some(more)) => {
                    all.extend(more);
                    Some(all)
                }
                (all, more) => all.or(more),
            };
        }
    }
    found
}

fn merge(computing: Vec<ProcessInfo>, drawing: Vec<ProcessInfo>) -> Vec<GpuProcess> {
    let process = |info: &ProcessInfo, kind| GpuProcess {
        pid: info.pid,
        name: None,
        kind,
        memory_used_bytes: match info.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
        gpu_instance: info.gpu_instance_id,
    };
    let mut all: Vec<GpuProcess> =
        computing.iter().map(|info| process(info, ProcessKind::Compute)).collect();
    for info in &drawing {
        let both = all
            .iter_mut()
            .find(|known| known.pid == info.pid && known.gpu_instance == info.gpu_instance_id);
        match both {
            Some(known) => known.kind = ProcessKind::ComputeAndGraphics,
            None => all.push(process(info, ProcessKind::Graphics)),
        }
    }
    all
}
