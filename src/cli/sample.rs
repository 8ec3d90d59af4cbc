//! One look at this machine, without being its agent: `hm-agent sample`. What only the agent knows, the one that
//! runs is asked for.

use std::time::Instant;

use crate::cli::agent_client;
use crate::collector::gpu::nvidia::ProbeSupervisor;
use crate::collector::gpu::nvidia::embedded_probe::GPU_PROBE;
use crate::collector::gpu::state::GpuState;
use crate::collector::host_info;
use crate::collector::sampler::Sampler;
use crate::config::{Config, Current};
use crate::heartbeat::client::Server;
use crate::limits;
use crate::model::host_info::HostInfo;
use crate::model::{RawSample, Snapshot};
use crate::sys;
use crate::util::error::Error;
use crate::util::sync::Shutdown;

/// One look at this machine: two readings, half a second apart, or as much later as the first word on the
/// GPUs takes.
pub fn look(config: Config) -> Result<(HostInfo, Snapshot), Error> {
    let events = |error| Error::system("create an event", error);
    let (stop, gpus) = (Shutdown::new().map_err(events)?, GpuState::new().map_err(events)?);
    let settings = Current::new(config);
    let config = settings.get();
    let mut sampler = Sampler::new(config.roots.clone(), sys::statvfs);
    let (first, second) = std::thread::scope(|scope| {
        scope.spawn(|| ProbeSupervisor::new(&gpus, &settings, GPU_PROBE).run(&stop));
        let first = sampler.first();
        let start = Instant::now();
        sys::wait_readable([gpus.arrived()], Some(limits::GPU_PATIENCE));
        std::thread::sleep(limits::SAMPLE_WINDOW.saturating_sub(start.elapsed()));
        let gpus = gpus.gpus(&config, Instant::now());
        // They beat to the agent that runs on this machine, if one does.
        let beating = match config.heartbeat.enabled {
            true => Server::at(config.heartbeat.listen).statuses(limits::SHOWN_HEARTBEATS),
            false => Vec::new(),
        };
        let links = match config.usage.enabled && (config.hm.is_some() || config.core.is_some()) {
            true => agent_client::links(&config.usage),
            false => Vec::new(),
        };
        let (heartbeats, links) = (beating.into(), links.into());
        let second = RawSample { gpus, heartbeats, upstreams: links, ..sampler.read(None) };
        stop.trigger();
        (first, second)
    });
    let first = first?;
    let boot = Snapshot::derive(None, &first);
    Ok((host_info::read(&config.roots), Snapshot::derive(Some((&first, &boot)), &second)))
}
