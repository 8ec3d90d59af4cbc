//! Values of one Intel GPU with the driver i915 or xe, from sysfs.
//!
//! Formats: kernel `Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon`, `sysfs-driver-intel-xe-hwmon` (energy, power
//! limits, temperatures) and `sysfs-driver-intel-xe-sysfs` for clocks; those of i915 are in `i915_sysfs.c` and
//! `intel_gt_sysfs_pm.c`. Load and memory are not in sysfs. Any file may be missing; then its value is absent.

mod clocks;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::drm::{DrmDevice, NameLists, has_driver, is_suspended, pci_address};
use crate::collector::gpu::hwmon::{self, WATTS, number, pci_id};
use crate::collector::gpu::intel::clocks::ClockFiles;
use crate::model::gpu::{Gpu, Problem, Values, Vendor};
use crate::procfs::pci_ids::NameSearch;

const INTEL_VENDOR: u16 = 0x8086;
const DRIVERS: [&str; 2] = ["i915", "xe"];
/// End of the PCI address of an integrated GPU.
const INTEGRATED: &str = ":00:02.0";

/// The counter of energy advances in steps, so power over a shorter time would be inaccurate.
const MIN_POWER_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct IntelCard {
    at: DrmDevice,
    name: String,
    sensors: Option<SensorFiles>,
    clocks: ClockFiles,
    /// Time and microjoules from which power is computed next.
    energy: Option<(Instant, u64)>,
    power_watts: Option<f64>,
}

/// Files below `hwmon/hwmonN`.
#[derive(Debug)]
struct SensorFiles {
    directory: PathBuf,
    /// Of the card and of the package. Some cards count only one of them, and the other is 0.
    energy: [Option<PathBuf>; 2],
    temperature: Option<PathBuf>,
    memory_temperature: Option<PathBuf>,
}

impl IntelCard {
    /// `None` if it is not a discrete GPU of Intel. Does not resume a suspended GPU.
    pub(super) fn new(at: &DrmDevice, names: &NameLists, files: &mut FileReader) -> Option<Self> {
        let is_intel = pci_id(files, &at.device.join("vendor")) == Some(INTEL_VENDOR);
        if !is_intel || !has_driver(&at.device, &DRIVERS) {
            return None;
        }
        let sensors = SensorFiles::find(&at.device, files);
        // The drivers have sensors for discrete GPUs only, and before Linux 6.2 for none.
        if sensors.is_none() && pci_address(&at.device).ends_with(INTEGRATED) {
            return None;
        }
        Some(Self {
            at: at.clone(),
            name: model_name(&at.device, &names.pci_ids, files),
            sensors,
            clocks: ClockFiles::find(at),
            energy: None,
            power_watts: None,
        })
    }

    pub(super) fn device(&self) -> &Path {
        &self.at.device
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the device is bound to the same driver instance. A reloaded driver creates other directories.
    pub(super) fn is_present(&self) -> bool {
        let sensors = self.sensors.as_ref();
        has_driver(&self.at.device, &DRIVERS)
            && self.at.card.exists()
            && sensors.is_none_or(|sensors| sensors.directory.exists())
    }

    pub(super) fn read(&mut self, now: Instant, files: &mut FileReader) -> Gpu {
        let is_suspended = is_suspended(&self.at.device, files);
        if is_suspended {
            self.energy = None;
        } else if self.sensors.is_none() {
            // The driver registers them last.
            self.sensors = SensorFiles::find(&self.at.device, files);
            self.clocks = ClockFiles::find(&self.at);
        }
        Gpu {
            vendor: Vendor::Intel,
            name: self.name.clone(),
            pci_address: Some(pci_address(&self.at.device).to_owned()),
            problem: is_suspended.then_some(Problem::Suspended),
            message: is_suspended
                .then(|| "suspended; reading its sensors would resume it".to_owned()),
            values: if is_suspended { Values::default() } else { self.values(now, files) },
            ..Gpu::default()
        }
    }

    fn values(&mut self, now: Instant, files: &mut FileReader) -> Values {
        let mut values = Values {
            sm_clock_mhz: self.clocks.megahertz(files),
            clock_event_reasons: self.clocks.throttle_reasons(files),
            ..Values::default()
        };
        let Some(sensors) = &self.sensors else { return values };
        let celsius = |file: &Option<PathBuf>, files: &mut FileReader| {
            hwmon::celsius(files, file.as_deref()?)
        };
        values.temperature_celsius = celsius(&sensors.temperature, files);
        values.memory_temperature_celsius = celsius(&sensors.memory_temperature, files);
        values.power_limit_watts = sensors.power_limit(files);
        let microjoules = sensors.microjoules(files);
        values.energy_joules = microjoules.map(|energy| energy as f64 / 1e6);
        values.power_watts = self.power(microjoules, now);
        values
    }

    /// Mean power since the previous read.
    fn power(&mut self, microjoules: Option<u64>, now: Instant) -> Option<f64> {
        if let Some((since, before)) = self.energy {
            let elapsed = now.saturating_duration_since(since);
            if elapsed < MIN_POWER_INTERVAL {
                return self.power_watts;
            }
            let used = microjoules.and_then(|energy| energy.checked_sub(before));
            let watts = used.map(|used| used as f64 / 1e6 / elapsed.as_secs_f64());
            self.power_watts = watts.filter(|watts| WATTS.contains(watts));
        } else {
            self.power_watts = None;
        }
        self.energy = microjoules.map(|energy| (now, energy));
        self.power_watts
    }
}

impl SensorFiles {
    fn find(device: &Path, files: &mut FileReader) -> Option<Self> {
        let directory = find_directory(device, files)?;
        let mut find =
            |kind, label, unlabeled| hwmon::find_sensor(&directory, kind, label, unlabeled, files);
        // xe labels its sensors since Linux 6.15; before, and with i915, there is one of each kind at most.
        Some(Self {
            energy: [find("energy", "card", Some(1)), find("energy", "pkg", Some(2))],
            temperature: find("temp", "pkg", Some(1)),
            memory_temperature: find("temp", "vram", None),
            directory,
        })
    }

    fn microjoules(&self, files: &mut FileReader) -> Option<u64> {
        let counters = self.energy.iter().flatten();
        counters.filter_map(|file| number(files, file)).find(|energy| *energy != 0)
    }

    /// Sustained limit of the card or else of the package; 0 if it is switched off. Without one, the rated power.
    fn power_limit(&self, files: &mut FileReader) -> Option<f64> {
        let limits = ["power1_max", "power2_max", "power1_rated_max", "power2_rated_max"];
        limits.iter().find_map(|file| hwmon::watts(files, &self.directory.join(file)))
    }
}

/// The directory of the whole card: i915 has others named `i915_gt0`, … for parts of it.
fn find_directory(device: &Path, files: &mut FileReader) -> Option<PathBuf> {
    let entries = std::fs::read_dir(device.join("hwmon")).ok()?.flatten();
    let mut directories: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    directories.sort();
    let is_whole = |directory: &PathBuf| {
        let name = files.read_line(&directory.join("name"));
        name.is_some_and(|name| DRIVERS.contains(&name.as_str()))
    };
    directories.into_iter().find(is_whole)
}

/// Name in the list or, if the GPU is not listed, made of the PCI device ID.
fn model_name(device: &Path, lists: &[PathBuf], files: &mut FileReader) -> String {
    let Some(id) = pci_id(files, &device.join("device")) else { return "Intel GPU".to_owned() };
    let listed = lists.iter().find_map(|list| {
        let mut search = NameSearch::new(INTEL_VENDOR, id);
        let each_line = |_, line: &[u8]| {
            search.on_line(line);
            Ok(())
        };
        files.parse_lines(list, each_line).ok()?;
        search.found
    });
    listed.map_or_else(|| format!("Intel GPU 0x{id:04x}"), |name| format!("Intel {name}"))
}
