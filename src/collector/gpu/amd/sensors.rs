//! Temperatures, power, clocks and fan of an AMD GPU: kernel `Documentation/gpu/amdgpu/thermal.rst`.

use std::path::{Path, PathBuf};

use crate::collector::file_reader::FileReader;
use crate::collector::gpu::hwmon::{self, MEGAHERTZ, number};
use crate::model::gpu::Values;

/// Files below a GPU's `hwmon/hwmonN`.
#[derive(Debug)]
pub(super) struct HwmonFiles {
    pub(super) directory: PathBuf,
    temperature: Option<PathBuf>,
    memory_temperature: Option<PathBuf>,
    sm_clock: Option<PathBuf>,
    memory_clock: Option<PathBuf>,
}

impl HwmonFiles {
    pub(super) fn find(device: &Path, files: &mut FileReader) -> Option<Self> {
        let directory = hwmon::find_directory(device)?;
        let mut find =
            |kind, label, unlabeled| hwmon::find_sensor(&directory, kind, label, unlabeled, files);
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

    pub(super) fn read(&self, files: &mut FileReader, values: &mut Values) {
        let mut celsius = |file: &Option<PathBuf>| hwmon::celsius(files, file.as_deref()?);
        values.temperature_celsius = celsius(&self.temperature);
        values.memory_temperature_celsius = celsius(&self.memory_temperature);
        let mut watts = |file| hwmon::watts(files, &self.directory.join(file));
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
