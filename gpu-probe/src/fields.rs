//! Values that are available as fields only, by their NVML_FI_DEV_* IDs in nvml.h.

use std::time::{Duration, Instant};

use gpu_probe::gpu::{NvLink, RemappedRows, Values};
use gpu_probe::nvidia::{C2c, PcieErrors, RecoveryAction, RetiredPages, SlowCall, Violations};
use nvml_wrapper::Device;

use crate::measure::Query;
use crate::nvlink::{self, BIT_ERROR_RATIOS, COUNTERS};
use crate::nvml::fields::{ALL_LINKS, Field, read};
use crate::pacing::Paced;

const MEMORY_TEMP: u32 = 82;
/// Corrected, uncorrected, pending, failure.
const REMAPPED: [u32; 4] = [142, 143, 144, 145];
/// Single-bit, double-bit, pending.
const RETIRED: [u32; 3] = [29, 30, 31];
const RECOVERY_ACTION: u32 = 230;
/// PERF_POLICY_*, and CLOCKS_EVENT_REASON_* for software thermal, hardware thermal and hardware power brake.
const VIOLATIONS: [u32; 11] = [74, 75, 76, 77, 78, 79, 80, 81, 251, 252, 253];
/// PCIE_COUNT_*.
const PCIE_ERRORS: [u32; 10] = [173, 174, 175, 176, 177, 178, 179, 180, 181, 182];
/// NVLINK_{REPLAY,RECOVERY,CRC_FLIT,CRC_DATA}_ERROR_COUNT_TOTAL, over all links.
pub const NVLINK_ERRORS: [u32; 4] = [52, 59, 38, 45];
/// NVLINK_THROUGHPUT_DATA_{TX,RX} in KiB, with [`ALL_LINKS`].
const NVLINK_KIB: [u32; 2] = [138, 139];
/// Milliwatts. The scope is NVML_POWER_SCOPE_*.
const POWER_INSTANT: Field = Field { id: 186, scope: 0 };
const POWER_INSTANT_OF_MODULE: Field = Field { id: 186, scope: 1 };
const C2C_LINK_COUNT: u32 = 170;
/// Of a link: status, megabytes per second, and errors: interrupt, replay, back-to-back replay.
const C2C_OF_LINK: [u32; 5] = [171, 172, 231, 232, 233];
/// NVML_C2C_MAX_LINKS.
const MAX_C2C_LINKS: u32 = 14;

/// Fields and their values; `None` where the GPU or the driver does not have one.
#[derive(Default)]
pub struct Found(Vec<(Field, Option<u64>)>);

impl Found {
    pub fn read(device: &Device<'_>, query: &Query, fields: Vec<Field>) -> Self {
        let mut values = query.get(|| read(device, &fields)).unwrap_or_default();
        values.resize(fields.len(), None);
        Self(fields.into_iter().zip(values).collect())
    }

    pub fn get(&self, field: Field) -> Option<u64> {
        self.0.iter().find(|(known, _)| *known == field).and_then(|(_, value)| *value)
    }

    fn of_gpu(&self, id: u32) -> Option<u64> {
        self.get(Field { id, scope: 0 })
    }

    pub fn several<const N: usize>(&self, ids: [u32; N]) -> [Option<u64>; N] {
        ids.map(|id| self.of_gpu(id))
    }
}

/// Reads the fields of one GPU in a single call per round.
pub struct FieldReader {
    paced: Paced<Fields>,
    /// When the links had transferred so much, in KiB.
    traffic: Option<(Instant, u64)>,
    /// Links whose fields are requested: those that the driver counted in the round before.
    c2c_links: u32,
}

#[derive(Default)]
struct Fields {
    found: Found,
    nvlink_bytes_per_second: Option<u64>,
}

impl FieldReader {
    pub fn new() -> Self {
        Self { paced: Paced::new("fields", Duration::ZERO), traffic: None, c2c_links: 0 }
    }

    pub fn slow_call(&self) -> Option<SlowCall> {
        self.paced.slow_call()
    }

    pub fn add(&mut self, device: &Device<'_>, query: &Query, values: &mut Values) {
        let now = Instant::now();
        if self.paced.is_due(now) {
            let found = Found::read(device, query, requested(self.c2c_links));
            let links = found.of_gpu(C2C_LINK_COUNT).and_then(|links| u32::try_from(links).ok());
            self.c2c_links = links.unwrap_or_default().min(MAX_C2C_LINKS);
            let nvlink_bytes_per_second = self.nvlink_rate(&found, now);
            self.paced.set(Fields { found, nvlink_bytes_per_second }, now, Instant::now());
        }
        if let Some(fields) = self.paced.value() {
            add_values(&fields.found, values);
            values.nvlink = nvlink::links(device, query, &fields.found)
                .map(|links| NvLink { bytes_per_second: fields.nvlink_bytes_per_second, ..links });
            values.nvlink_counters = nvlink::counters(&fields.found);
        }
    }

    /// `None` in the first round, and after the counters were reset.
    fn nvlink_rate(&mut self, found: &Found, now: Instant) -> Option<u64> {
        let of_all = |id| found.get(Field { id, scope: ALL_LINKS });
        let [sent, received] = NVLINK_KIB.map(of_all);
        let total = sent.zip(received).and_then(|(sent, received)| sent.checked_add(received));
        let previous = std::mem::replace(&mut self.traffic, total.map(|total| (now, total)));
        let ((before, old), total) = previous.zip(total)?;
        let seconds = now.saturating_duration_since(before).as_secs_f64();
        let bytes = total.checked_sub(old)? as f64 * 1024.0;
        (seconds > 0.0).then(|| (bytes / seconds).round() as u64)
    }
}

fn requested(c2c_links: u32) -> Vec<Field> {
    let of_gpu = [
        &[MEMORY_TEMP, RECOVERY_ACTION, C2C_LINK_COUNT][..],
        &REMAPPED,
        &RETIRED,
        &VIOLATIONS,
        &PCIE_ERRORS,
        &NVLINK_ERRORS,
    ];
    let of_gpu = of_gpu.into_iter().flatten().map(|id| Field { id: *id, scope: 0 });
    let of_links = NVLINK_KIB.into_iter().chain(COUNTERS).chain(BIT_ERROR_RATIOS);
    let of_links = of_links.map(|id| Field { id, scope: ALL_LINKS });
    let of_c2c = (0..c2c_links).flat_map(|scope| C2C_OF_LINK.map(move |id| Field { id, scope }));
    let power = [POWER_INSTANT, POWER_INSTANT_OF_MODULE];
    of_gpu.chain(of_links).chain(power).chain(of_c2c).collect()
}

fn add_values(found: &Found, values: &mut Values) {
    // A GPU without the sensor returns 0 or an error.
    values.memory_temperature_celsius = found
        .of_gpu(MEMORY_TEMP)
        .and_then(|celsius| i32::try_from(celsius).ok())
        .filter(|celsius| *celsius != 0);
    let watts = |field| found.get(field).map(|milliwatts| milliwatts as f64 / 1000.0);
    values.instant_power_watts = watts(POWER_INSTANT);
    // Boards without a module return 0 or an error.
    values.module_power_watts = watts(POWER_INSTANT_OF_MODULE).filter(|watts| *watts != 0.0);
    values.recovery_action = found
        .of_gpu(RECOVERY_ACTION)
        .and_then(|code| u32::try_from(code).ok())
        .map(RecoveryAction::from_code);
    values.remapped_rows = remapped_rows(found);
    let [single_bit, double_bit, pending] = found.several(RETIRED);
    let pages = RetiredPages {
        single_bit,
        double_bit,
        pending: pending.map(|pages| pages != 0),
        ..RetiredPages::default()
    };
    values.retired_pages = (pages != RetiredPages::default()).then_some(pages);
    values.violations = violations(found);
    values.pcie_errors = pcie_errors(found);
    values.c2c = c2c(found);
}

fn remapped_rows(found: &Found) -> Option<RemappedRows> {
    let [correctable, uncorrectable, pending, failed] = found.several(REMAPPED);
    Some(RemappedRows {
        correctable: correctable? as u32,
        uncorrectable: uncorrectable? as u32,
        pending: pending? != 0,
        failed: failed? != 0,
    })
}

fn violations(found: &Found) -> Option<Violations> {
    let [
        power_nanoseconds,
        thermal_nanoseconds,
        sync_boost_nanoseconds,
        board_limit_nanoseconds,
        low_utilization_nanoseconds,
        reliability_nanoseconds,
        application_clocks_nanoseconds,
        base_clocks_nanoseconds,
        software_thermal_nanoseconds,
        hardware_thermal_nanoseconds,
        hardware_power_brake_nanoseconds,
    ] = found.several(VIOLATIONS);
    let violations = Violations {
        power_nanoseconds,
        thermal_nanoseconds,
        sync_boost_nanoseconds,
        board_limit_nanoseconds,
        low_utilization_nanoseconds,
        reliability_nanoseconds,
        application_clocks_nanoseconds,
        base_clocks_nanoseconds,
        software_thermal_nanoseconds,
        hardware_thermal_nanoseconds,
        hardware_power_brake_nanoseconds,
    };
    (violations != Violations::default()).then_some(violations)
}

fn pcie_errors(found: &Found) -> Option<PcieErrors> {
    let [
        correctable,
        naks_received,
        receiver,
        bad_tlp,
        naks_sent,
        bad_dllp,
        non_fatal,
        fatal,
        unsupported_requests,
        lcrc,
    ] = found.several(PCIE_ERRORS);
    let errors = PcieErrors {
        correctable,
        naks_received,
        receiver,
        bad_tlp,
        naks_sent,
        bad_dllp,
        non_fatal,
        fatal,
        unsupported_requests,
        lcrc,
        ..PcieErrors::default()
    };
    (errors != PcieErrors::default()).then_some(errors)
}

/// `None` without C2C links. In the first round only their number is known.
fn c2c(found: &Found) -> Option<C2c> {
    let links = u32::try_from(found.of_gpu(C2C_LINK_COUNT)?).ok().filter(|links| *links > 0)?;
    let of_links = |id| {
        let each = (0..links.min(MAX_C2C_LINKS)).map(|scope| found.get(Field { id, scope }));
        each.collect::<Option<Vec<u64>>>()
    };
    let [active, megabytes, interrupts, replays, back_to_back] = C2C_OF_LINK.map(of_links);
    let sum = |counts: Option<Vec<u64>>| counts?.into_iter().try_fold(0, u64::checked_add);
    Some(C2c {
        links: Some(links),
        links_active: active
            .map(|links| links.iter().filter(|active| **active == 1).count() as u32),
        max_bytes_per_second: megabytes
            .and_then(|speeds| speeds.into_iter().max()?.checked_mul(1_000_000)),
        interrupt_errors: sum(interrupts),
        replay_errors: sum(replays),
        back_to_back_replay_errors: sum(back_to_back),
    })
}
