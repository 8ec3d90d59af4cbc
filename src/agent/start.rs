//! Startup: collects the first sample, opens the listeners, and starts every thread.

use std::sync::Arc;

use crate::agent::events;
use crate::agent::services::Services;
use crate::collector::gpu::nvidia::embedded_probe::GPU_PROBE;
use crate::collector::gpu::nvidia::probe_supervisor::ProbeSupervisor;
use crate::collector::gpu::state::GpuState;
use crate::collector::host_info;
use crate::collector::kmsg::{KernelLog, boot_id};
use crate::collector::latest::LatestSample;
use crate::collector::sampler::{FIRST_TIMEOUT, Sampler};
use crate::config::{Config, CurrentConfig};
use crate::core_client::client::CoreClient;
use crate::health::Health;
use crate::heartbeat::monitor::HeartbeatMonitor;
use crate::heartbeat::table::Transition;
use crate::history::event_log::EventLog;
use crate::history::series::SeriesHistory;
use crate::hm_client::client::HmClient;
use crate::http::listener::Listener;
use crate::http::tls::{self, TlsAcceptor, TlsFiles};
use crate::model::host_info::HostInfo;
use crate::net::credentials::HubCredentials;
use crate::sys;
use crate::sys::EventFd;
use crate::util::error::Error;
use crate::util::liveness::Liveness;
use crate::util::state_io::StateIo;
use crate::util::sync::Shutdown;
use crate::util::threads::Threads;

/// The open listeners; `None`: disabled.
struct Listeners {
    usage: Option<Listener>,
    heartbeat: Option<Listener>,
    monitor: Option<Listener>,
    /// Of the ports with TLS.
    acceptors: Vec<Arc<TlsAcceptor>>,
}

/// Starts the agent. After an error, threads may run already; they end with the process.
pub(super) fn start(config: Config, threads: &mut Threads) -> Result<Arc<Services>, Error> {
    let mut sampler = Sampler::new(config.roots.clone(), &config.collectors, sys::statvfs);
    let first = sampler.collect_first(FIRST_TIMEOUT)?;
    let listeners = bind(&config)?;
    let latest = LatestSample::new(first).map_err(no_eventfd)?;
    let services = Arc::new(create_services(config, latest, &listeners)?);
    start_collector(&services, sampler, threads)?;
    start_clients(&services, threads)?;
    start_listeners(&services, listeners, threads)?;
    Ok(services)
}

fn bind(config: &Config) -> Result<Listeners, Error> {
    let mut acceptors = Vec::new();
    let mut bind = |name, enabled: bool, address, files: &Option<TlsFiles>| {
        if !enabled {
            return Ok(None);
        }
        let acceptor = files.as_ref().map(|files| tls_acceptor(name, files)).transpose()?;
        let listener = Listener::bind(name, address)?;
        Ok::<_, Error>(Some(match acceptor {
            Some(acceptor) => {
                acceptors.push(acceptor.clone());
                listener.with_tls(acceptor)
            }
            None => listener,
        }))
    };
    let Config { usage, heartbeat, monitor, .. } = config;
    Ok(Listeners {
        usage: bind("usage", usage.enabled, usage.listen, &usage.tls)?,
        heartbeat: bind("heartbeat", heartbeat.enabled, heartbeat.listen, &heartbeat.tls)?,
        monitor: bind("monitor", monitor.enabled, monitor.listen, &monitor.tls)?,
        acceptors,
    })
}

/// Reads the files. The error names the setting.
fn tls_acceptor(port: &str, files: &TlsFiles) -> Result<Arc<TlsAcceptor>, Error> {
    TlsAcceptor::new(files.clone()).map(Arc::new).map_err(|error| {
        let setting = format!("{port}.tls_{}", error.setting);
        Error::system(setting, std::io::Error::other(error.why))
    })
}

fn create_services(
    config: Config,
    latest: LatestSample,
    listeners: &Listeners,
) -> Result<Services, Error> {
    let host = host_info::read(&config.roots);
    let node_id = host_info::node_id(config.node_id.as_deref(), &config.roots).unwrap_or_default();
    let heartbeat = listeners.heartbeat.as_ref();
    let state = StateIo::start(&config.state_dir)?;
    let boot_id = boot_id(&config.roots.proc);
    let events = EventLog::open(&state);
    let booted = latest.current().raw.stat.as_ref().and_then(|stat| stat.boot_time_seconds);
    events::record_start(&events, &config.roots, &boot_id, booted);
    let series = SeriesHistory::open(&state);
    let health = Health::open(&state);
    let heartbeat = heartbeat.map(|_| HeartbeatMonitor::open(&state));
    let heartbeat = heartbeat.transpose().map_err(no_eventfd)?;
    let credentials = Arc::new(HubCredentials::open(&state, &node_id));
    let hm = hm_client(&config, &node_id, &state, &credentials)?;
    let core = core_client(&config, node_id, &host, &state, &credentials)?;
    let open = [
        ("usage", &listeners.usage),
        ("heartbeat", &listeners.heartbeat),
        ("monitor", &listeners.monitor),
    ];
    let open = open.into_iter().filter_map(|(name, port)| Some((name, port.as_ref()?)));
    let sampler_liveness = Arc::new(Liveness::new("sampler"));
    let mut liveness = vec![sampler_liveness.clone()];
    liveness.extend(open.clone().map(|(_, port)| port.liveness()));
    liveness.extend(heartbeat.iter().map(HeartbeatMonitor::liveness));
    Ok(Services {
        shutdown: Shutdown::new().map_err(no_eventfd)?,
        state,
        config: CurrentConfig::new(config),
        reloaded: EventFd::new().map_err(no_eventfd)?,
        host,
        gpus: GpuState::new().map_err(no_eventfd)?,
        latest,
        events,
        series,
        health,
        kernel_log: KernelLog::default(),
        gpus_ready: EventFd::new().map_err(no_eventfd)?,
        liveness,
        sampler_liveness,
        listener_stats: open.map(|(name, port)| (name, port.stats())).collect(),
        heartbeat,
        hm,
        core,
    })
}

fn hm_client(
    config: &Config,
    node_id: &str,
    state: &StateIo,
    credentials: &Arc<HubCredentials>,
) -> Result<Option<HmClient>, Error> {
    let Some(hm) = &config.hm else { return Ok(None) };
    let (node_id, ca_file) = (node_id.to_owned(), config.ca_file.as_deref());
    HmClient::new(hm.clone(), node_id, state, ca_file, credentials).map(Some)
}

fn core_client(
    config: &Config,
    node_id: String,
    host: &HostInfo,
    state: &StateIo,
    credentials: &Arc<HubCredentials>,
) -> Result<Option<CoreClient>, Error> {
    let Some(core) = &config.core else { return Ok(None) };
    let (os, ca_file) = (host.os.clone(), config.ca_file.as_deref());
    CoreClient::new(core.clone(), node_id, os, state, ca_file, credentials).map(Some)
}

fn start_collector(
    services: &Arc<Services>,
    sampler: Sampler,
    threads: &mut Threads,
) -> Result<(), Error> {
    let context = services.clone();
    threads.start("gpu", move || {
        ProbeSupervisor::new(&context.gpus, &context.config, GPU_PROBE).run(&context.shutdown);
        Ok(())
    })?;
    let context = services.clone();
    threads.start("kmsg", move || {
        context.read_kernel_log();
        Ok(())
    })?;
    let context = services.clone();
    threads.start("sampler", move || {
        context.run_sampler(sampler);
        Ok(())
    })
}

fn start_clients(services: &Arc<Services>, threads: &mut Threads) -> Result<(), Error> {
    if services.hm.is_some() {
        let context = services.clone();
        threads.start("hm", move || {
            if let Some(hm) = &context.hm {
                hm.run(&*context, &context.shutdown);
            }
            Ok(())
        })?;
        let context = services.clone();
        threads.start("hm-report", move || {
            if let Some(hm) = &context.hm {
                let Services { config, latest, gpus_ready, shutdown, .. } = &*context;
                hm.run_reports(config, latest, gpus_ready, shutdown);
            }
            Ok(())
        })?;
    }
    if services.core.is_some() {
        let context = services.clone();
        threads.start("core", move || {
            if let Some(core) = &context.core {
                let Services { latest, gpus_ready, shutdown, .. } = &*context;
                core.run(latest, &*context, gpus_ready, shutdown);
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn start_listeners(
    services: &Arc<Services>,
    listeners: Listeners,
    threads: &mut Threads,
) -> Result<(), Error> {
    if let Some(listener) = listeners.usage {
        let context = services.clone();
        threads.start("http", move || context.serve_telemetry(&listener))?;
    }
    if let Some(listener) = listeners.heartbeat {
        let context = services.clone();
        threads.start("hb-monitor", move || {
            if let Some(monitor) = &context.heartbeat {
                let on_transition =
                    |it: &Transition| events::record_transition(&context.events, it);
                monitor.run(&context.shutdown, &on_transition);
            }
            Ok(())
        })?;
        let context = services.clone();
        threads.start("hb-hook", move || {
            if let Some(monitor) = &context.heartbeat {
                monitor.run_hooks(&context.config, &context.shutdown);
            }
            Ok(())
        })?;
        let context = services.clone();
        threads.start("heartbeat", move || context.serve_heartbeat(&listener))?;
    }
    if !listeners.acceptors.is_empty() {
        let context = services.clone();
        threads.start("tls-files", move || {
            tls::watch(&listeners.acceptors, &context.shutdown);
            Ok(())
        })?;
    }
    if let Some(listener) = listeners.monitor {
        let context = services.clone();
        threads.start("monitor", move || context.serve_monitor(&listener))?;
    }
    Ok(())
}

fn no_eventfd(error: std::io::Error) -> Error {
    Error::system("create an eventfd", error)
}
