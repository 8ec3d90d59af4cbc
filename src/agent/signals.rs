//! The main thread after startup: signals, watchdog messages and reloads.

use std::path::Path;

use log::Level;

use crate::agent::sd_notify::SdNotifier;
use crate::agent::services::Services;
use crate::collector::host_info;
use crate::config::{Config, Settings, Sources};
use crate::model::event::{EventKind, EventSeverity, NewEvent};
use crate::sys;
use crate::sys::ControlSignal;
use crate::util::error::Error;
use crate::util::programs;

/// Logs the start. Returns the enabled services for the service manager's status: `services: usage, heartbeat`.
pub(super) fn log_startup(settings: &Settings, services: &Services) -> String {
    let config = services.config.get();
    let file = settings.file.as_deref().map_or("no file".into(), Path::to_string_lossy);
    let enabled = [
        ("usage", config.usage.enabled),
        ("heartbeat", config.heartbeat.enabled),
        ("hm", services.hm.is_some()),
        ("core", services.core.is_some()),
        ("monitor", config.monitor.enabled),
    ];
    let enabled: Vec<_> = enabled.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let enabled = if enabled.is_empty() { "none".to_owned() } else { enabled.join(", ") };
    let node = host_info::node_id(config.node_id.as_deref(), &config.roots);
    for access in config.access() {
        log::info!("{access}");
    }
    log::info!(
        "hm-agent {} on node {} started; settings from {file}; services: {enabled}",
        env!("CARGO_PKG_VERSION"),
        node.as_deref().unwrap_or("without an ID"),
    );
    log_warnings(settings, &config);
    format!("services: {enabled}")
}

/// Problems that the agent starts with, because it is worth more than what they affect.
fn log_warnings(settings: &Settings, config: &Config) {
    for warning in &settings.warnings {
        log::warn!("{warning}");
    }
    if let Some(why) = programs::missing(&config.heartbeat.on_overdue) {
        log::warn!("heartbeat.on_overdue: {why}");
    }
}

/// Handles signals until one requests a stop. In between it sends watchdog messages, unless a thread is stalled.
pub(super) fn signal_loop(
    sources: &Sources,
    at_start: &Settings,
    services: &Services,
    notifier: &mut SdNotifier,
    enabled: &str,
) {
    loop {
        let stalled = || {
            let mut liveness = services.liveness.iter();
            liveness.find(|liveness| liveness.is_stalled()).map(|liveness| liveness.name())
        };
        match sys::wait_control_signal(notifier.poll(stalled)) {
            Some(ControlSignal::Stop) => return,
            Some(ControlSignal::Reload) => {
                notifier.reloading();
                let (level, result) = match reload(sources, at_start, services) {
                    Ok(()) => (Level::Info, "configuration reloaded".to_owned()),
                    Err(error) => (
                        Level::Error,
                        format!("configuration reload failed, keeping previous: {error}"),
                    ),
                };
                log::log!(level, "{result}");
                let severity = match level {
                    Level::Info => EventSeverity::Info,
                    _ => EventSeverity::Warning,
                };
                services.events.record(NewEvent::new(EventKind::Settings, severity, &*result));
                notifier.ready(&format!("{enabled}; {result}"));
            }
            None => {}
        }
    }
}

fn reload(sources: &Sources, at_start: &Settings, services: &Services) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = Config::new(&settings)?;
    let deferred = settings.changed_until_restart(at_start);
    if !deferred.is_empty() {
        log::warn!("restart required for: {}", deferred.join(", "));
    }
    log::set_max_level(config.log_level);
    log_warnings(&settings, &config);
    if config.access() != services.config.get().access() {
        config.access().iter().for_each(|access| log::info!("{access}"));
    }
    services.config.replace(config);
    services.reloaded.notify();
    services.gpus.request_poll();
    Ok(())
}
