//! What the agent's threads share, and how each service runs on it.

use std::sync::{Arc, Mutex};

use crate::agent::events::{self, KernelLogEvents};
use crate::collector::gpu::state::GpuState;
use crate::collector::kmsg::{KernelLog, boot_id};
use crate::collector::latest::{LatestSample, PublishedSample};
use crate::collector::sampler::Sampler;
use crate::collector::sampler_loop::{SamplerLoop, ServiceStatus};
use crate::config::{Config, CurrentConfig};
use crate::core_client::client::CoreClient;
use crate::health::Health;
use crate::heartbeat::monitor::HeartbeatMonitor;
use crate::heartbeat::server::HeartbeatServer;
use crate::history::event_log::EventLog;
use crate::history::observer::StateObserver;
use crate::history::series::SeriesHistory;
use crate::hm_client::client::HmClient;
use crate::http::listener::{ConnectionLimits, Listener};
use crate::http::service::HttpService;
use crate::http::stats::ListenerStats;
use crate::model::RawSample;
use crate::model::host_info::HostInfo;
use crate::remote::hosts::Hosts;
use crate::remote::server::{self, MonitorServer};
use crate::sys::EventFd;
use crate::telemetry::responses::Responses;
use crate::telemetry::router::Router;
use crate::telemetry::subscription;
use crate::util::error::Error;
use crate::util::liveness::Liveness;
use crate::util::state_io::StateIo;
use crate::util::sync::Shutdown;

/// One keep-alive connection per application, plus reserve.
const MAX_HEARTBEAT_CONNECTIONS: usize = 12_000;

pub(super) struct Services {
    pub(super) shutdown: Shutdown,
    /// Writes the state of the services.
    pub(super) state: StateIo,
    pub(super) config: CurrentConfig,
    /// Readable after a reload, until the sampler has seen it.
    pub(super) reloaded: EventFd,
    pub(super) host: HostInfo,
    pub(super) gpus: GpuState,
    pub(super) latest: LatestSample,
    pub(super) events: EventLog,
    pub(super) series: SeriesHistory,
    pub(super) health: Health,
    pub(super) kernel_log: KernelLog,
    /// Readable once samples contain the GPUs' state.
    pub(super) gpus_ready: EventFd,
    /// Liveness of every essential thread except the main thread.
    pub(super) liveness: Vec<Arc<Liveness>>,
    pub(super) sampler_liveness: Arc<Liveness>,
    /// Counters of each open listener.
    pub(super) listener_stats: Vec<(&'static str, Arc<ListenerStats>)>,
    /// `None`: heartbeat.enabled is false.
    pub(super) heartbeat: Option<HeartbeatMonitor>,
    /// `None`: no hm is configured.
    pub(super) hm: Option<HmClient>,
    /// `None`: no Core is configured.
    pub(super) core: Option<CoreClient>,
}

impl Services {
    pub(super) fn run_sampler(&self, sampler: Sampler) {
        let status = || {
            let upstreams = self.hm.iter().map(HmClient::status);
            let apps = self.heartbeat.as_ref().map(HeartbeatMonitor::summary);
            ServiceStatus {
                heartbeats: apps.unwrap_or_default().into(),
                upstreams: upstreams.chain(self.core.iter().map(CoreClient::status)).collect(),
            }
        };
        let observer = Mutex::new(StateObserver::default());
        let observe = |sample: &mut RawSample| events::observe(self, &observer, sample);
        let record = |sample: &PublishedSample| {
            self.series.record(&sample.snapshot);
            self.responses().health_report(sample);
        };
        let sampler_loop = SamplerLoop {
            config: &self.config,
            reloaded: &self.reloaded,
            gpus: &self.gpus,
            latest: &self.latest,
            gpus_ready: &self.gpus_ready,
            liveness: &self.sampler_liveness,
            shutdown: &self.shutdown,
            services: &status,
            observe: &observe,
            record: &record,
        };
        sampler_loop.run(sampler);
    }

    pub(super) fn read_kernel_log(&self) {
        let config = self.config.get();
        let sink = KernelLogEvents { log: &self.events, gpus: &self.gpus };
        let position = self.events.kernel_log_position();
        let boot_id = boot_id(&config.roots.proc);
        self.kernel_log.run(&config.kernel_log, boot_id, position, &sink, &self.shutdown);
    }

    /// Renders what the telemetry port and hm-hub ask for.
    pub(super) fn responses(&self) -> Responses<'_> {
        Responses {
            latest: &self.latest,
            host_info: &self.host,
            config: &self.config,
            gpus_ready: &self.gpus_ready,
            shutdown: &self.shutdown,
            events: &self.events,
            series: &self.series,
            health: &self.health,
            ports: self.listener_stats.iter().map(|(name, stats)| (*name, &**stats)).collect(),
        }
    }

    pub(super) fn serve_telemetry(&self, listener: &Listener) -> Result<(), Error> {
        let (latest, host_info, config) = (&self.latest, &self.host, &self.config);
        let router = Router {
            http: HttpService::new("usage"),
            usage: subscription::Context { latest, host_info, config },
            responses: self.responses(),
        };
        let limits = || telemetry_limits(&config.get());
        listener.run(&self.shutdown, limits, |stream, client| {
            router.handle_connection(stream, client);
        })
    }

    pub(super) fn serve_heartbeat(&self, listener: &Listener) -> Result<(), Error> {
        let Some(monitor) = &self.heartbeat else { return Ok(()) };
        let server = HeartbeatServer::new(monitor, &self.config);
        let limits = || ConnectionLimits::total(MAX_HEARTBEAT_CONNECTIONS);
        listener.run(&self.shutdown, limits, |stream, client| {
            server.serve(stream, client);
        })
    }

    pub(super) fn serve_monitor(&self, listener: &Listener) -> Result<(), Error> {
        let hosts = Hosts::new(&self.config, &self.shutdown);
        std::thread::scope(|scope| {
            let http = HttpService::new("monitor");
            let config = &self.config;
            let server = MonitorServer { hosts: &hosts, scope, config, http };
            let limits = || ConnectionLimits::total(server::MAX_CONNECTIONS);
            listener.run(&self.shutdown, limits, |stream, client| {
                server.serve(stream, client);
            })
        })
    }
}

fn telemetry_limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        max_connections: config.usage.max_connections,
        max_connections_per_ip: config.usage.max_connections_per_ip,
        trusted_proxies: config.usage.trusted_proxies.clone(),
    }
}
