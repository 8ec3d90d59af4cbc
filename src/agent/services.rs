//! What the agent's threads share, and how each service runs on it.

use std::sync::Arc;

use crate::collector::gpu::state::GpuState;
use crate::collector::latest::LatestSample;
use crate::collector::sampler::Sampler;
use crate::collector::sampler_loop::{SamplerLoop, ServiceStatus};
use crate::config::{Config, Current};
use crate::core_client::client as core;
use crate::heartbeat::monitor::HeartbeatMonitor;
use crate::heartbeat::server::Heartbeat;
use crate::hm_client::client as hm;
use crate::http::listener::{ConnectionLimits, Port};
use crate::http::stats::Counters;
use crate::limits;
use crate::model::host_info::HostInfo;
use crate::remote::hosts::Hosts;
use crate::remote::server::Monitor;
use crate::sys;
use crate::sys::EventFd;
use crate::telemetry::fan::Fan;
use crate::telemetry::responses;
use crate::telemetry::responses::{BufferPool, Responses, ScrapeLimit};
use crate::telemetry::router::Telemetry;
use crate::telemetry::subscription;
use crate::util::error::Error;
use crate::util::liveness::Liveness;
use crate::util::logger::RateLimitedLog;
use crate::util::sync::Shutdown;

pub(super) struct Services {
    pub(super) shutdown: Shutdown,
    pub(super) settings: Current,
    /// Readable after a reload, until the sampler has seen it.
    pub(super) reloaded: EventFd,
    pub(super) host: HostInfo,
    pub(super) gpus: GpuState,
    pub(super) latest: LatestSample,
    /// Readable once samples contain the GPUs' state.
    pub(super) gpus_ready: EventFd,
    /// Of every thread without which the agent does not work, except the main thread, which checks them.
    pub(super) liveness: Vec<Arc<Liveness>>,
    pub(super) sampler_liveness: Arc<Liveness>,
    /// Of each open listener.
    pub(super) listener_stats: Vec<(&'static str, Arc<Counters>)>,
    /// `None`: usage.enabled is false.
    pub(super) fan: Option<Fan>,
    /// `None`: heartbeat.enabled is false.
    pub(super) heartbeat: Option<HeartbeatMonitor>,
    /// `None`: no hm is configured.
    pub(super) hm: Option<hm::Link>,
    /// `None`: no Core is configured.
    pub(super) core: Option<core::Link>,
}

impl Services {
    pub(super) fn run_sampler(&self, sampler: Sampler) {
        let status = || {
            let upstreams = self.hm.iter().map(hm::Link::status);
            let apps = self.heartbeat.as_ref().map(HeartbeatMonitor::statuses);
            ServiceStatus {
                heartbeats: apps.unwrap_or_default().into(),
                upstreams: upstreams.chain(self.core.iter().map(core::Link::status)).collect(),
            }
        };
        let sampler_loop = SamplerLoop {
            settings: &self.settings,
            reloaded: &self.reloaded,
            gpus: &self.gpus,
            latest: &self.latest,
            gpus_ready: &self.gpus_ready,
            liveness: &self.sampler_liveness,
            shutdown: &self.shutdown,
            services: &status,
        };
        sampler_loop.run(sampler);
    }

    pub(super) fn serve_telemetry(&self, port: &Port) -> Result<(), Error> {
        let Some(fan) = &self.fan else { return Ok(()) };
        let (feed, machine, settings) = (&self.latest, &self.host, &self.settings);
        let source = subscription::Source { feed, fan, machine, settings };
        let documents = Responses {
            feed: &self.latest,
            machine: &self.host,
            settings: &self.settings,
            complete: &self.gpus_ready,
            stop: &self.shutdown,
            ports: self.listener_stats.iter().map(|(name, stats)| (*name, &**stats)).collect(),
            scrapes: ScrapeLimit::default(),
            spare: BufferPool::default(),
            shared: responses::Shared::default(),
        };
        let telemetry = Telemetry { usage: source, documents, log: RateLimitedLog::new() };
        let counters = port.counters();
        sys::crew(|crew| {
            let hand_out = || fan.run(feed, settings, &counters.traffic, &self.shutdown);
            let started = crew.start(c"fan", limits::SERVICE_STACK_BYTES, hand_out);
            started.map_err(|error| Error::system("start the thread fan", error))?;
            port.run(&self.shutdown, &self.settings, telemetry_limits, |stream, client| {
                telemetry.serve(stream, client);
            })
        })
    }

    pub(super) fn serve_heartbeat(&self, port: &Port) -> Result<(), Error> {
        let Some(watchdog) = &self.heartbeat else { return Ok(()) };
        let heartbeat =
            Heartbeat { watchdog, settings: &self.settings, log: RateLimitedLog::new() };
        port.run(&self.shutdown, &self.settings, heartbeat_limits, |stream, client| {
            heartbeat.serve(stream, &client);
        })
    }

    pub(super) fn serve_monitor(&self, port: &Port) -> Result<(), Error> {
        let hosts = Hosts::new(&self.settings, &self.shutdown);
        sys::crew(|crew| {
            let (settings, log) = (&self.settings, RateLimitedLog::new());
            let monitor = Monitor { hosts: &hosts, crew, settings, log };
            port.run(&self.shutdown, &self.settings, monitor_limits, |stream, client| {
                monitor.serve(stream, &client);
            })
        })
    }
}

fn monitor_limits(_: &Config) -> ConnectionLimits<'_> {
    ConnectionLimits {
        max_connections: limits::MONITOR_CONNECTIONS,
        max_connections_per_ip: 0,
        trusted_proxies: &[],
    }
}

fn heartbeat_limits(_: &Config) -> ConnectionLimits<'_> {
    ConnectionLimits {
        max_connections: limits::HEARTBEAT_CONNECTIONS,
        max_connections_per_ip: 0,
        trusted_proxies: &[],
    }
}

fn telemetry_limits(config: &Config) -> ConnectionLimits<'_> {
    ConnectionLimits {
        max_connections: config.usage.max_connections,
        max_connections_per_ip: config.usage.max_connections_per_ip,
        trusted_proxies: &config.usage.trusted_proxies,
    }
}
