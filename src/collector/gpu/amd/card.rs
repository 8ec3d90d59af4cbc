//! Identity and values of one AMD GPU.
//!
//! Formats: kernel `Documentation/gpu/amdgpu/thermal.rst` (sensors, in the units of
//! `Documentation/hwmon/sysfs-interface.rst`), `driver-misc.rst` (names, memory, PCI Express) and `ras.rst` (errors) in the
//! same directory. Any file may be missing or unreadable, which is common with integrated GPUs; then its value is absent
//! and nothing is logged. Implausible values are absent too: drivers return them if there is no sensor (0 °C for the
//! memory of some Radeons) or if the firmware does not respond (4 294 967 295).

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::amd::firmware::Firmware;
use crate::collector::gpu::amd::sensors::HwmonFiles;
use crate::collector::gpu::drm::{DrmDevice, NameLists, has_driver, is_suspended, pci_address};
use crate::collector::gpu::hwmon::{number, pci_id};
use crate::model::gpu::{Ecc, Gpu, Problem, Values, Vendor};
use crate::procfs::{amdgpu_ids, bad_pages, link_speed, ras_err_count};
use gpu_probe::amd::Partitions;
use gpu_probe::nvidia::RetiredPages;

const AMD_VENDOR: u16 = 0x1002;
const DRIVERS: [&str; 2] = ["amdgpu", "radeon"];

/// Plausible values.
const LANES: RangeInclusive<u32> = 1..=32;

#[derive(Debug)]
pub(in crate::collector::gpu) struct AmdCard {
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
    /// PCI device ID.
    device_id: Option<u16>,
    firmware: Firmware,
}

impl AmdCard {
    /// `None` if it is not a GPU of AMD. Does not resume a suspended GPU. `previous` is the same GPU before its driver was
    /// reloaded.
    pub(in crate::collector::gpu) fn new(
        at: &DrmDevice,
        previous: Option<Self>,
        names: &NameLists,
        files: &mut FileReader,
    ) -> Option<Self> {
        let is_amd = pci_id(files, &at.device.join("vendor")) == Some(AMD_VENDOR);
        if !is_amd || !has_driver(&at.device, &DRIVERS) {
            return None;
        }
        let device = at.device.clone();
        let link = host_link(&device, files);
        let device_id = pci_id(files, &device.join("device"));
        let (name, uuid) = match previous {
            Some(previous) => (previous.name, previous.uuid),
            None => (model_name(&device, device_id, &names.amdgpu_ids, files), None),
        };
        let mut card = Self {
            device,
            link,
            name,
            uuid,
            is_apu: false,
            sensors: None,
            device_id,
            firmware: Firmware::default(),
        };
        if !is_suspended(&card.device, files) {
            card.read_identity(files);
        }
        Some(card)
    }

    pub(in crate::collector::gpu) fn device(&self) -> &Path {
        &self.device
    }

    pub(in crate::collector::gpu) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the device is bound to the same driver instance. A reloaded driver creates another hwmon directory.
    pub(in crate::collector::gpu) fn is_present(&self) -> bool {
        let sensors = self.sensors.as_ref();
        has_driver(&self.device, &DRIVERS)
            && sensors.is_none_or(|sensors| sensors.directory.exists())
    }

    /// Reads all values. Nothing is read from a suspended GPU.
    pub(in crate::collector::gpu) fn read(&mut self, files: &mut FileReader) -> Gpu {
        let is_suspended = is_suspended(&self.device, files);
        if is_suspended {
            self.firmware.forget_counters();
        } else if self.sensors.is_none() {
            self.read_identity(files);
        }
        Gpu {
            vendor: Vendor::Amd,
            name: self.name.clone(),
            uuid: self.uuid.clone(),
            pci_address: Some(pci_address(&self.device).to_owned()),
            problem: is_suspended.then_some(Problem::Suspended),
            message: is_suspended
                .then(|| "suspended; reading its sensors would resume it".to_owned()),
            values: if is_suspended { Values::default() } else { self.values(files) },
            ..Gpu::default()
        }
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

    fn values(&mut self, files: &mut FileReader) -> Values {
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
            retired_pages: retired_pages(files, &self.device),
            partitions: partitions(files, &self.device),
            ..Values::default()
        };
        if let Some(sensors) = &self.sensors {
            sensors.read(files, &mut values);
        }
        // The tables of APUs have units that depend on the model.
        if !self.is_apu {
            self.firmware.read(&self.device, self.device_id, files, &mut values);
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

/// Device at the GPU's end of the PCIe link to the host. Most boards contain a PCIe switch, and the link between switch and
/// GPU always has full speed. The link to the host is that of the topmost AMD device (kernel `amdgpu_device.c`,
/// `amdgpu_device_partner_bandwidth`).
fn host_link(device: &Path, files: &mut FileReader) -> PathBuf {
    let mut is_amd = |device: &&Path| pci_id(files, &device.join("vendor")) == Some(AMD_VENDOR);
    device.ancestors().take_while(&mut is_amd).last().unwrap_or(device).to_owned()
}

/// Model name from the lists or, if it is not listed, made of the PCI device ID.
fn model_name(
    device: &Path,
    device_id: Option<u16>,
    name_lists: &[PathBuf],
    files: &mut FileReader,
) -> String {
    let revision = pci_id(files, &device.join("revision"));
    let revision = revision.and_then(|revision| u8::try_from(revision).ok());
    let listed = device_id.zip(revision).and_then(|(device_id, revision)| {
        let name = |list| amdgpu_ids::parse_name(files.read(list).ok()?, device_id, revision);
        name_lists.iter().map(PathBuf::as_path).find_map(name)
    });
    let unlisted = || device_id.map(|id| format!("AMD GPU 0x{id:04x}"));
    listed.or_else(unlisted).unwrap_or_else(|| "AMD GPU".to_owned())
}

/// Pages with uncorrected errors. The driver has no list for GPUs whose memory has no ECC.
fn retired_pages(files: &mut FileReader, device: &Path) -> Option<RetiredPages> {
    let pages = files.parse(&device.join("ras/gpu_vram_bad_pages"), bad_pages::parse).ok()?;
    Some(RetiredPages {
        single_bit: None,
        double_bit: Some(pages.retired),
        pending: Some(pages.pending > 0),
        failed: Some(pages.failed),
    })
}

/// Each partition has a card of its own without sensors; the values are those of the whole GPU.
fn partitions(files: &mut FileReader, device: &Path) -> Option<Partitions> {
    let compute_mode = files.read_line(&device.join("current_compute_partition"))?;
    let count = match compute_mode.as_str() {
        "SPX" => Some(1),
        "DPX" => Some(2),
        "TPX" => Some(3),
        "QPX" => Some(4),
        // As many as it has compute chips.
        _ => None,
    };
    let memory_mode = files.read_line(&device.join("current_memory_partition"));
    Some(Partitions { count, compute_mode: Some(compute_mode), memory_mode })
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

fn percent(files: &mut FileReader, path: &Path) -> Option<u32> {
    number(files, path).filter(|percent| *percent <= 100)
}
