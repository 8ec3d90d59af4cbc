//! The main thread: says hello, and obeys signals.

use std::path::Path;

use log::Level;

use crate::agent::Shared;
use crate::agent::sd_notify::SdNotifier;
use crate::collector::host_info;
use crate::config::{Config, Settings, Sources};
use crate::sys;
use crate::sys::Signal;
use crate::util::error::Error;

/// Says in the log who has started. What comes back is that in short: `on: usage, heartbeat`.
pub(super) fn say_hello(settings: &Settings, shared: &Shared) -> String {
    let config = shared.settings.get();
    let file = settings.file.as_deref().map_or("no file".into(), Path::to_string_lossy);
    let services = [
        ("usage", config.usage.enabled),
        ("heartbeat", config.heartbeat.enabled),
        ("hm", shared.hm.is_some()),
        ("core", shared.core.is_some()),
        ("monitor", config.monitor.enabled),
    ];
    let services: Vec<_> = services.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let services = if services.is_empty() { "nothing".to_owned() } else { services.join(", ") };
    let node = host_info::node_id(config.node_id.as_deref(), &config.roots);
    log::info!(
        "hm-agent {} of node {} started; settings from {file}; on: {services}",
        env!("CARGO_PKG_VERSION"),
        node.as_deref().unwrap_or("without a name"),
    );
    for remark in &settings.warnings {
        log::warn!("{remark}");
    }
    format!("on: {services}")
}

/// The main thread's life: wait for signals, until one says stop. In between it tells the service manager that all is well,
/// as long as it is, and when settings were read again, with what it has said to it first.
pub(super) fn signals(
    sources: &Sources,
    at_start: &Settings,
    shared: &Shared,
    (manager, hello): (&mut SdNotifier, &str),
) {
    loop {
        let late = || {
            shared
                .threads_liveness
                .iter()
                .find(|liveness| liveness.is_stalled())
                .map(|liveness| liveness.name())
        };
        match sys::wait_signal(manager.tend(late)) {
            Some(Signal::Stop) => return,
            Some(Signal::Reload) => {
                manager.reloading();
                let (level, news) = match reload(sources, at_start, shared) {
                    Ok(()) => (Level::Info, "settings read again".to_owned()),
                    Err(error) => (Level::Error, format!("settings stay as they are: {error}")),
                };
                log::log!(level, "{news}");
                manager.ready(&format!("{hello}; {news}"));
            }
            None => {}
        }
    }
}

fn reload(sources: &Sources, at_start: &Settings, shared: &Shared) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = Config::new(&settings)?;
    let later = settings.changed_until_restart(at_start);
    if !later.is_empty() {
        log::warn!("these take effect with the next start: {}", later.join(", "));
    }
    log::set_max_level(config.log_level);
    shared.settings.replace(config);
    shared.reloaded.notify();
    shared.gpus.ask();
    Ok(())
}
