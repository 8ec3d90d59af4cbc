//! Field values with a scope, such as the number of a link, which nvml-wrapper's call does not support.

use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::FieldValueSample;
use nvml_wrapper::{Device, FieldIdScheme};
use nvml_wrapper_sys::bindings as raw;

use super::{Result, handle};

/// A field, by its NVML_FI_DEV_* ID in the nvml.h of CUDA 12, and its scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub id: u32,
    pub scope: u32,
}

/// Scope of NVLink fields: the sum over all links.
pub const ALL_LINKS: u32 = u32::MAX;

/// Values of integer fields in the order of `fields`. The order identifies them, because newer drivers return other IDs
/// than those requested.
pub fn read(device: &Device<'_>, fields: &[Field]) -> Result<Vec<Option<u64>>> {
    let scheme = device.nvml().field_id_scheme();
    let unset = raw::nvmlFieldValue_t {
        fieldId: 0,
        scopeId: 0,
        timestamp: 0,
        latencyUsec: 0,
        valueType: 0,
        nvmlReturn: 0,
        value: raw::nvmlValue_t { ullVal: 0 },
    };
    let request = |field: &Field| raw::nvmlFieldValue_t {
        fieldId: driver_id(scheme, field.id),
        scopeId: field.scope,
        ..unset
    };
    let mut values: Vec<raw::nvmlFieldValue_t> = fields.iter().map(request).collect();
    let count = i32::try_from(values.len()).map_err(|_| NvmlError::InvalidArg)?;
    let nvml = device.nvml();
    call!(nvml, nvmlDeviceGetFieldValues(handle(device), count, values.as_mut_ptr()))?;
    Ok(values.into_iter().map(number).collect())
}

fn number(value: raw::nvmlFieldValue_t) -> Option<u64> {
    match FieldValueSample::try_from(value).ok()?.value.ok()? {
        SampleValue::U32(value) => Some(u64::from(value)),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    }
}

/// Driver 580.82 moved the fields 251 to 255 and gave their IDs to other fields:
/// <https://docs.nvidia.com/deploy/nvml-api/known-issues.html>.
fn driver_id(scheme: FieldIdScheme, id: u32) -> u32 {
    match (scheme, id) {
        (FieldIdScheme::V13Update1, 251..=255) => id + 18,
        (_, id) => id,
    }
}
