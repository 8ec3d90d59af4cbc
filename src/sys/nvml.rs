//! What NVML offers and nvml-wrapper 0.13 does not: calls of older drivers, and a few newer ones.
//!
//! A driver that lacks a function costs that value alone: its symbol is looked up when the library is
//! loaded, and using one that was not found is an error of the call.

use std::mem::MaybeUninit;

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings as raw;

type Result<T> = std::result::Result<T, NvmlError>;

/// Calls a function of the library if the driver has it. The arguments after the handle must be pointers
/// to values that outlive the call, of the types that the bindings demand.
macro_rules! call {
    ($nvml:expr, $function:ident($($argument:expr),+)) => {
        match $nvml.lib().$function.as_ref() {
            // SAFETY: the handle comes from a Device or EventSet that is alive, and every pointer is one to a
            // local variable of the type that the function fills.
            Ok(function) => match unsafe { function($($argument),+) } {
                raw::nvmlReturn_enum_NVML_SUCCESS => Ok(()),
                code => Err(NvmlError::from(code)),
            },
            Err(error) => Err(NvmlError::FailedToLoadSymbol(error.to_string())),
        }
    };
}

fn handle(device: &Device<'_>) -> raw::nvmlDevice_t {
    // SAFETY: the handle is used for calls only, while the device is borrowed.
    unsafe { device.handle() }
}

/// The newest CUDA that the driver supports, 1000 × major + 10 × minor.
pub fn cuda_driver_version(nvml: &Nvml) -> Result<i32> {
    let mut version = 0;
    call!(nvml, nvmlSystemGetCudaDriverVersion_v2(&raw mut version))
        .or_else(|_| call!(nvml, nvmlSystemGetCudaDriverVersion(&raw mut version)))?;
    Ok(version)
}

/// Where a device is, as the kernel writes it: `0000:41:00.0`. All versions of the call fill the numbers at the
/// same place, and the structure is that of the newest, the longest.
pub fn pci_address(device: &Device<'_>) -> Result<String> {
    let (nvml, handle) = (device.nvml(), handle(device));
    let mut found = MaybeUninit::<raw::nvmlPciInfo_t>::zeroed();
    call!(nvml, nvmlDeviceGetPciInfo_v3(handle, found.as_mut_ptr()))
        .or_else(|_| call!(nvml, nvmlDeviceGetPciInfo_v2(handle, found.as_mut_ptr())))
        .or_else(|_| call!(nvml, nvmlDeviceGetPciInfo(handle, found.as_mut_ptr())))?;
    // SAFETY: zeroes are a valid structure too: numbers and texts.
    let found = unsafe { found.assume_init() };
    Ok(format!("{:04x}:{:02x}:{:02x}.0", found.domain, found.bus, found.device))
}

/// Total, used and free memory in bytes, of drivers before 510. What the driver keeps for itself counts
/// as used.
pub fn memory_v1(device: &Device<'_>) -> Result<(u64, u64, u64)> {
    let mut memory = raw::nvmlMemory_t { total: 0, free: 0, used: 0 };
    call!(device.nvml(), nvmlDeviceGetMemoryInfo(handle(device), &raw mut memory))?;
    Ok((memory.total, memory.used, memory.free))
}

/// Speed of the only fan that older drivers know, in percent.
pub fn fan_speed_v1(device: &Device<'_>) -> Result<u32> {
    let mut percent = 0;
    call!(device.nvml(), nvmlDeviceGetFanSpeed(handle(device), &raw mut percent))?;
    Ok(percent)
}

/// The mask of reasons that hold the clocks back, unknown bits included. Its function was renamed when
/// drivers of 535 came; newer ones have both names.
pub fn clock_event_reasons(device: &Device<'_>) -> Result<u64> {
    let (nvml, handle) = (device.nvml(), handle(device));
    let mut mask = 0;
    call!(nvml, nvmlDeviceGetCurrentClocksEventReasons(handle, &raw mut mask)).or_else(|_| {
        call!(nvml, nvmlDeviceGetCurrentClocksThrottleReasons(handle, &raw mut mask))
    })?;
    Ok(mask)
}

/// Ids of a MIG device's GPU instance and compute instance.
pub fn instance_ids(device: &Device<'_>) -> (Result<u32>, Result<u32>) {
    let (mut gpu, mut compute) = (0, 0);
    let (nvml, handle) = (device.nvml(), handle(device));
    let gpu_known = call!(nvml, nvmlDeviceGetGpuInstanceId(handle, &raw mut gpu));
    let compute_known = call!(nvml, nvmlDeviceGetComputeInstanceId(handle, &raw mut compute));
    (gpu_known.map(|()| gpu), compute_known.map(|()| compute))
}

/// Asks for processes by the first version of the call, whose entries have neither instance.
macro_rules! processes_v1 {
    ($name:ident, $function:ident, $kind:literal) => {
        #[doc = concat!("Processes that use a GPU for ", $kind, ", of drivers before 450.")]
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
                    // A few more have room, for those that start before we ask again.
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

processes_v1!(compute_processes_v1, nvmlDeviceGetComputeRunningProcesses, "computing");
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

/// The next event of a set whose GPUs report critical errors: its XID. `None` if none is waiting.
pub fn next_xid(set: &EventSet<'_>) -> Result<Option<u64>> {
    let mut event = MaybeUninit::<raw::nvmlEventData_t>::zeroed();
    // SAFETY: the handle is used for one call, while the set is borrowed.
    let handle = unsafe { set.handle() };
    // The older call fills a shorter structure that begins the same.
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
        // SAFETY: zeroes are a valid event too: a null handle and numbers.
        Ok(()) => Ok(Some(unsafe { event.assume_init() }.eventData)),
        Err(NvmlError::Timeout) => Ok(None),
        Err(error) => Err(error),
    }
}
