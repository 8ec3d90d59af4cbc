//! Values of a GPU. Each one is queried separately, because drivers and GPUs do not support all of them.

use std::cell::RefCell;

use gpu_probe::gpu::{CLOCK_EVENT_REASONS, Ecc, GpuProcess, MigInstance, ProcessKind, Values};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::{
    Clock, EccCounter, MemoryError, PerformanceState, TemperatureSensor,
};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;

use crate::nvml;

/// Makes the driver calls of one round and records errors. Unsupported values are absent; once the GPU is lost, no more
/// calls are made.
#[derive(Default)]
pub struct Query {
    error: RefCell<Option<NvmlError>>,
}

impl Query {
    /// Result of the call, or `None` if it failed.
    pub fn get<T>(&self, call: impl FnOnce() -> Result<T, NvmlError>) -> Option<T> {
        if self.is_lost() {
            return None;
        }
        match call() {
            Ok(value) => Some(value),
            Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => None,
            Err(error) => {
                let mut recorded = self.error.borrow_mut();
                if recorded.is_none() || matches!(error, NvmlError::GpuLost) {
                    *recorded = Some(error);
                }
                None
            }
        }
    }

    /// Whether a call returned `NVML_ERROR_GPU_IS_LOST`.
    pub fn is_lost(&self) -> bool {
        matches!(*self.error.borrow(), Some(NvmlError::GpuLost))
    }

    /// `GpuLost` or else the first error other than missing support.
    pub fn error(self) -> Option<NvmlError> {
        self.error.into_inner()
    }
}

/// All values except those of the modules `fields`, `nvlink`, `health` and `profiler`.
pub fn values(device: &Device<'_>, query: &Query) -> Values {
    let mut values = Values::default();
    memory(device, query, &mut values);
    utilization(device, query, &mut values);
    power_and_clocks(device, query, &mut values);
    values.ecc = ecc(device, query);
    values.pcie_generation = query.get(|| device.current_pcie_link_gen());
    values.pcie_width = query.get(|| device.current_pcie_link_width());
    values.pcie_replays = query.get(|| device.pcie_replay_counter()).map(u64::from);
    values.mig_enabled = query.get(|| device.mig_mode()).map(|mode| mode.current == 1);
    let mut instances = Vec::new();
    if values.mig_enabled == Some(true) {
        instances = mig_devices(device, query);
        values.mig_instances = Some(instances.iter().map(|each| instance(each, query)).collect());
    }
    values.processes = processes(device, &instances, query);
    values
}

fn memory(device: &Device<'_>, query: &Query, values: &mut Values) {
    if let Some(memory) = query.get(|| device.memory_info()) {
        values.memory_total_bytes = Some(memory.total);
        values.memory_used_bytes = Some(memory.used);
        values.memory_free_bytes = Some(memory.free);
        values.memory_reserved_bytes = Some(memory.reserved);
    } else if let Some((total, used, free)) = query.get(|| nvml::memory_v1(device)) {
        values.memory_total_bytes = Some(total);
        values.memory_used_bytes = Some(used);
        values.memory_free_bytes = Some(free);
    }
}

fn utilization(device: &Device<'_>, query: &Query, values: &mut Values) {
    if let Some(rates) = query.get(|| device.utilization_rates()) {
        values.utilization_percent = Some(rates.gpu);
        values.memory_utilization_percent = Some(rates.memory);
    }
    let percent = |rate: nvml_wrapper::structs::device::UtilizationInfo| rate.utilization;
    values.encoder_utilization_percent = query.get(|| device.encoder_utilization()).map(percent);
    values.decoder_utilization_percent = query.get(|| device.decoder_utilization()).map(percent);
}

fn power_and_clocks(device: &Device<'_>, query: &Query, values: &mut Values) {
    let thousandths = |value: u32| f64::from(value) / 1000.0;
    let sensor = TemperatureSensor::Gpu;
    values.temperature_celsius =
        query.get(|| device.temperature(sensor)).and_then(|celsius| i32::try_from(celsius).ok());
    values.power_watts = query.get(|| device.power_usage()).map(thousandths);
    values.power_limit_watts = query
        .get(|| device.enforced_power_limit().or_else(|_| device.power_management_limit()))
        .map(thousandths);
    values.energy_joules =
        query.get(|| device.total_energy_consumption()).map(|mj| mj as f64 / 1000.0);
    values.sm_clock_mhz = query.get(|| device.clock_info(Clock::SM));
    values.memory_clock_mhz = query.get(|| device.clock_info(Clock::Memory));
    values.fan_percent = query.get(|| fan_percent(device));
    values.performance_state =
        query.get(|| device.performance_state()).and_then(|state| match state {
            PerformanceState::Unknown => None,
            state => Some(state.as_c()),
        });
    values.clock_event_reasons = query.get(|| nvml::clock_event_reasons(device)).map(reasons);
}

/// Speed of the fastest fan. A fan may be stopped while another one runs at full speed.
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

fn ecc(device: &Device<'_>, query: &Query) -> Option<Ecc> {
    use {EccCounter::*, MemoryError::*};
    let count = |error, counter| query.get(|| device.total_ecc_errors(error, counter));
    let ecc = Ecc {
        volatile_corrected: count(Corrected, Volatile),
        volatile_uncorrected: count(Uncorrected, Volatile),
        aggregate_corrected: count(Corrected, Aggregate),
        aggregate_uncorrected: count(Uncorrected, Aggregate),
    };
    (ecc != Ecc::default()).then_some(ecc)
}

/// Existing MIG devices with their indices. Most indices are unused.
fn mig_devices<'a>(device: &Device<'a>, query: &Query) -> Vec<(u32, Device<'a>)> {
    let count = query.get(|| device.mig_device_count()).unwrap_or_default();
    (0..count).filter_map(|index| Some((index, device.mig_device_by_index(index).ok()?))).collect()
}

fn instance((index, device): &(u32, Device<'_>), query: &Query) -> MigInstance {
    let (gpu, compute) = nvml::instance_ids(device);
    let memory = query.get(|| device.memory_info()).map(|memory| (memory.total, memory.used));
    let memory = memory
        .or_else(|| query.get(|| nvml::memory_v1(device)).map(|(total, used, _)| (total, used)));
    MigInstance {
        index: *index,
        name: query.get(|| device.name()),
        uuid: query.get(|| device.uuid()),
        gpu_instance: gpu.ok(),
        compute_instance: compute.ok(),
        memory_total_bytes: memory.map(|(total, _)| total),
        memory_used_bytes: memory.map(|(_, used)| used),
        profiling: None,
    }
}

/// Lists processes of one kind with the best version of the call that the driver has. Version 2 is preferred to version 3,
/// which returns the same data, because drivers 535.43 to 535.86 write longer entries in version 3 than other drivers.
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

/// Processes of the GPU. In MIG mode the call may fail for the GPU itself; then those of its instances are listed.
fn processes(
    device: &Device<'_>,
    instances: &[(u32, Device<'_>)],
    query: &Query,
) -> Option<Vec<GpuProcess>> {
    let of = |device: &Device<'_>| {
        let computing = query.get(|| compute_processes(device));
        let drawing = query.get(|| graphics_processes(device));
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
        kind,
        memory_used_bytes: match info.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        },
        gpu_instance: info.gpu_instance_id,
        ..GpuProcess::default()
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
