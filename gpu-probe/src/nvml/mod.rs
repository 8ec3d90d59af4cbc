//! NVML functions that nvml-wrapper 0.13 does not wrap: those of older drivers and a few newer ones.
//!
//! A function missing in the driver's library only makes that value unavailable: symbols are looked up when the
//! library is loaded, and calling a missing one returns an error.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings as raw;

type Result<T> = std::result::Result<T, NvmlError>;

/// Calls an NVML function if the library has it. The arguments after the handle must be pointers to values that outlive
/// the call, of the types that the bindings declare.
macro_rules! call {
    ($nvml:expr, $function:ident($($argument:expr),+)) => {
        match $nvml.lib().$function.as_ref() {
            // SAFETY: the handle comes from a borrowed Device or EventSet, and every pointer points to a local variable
            // of the type that the function writes.
            Ok(function) => match unsafe { function($($argument),+) } {
                raw::nvmlReturn_enum_NVML_SUCCESS => Ok(()),
                code => Err(NvmlError::from(code)),
            },
            Err(error) => Err(NvmlError::FailedToLoadSymbol(error.to_string())),
        }
    };
}

pub mod fields;
pub mod health;

fn handle(device: &Device<'_>) -> raw::nvmlDevice_t {
    // SAFETY: the handle is only used for calls while the device is borrowed.
    unsafe { device.handle() }
}

/// The newest CUDA version that the driver supports, as 1000 × major + 10 × minor.
pub fn cuda_driver_version(nvml: &Nvml) -> Result<i32> {
    let mut version = 0;
    call!(nvml, nvmlSystemGetCudaDriverVersion_v2(&raw mut version))
        .or_else(|_| call!(nvml, nvmlSystemGetCudaDriverVersion(&raw mut version)))?;
    Ok(version)
}

/// PCI address as the kernel formats it: `0000:41:00.0`. All versions of the call write the numbers at the same offsets;
/// the buffer is the struct of the newest version, which is the longest.
pub fn pci_address(device: &Device<'_>) -> Result<String> {
    let (nvml, handle) = (device.nvml(), handle(device));
    let mut found = MaybeUninit::<raw::nvmlPciInfo_t>::zeroed();
    call!(nvml, nvmlDeviceGetPciInfo_v3(handle, found.as_mut_ptr()))
        .or_else(|_| call!(nvml, nvmlDeviceGetPciInfo_v2(handle, found.as_mut_ptr())))
        .or_else(|_| call!(nvml, nvmlDeviceGetPciInfo(handle, found.as_mut_ptr())))?;
    // SAFETY: the struct consists of integers and char arrays, for which all-zero bytes are valid.
    let found = unsafe { found.assume_init() };
    Ok(format!("{:04x}:{:02x}:{:02x}.0", found.domain, found.bus, found.device))
}

/// Total, used and free memory in bytes, for drivers before 510. Used memory includes what the driver reserves.
pub fn memory_v1(device: &Device<'_>) -> Result<(u64, u64, u64)> {
    let mut memory = raw::nvmlMemory_t { total: 0, free: 0, used: 0 };
    call!(device.nvml(), nvmlDeviceGetMemoryInfo(handle(device), &raw mut memory))?;
    Ok((memory.total, memory.used, memory.free))
}

/// Fan speed in percent, for older drivers, which support one fan only.
pub fn fan_speed_v1(device: &Device<'_>) -> Result<u32> {
    let mut percent = 0;
    call!(device.nvml(), nvmlDeviceGetFanSpeed(handle(device), &raw mut percent))?;
    Ok(percent)
}

/// Bit mask of the reasons why clocks are limited, including unknown bits. Driver 535 renamed the function; newer
/// drivers have both names.
pub fn clock_event_reasons(device: &Device<'_>) -> Result<u64> {
    let (nvml, handle) = (device.nvml(), handle(device));
    let mut mask = 0;
    call!(nvml, nvmlDeviceGetCurrentClocksEventReasons(handle, &raw mut mask)).or_else(|_| {
        call!(nvml, nvmlDeviceGetCurrentClocksThrottleReasons(handle, &raw mut mask))
    })?;
    Ok(mask)
}

/// IDs of a MIG device's GPU instance and compute instance.
pub fn instance_ids(device: &Device<'_>) -> (Result<u32>, Result<u32>) {
    let (mut gpu, mut compute) = (0, 0);
    let (nvml, handle) = (device.nvml(), handle(device));
    let gpu_known = call!(nvml, nvmlDeviceGetGpuInstanceId(handle, &raw mut gpu));
    let compute_known = call!(nvml, nvmlDeviceGetComputeInstanceId(handle, &raw mut compute));
    (gpu_known.map(|()| gpu), compute_known.map(|()| compute))
}

/// Lists processes with version 1 of the call, whose entries contain no instance IDs.
macro_rules! processes_v1 {
    ($name:ident, $function:ident, $kind:literal) => {
        #[doc = concat!("Processes that use a GPU for ", $kind, ", for drivers before 450.")]
        pub fn $name(device: &Device<'_>) -> Result<Vec<ProcessInfo>> {
            let none = raw::nvmlProcessInfo_v1_t { pid: 0, usedGpuMemory: 0 };
            let mut found = Vec::new();
            loop {
                let mut count = u32::try_from(found.len()).unwrap_or(u32::MAX);
                let result = call!(
                    device.nvml(),
                    $function(handle(device), &raw mut count, found.as_mut_ptr())
                );
                match result {
                    Ok(()) => found.truncate(count as usize),
                    // Room for a few more, in case processes start before the next call.
                    Err(NvmlError::InsufficientSize(_)) if count as usize >= found.len() => {
                        found.resize(count as usize + 8, none);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                return Ok(found.iter().map(process_info).collect());
            }
        }
    };
}

processes_v1!(compute_processes_v1, nvmlDeviceGetComputeRunningProcesses, "compute");
processes_v1!(graphics_processes_v1, nvmlDeviceGetGraphicsRunningProcesses, "graphics");

fn process_info(entry: &raw::nvmlProcessInfo_v1_t) -> ProcessInfo {
    const NOT_AVAILABLE: u64 = u64::MAX;
    ProcessInfo {
        pid: entry.pid,
        used_gpu_memory: match entry.usedGpuMemory {
            NOT_AVAILABLE => UsedGpuMemory::Unavailable,
            bytes => UsedGpuMemory::Used(bytes),
        },
        gpu_instance_id: None,
        compute_instance_id: None,
    }
}

/// XID of the next queued critical error event; `None` if the queue is empty.
pub fn next_xid(set: &EventSet<'_>) -> Result<Option<u64>> {
    let mut event = MaybeUninit::<raw::nvmlEventData_t>::zeroed();
    // SAFETY: the handle is only used for one call while the set is borrowed.
    let handle = unsafe { set.handle() };
    // The older call writes a shorter struct with the same first fields.
    let waited =
        call!(set.nvml, nvmlEventSetWait_v2(handle, event.as_mut_ptr(), 0)).or_else(|error| {
            match error {
                NvmlError::FailedToLoadSymbol(_) => {
                    call!(set.nvml, nvmlEventSetWait(handle, event.as_mut_ptr(), 0))
                }
                error => Err(error),
            }
        });
    match waited {
        // SAFETY: the struct consists of a pointer and integers, for which all-zero bytes are valid.
        Ok(()) => Ok(Some(unsafe { event.assume_init() }.eventData)),
        Err(NvmlError::Timeout) => Ok(None),
        Err(error) => Err(error),
    }
}
