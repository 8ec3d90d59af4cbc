//! One AMD GPU: its names and what it measures.
//!
//! Formats: kernel `Documentation/gpu/amdgpu/thermal.rst` (sensors, whose units are those of
//! `Documentation/hwmon/sysfs-interface.rst`), `driver-misc.rst` beside it (names, memory, PCI Express)
//! and `ras.rst` (errors). Every file may be missing or refuse, on integrated graphics most do: then its
//! value is absent, and nothing is said. So is a value that no GPU can have; drivers print those where
//! there is no sensor (0 °C for the memory of some Radeons), or no answer (4 294 967 295).

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::collector::cached_file::{Files, Made};
use crate::model::gpu::{Ecc, Gpu, Problem, Values, Vendor};
use crate::procfs::{amdgpu_ids, link_speed, ras_err_count};

const AMD: u16 = 0x1002;
const DRIVERS: [&str; 2] = ["amdgpu", "radeon"];

/// What a sensor may say to be believed.
const CELSIUS: RangeInclusive<i32> = -40..=150;
const WATTS: RangeInclusive<f64> = 0.001..=4000.0;
const MEGAHERTZ: RangeInclusive<u64> = 0..=10_000;
const LANES: RangeInclusive<u32> = 1..=32;

/// A GPU that was found.
#[derive(Debug)]
pub struct Card {
    /// Its directory, which has its PCI address for a name.
    device: PathBuf,
    /// The directory of the device where its link to the machine ends.
    link: PathBuf,
    name: String,
    uuid: Option<String>,
    /// Known once it was seen awake.
    sensors: Option<Sensors>,
}

/// Files below a GPU's `hwmon/hwmonN`, some of which may not be there.
#[derive(Debug)]
struct Sensors {
    directory: PathBuf,
    temperature: Option<PathBuf>,
    memory_temperature: Option<PathBuf>,
    sm_clock: Option<PathBuf>,
    memory_clock: Option<PathBuf>,
}

/// Whether a driver has a device whose files we know.
pub fn has_our_driver(device: &Path) -> bool {
    let driver = std::fs::read_link(device.join("driver"));
    driver.is_ok_and(|driver| DRIVERS.iter().any(|ours| driver.ends_with(ours)))
}

impl Card {
    /// The GPU at `device`, if it is AMD's. Reads nothing that would wake it; `before` is what was known of
    /// it under its former driver, `names` are lists of names.
    pub fn new(
        device: &Path,
        before: Option<Self>,
        names: &[PathBuf],
        files: &mut Files,
    ) -> Option<Self> {
        if hexadecimal(files, &device.join("vendor")) != Some(AMD) {
            return None;
        }
        let link = link(device, files);
        let device = device.to_owned();
        let (name, uuid) = match before {
            Some(before) => (before.name, before.uuid),
            None => (listed_name(&device, names, files), None),
        };
        let mut card = Self { device, link, name, uuid, sensors: None };
        if !card.is_asleep(files) {
            card.meet(files);
        }
        Some(card)
    }

    /// Its directory.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// E.g. `0000:03:00.0`.
    pub fn pci_address(&self) -> &str {
        self.device.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether it has the driver it was found with. A driver that was loaded again has other sensors.
    pub fn is_there(&self) -> bool {
        let sensors = self.sensors.as_ref();
        has_our_driver(&self.device) && sensors.is_none_or(|sensors| sensors.directory.exists())
    }

    /// One look. Of a GPU that sleeps nothing is read: before 6.15 most of its files wake it.
    pub fn read(&mut self, index: u32, files: &mut Files) -> Gpu {
        let is_asleep = self.is_asleep(files);
        if !is_asleep && self.sensors.is_none() {
            self.meet(files);
        }
        Gpu {
            index,
            vendor: Vendor::Amd,
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            pci_address: Some(self.pci_address().to_owned()),
            problem: is_asleep.then_some(Problem::Suspended),
            message: is_asleep.then(|| "asleep; reading its sensors would wake it".to_owned()),
            values: if is_asleep { Values::default() } else { self.values(files) },
            xids: Vec::new(),
        }
    }

    fn is_asleep(&self, files: &mut Files) -> bool {
        let status = files.line(&self.device.join("power/runtime_status"));
        matches!(status.as_deref(), Some("suspended" | "suspending"))
    }

    /// Reads what stays the same while it is awake.
    fn meet(&mut self, files: &mut Files) {
        let printable = |name: &String| name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        // Of the board, from its memory; empty on most that are not for servers.
        if let Some(name) = files.line(&self.device.join("product_name")).filter(printable) {
            self.name = name;
        }
        let id = files.line(&self.device.join("unique_id"));
        // As AMD's own programs write it; `ROCR_VISIBLE_DEVICES` takes it, too.
        let id = id.and_then(|id| u64::from_str_radix(&id, 16).ok()).filter(|id| *id != 0);
        self.uuid = id.map(|id| format!("GPU-{id:016x}")).or(self.uuid.take());
        self.sensors = Sensors::find(&self.device, files);
    }

    fn values(&self, files: &mut Files) -> Values {
        let of = |file: &str| self.device.join(file);
        let total = number(files, &of("mem_info_vram_total")).filter(|total: &u64| *total > 0);
        let used = number(files, &of("mem_info_vram_used"));
        let used = used.filter(|used| total.is_none_or(|total| *used <= total));
        let speed = files.parse(
            &self.link.join("current_link_speed"),
            Made::AtOnce,
            link_speed::parse_generation,
        );
        let mut values = Values {
            memory_total_bytes: total,
            memory_used_bytes: used,
            memory_free_bytes: total.zip(used).map(|(total, used)| total - used),
            utilization_percent: percent(files, &of("gpu_busy_percent")),
            memory_utilization_percent: percent(files, &of("mem_busy_percent")),
            ecc: self.ecc(files),
            pcie_generation: speed.ok(),
            pcie_width: number(files, &self.link.join("current_link_width"))
                .filter(|lanes| LANES.contains(lanes)),
            pcie_replays: number(files, &of("pcie_replay_count")),
            ..Values::default()
        };
        if let Some(sensors) = &self.sensors {
            sensors.read(files, &mut values);
        }
        values
    }

    /// Errors of its memory. Drivers of newer Instincts count them in another file.
    fn ecc(&self, files: &mut Files) -> Option<Ecc> {
        let counted = ["ras/umc_err_count", "ras/aca_umc"];
        let errors = counted.iter().find_map(|file| {
            files.parse(&self.device.join(file), Made::AtOnce, ras_err_count::parse).ok()
        })?;
        Some(Ecc {
            volatile_corrected: Some(errors.corrected),
            volatile_uncorrected: Some(errors.uncorrected),
            ..Ecc::default()
        })
    }
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.pci_address())
    }
}

impl Sensors {
    fn find(device: &Path, files: &mut Files) -> Option<Self> {
        let entries = std::fs::read_dir(device.join("hwmon")).ok()?.flatten();
        let directory = entries
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"hwmon"))
            .map(|entry| entry.path())
            .min()?;
        let mut find = |kind, label, unlabelled| find(&directory, kind, label, unlabelled, files);
        // An Instinct of the 300 series has no sensor at its edge: its own tools show the junction's.
        let temperature = find("temp", "edge", Some(1)).or_else(|| find("temp", "junction", None));
        Some(Self {
            temperature,
            memory_temperature: find("temp", "mem", None),
            sm_clock: find("freq", "sclk", Some(1)),
            memory_clock: find("freq", "mclk", Some(2)),
            directory,
        })
    }

    fn read(&self, files: &mut Files, values: &mut Values) {
        let mut celsius = |file: &PathBuf| {
            let millidegrees: i32 = number(files, file)?;
            let degrees = millidegrees.checked_add(500)?.div_euclid(1000);
            (millidegrees != 0 && CELSIUS.contains(&degrees)).then_some(degrees)
        };
        values.temperature_celsius = self.temperature.as_ref().and_then(&mut celsius);
        values.memory_temperature_celsius = self.memory_temperature.as_ref().and_then(&mut celsius);
        let mut watts = |file| {
            let microwatts: u64 = number(files, &self.directory.join(file))?;
            Some(microwatts as f64 / 1e6).filter(|watts| WATTS.contains(watts))
        };
        values.power_watts = watts("power1_average").or_else(|| watts("power1_input"));
        values.power_limit_watts = watts("power1_cap");
        // A clock that is switched off while there is nothing to do is 0.
        let mut megahertz = |file: &PathBuf| {
            let hertz: u64 = number(files, file)?;
            let megahertz = hertz.checked_add(500_000)? / 1_000_000;
            u32::try_from(megahertz).ok().filter(|_| MEGAHERTZ.contains(&megahertz))
        };
        values.sm_clock_mhz = self.sm_clock.as_ref().and_then(&mut megahertz);
        values.memory_clock_mhz = self.memory_clock.as_ref().and_then(&mut megahertz);
        values.fan_percent = self.fan_percent(files);
    }

    /// How hard the fan is driven; 0 where it stands still, as it may at low temperatures.
    fn fan_percent(&self, files: &mut Files) -> Option<u32> {
        let level: u32 = number(files, &self.directory.join("pwm1"))?;
        let full = number(files, &self.directory.join("pwm1_max")).unwrap_or(255);
        (level <= full && full <= 255).then(|| (200 * level + full).checked_div(2 * full)).flatten()
    }
}

/// The file of the sensor with this label or, where no sensor has a label, with this number.
fn find(
    directory: &Path,
    kind: &str,
    label: &str,
    unlabelled: Option<u32>,
    files: &mut Files,
) -> Option<PathBuf> {
    let mut labels = (1..=8).filter_map(|number| {
        Some((number, files.line(&directory.join(format!("{kind}{number}_label")))?))
    });
    let number = match labels.next() {
        None => unlabelled,
        first => {
            first.into_iter().chain(labels).find(|(_, found)| found == label).map(|(at, _)| at)
        }
    };
    number.map(|number| directory.join(format!("{kind}{number}_input")))
}

/// Where a GPU's link to the machine ends. Most carry a switch of their own, to which the link is always
/// as fast as can be; the link that may be narrow is that of the topmost of AMD's devices (kernel
/// `amdgpu_device.c`, `amdgpu_device_partner_bandwidth`).
fn link(device: &Path, files: &mut Files) -> PathBuf {
    let mut is_amds = |device: &&Path| hexadecimal(files, &device.join("vendor")) == Some(AMD);
    device.ancestors().take_while(&mut is_amds).last().unwrap_or(device).to_owned()
}

/// What lists of names call it; without a name there, its number.
fn listed_name(device: &Path, names: &[PathBuf], files: &mut Files) -> String {
    let number = hexadecimal(files, &device.join("device"));
    let revision = hexadecimal(files, &device.join("revision"));
    let revision = revision.and_then(|revision| u8::try_from(revision).ok());
    let listed = number.zip(revision).and_then(|(number, revision)| {
        let name = |list| amdgpu_ids::parse_name(files.read(list).ok()?, number, revision);
        names.iter().map(PathBuf::as_path).find_map(name)
    });
    let numbered = || number.map(|number| format!("AMD GPU 0x{number:04x}"));
    listed.or_else(numbered).unwrap_or_else(|| "AMD GPU".to_owned())
}

/// A PCI number, such as `0x1002`.
fn hexadecimal(files: &mut Files, path: &Path) -> Option<u16> {
    let text = files.line(path)?;
    u16::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn number<T: FromStr>(files: &mut Files, path: &Path) -> Option<T> {
    files.line(path)?.parse().ok()
}

fn percent(files: &mut Files, path: &Path) -> Option<u32> {
    number(files, path).filter(|percent| *percent <= 100)
}
