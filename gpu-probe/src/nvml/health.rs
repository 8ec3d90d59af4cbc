//! Calls about the state of a GPU that change rarely, for which nvml-wrapper has no safe form.

use gpu_probe::nvidia::{
    ConfidentialCompute, Fabric, FabricConfiguration, FabricHealth, FabricState, Platform,
    RowRemapBanks, SramEcc,
};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use nvml_wrapper_sys::bindings as raw;

use super::{Result, handle};

/// NVML_STRUCT_VERSION: drivers reject a struct of another size.
const fn version_of<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}

/// Registration at the NVLink fabric. Version 3 is that of CUDA 13; version 2 has no summary of the health.
pub fn fabric(device: &Device<'_>) -> Result<Fabric> {
    let mut info = raw::nvmlGpuFabricInfo_v3_t {
        version: version_of::<raw::nvmlGpuFabricInfo_v3_t>(3),
        clusterUuid: [0; 16],
        status: 0,
        cliqueId: 0,
        state: 0,
        healthMask: 0,
        healthSummary: 0,
    };
    let (nvml, handle) = (device.nvml(), handle(device));
    call!(nvml, nvmlDeviceGetGpuFabricInfoV(handle, &raw mut info)).or_else(|error| {
        if matches!(error, NvmlError::GpuLost | NvmlError::FailedToLoadSymbol(_)) {
            return Err(error);
        }
        info.version = version_of::<raw::nvmlGpuFabricInfo_v2_t>(2);
        // The driver writes the shorter struct, which is the beginning of this one.
        call!(nvml, nvmlDeviceGetGpuFabricInfoV(handle, &raw mut info))
    })?;
    Ok(fabric_of(&info))
}

fn fabric_of(info: &raw::nvmlGpuFabricInfo_v3_t) -> Fabric {
    let state = FabricState::from_code(info.state.into());
    if state != FabricState::Completed {
        return Fabric { state: Some(state), ..Fabric::default() };
    }
    // NVML_GPU_FABRIC_HEALTH_MASK_*: 0 is not supported, 1 true, 2 false.
    let flag = |shift: u32| match info.healthMask >> shift & 3 {
        1 => Some(true),
        2 => Some(false),
        _ => None,
    };
    let health = FabricHealth::from_code(info.healthSummary.into());
    let configuration = FabricConfiguration::from_code(info.healthMask >> 8 & 0xF);
    Fabric {
        state: Some(state),
        error_code: Some(info.status).filter(|status| *status != 0),
        cluster_uuid: Some(uuid(&info.clusterUuid)),
        clique_id: Some(info.cliqueId),
        health: Some(health).filter(|health| *health != FabricHealth::NotSupported),
        health_mask: Some(info.healthMask),
        bandwidth_degraded: flag(0),
        route_recovering: flag(2),
        route_unhealthy: flag(4),
        access_timeout_recovering: flag(6),
        configuration: Some(configuration)
            .filter(|configuration| *configuration != FabricConfiguration::NotSupported),
        partition_assigned: flag(12),
    }
}

/// Formats 16 bytes as `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
fn uuid(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

pub fn row_remap_banks(device: &Device<'_>) -> Result<RowRemapBanks> {
    let mut banks =
        raw::nvmlRowRemapperHistogramValues_t { max: 0, high: 0, partial: 0, low: 0, none: 0 };
    let nvml = device.nvml();
    call!(nvml, nvmlDeviceGetRowRemapperHistogram(handle(device), &raw mut banks))?;
    let raw::nvmlRowRemapperHistogramValues_t { max, high, partial, low, none } = banks;
    Ok(RowRemapBanks { max, high, partial, low, none })
}

pub fn sram_ecc(device: &Device<'_>) -> Result<SramEcc> {
    // SAFETY: the struct consists of integers, for which all-zero bytes are valid.
    let mut status: raw::nvmlEccSramErrorStatus_t = unsafe { std::mem::zeroed() };
    status.version = version_of::<raw::nvmlEccSramErrorStatus_t>(1);
    let nvml = device.nvml();
    call!(nvml, nvmlDeviceGetSramEccErrorStatus(handle(device), &raw mut status))?;
    Ok(SramEcc {
        volatile_corrected: Some(status.volatileCor),
        volatile_uncorrected: status.volatileUncParity.checked_add(status.volatileUncSecDed),
        aggregate_corrected: Some(status.aggregateCor),
        aggregate_uncorrected: status.aggregateUncParity.checked_add(status.aggregateUncSecDed),
        threshold_exceeded: Some(status.bThresholdExceeded != 0),
    })
}

pub fn thermal_margin_celsius(device: &Device<'_>) -> Result<i32> {
    let mut margin = raw::nvmlMarginTemperature_t {
        version: version_of::<raw::nvmlMarginTemperature_t>(1),
        marginTemperature: 0,
    };
    call!(device.nvml(), nvmlDeviceGetMarginTemperature(handle(device), &raw mut margin))?;
    Ok(margin.marginTemperature)
}

/// Whether the vGPU is licensed. False if it needs no license, as DCGM reports it.
pub fn vgpu_licensed(device: &Device<'_>) -> Result<bool> {
    // SAFETY: the struct consists of integers and char arrays, for which all-zero bytes are valid.
    let mut found: raw::nvmlGridLicensableFeatures_t = unsafe { std::mem::zeroed() };
    let nvml = device.nvml();
    call!(nvml, nvmlDeviceGetGridLicensableFeatures_v4(handle(device), &raw mut found))?;
    let count = match found.isGridLicenseSupported {
        0 => 0,
        _ => found.licensableFeaturesCount as usize,
    };
    Ok(found.gridLicensableFeatures.iter().take(count).any(|feature| feature.featureState > 0))
}

pub fn platform(device: &Device<'_>) -> Result<Platform> {
    // SAFETY: the struct consists of integers and byte arrays, for which all-zero bytes are valid.
    let mut info: raw::nvmlPlatformInfo_t = unsafe { std::mem::zeroed() };
    info.version = version_of::<raw::nvmlPlatformInfo_t>(2);
    call!(device.nvml(), nvmlDeviceGetPlatformInfo(handle(device), &raw mut info))?;
    let serial = info.chassisSerialNumber.split(|byte| *byte == 0).next().unwrap_or_default();
    let serial = String::from_utf8_lossy(serial).into_owned();
    Ok(Platform {
        chassis_serial_number: Some(serial).filter(|serial| !serial.is_empty()),
        slot: Some(info.slotNumber.into()),
        tray: Some(info.trayIndex.into()),
        host: Some(info.hostId.into()),
        peer_type: Some(info.peerType.into()),
        module: Some(info.moduleId.into()),
    })
}

pub fn confidential_compute(nvml: &Nvml) -> Result<ConfidentialCompute> {
    let mut state =
        raw::nvmlConfComputeSystemState_t { environment: 0, ccFeature: 0, devToolsMode: 0 };
    call!(nvml, nvmlSystemGetConfComputeState(&raw mut state))?;
    let mut ready = 0;
    let found = call!(nvml, nvmlSystemGetConfComputeGpusReadyState(&raw mut ready));
    Ok(ConfidentialCompute {
        enabled: Some(state.ccFeature != 0),
        ready: found.ok().map(|()| ready != 0),
    })
}
