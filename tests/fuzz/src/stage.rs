//! A connection to the agent in memory, and the agent behind it.

use std::io::{Read, Write};
use std::net::{self, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};

use hm_agent::collector::latest::LatestSample;
use hm_agent::config::{Config, Current, Settings, Sources};
use hm_agent::heartbeat::monitor::HeartbeatMonitor;
use hm_agent::heartbeat::server::Heartbeat;
use hm_agent::http::connection_limits::ConnectionLimiter;
use hm_agent::http::listener::ClientConnection;
use hm_agent::http::stats::Counters;
use hm_agent::model::RawSample;
use hm_agent::sys::EventFd;
use hm_agent::telemetry::fan::Fan;
use hm_agent::model::host_info::HostInfo;
use hm_agent::telemetry::responses::Responses;
use hm_agent::telemetry::router::Telemetry;
use hm_agent::telemetry::subscription;
use hm_agent::util::deadline_stream::DeadlineStream;
use hm_agent::util::logger::RateLimitedLog;
use hm_agent::util::sync::Shutdown;

/// What outlives a connection.
pub struct Stage {
    pub feed: LatestSample,
    pub fan: Fan,
    pub machine: HostInfo,
    pub settings: Current,
    complete: EventFd,
    stop: Shutdown,
}

/// Known to no fuzzer.
pub const TOKEN: &str = "s3cret";

fn stage(overrides: &[(&str, &str)]) -> Stage {
    let overrides = overrides.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let sources = Sources { overrides: overrides.collect(), ..Default::default() };
    let settings = Settings::load(&sources).expect("settings");
    let complete = EventFd::new().expect("an event");
    complete.notify();
    Stage {
        feed: LatestSample::new(RawSample::default()).expect("a feed"),
        fan: Fan::new().expect("a fan"),
        machine: HostInfo::default(),
        settings: Current::new(Config::new(&settings).expect("settings")),
        complete,
        stop: Shutdown::new().expect("a stop"),
    }
}

static OPEN: LazyLock<Stage> = LazyLock::new(|| stage(&[]));
static LOCKED: LazyLock<Stage> = LazyLock::new(|| stage(&[("usage.token", TOKEN)]));

/// One without a token, or one with.
pub fn get(locked: bool) -> &'static Stage {
    if locked { &LOCKED } else { &OPEN }
}

/// Has a client say all of `words` and then nothing more; returns what it hears.
pub fn heard(words: &[u8], serve: impl FnOnce(DeadlineStream<'static>) + Send) -> Vec<u8> {
    let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
    // For reading, writing and closing they are like any other; nothing else is done with them here.
    let server = TcpStream::from(OwnedFd::from(server));
    let server = DeadlineStream::new(server, &OPEN.stop).expect("a stream");
    let mut answer = Vec::new();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| serve(server));
        // It may close before all is said.
        let _ = client.write_all(words);
        let _ = client.shutdown(net::Shutdown::Write);
        let _ = client.read_to_end(&mut answer);
        // To its very end, or what it has of its own is taken for a leak.
        served.join().expect("no panic");
    });
    answer
}

fn guest<'a>(permits: &'a ConnectionLimiter, counters: &'a Counters) -> ClientConnection<'a> {
    // Nobody has to give way here.
    let (socket, _) = UnixStream::pair().expect("a pair of sockets");
    let socket = Arc::new(TcpStream::from(OwnedFd::from(socket)));
    let permit = permits.enter(0, &socket).expect("a place");
    ClientConnection::new(SocketAddr::from(([127, 0, 0, 1], 9)), permit, counters)
}

impl Stage {
    /// The port of `/usage`, `/metrics` and the page.
    pub fn telemetry(&'static self, stream: DeadlineStream<'static>) {
        let (permits, counters) = (ConnectionLimiter::default(), Counters::default());
        let telemetry = Telemetry {
            usage: self.usage(),
            documents: Responses {
                feed: &self.feed,
                machine: &self.machine,
                settings: &self.settings,
                complete: &self.complete,
                stop: &self.stop,
                ports: vec![("usage", &counters)],
                scrapes: Default::default(),
                spare: Default::default(),
                shared: Default::default(),
            },
            log: RateLimitedLog::new(),
        };
        telemetry.serve(stream, guest(&permits, &counters));
    }

    /// What subscribers see.
    pub fn usage(&'static self) -> subscription::Source<'static> {
        subscription::Source {
            feed: &self.feed,
            fan: &self.fan,
            machine: &self.machine,
            settings: &self.settings,
        }
    }

    /// The port of heartbeats, with a table of its own.
    pub fn heartbeat(&'static self, stream: DeadlineStream<'static>, directory: &std::path::Path) {
        let (permits, counters) = (ConnectionLimiter::default(), Counters::default());
        let watchdog = HeartbeatMonitor::open(directory).expect("a table");
        let heartbeat =
            Heartbeat { watchdog: &watchdog, settings: &self.settings, log: RateLimitedLog::new() };
        heartbeat.serve(stream, &guest(&permits, &counters));
    }
}
