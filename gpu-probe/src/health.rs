//! States that change rarely, read every half minute, and the thermal margin.

use std::time::{Duration, Instant};

use gpu_probe::gpu::Values;
use gpu_probe::nvidia::{ConfidentialCompute, Fabric, Platform, RowRemapBanks, SlowCall, SramEcc};
use nvml_wrapper::Device;

use crate::nvml::health;
use crate::pacing::Paced;

const INTERVAL: Duration = Duration::from_secs(30);

pub struct HealthReader {
    states: Paced<States>,
    thermal_margin: Paced<Option<i32>>,
}

/// What is absent is not supported, or could not be read.
#[derive(Debug, Clone, Default)]
pub struct Health {
    states: States,
    thermal_margin_celsius: Option<i32>,
}

#[derive(Debug, Clone, Default)]
struct States {
    fabric: Option<Fabric>,
    row_remap_banks: Option<RowRemapBanks>,
    sram_ecc: Option<SramEcc>,
    persistence_mode: Option<bool>,
    confidential_compute: Option<ConfidentialCompute>,
    vgpu_licensed: Option<bool>,
    platform: Option<Platform>,
}

impl HealthReader {
    pub fn new() -> Self {
        Self {
            states: Paced::new("health", INTERVAL),
            thermal_margin: Paced::new("thermal_margin", Duration::ZERO),
        }
    }

    pub fn slow_calls(&self) -> impl Iterator<Item = SlowCall> {
        self.states.slow_call().into_iter().chain(self.thermal_margin.slow_call())
    }

    pub fn read(&mut self, device: &Device<'_>) -> Health {
        let now = Instant::now();
        if self.states.is_due(now) {
            self.states.set(States::read(device), now, Instant::now());
        }
        let now = Instant::now();
        if self.thermal_margin.is_due(now) {
            let margin = health::thermal_margin_celsius(device).ok();
            self.thermal_margin.set(margin, now, Instant::now());
        }
        Health {
            states: self.states.value().cloned().unwrap_or_default(),
            thermal_margin_celsius: self.thermal_margin.value().copied().flatten(),
        }
    }
}

impl States {
    fn read(device: &Device<'_>) -> Self {
        Self {
            fabric: health::fabric(device).ok(),
            row_remap_banks: health::row_remap_banks(device).ok(),
            sram_ecc: health::sram_ecc(device).ok(),
            persistence_mode: device.is_in_persistent_mode().ok(),
            confidential_compute: health::confidential_compute(device.nvml()).ok(),
            vgpu_licensed: health::vgpu_licensed(device).ok(),
            platform: health::platform(device).ok(),
        }
    }
}

impl Health {
    pub fn add_to(&self, values: &mut Values) {
        let states = &self.states;
        values.thermal_margin_celsius = self.thermal_margin_celsius;
        values.fabric.clone_from(&states.fabric);
        values.row_remap_banks = states.row_remap_banks;
        values.sram_ecc = states.sram_ecc;
        values.persistence_mode = states.persistence_mode;
        values.confidential_compute = states.confidential_compute;
        values.vgpu_licensed = states.vgpu_licensed;
        values.platform.clone_from(&states.platform);
    }
}
