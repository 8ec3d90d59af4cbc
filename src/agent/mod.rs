//! Starts the threads of hm-agent, handles signals, and stops. Wires the features, which do not import each other.
//!
//! Three kinds of threads start elsewhere: a listener starts and joins those of its connections; the collector starts the one
//! for blocking I/O, and an upstream client those for DNS lookups, which may hang and are then abandoned.

mod events;
mod hub_resources;
mod sd_notify;
mod services;
mod signals;
mod start;
pub mod supervise;

use std::time::{Duration, Instant};

use crate::agent::sd_notify::SdNotifier;
use crate::config::{Config, Settings, Sources};
use crate::sys;
use crate::util::error::{Error, reason};
use crate::util::logger;
use crate::util::threads::Threads;

/// Threads that still run this long after a request to stop are abandoned.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1800);

/// Runs until a signal requests a stop. Reports its state to the process `supervisor` or, without one, to the service manager.
/// The error is one that keeps the agent from starting or running.
pub fn run(sources: &Sources, supervisor: Option<u32>) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = Config::new(&settings)?;
    logger::init(config.log_level);
    // Before any thread starts, so that every thread inherits the mask and the main thread receives the signals.
    sys::block_control_signals();
    let Some(mut notifier) = open_notifier(supervisor)? else { return Ok(()) };
    sys::reset_sigchld();
    sys::process::set_cloexec_on_inherited_fds()
        .map_err(|error| Error::system("close inherited files on exec", error))?;
    // Emulators and sandboxes may lack it. Only what a killed supervisor leaves behind needs it.
    if let Err(error) = sys::children::set_child_subreaper() {
        log::warn!("cannot become a child subreaper: {}", reason(&error));
    }
    sys::children::lower_ambient_syslog_capability();
    sys::inherited::join_new_session_keyring()
        .map_err(|error| Error::system("create a session keyring", error))?;
    if let Err(error) = sys::raise_descriptor_limit() {
        log::warn!("cannot raise the limit of open files: {}", reason(&error));
    }
    let mut threads = Threads::default();
    let result = start::start(config, &mut threads).map(|services| {
        let enabled = signals::log_startup(&settings, &services);
        notifier.ready(&enabled);
        signals::signal_loop(sources, &settings, &services, &mut notifier, &enabled);
        notifier.stopping();
        events::record_stop(&services.events);
        services.series.stop();
        services.shutdown.trigger();
        services.state.clone()
    });
    // From now on a second signal ends the process at once.
    sys::unblock_stop_signals();
    let state = result?;
    log::info!("stopping");
    let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
    let joined = threads.join(SHUTDOWN_TIMEOUT);
    if !state.flush(deadline.saturating_duration_since(Instant::now())) {
        log::warn!("shutdown timeout, state_dir is not responding: last changes are not saved");
    }
    joined
}

/// `None` if the supervisor has exited already.
fn open_notifier(supervisor: Option<u32>) -> Result<Option<SdNotifier>, Error> {
    match supervisor {
        Some(supervisor) => SdNotifier::to_supervisor(supervisor)
            .map_err(|error| Error::system("connect to the supervisor", error)),
        None => Ok(Some(SdNotifier::from_environment())),
    }
}
