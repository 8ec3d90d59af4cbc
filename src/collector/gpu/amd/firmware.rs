//! Values in the table of the GPU's firmware, `gpu_metrics`. Those that files of their own have too are used where such a
//! file is missing.

use std::path::Path;

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::hwmon::{CELSIUS, MEGAHERTZ, WATTS};
use crate::model::gpu::Values;
use crate::procfs::gpu_metrics::{self, GpuMetrics, ThrottleCounters};
use crate::util::error::Error;
use gpu_probe::amd::{ThrottleCycles, Xgmi, XgmiLink};
use gpu_probe::nvidia::PcieErrors;

/// MI250X, MI250, MI210 and its virtual function. Of the GPUs with revision 1.3, only these count energy in a known unit.
const MI200: [u16; 4] = [0x7408, 0x740c, 0x740f, 0x7410];
/// Revision from which all GPUs do.
const FIRST_INSTINCT_REVISION: u8 = 4;

const JOULES_PER_UNIT: f64 = 1.0 / 65536.0;

/// Names of NVML for the reasons of AMD, by the bits `SMU_THROTTLER_*` in the driver's `amdgpu_smu.h`: limits of power and
/// current, temperatures, and signals of a voltage regulator or another component.
const THROTTLE_BITS: [(u64, &str); 3] = [
    (0x0000_0000_00ff_00ff, "sw_power_cap"),
    (0x0000_0fff_0000_0000, "sw_thermal_slowdown"),
    (0x0000_f000_0000_0000, "hw_thermal_slowdown"),
];

/// What is kept from the last table.
#[derive(Debug, Default)]
pub(super) struct Firmware {
    throttle: ThrottleCounters,
    reasons: Option<Vec<String>>,
    unknown_table_logged: bool,
}

impl Firmware {
    /// To be called when the GPU is suspended: its counters start anew.
    pub(super) fn forget_counters(&mut self) {
        (self.throttle, self.reasons) = Default::default();
    }

    /// Adds values of the table of `device`.
    pub(super) fn read(
        &mut self,
        device: &Path,
        device_id: Option<u16>,
        files: &mut FileReader,
        values: &mut Values,
    ) {
        let table = match files.parse(&device.join("gpu_metrics"), gpu_metrics::parse) {
            Ok(table) => table,
            Err(error) => return self.log_unknown_table(&error),
        };
        let is_instinct = table.revision >= FIRST_INSTINCT_REVISION
            || device_id.is_some_and(|id| MI200.contains(&id));
        let energy = table.energy_units.filter(|_| is_instinct);
        values.energy_joules = energy.map(|units| units as f64 * JOULES_PER_UNIT);
        fill_gaps(&table, values);
        values.clock_event_reasons = self.reasons(&table);
        values.throttle_cycles = known(throttle_cycles(&table.throttle));
        values.pcie_errors = known(pcie_errors(&table));
        values.xgmi = known(xgmi(&table));
        if let (Some(partitions), Some(count)) = (&mut values.partitions, table.partitions) {
            partitions.count = u32::try_from(count).ok();
        }
    }

    /// Not every GPU has a table, but one that is there has values which are not shown.
    fn log_unknown_table(&mut self, error: &Error) {
        if matches!(error, Error::Parse { .. }) && !self.unknown_table_logged {
            log::info!("values of the GPU's firmware are not shown: {error}");
            self.unknown_table_logged = true;
        }
    }

    /// From counters, a reason applies if its counter has advanced since the last table.
    fn reasons(&mut self, table: &GpuMetrics) -> Option<Vec<String>> {
        if let Some(bits) = table.throttle_bits {
            let set = THROTTLE_BITS.iter().filter(|(mask, _)| bits & mask != 0);
            return Some(set.map(|(_, name)| (*name).to_owned()).collect());
        }
        let (new, old) = (&table.throttle, std::mem::replace(&mut self.throttle, table.throttle));
        // The driver returns the same table to reads within a few milliseconds.
        if new.cycles != old.cycles {
            self.reasons = old.cycles.zip(new.cycles).map(|_| advanced(&old, new));
        }
        self.reasons.clone()
    }
}

fn advanced(old: &ThrottleCounters, new: &ThrottleCounters) -> Vec<String> {
    let soft = [(old.socket_thermal, new.socket_thermal), (old.memory_thermal, new.memory_thermal)];
    let hard = [(old.regulator_thermal, new.regulator_thermal), (old.prochot, new.prochot)];
    let counters = [
        ("sw_power_cap", &[(old.power, new.power)][..]),
        ("sw_thermal_slowdown", &soft),
        ("hw_thermal_slowdown", &hard),
    ];
    let has_advanced = |(old, new): &(Option<u64>, Option<u64>)| old.is_some() && old != new;
    let reasons = counters.iter().filter(|(_, counters)| counters.iter().any(has_advanced));
    reasons.map(|(name, _)| (*name).to_owned()).collect()
}

/// Takes the values that no other file had.
fn fill_gaps(table: &GpuMetrics, values: &mut Values) {
    let celsius = |value: Option<u64>| {
        let celsius = value.and_then(|celsius| i32::try_from(celsius).ok());
        celsius.filter(|celsius| *celsius != 0 && CELSIUS.contains(celsius))
    };
    let small = |value: Option<u64>, max: u64| {
        value.filter(|value| *value <= max).and_then(|value| u32::try_from(value).ok())
    };
    fill(&mut values.temperature_celsius, celsius(table.hotspot_celsius));
    fill(&mut values.memory_temperature_celsius, celsius(table.memory_celsius));
    let watts = table.socket_watts.map(|watts| watts as f64);
    fill(&mut values.power_watts, watts.filter(|watts| WATTS.contains(watts)));
    fill(&mut values.utilization_percent, small(table.gfx_percent, 100));
    fill(&mut values.memory_utilization_percent, small(table.memory_percent, 100));
    fill(&mut values.sm_clock_mhz, small(table.gfx_clock_mhz, *MEGAHERTZ.end()));
    fill(&mut values.memory_clock_mhz, small(table.memory_clock_mhz, *MEGAHERTZ.end()));
    fill(&mut values.pcie_replays, table.pcie.replays);
}

fn fill<T>(value: &mut Option<T>, from_table: Option<T>) {
    if value.is_none() {
        *value = from_table;
    }
}

fn throttle_cycles(counters: &ThrottleCounters) -> ThrottleCycles {
    ThrottleCycles {
        total: counters.cycles,
        power: counters.power,
        socket_thermal: counters.socket_thermal,
        memory_thermal: counters.memory_thermal,
        regulator_thermal: counters.regulator_thermal,
        prochot: counters.prochot,
    }
}

fn pcie_errors(table: &GpuMetrics) -> PcieErrors {
    PcieErrors {
        naks_received: table.pcie.naks_received,
        naks_sent: table.pcie.naks_sent,
        replay_rollovers: table.pcie.replay_rollovers,
        recoveries: table.pcie.recoveries,
        ..PcieErrors::default()
    }
}

/// Links without any value do not exist.
fn xgmi(table: &GpuMetrics) -> Xgmi {
    let bytes = |kib: Option<u64>| kib.and_then(|kib| kib.checked_mul(1024));
    let links = (0..).zip(&table.xgmi).filter_map(|(link, values)| {
        let found = XgmiLink {
            link,
            up: values.status.map(|status| status == 1),
            read_bytes: bytes(values.read_kib),
            written_bytes: bytes(values.written_kib),
        };
        (found != XgmiLink { link, ..XgmiLink::default() }).then_some(found)
    });
    let links: Vec<XgmiLink> = links.collect();
    let number = |value: Option<u64>| value.and_then(|value| u32::try_from(value).ok());
    Xgmi {
        link_width: number(table.xgmi_width).filter(|_| !links.is_empty()),
        gigabits_per_second: number(table.xgmi_gigabits_per_second).filter(|_| !links.is_empty()),
        links: Some(links).filter(|links| !links.is_empty()),
    }
}

/// `None` instead of a structure without values.
fn known<T: Default + PartialEq>(values: T) -> Option<T> {
    Some(values).filter(|values| *values != T::default())
}
