//! Starts and ends the services, and is the only one that knows everybody.
//!
//! Threads that are not started here: a port's connections, which the port waits for, and the one that
//! asks file systems, which may hang and then must be left behind.

pub mod sd_notify;
pub mod signals;
pub mod supervise;
pub mod threads;

use std::sync::Arc;

use crate::agent::sd_notify::SdNotifier;
use crate::collector::gpu::nvidia::ProbeSupervisor;
use crate::collector::gpu::nvidia::embedded_probe::GPU_PROBE;
use crate::collector::gpu::state::GpuState;
use crate::collector::host_info;
use crate::collector::latest::LatestSample;
use crate::collector::sampler::Sampler;
use crate::collector::sampler_loop::{SamplerLoop, ServiceStatus};
use crate::config::{Config, Current, Settings, Sources};
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
use crate::util::error::{Error, reason};
use crate::util::liveness::Liveness;
use crate::util::logger;
use crate::util::logger::RateLimitedLog;
use crate::util::state_dir;
use crate::util::sync::Shutdown;

use crate::agent::threads::Threads;

/// What threads share.
struct Shared {
    stop: Shutdown,
    settings: Current,
    /// Rings when the settings in force have changed.
    reloaded: EventFd,
    machine: HostInfo,
    gpus: GpuState,
    feed: LatestSample,
    /// Rings when samples say how it stands with the GPUs.
    complete: EventFd,
    /// Threads that the agent cannot do without, but for the main one, which looks after them.
    threads_liveness: Vec<Arc<Liveness>>,
    /// The sampler's, one of them.
    sampling: Arc<Liveness>,
    /// What came and went through each port that is on.
    ports: Vec<(&'static str, Arc<Counters>)>,
    /// If the telemetry port is on.
    fan: Option<Fan>,
    /// If its port is on.
    watchdog: Option<HeartbeatMonitor>,
    /// If there is a hub.
    hm: Option<hm::Link>,
    /// If there is a Core.
    core: Option<core::Link>,
}

/// Runs until a signal says stop, and tells the process `supervisor`, or else the service manager, how it goes. The error is
/// one that keeps the agent from starting or going on.
pub fn run(sources: &Sources, supervisor: Option<u32>) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = Config::new(&settings)?;
    logger::init(config.log_level);
    // Before any thread is started, so that all of them leave signals to this one.
    sys::block_signals();
    let mut manager = match supervisor {
        Some(supervisor) => {
            let told = SdNotifier::to_supervisor(supervisor);
            match told.map_err(|error| Error::system("speak to the supervisor", error))? {
                Some(supervisor) => supervisor,
                None => return Ok(()),
            }
        }
        None => SdNotifier::from_environment(),
    };
    sys::heed_children();
    sys::process::keep_descriptors();
    if let Err(error) = sys::raise_descriptor_limit() {
        log::warn!("cannot raise the limit of open files: {}", reason(&error));
    }
    let mut threads = Threads::new();
    let started = start(config, &mut threads);
    let result = started.map(|shared| {
        // Not before: an agent that cannot start says why, and nothing else.
        let services = signals::say_hello(&settings, &shared);
        manager.ready(&services);
        signals::signals(sources, &settings, &shared, (&mut manager, &services));
        manager.stopping();
        shared.stop.trigger();
        shared.feed.close();
    });
    sys::unblock_stop_signals();
    if result.is_ok() {
        log::info!("stopping");
    }
    result.and(threads.join(limits::SHUTDOWN))
}

/// Takes the first look, opens the ports, and starts every thread.
fn start(config: Config, threads: &mut Threads) -> Result<Arc<Shared>, Error> {
    let events = |error| Error::system("create an event", error);
    let mut sampler = Sampler::new(config.roots.clone(), sys::statvfs);
    let first = sampler.first()?;
    let bind = |name, enabled, address| match enabled {
        true => Port::bind(name, address).map(Some),
        false => Ok(None),
    };
    let usage = bind("usage", config.usage.enabled, config.usage.listen)?;
    let heartbeat = bind("heartbeat", config.heartbeat.enabled, config.heartbeat.listen)?;
    let monitor = bind("monitor", config.monitor.enabled, config.monitor.listen)?;
    state_dir::remark(&config.state_dir);
    let sampling = Arc::new(Liveness::new("sampler"));
    let mut threads_liveness = vec![sampling.clone()];
    let ports = [("usage", &usage), ("heartbeat", &heartbeat), ("monitor", &monitor)];
    let ports = ports.into_iter().filter_map(|(name, port)| Some((name, port.as_ref()?)));
    threads_liveness.extend(ports.clone().map(|(_, port)| port.liveness()));
    let ports = ports.map(|(name, port)| (name, port.counters())).collect();
    let watchdog = match heartbeat {
        Some(_) => Some(HeartbeatMonitor::open(&config.state_dir).map_err(events)?),
        None => None,
    };
    threads_liveness.extend(watchdog.iter().map(HeartbeatMonitor::liveness));
    let fan = match usage {
        Some(_) => Some(Fan::new().map_err(events)?),
        None => None,
    };
    threads_liveness.extend(fan.iter().map(Fan::liveness));
    let hm = match &config.hm {
        Some(settings) => {
            let node_id = host_info::node_id(config.node_id.as_deref(), &config.roots);
            let node_id = node_id.unwrap_or_default();
            let (primary, ca_file) = (config.gpu.primary, config.ca_file.as_deref());
            Some(hm::Link::new(settings.clone(), node_id, primary, &config.state_dir, ca_file)?)
        }
        None => None,
    };
    let machine = host_info::read(&config.roots);
    let core = match &config.core {
        Some(settings) => {
            let node_id = host_info::node_id(config.node_id.as_deref(), &config.roots);
            let (node_id, os) = (node_id.unwrap_or_default(), machine.os.clone());
            let ca_file = config.ca_file.as_deref();
            Some(core::Link::new(settings.clone(), node_id, os, &config.state_dir, ca_file)?)
        }
        None => None,
    };
    let shared = Arc::new(Shared {
        stop: Shutdown::new().map_err(events)?,
        machine,
        settings: Current::new(config),
        reloaded: EventFd::new().map_err(events)?,
        gpus: GpuState::new().map_err(events)?,
        feed: LatestSample::new(first).map_err(events)?,
        complete: EventFd::new().map_err(events)?,
        threads_liveness,
        sampling,
        ports,
        fan,
        watchdog,
        hm,
        core,
    });
    let context = shared.clone();
    threads.start("gpu", move || {
        ProbeSupervisor::new(&context.gpus, &context.settings, GPU_PROBE).run(&context.stop);
        Ok(())
    })?;
    let context = shared.clone();
    threads.start("sampler", move || {
        context.run_sampler(sampler);
        Ok(())
    })?;
    if shared.hm.is_some() {
        let context = shared.clone();
        threads.start("hm", move || {
            if let Some(hm) = &context.hm {
                hm.deliver(&context.stop);
            }
            Ok(())
        })?;
        let context = shared.clone();
        threads.start("hm-reports", move || {
            if let Some(hm) = &context.hm {
                hm.report(&context.feed, &context.complete, &context.stop);
            }
            Ok(())
        })?;
    }
    if shared.core.is_some() {
        let context = shared.clone();
        threads.start("core", move || {
            if let Some(core) = &context.core {
                core.keep(&context.feed, &context.complete, &context.stop);
            }
            Ok(())
        })?;
    }
    if let Some(port) = usage {
        let context = shared.clone();
        threads.start("usage", move || context.serve_telemetry(&port))?;
    }
    if let Some(port) = heartbeat {
        let context = shared.clone();
        threads.start("watch", move || {
            if let Some(watchdog) = &context.watchdog {
                watchdog.run(&context.settings, &context.stop);
            }
            Ok(())
        })?;
        let context = shared.clone();
        threads.start("heartbeat", move || context.serve_heartbeat(&port))?;
    }
    if let Some(port) = monitor {
        let context = shared.clone();
        threads.start("monitor", move || context.serve_monitor(&port))?;
    }
    Ok(shared)
}

impl Shared {
    fn run_sampler(&self, sampler: Sampler) {
        let services = || ServiceStatus {
            heartbeats: self
                .watchdog
                .as_ref()
                .map(HeartbeatMonitor::statuses)
                .unwrap_or_default()
                .into(),
            upstreams: self
                .hm
                .iter()
                .map(hm::Link::status)
                .chain(self.core.iter().map(core::Link::status))
                .collect(),
        };
        let sampler_loop = SamplerLoop {
            settings: &self.settings,
            reloaded: &self.reloaded,
            gpus: &self.gpus,
            latest: &self.feed,
            gpus_ready: &self.complete,
            liveness: &self.sampling,
            shutdown: &self.stop,
            services: &services,
        };
        sampler_loop.run(sampler);
    }

    fn serve_telemetry(&self, port: &Port) -> Result<(), Error> {
        let Some(fan) = &self.fan else { return Ok(()) };
        let (feed, machine, settings) = (&self.feed, &self.machine, &self.settings);
        let source = subscription::Source { feed, fan, machine, settings };
        let documents = Responses {
            feed: &self.feed,
            machine: &self.machine,
            settings: &self.settings,
            complete: &self.complete,
            stop: &self.stop,
            ports: self.ports.iter().map(|(name, counters)| (*name, &**counters)).collect(),
            scrapes: ScrapeLimit::default(),
            spare: BufferPool::default(),
            shared: responses::Shared::default(),
        };
        let telemetry = Telemetry { usage: source, documents, log: RateLimitedLog::new() };
        let counters = port.counters();
        sys::crew(|crew| {
            let hand_out = || fan.run(feed, settings, &counters.traffic, &self.stop);
            let started = crew.start(c"fan", limits::SERVICE_STACK_BYTES, hand_out);
            started.map_err(|error| Error::system("start the thread fan", error))?;
            port.run(&self.stop, &self.settings, telemetry_admission, |stream, guest| {
                telemetry.serve(stream, guest);
            })
        })
    }

    fn serve_heartbeat(&self, port: &Port) -> Result<(), Error> {
        let Some(watchdog) = &self.watchdog else { return Ok(()) };
        let heartbeat =
            Heartbeat { watchdog, settings: &self.settings, log: RateLimitedLog::new() };
        port.run(&self.stop, &self.settings, heartbeat_admission, |stream, guest| {
            heartbeat.serve(stream, &guest);
        })
    }

    fn serve_monitor(&self, port: &Port) -> Result<(), Error> {
        let hosts = Hosts::new(&self.settings, &self.stop);
        sys::crew(|crew| {
            let (settings, log) = (&self.settings, RateLimitedLog::new());
            let monitor = Monitor { hosts: &hosts, crew, settings, log };
            port.run(&self.stop, &self.settings, monitor_admission, |stream, guest| {
                monitor.serve(stream, &guest);
            })
        })
    }
}

fn monitor_admission(_: &Config) -> ConnectionLimits<'_> {
    ConnectionLimits {
        max_connections: limits::MONITOR_CONNECTIONS,
        max_connections_per_ip: 0,
        trusted_proxies: &[],
    }
}

fn heartbeat_admission(_: &Config) -> ConnectionLimits<'_> {
    ConnectionLimits {
        max_connections: limits::HEARTBEAT_CONNECTIONS,
        max_connections_per_ip: 0,
        trusted_proxies: &[],
    }
}

fn telemetry_admission(config: &Config) -> ConnectionLimits<'_> {
    ConnectionLimits {
        max_connections: config.usage.max_connections,
        max_connections_per_ip: config.usage.max_connections_per_ip,
        trusted_proxies: &config.usage.trusted_proxies,
    }
}
