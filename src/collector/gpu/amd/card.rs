//! Identity and values of one AMD GPU.
//!
//! Formats: kernel `Documentation/gpu/amdgpu/thermal.rst` (sensors, in the units of
//! `Documentation/hwmon/sysfs-interface.rst`), `driver-misc.rst` (names, memory, PCI Express) and `ras.rst` (errors) in the
//! same directory. Any file may be missing or unreadable, which is common with integrated GPUs; then its value is absent
//! and nothing is logged. Implausible values are absent too: drivers return them if there is no sensor (0 °C for the
//! memory of some Radeons) or if the firmware does not respond (4 294 967 295).

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::collector::file_reader::FileReader;
use crate::model::gpu::{Ecc, Gpu, Problem, Values, Vendor};
use crate::procfs::{amdgpu_ids, link_speed, ras_err_count};

const AMD_VENDOR: u16 = 0x1002;
const DRIVERS: [&str; 2] = ["amdgpu", "radeon"];

/// Plausible values.
const CELSIUS: RangeInclusive<i32> = -40..=150;
const WATTS: RangeInclusive<f64> = 0.001..=4000.0;
const MEGAHERTZ: RangeInclusive<u64> = 0..=10_000;
const LANES: RangeInclusive<u32> = 1..=32;

#[derive(Debug)]
pub(super) struct Card {
    /// Sysfs directory, named after the PCI address.
    device: PathBuf,
    /// Sysfs directory of the device at the GPU's end of the PCIe link to the host.
    link: PathBuf,
    name: String,
    uuid: Option<String>,
    /// False until the GPU is read for the first time while it is not suspended.
    is_apu: bool,
    /// `None` until then, too.
    sensors: Option<HwmonFiles>,
}

/// Files below a GPU's `hwmon/hwmonN`.
#[derive(Debug)]
struct HwmonFiles {
    directory: PathBuf,
    temperature: Option<PathBuf>,
    memory_temperature: Option<PathBuf>,
    sm_clock: Option<PathBuf>,
    memory_clock: Option<PathBuf>,
}

/// Whether the device is bound to a driver whose files this module reads.
pub(super) fn has_amd_driver(device: &Path) -> bool {
    let driver = std::fs::read_link(device.join("driver"));
    driver.is_ok_and(|driver| DRIVERS.iter().any(|name| driver.ends_with(name)))
}

impl Card {
    /// The GPU at `device`; `None` if the vendor is not AMD. Does not resume a suspended GPU. `previous` is the same GPU
    /// before its driver was reloaded.
    pub(super) fn new(
        device: &Path,
        previous: Option<Self>,
        name_lists: &[PathBuf],
        files: &mut FileReader,
    ) -> Option<Self> {
        if hexadecimal(files, &device.join("vendor")) != Some(AMD_VENDOR) {
            return None;
        }
        let link = host_link(device, files);
        let device = device.to_owned();
        let (name, uuid) = match previous {
            Some(previous) => (previous.name, previous.uuid),
            None => (model_name(&device, name_lists, files), None),
        };
        let mut card = Self { device, link, name, uuid, is_apu: false, sensors: None };
        if !card.is_suspended(files) {
            card.read_identity(files);
        }
        Some(card)
    }

    pub(super) fn device(&self) -> &Path {
        &self.device
    }

    /// E.g. `0000:03:00.0`.
    pub(super) fn pci_address(&self) -> &str {
        self.device.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Whether the device is bound to the same driver instance. A reloaded driver creates another hwmon directory.
    pub(super) fn is_present(&self) -> bool {
        let sensors = self.sensors.as_ref();
        has_amd_driver(&self.device) && sensors.is_none_or(|sensors| sensors.directory.exists())
    }

    /// Reads all values. Nothing is read from a suspended GPU, because before Linux 6.15 reading most of its files resumes it.
    pub(super) fn read(&mut self, index: u32, files: &mut FileReader) -> Gpu {
        let is_suspended = self.is_suspended(files);
        if !is_suspended && self.sensors.is_none() {
            self.read_identity(files);
        }
        Gpu {
            index,
            vendor: Vendor::Amd,
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            pci_address: Some(self.pci_address().to_owned()),
            problem: is_suspended.then_some(Problem::Suspended),
            message: is_suspended
                .then(|| "suspended; reading its sensors would resume it".to_owned()),
            values: if is_suspended { Values::default() } else { self.values(files) },
            xids: Vec::new(),
            last_5_minutes: None,
        }
    }

    fn is_suspended(&self, files: &mut FileReader) -> bool {
        let status = files.read_line(&self.device.join("power/runtime_status"));
        matches!(status.as_deref(), Some("suspended" | "suspending"))
    }

    /// Reads what does not change until the GPU is suspended or the driver reloaded.
    fn read_identity(&mut self, files: &mut FileReader) {
        let printable = |name: &String| name.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        // From the EEPROM of the board; empty on most consumer boards.
        if let Some(name) = files.read_line(&self.device.join("product_name")).filter(printable) {
            self.name = name;
        }
        let id = files.read_line(&self.device.join("unique_id"));
        // In the format of AMD's tools and of `ROCR_VISIBLE_DEVICES`.
        let id = id.and_then(|id| u64::from_str_radix(&id, 16).ok()).filter(|id| *id != 0);
        self.uuid = id.map(|id| format!("GPU-{id:016x}")).or(self.uuid.take());
        self.sensors = HwmonFiles::find(&self.device, files);
        self.is_apu = is_apu(files, &self.device);
    }

    fn values(&self, files: &mut FileReader) -> Values {
        let path = |file: &str| self.device.join(file);
        let vram = memory(files, &self.device, "vram");
        let apu = self.is_apu.then(|| (vram, memory(files, &self.device, "gtt")));
        // For other GPUs, GTT is not memory of the GPU.
        let (carve_out, gtt) = apu.unwrap_or_default();
        let (total, used) = match apu {
            Some((vram, gtt)) => (sum(vram.total, gtt.total), sum(vram.used, gtt.used)),
            None => (vram.total, vram.used),
        };
        let speed =
            files.parse(&self.link.join("current_link_speed"), link_speed::parse_generation);
        let mut values = Values {
            memory_total_bytes: total,
            memory_used_bytes: used,
            memory_free_bytes: total.zip(used).and_then(|(total, used)| total.checked_sub(used)),
            vram_total_bytes: carve_out.total,
            vram_used_bytes: carve_out.used,
            gtt_total_bytes: gtt.total,
            gtt_used_bytes: gtt.used,
            utilization_percent: percent(files, &path("gpu_busy_percent")),
            memory_utilization_percent: percent(files, &path("mem_busy_percent")),
            ecc: self.ecc(files),
            pcie_generation: speed.ok(),
            pcie_width: number(files, &self.link.join("current_link_width"))
                .filter(|lanes| LANES.contains(lanes)),
            pcie_replays: number(files, &path("pcie_replay_count")),
            ..Values::default()
        };
        if let Some(sensors) = &self.sensors {
            sensors.read(files, &mut values);
        }
        values
    }

    /// Memory errors. The file depends on the model: newer Instincts have the second one.
    fn ecc(&self, files: &mut FileReader) -> Option<Ecc> {
        let candidates = ["ras/umc_err_count", "ras/aca_umc"];
        let errors = candidates
            .iter()
            .find_map(|file| files.parse(&self.device.join(file), ras_err_count::parse).ok())?;
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

impl HwmonFiles {
    fn find(device: &Path, files: &mut FileReader) -> Option<Self> {
        let entries = std::fs::read_dir(device.join("hwmon")).ok()?.flatten();
        let directory = entries
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"hwmon"))
            .map(|entry| entry.path())
            .min()?;
        let mut find =
            |kind, label, unlabeled| find_sensor(&directory, kind, label, unlabeled, files);
        // The Instinct 300 series has no edge sensor; AMD's tools show the junction temperature instead.
        let temperature = find("temp", "edge", Some(1)).or_else(|| find("temp", "junction", None));
        Some(Self {
            temperature,
            memory_temperature: find("temp", "mem", None),
            sm_clock: find("freq", "sclk", Some(1)),
            memory_clock: find("freq", "mclk", Some(2)),
            directory,
        })
    }

    fn read(&self, files: &mut FileReader, values: &mut Values) {
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
        // The clock of an idle GPU may be switched off and is 0 then.
        let mut megahertz = |file: &PathBuf| {
            let hertz: u64 = number(files, file)?;
            let megahertz = hertz.checked_add(500_000)? / 1_000_000;
            u32::try_from(megahertz).ok().filter(|_| MEGAHERTZ.contains(&megahertz))
        };
        values.sm_clock_mhz = self.sm_clock.as_ref().and_then(&mut megahertz);
        values.memory_clock_mhz = self.memory_clock.as_ref().and_then(&mut megahertz);
        values.fan_percent = self.fan_percent(files);
    }

    /// PWM duty cycle of the fan; 0 if it is stopped, which is normal at low temperatures.
    fn fan_percent(&self, files: &mut FileReader) -> Option<u32> {
        let duty: u32 = number(files, &self.directory.join("pwm1"))?;
        let max = number(files, &self.directory.join("pwm1_max")).unwrap_or(255);
        (duty <= max && max <= 255).then(|| (200 * duty + max).checked_div(2 * max)).flatten()
    }
}

/// File of the sensor with the given label or, if no sensor has a label, with the given number.
fn find_sensor(
    directory: &Path,
    kind: &str,
    label: &str,
    unlabeled: Option<u32>,
    files: &mut FileReader,
) -> Option<PathBuf> {
    let mut labels = (1..=8).filter_map(|number| {
        Some((number, files.read_line(&directory.join(format!("{kind}{number}_label")))?))
    });
    let number = match labels.next() {
        None => unlabeled,
        first => {
            first.into_iter().chain(labels).find(|(_, found)| found == label).map(|(at, _)| at)
        }
    };
    number.map(|number| directory.join(format!("{kind}{number}_input")))
}

/// Device at the GPU's end of the PCIe link to the host. Most boards contain a PCIe switch, and the link between switch and
/// GPU always has full speed. The link to the host is that of the topmost AMD device (kernel `amdgpu_device.c`,
/// `amdgpu_device_partner_bandwidth`).
fn host_link(device: &Path, files: &mut FileReader) -> PathBuf {
    let mut is_amd =
        |device: &&Path| hexadecimal(files, &device.join("vendor")) == Some(AMD_VENDOR);
    device.ancestors().take_while(&mut is_amd).last().unwrap_or(device).to_owned()
}

/// Model name from the lists or, if it is not listed, made of the PCI device ID.
fn model_name(device: &Path, name_lists: &[PathBuf], files: &mut FileReader) -> String {
    let device_id = hexadecimal(files, &device.join("device"));
    let revision = hexadecimal(files, &device.join("revision"));
    let revision = revision.and_then(|revision| u8::try_from(revision).ok());
    let listed = device_id.zip(revision).and_then(|(device_id, revision)| {
        let name = |list| amdgpu_ids::parse_name(files.read(list).ok()?, device_id, revision);
        name_lists.iter().map(PathBuf::as_path).find_map(name)
    });
    let unlisted = || device_id.map(|id| format!("AMD GPU 0x{id:04x}"));
    listed.or_else(unlisted).unwrap_or_else(|| "AMD GPU".to_owned())
}

/// Bytes of VRAM or GTT.
#[derive(Clone, Copy, Default)]
struct MemoryBytes {
    total: Option<u64>,
    used: Option<u64>,
}

/// `kind` is `vram` or `gtt`.
fn memory(files: &mut FileReader, device: &Path, kind: &str) -> MemoryBytes {
    let mut bytes = |part| number(files, &device.join(format!("mem_info_{kind}_{part}")));
    let total = bytes("total").filter(|total: &u64| *total > 0);
    let used = bytes("used").filter(|used| total.is_none_or(|total| *used <= total));
    MemoryBytes { total, used }
}

/// Without one of the parts the sum would be misleading.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one?.checked_add(other?)
}

/// Whether the GPU is part of the processor and has no memory of its own. The revision of its table of sensors says so
/// (`kgd_pp_interface.h`: 1 is a discrete GPU, 2 and 3 an APU). Without the table: it has no memory chips with a vendor, no
/// fan and no load of the memory, and the driver lets it use more of the machine's memory than the firmware set aside.
fn is_apu(files: &mut FileReader, device: &Path) -> bool {
    if let Ok([_, _, revision @ 1..=3, ..]) = files.read(&device.join("gpu_metrics")) {
        return *revision > 1;
    }
    let vendor = files.read_line(&device.join("mem_info_vram_vendor"));
    let has_own_memory = vendor.is_some_and(|vendor| vendor != "unknown")
        || device.join("mem_busy_percent").exists();
    let hwmon = std::fs::read_dir(device.join("hwmon")).into_iter().flatten().flatten();
    let has_fan = hwmon.into_iter().any(|entry| entry.path().join("pwm1").exists());
    let (vram, gtt) = (memory(files, device, "vram"), memory(files, device, "gtt"));
    let shares_most = gtt.total.is_some_and(|gtt| vram.total.is_some_and(|vram| vram < gtt));
    !has_own_memory && !has_fan && shares_most
}

/// A PCI ID such as `0x1002`.
fn hexadecimal(files: &mut FileReader, path: &Path) -> Option<u16> {
    let text = files.read_line(path)?;
    u16::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn number<T: FromStr>(files: &mut FileReader, path: &Path) -> Option<T> {
    files.read_line(path)?.parse().ok()
}

fn percent(files: &mut FileReader, path: &Path) -> Option<u32> {
    number(files, path).filter(|percent| *percent <= 100)
}
