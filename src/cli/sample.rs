//! `hm-agent sample`: measures this machine once, without a running agent. Heartbeats and upstream connections exist only in
//! a running agent, so they are requested from it.

use std::time::{Duration, Instant};

use crate::cli::telemetry;
use crate::collector::gpu::nvidia::embedded_probe::GPU_PROBE;
use crate::collector::gpu::nvidia::probe_supervisor::ProbeSupervisor;
use crate::collector::gpu::state::GpuState;
use crate::collector::host_info;
use crate::collector::sampler::{FIRST_TIMEOUT, Sampler};
use crate::config::{Config, CurrentConfig, HeartbeatConfig};
use crate::heartbeat::client::{HeartbeatClient, REQUEST_TIMEOUT};
use crate::model::host_info::HostInfo;
use crate::model::status::AppSummary;
use crate::model::{RawSample, Snapshot};
use crate::sys;
use crate::util::error::Error;
use crate::util::sync::Shutdown;

/// Time between the two samples from which rates are derived.
const SAMPLE_WINDOW: Duration = Duration::from_millis(500);
/// Longer than the default of `gpu.timeout`, so that the report can show a hung driver.
const GPU_TIMEOUT: Duration = Duration::from_secs(11);
/// Time between two results of the GPUs: the probe computes no means over shorter times.
const GPU_WINDOW: Duration = Duration::from_millis(200);
/// Limits of the time for a second GPU result.
const MIN_POLL_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_POLL_TIMEOUT: Duration = Duration::from_secs(2);
/// Applications that are requested one by one.
const MAX_APPS: usize = 100;

/// Rates of NVIDIA GPUs need a second result, as those of the host do. A driver that is slow is not waited for.
fn poll_gpus_again(gpus: &GpuState) {
    let first = gpus.nvidia_polled_at();
    let timeout = (gpus.poll_duration() * 2).clamp(MIN_POLL_TIMEOUT, MAX_POLL_TIMEOUT);
    gpus.request_poll();
    let deadline = Instant::now() + timeout;
    while gpus.nvidia_polled_at() == first && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes two samples, [`SAMPLE_WINDOW`] apart or later if the first GPU result takes longer, and derives the rates.
pub fn sample_once(config: Config) -> Result<(HostInfo, Snapshot), Error> {
    let events = |error| Error::system("create an event", error);
    let (stop, gpus) = (Shutdown::new().map_err(events)?, GpuState::new().map_err(events)?);
    let current = CurrentConfig::new(config);
    let config = current.get();
    let mut sampler = Sampler::new(config.roots.clone(), &config.collectors, sys::statvfs);
    let (first, second) = std::thread::scope(|scope| {
        let supervise = || ProbeSupervisor::new(&gpus, &current, GPU_PROBE).run(&stop);
        let thread = std::thread::Builder::new().name("gpu".into());
        thread
            .spawn_scoped(scope, supervise)
            .map_err(|error| Error::system("start thread gpu", error))?;
        // Without /proc there is nothing to report. The scope waits for the thread.
        let first = sampler.collect_first(FIRST_TIMEOUT).inspect_err(|_| stop.trigger())?;
        let start = Instant::now();
        sys::wait_readable([gpus.first_result()], Some(GPU_TIMEOUT));
        let replied = Instant::now();
        std::thread::sleep(SAMPLE_WINDOW.saturating_sub(start.elapsed()));
        if gpus.has_nvidia_values() {
            std::thread::sleep(GPU_WINDOW.saturating_sub(replied.elapsed()));
            poll_gpus_again(&gpus);
        }
        let gpus = gpus.gpus(&config, Instant::now());
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let heartbeats = match config.heartbeat.enabled {
            true => applications(&config.heartbeat, deadline),
            false => AppSummary::default(),
        };
        let upstreams = match config.hm.is_some() || config.core.is_some() {
            true => telemetry::upstreams(&config.usage, deadline),
            false => Vec::new(),
        };
        let (heartbeats, upstreams) = (heartbeats.into(), upstreams.into());
        let second = RawSample { gpus, heartbeats, upstreams, ..sampler.collect(None) };
        stop.trigger();
        Ok((first, second))
    })?;
    let boot = Snapshot::derive(None, &first);
    Ok((host_info::read(&config.roots), Snapshot::derive(Some((&first, &boot)), &second)))
}

/// The applications of the running agent; none if no agent responds until the deadline.
fn applications(config: &HeartbeatConfig, deadline: Instant) -> AppSummary {
    match HeartbeatClient::local(config.listen, config.tls.as_ref()) {
        Ok(client) => client.all(MAX_APPS, deadline),
        Err(why) => {
            log::error!("applications are not listed: heartbeat.tls_certificate_file: {why}");
            AppSummary::default()
        }
    }
}
