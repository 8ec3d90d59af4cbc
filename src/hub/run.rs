//! Starts the threads of hm-hub, handles signals, and stops.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::Flock;

use crate::config::{Settings, Sources};
use crate::http::listener::Listener;
use crate::http::tls;
use crate::hub::access::Access;
use crate::hub::after_commit::AfterCommit;
use crate::hub::audit::AuditLog;
use crate::hub::change_hook::ChangeHook;
use crate::hub::cluster::Cluster;
use crate::hub::cluster::database::Identity;
use crate::hub::config::HubConfig;
use crate::hub::core::rest::Rest;
use crate::hub::core::server::CoreServer;
use crate::hub::credentials::NodeCredentials;
use crate::hub::event_loop::EventLoop;
use crate::hub::event_loop::mailbox::{LoopMessage, Mailbox};
use crate::hub::hm::server::HmServer;
use crate::hub::node_requests::NodeRequests;
use crate::hub::nodes::Nodes;
use crate::hub::sessions::Sessions;
use crate::hub::store::database::OpenDatabase;
use crate::hub::store::postgres::PostgresDatabase;
use crate::hub::store::postgres::session::SESSION_STACK_BYTES;
use crate::hub::store::sqlite::SqliteDatabase;
use crate::hub::store::{HubStore, StoreError};
use crate::hub::web::WebServer;
use crate::hub::{Hub, tls_client};
use crate::sys;
use crate::sys::ControlSignal;
use crate::util::error::{Error, reason};
use crate::util::logger;
use crate::util::logger::RateLimitedLog;
use crate::util::random;
use crate::util::state_dir;
use crate::util::sync::{Shutdown, lock};
use crate::util::threads::Threads;

/// Each uses at most one processor, and the store has one writer.
const MAX_EVENT_LOOPS: usize = 4;

/// Interval between checks of the presence of nodes.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);

/// An event loop stops reading within this, unless it hangs.
const STOP_READING_TIMEOUT: Duration = Duration::from_millis(500);

/// Threads that still run this long after the last commit are abandoned.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// The ports.
struct Servers {
    hm: HmServer,
    core: CoreServer,
    web: WebServer,
}

/// Runs until a signal requests a stop. The error is one that keeps the hub from starting or running.
pub fn run(sources: &Sources, notes: &[String]) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = HubConfig::new(&settings)?;
    logger::init(config.log_level);
    // Before any thread starts, so that every thread inherits the mask and the main thread receives the signals.
    sys::block_control_signals();
    sys::process::set_cloexec_on_inherited_fds()
        .map_err(|error| Error::system("close inherited files on exec", error))?;
    if let Err(error) = sys::raise_descriptor_limit() {
        log::warn!("cannot raise the limit of open files: {}", reason(&error));
    }
    let _lock = lock_state_dir(&config.state_dir)?;
    let mut threads = Threads::default();
    let result = start(config, &settings, &mut threads).map(|hub| {
        log_startup(&settings, notes);
        signal_loop(sources, &settings, &hub);
        stop(&hub);
    });
    sys::unblock_stop_signals();
    result.and(threads.join(SHUTDOWN_TIMEOUT))
}

/// Creates the directory and keeps other hubs out of it.
pub fn lock_state_dir(directory: &Path) -> Result<Flock<File>, Error> {
    let fail = |error| {
        let doing = format!("use {}", directory.display());
        Error::system(doing, error).with_hint("see state_dir")
    };
    state_dir::create_dir(directory).map_err(fail)?;
    let lock = state_dir::lock_dir(directory).map_err(fail)?;
    lock.ok_or_else(|| fail(std::io::Error::other("another hm-hub uses it")))
}

/// The configured database, created or migrated if needed.
pub fn open_database(config: &HubConfig) -> Result<OpenDatabase, StoreError> {
    if let Some(url) = &config.postgres {
        return PostgresDatabase::open(url, config.retention);
    }
    let (database, writer) = SqliteDatabase::open(&database(config), config.retention)?;
    Ok(OpenDatabase { database: Box::new(database), writer: Box::new(writer) })
}

/// Path of the database of SQLite.
pub fn database(config: &HubConfig) -> PathBuf {
    config.state_dir.join("hub.db")
}

fn start(config: HubConfig, settings: &Settings, threads: &mut Threads) -> Result<Arc<Hub>, Error> {
    let (shown, hint) = match &config.postgres {
        Some(url) => (url.to_string(), "see store"),
        None => (database(&config).display().to_string(), "see state_dir"),
    };
    let unusable = |error: StoreError| {
        let failure = std::io::Error::other(error.to_string());
        Error::system(format!("open database {shown}"), failure).with_hint(hint)
    };
    let OpenDatabase { database, writer } = open_database(&config).map_err(unusable)?;
    let mut reader = database.open_reader().map_err(unusable)?;
    let known = reader.nodes().map_err(unusable)?;
    let stored_credentials = reader.credentials().map_err(unusable)?;
    drop(reader);
    let joined = match &config.postgres {
        Some(url) => {
            let cluster =
                Cluster::new(identity(&config)?, url.clone(), tls_client::peer_config(settings)?);
            let database = cluster.join().map_err(unusable)?;
            Some((Arc::new(cluster), database))
        }
        None => None,
    };
    let (cluster, cluster_database) = joined.unzip();
    let tls = config.tls;
    let bind = |name, address, has_tls: bool| {
        let listener = Listener::bind(name, address)?;
        Ok::<_, Error>(match tls.acceptor.as_ref().filter(|_| has_tls) {
            Some(acceptor) => listener.with_tls(acceptor.clone()),
            None => listener,
        })
    };
    let hm_listener = bind("hm", config.hm_listen, tls.hm)?;
    let core_listener = bind("core", config.core_listen, tls.core)?;
    let web_listener = bind("web", config.web_listen, tls.web)?;
    let nodes = Arc::new(Mutex::new(Nodes::new(Instant::now(), config.offline_after, known)));
    let loops = event_loops().map_err(|error| Error::system("create an event loop", error))?;
    let mailboxes: Arc<[Arc<Mailbox>]> = loops.iter().map(EventLoop::mailbox).collect();
    let credentials = Arc::new(NodeCredentials::new(Instant::now(), stored_credentials));
    let after_commit = AfterCommit {
        nodes: nodes.clone(),
        credentials: credentials.clone(),
        mailboxes: mailboxes.clone(),
        cluster: cluster.clone(),
    };
    let store = HubStore::start(database, writer, Box::new(move |writes| after_commit.run(writes)))
        .map_err(|error| Error::system("start thread store", error))?;
    let shutdown = Shutdown::new().map_err(|error| Error::system("create an eventfd", error))?;
    let access = Access {
        admission: config.admission,
        operators: config.operators,
        is_loopback_only: config.is_loopback_only,
        credentials,
    };
    let hub = Arc::new(Hub {
        nodes,
        store,
        cluster,
        mailboxes,
        run_id: random::uuid().map_err(|error| Error::system("read random bytes", error))?,
        requests: NodeRequests::default(),
        sessions: Sessions::default(),
        audit: AuditLog::new(&config.state_dir),
        hook_report: Mutex::default(),
        fleet_answers: Mutex::default(),
        access: Mutex::new(Arc::new(access)),
        tls,
        shutdown,
        log: RateLimitedLog::new(),
    });
    for event_loop in loops {
        let context = hub.clone();
        threads.start("event-loop", move || {
            event_loop.run(&context).map_err(|error| Error::system("poll connections", error))
        })?;
    }
    let context = hub.clone();
    threads.start("presence", move || {
        while !context.shutdown.wait(PRESENCE_INTERVAL) {
            context.update_nodes(|nodes| nodes.expire(Instant::now()));
            context.end_unproven_links();
            context.save_agents();
            context.save_statuses(false);
        }
        Ok(())
    })?;
    if let (Some(cluster), Some(database)) = (hub.cluster.clone(), cluster_database) {
        let context = hub.clone();
        threads.start_with_stack("cluster", SESSION_STACK_BYTES, move || {
            cluster.run(&context, database);
            Ok(())
        })?;
    }
    let rest = Arc::new(Rest::new(config.commands_enabled));
    let (context, hook) = (hub.clone(), ChangeHook::new(config.on_change, &config.state_dir));
    threads.start("change-hook", move || {
        hook.run(&context);
        Ok(())
    })?;
    if let Some(tls) = hub.tls.acceptor.clone() {
        let context = hub.clone();
        threads.start("tls-files", move || {
            tls::watch(&[tls], &context.shutdown);
            Ok(())
        })?;
    }
    let servers = Arc::new(Servers {
        hm: HmServer::new(config.hm_job),
        core: CoreServer::new(rest.clone()),
        web: WebServer::new(rest),
    });
    let (context, hm) = (hub.clone(), servers.clone());
    threads.start("hm", move || hm.hm.run(&context, &hm_listener))?;
    let (context, core) = (hub.clone(), servers.clone());
    threads.start("core", move || core.core.run(&context, &core_listener))?;
    let (context, web) = (hub.clone(), servers.clone());
    threads.start("web", move || web.web.run(&context, &web_listener))?;
    Ok(hub)
}

/// What other hubs know of this one.
fn identity(config: &HubConfig) -> Result<Identity, Error> {
    let secret = random::token().map_err(|error| Error::system("read random bytes", error))?;
    let name = config.instance.clone().or_else(sys::process::hostname);
    Ok(Identity { name: name.unwrap_or_default(), url: config.url.clone(), secret })
}

fn event_loops() -> std::io::Result<Vec<EventLoop>> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (0..processors.min(MAX_EVENT_LOOPS)).map(EventLoop::new).collect()
}

fn log_startup(settings: &Settings, notes: &[String]) {
    let file = settings.file.as_deref().map_or("no file".into(), |path| path.to_string_lossy());
    log::info!("hm-hub {} started; settings from {file}", env!("CARGO_PKG_VERSION"));
    for warning in settings.warnings.iter().chain(notes) {
        log::warn!("{warning}");
    }
}

fn signal_loop(sources: &Sources, at_start: &Settings, hub: &Hub) {
    loop {
        match sys::wait_control_signal(None) {
            Some(ControlSignal::Stop) => break,
            Some(ControlSignal::Reload) => match reload(sources, at_start, hub) {
                Ok(()) => log::info!("configuration reloaded"),
                Err(error) => {
                    log::error!("configuration reload failed, keeping previous: {error}");
                }
            },
            None => {}
        }
    }
    log::info!("stopping");
    hub.shutdown.trigger();
}

fn reload(sources: &Sources, at_start: &Settings, hub: &Hub) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = HubConfig::new(&settings)?;
    let deferred = settings.changed_until_restart(at_start);
    // What the new file permits is checked for its addresses, not for those in use.
    if let Some(key) = deferred.iter().find(|key| key.ends_with(".listen")) {
        return Err(settings.invalid(key, "cannot change while the hub runs; restart it"));
    }
    // commands.enabled is among those, so it is checked as it is in use.
    if at_start.flag("commands.enabled") {
        config.check_commands(&settings)?;
    }
    if !deferred.is_empty() {
        log::warn!("restart required for: {}", deferred.join(", "));
    }
    log::set_max_level(config.log_level);
    hub.set_access(Access {
        admission: config.admission,
        operators: config.operators,
        is_loopback_only: config.is_loopback_only,
        credentials: hub.access().credentials.clone(),
    });
    if let Some(tls) = &hub.tls.acceptor {
        tls.reload();
    }
    Ok(())
}

/// Commits every report that was read, answers it, and closes the connections.
fn stop(hub: &Hub) {
    let (sender, stopped) = channel();
    hub.send_to_all(|| LoopMessage::StopReading(sender.clone()));
    drop(sender);
    for _ in hub.mailboxes.iter() {
        // A loop that does not answer in time may read reports that stay unanswered; nodes send these again.
        let _ = stopped.recv_timeout(STOP_READING_TIMEOUT);
    }
    drop(lock(&hub.hook_report));
    hub.save_agents();
    hub.save_statuses(true);
    hub.store.stop();
    hub.send_to_all(|| LoopMessage::Close);
}
