//! One look at this machine, without being its agent: `hm-agent sample`. What only the agent knows, the one that
//! runs is asked for.

use std::time::Instant;

use crate::config::{Config, Current};
use crate::dial::heartbeat::Server;
use crate::dial::telemetry;
use crate::embedded::GPU_PROBE;
use crate::error::Error;
use crate::limits;
use crate::proto::usage::Machine;
use crate::snapshot::{Reading, Snapshot};
use crate::source::gpu::Keeper;
use crate::source::gpu::board::Board;
use crate::source::machine;
use crate::source::sampler::Sampler;
use crate::sync::Stop;
use crate::sys;

/// One look at this machine: two readings, half a second apart, or as much later as the first word on the
/// GPUs takes.
pub fn look(config: Config) -> Result<(Machine, Snapshot), Error> {
    let events = |error| Error::system("create an event", error);
    let (stop, gpus) = (Stop::new().map_err(events)?, Board::new().map_err(events)?);
    let settings = Current::new(config);
    let config = settings.get();
    let mut sampler = Sampler::new(config.roots.clone(), sys::statvfs);
    let (first, second) = std::thread::scope(|scope| {
        scope.spawn(|| Keeper::new(&gpus, &settings, GPU_PROBE).run(&stop));
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
            true => telemetry::links(&config.usage),
            false => Vec::new(),
        };
        let (heartbeats, links) = (beating.into(), links.into());
        let second = Reading { gpus, heartbeats, links, ..sampler.read(None) };
        stop.ring();
        (first, second)
    });
    let first = first?;
    let boot = Snapshot::derive(None, &first);
    Ok((machine::read(&config.roots), Snapshot::derive(Some((&first, &boot)), &second)))
}
