//! NVLink: states and errors of the links, and the counters of NVLink 5.

use gpu_probe::gpu::NvLink;
use gpu_probe::nvidia::NvLinkCounters;
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::nv_link::ErrorCounter;

use crate::fields::{Found, NVLINK_ERRORS};
use crate::measure::Query;
use crate::nvml::fields::{ALL_LINKS, Field};

/// NVML_NVLINK_MAX_LINKS.
const MAX_LINKS: u32 = 18;

/// NVLINK_COUNT_*, over all links as DCGM 4.6 requests them: packets and bytes, errors, recoveries, effective and symbol errors.
pub const COUNTERS: [u32; 16] =
    [201, 202, 203, 204, 206, 207, 208, 209, 210, 211, 212, 213, 214, 215, 219, 221];
/// NVLINK_COUNT_{EFFECTIVE,SYMBOL}_BER.
pub const BIT_ERROR_RATIOS: [u32; 2] = [220, 222];

/// States and errors of the links; `None` if there are none.
pub fn links(device: &Device<'_>, query: &Query, found: &Found) -> Option<NvLink> {
    if query.is_lost() {
        return None;
    }
    let states = states(device);
    if states.is_empty() {
        return None;
    }
    let up = states.iter().filter(|up| **up).count();
    let totals = found.several(NVLINK_ERRORS);
    // GPUs without the sums have the errors of each link.
    let errors = |total: Option<u64>, counter: ErrorCounter| {
        total.or_else(|| {
            let links = links_up(&states);
            let each = links.map(|link| device.link_wrapper_for(link).error_counter(counter).ok());
            each.sum::<Option<u64>>().filter(|_| up > 0)
        })
    };
    Some(NvLink {
        links_up: Some(up as u32),
        links_down: Some((states.len() - up) as u32),
        // The agent counts these: only it knows whether a link was up before.
        links_lost: None,
        replay_errors: errors(totals[0], ErrorCounter::DlReplay),
        recovery_errors: errors(totals[1], ErrorCounter::DlRecovery),
        crc_flit_errors: errors(totals[2], ErrorCounter::DlCrcFlit),
        crc_data_errors: errors(totals[3], ErrorCounter::DlCrcData),
        bytes_per_second: None,
    })
}

/// Whether each link is up. The call fails for the first link that does not exist.
fn states(device: &Device<'_>) -> Vec<bool> {
    (0..MAX_LINKS).map_while(|link| device.link_wrapper_for(link).is_active().ok()).collect()
}

fn links_up(states: &[bool]) -> impl Iterator<Item = u32> {
    (0..).zip(states).filter(|(_, up)| **up).map(|(link, _)| link)
}

/// Counters of NVLink 5; `None` before it.
pub fn counters(found: &Found) -> Option<NvLinkCounters> {
    let of_all = |id| found.get(Field { id, scope: ALL_LINKS });
    let ratios = BIT_ERROR_RATIOS.map(|id| of_all(id).and_then(bit_error_ratio));
    let counters = counters_of(COUNTERS.map(of_all), ratios);
    (counters != NvLinkCounters::default()).then_some(counters)
}

fn counters_of(sums: [Option<u64>; 16], ratios: [Option<f64>; 2]) -> NvLinkCounters {
    let [
        transmitted_packets,
        transmitted_bytes,
        received_packets,
        received_bytes,
        malformed_packets,
        buffer_overruns,
        receive_errors,
        remote_errors,
        general_errors,
        integrity_errors,
        transmit_discards,
        recoveries_successful,
        recoveries_failed,
        recoveries,
        effective_errors,
        symbol_errors,
    ] = sums;
    NvLinkCounters {
        transmitted_packets,
        transmitted_bytes,
        received_packets,
        received_bytes,
        malformed_packets,
        buffer_overruns,
        receive_errors,
        remote_errors,
        general_errors,
        integrity_errors,
        transmit_discards,
        recoveries_successful,
        recoveries_failed,
        recoveries,
        effective_errors,
        symbol_errors,
        effective_bit_error_ratio: ratios[0],
        symbol_bit_error_ratio: ratios[1],
    }
}

/// nvml.h: bits 0 to 7 are the exponent, bits 8 to 11 the mantissa: mantissa × 10^-exponent. All bits set are no errors
/// (DCGM 4.6, IsEffectiveBerThresholdExceeded).
fn bit_error_ratio(encoded: u64) -> Option<f64> {
    if encoded & 0xFFF == 0xFFF {
        return Some(0.0);
    }
    let exponent = i32::try_from(encoded & 0xFF).ok()?;
    let mantissa = u32::try_from(encoded >> 8 & 0xF).ok()?;
    Some(f64::from(mantissa) * 10f64.powi(-exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_bit_error_ratio() {
        assert_eq!(bit_error_ratio(0x70C), Some(7e-12));
        assert_eq!(bit_error_ratio(0), Some(0.0));
        assert_eq!(bit_error_ratio(0xF01), Some(1.5));
        assert_eq!(bit_error_ratio(0xFFF), Some(0.0));
    }
}
