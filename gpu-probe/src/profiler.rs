//! Profiling metrics by GPM (GPU performance monitoring), which Hopper and later GPUs have.
//!
//! A GPM sample is a copy of free-running counters, and a metric is the mean between two samples: the one of the last round
//! is kept. Streaming mode, which changes a setting of the GPU, is left alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpu_probe::nvidia::{Profiling, SlowCall};
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::gpm_metrics_get;
use nvml_wrapper::{Device, GpmSample, Nvml};

use crate::extras::ExtrasRequest;
use crate::pacing::Paced;
use crate::profiling::{METRICS, profiling};

/// nvml.h: two samples must be more than 100 ms apart.
const MIN_INTERVAL: Duration = Duration::from_millis(150);
/// How often a GPU that had no GPM is queried again: an error may have been temporary.
const RECHECK_INTERVAL: Duration = Duration::from_secs(300);
/// With this utilization the graphics engine cannot have been idle for a whole interval.
const BUSY_PERCENT: u32 = 50;

/// The whole GPU or one of its GPU instances.
pub type Scope = Option<u32>;
pub type Metrics = BTreeMap<Scope, Profiling>;

pub struct Profiler {
    /// Whether the GPU has GPM, and when it was queried.
    support: Option<(bool, Instant)>,
    /// Of the last round.
    samples: BTreeMap<Scope, GpmSample<'static>>,
    paced: Paced<Metrics>,
}

impl Profiler {
    pub fn new() -> Self {
        Self {
            support: None,
            samples: BTreeMap::new(),
            paced: Paced::new("profiling", MIN_INTERVAL),
        }
    }

    pub fn slow_call(&self) -> Option<SlowCall> {
        self.paced.slow_call()
    }

    pub fn read(&mut self, device: &Device<'static>, request: &ExtrasRequest) -> Metrics {
        let now = Instant::now();
        if self.is_supported(device, now) && self.paced.is_due(now) {
            let metrics = self.measure(device, request);
            self.paced.set(metrics, now, Instant::now());
        }
        self.paced.value().cloned().unwrap_or_default()
    }

    /// Drivers before 520 do not have the call, and GPUs before Hopper have no GPM.
    fn is_supported(&mut self, device: &Device<'_>, now: Instant) -> bool {
        match self.support {
            Some((true, _)) => true,
            Some((false, at)) if now < at + RECHECK_INTERVAL => false,
            _ => {
                let supported = device.gpm_support().is_ok_and(|supported| supported);
                self.support = Some((supported, now));
                supported
            }
        }
    }

    /// Takes a sample of the GPU or of each of its instances, and computes the metrics since the one before.
    fn measure(&mut self, device: &Device<'static>, request: &ExtrasRequest) -> Metrics {
        let scopes: Vec<Scope> = match &request.instances {
            None => vec![None],
            Some(instances) => instances.iter().copied().map(Some).collect(),
        };
        self.samples.retain(|scope, _| scopes.contains(scope));
        let mut found = Metrics::new();
        for scope in scopes {
            let sample = match scope {
                None => device.gpm_sample(),
                Some(instance) => device.gpm_mig_sample(instance),
            };
            let previous = self.samples.remove(&scope);
            let Ok(sample) = sample else { continue };
            let metrics =
                previous.map(|previous| metrics_between(device.nvml(), &previous, &sample));
            match metrics {
                // Some drivers return counters that do not advance any more. Both samples are dropped, to start anew.
                Some(Ok(metrics)) if is_idle_without_reason(&metrics, request) => continue,
                Some(Ok(metrics)) if metrics != Profiling::default() => {
                    found.insert(scope, metrics);
                }
                Some(_) | None => {}
            }
            self.samples.insert(scope, sample);
        }
        found
    }
}

fn metrics_between(
    nvml: &'static Nvml,
    before: &GpmSample<'static>,
    after: &GpmSample<'static>,
) -> Result<Profiling, NvmlError> {
    let metrics = gpm_metrics_get(nvml, before, after, &METRICS)?;
    let value = |id: GpmMetricId| {
        let at = METRICS.iter().position(|known| *known == id)?;
        let value = metrics.get(at)?.as_ref().ok()?.value;
        // Without activity some metrics are 0 ÷ 0.
        value.is_finite().then_some(value)
    };
    Ok(profiling(value))
}

/// Whether the main ratios are all 0 although NVML reports a busy GPU.
fn is_idle_without_reason(profiling: &Profiling, request: &ExtrasRequest) -> bool {
    let is_busy = request.utilization_percent.is_some_and(|percent| percent >= BUSY_PERCENT);
    let ratios = [
        profiling.graphics_engine_ratio,
        profiling.sm_active_ratio,
        profiling.sm_occupancy_ratio,
        profiling.tensor_ratio,
        profiling.dram_ratio,
    ];
    is_busy && ratios.iter().flatten().all(|ratio| *ratio == 0.0)
}
