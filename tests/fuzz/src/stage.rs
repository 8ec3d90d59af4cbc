//! The agent's ports on connections in memory.

use std::io::{Read, Write};
use std::net::{self, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};

use hm_agent::collector::latest::LatestSample;
use hm_agent::config::{Config, CurrentConfig, Settings, Sources};
use hm_agent::heartbeat::monitor::HeartbeatMonitor;
use hm_agent::heartbeat::server::HeartbeatServer;
use hm_agent::health::Health;
use hm_agent::history::event_log::EventLog;
use hm_agent::history::series::SeriesHistory;
use hm_agent::http::connection_limits::ConnectionLimiter;
use hm_agent::http::listener::ClientConnection;
use hm_agent::http::service::HttpService;
use hm_agent::http::stats::ListenerStats;
use hm_agent::http::stream::ServerStream;
use hm_agent::model::RawSample;
use hm_agent::model::host_info::HostInfo;
use hm_agent::sys::EventFd;
use hm_agent::telemetry::responses::Responses;
use hm_agent::telemetry::router::Router;
use hm_agent::telemetry::subscription;
use hm_agent::util::deadline_stream::DeadlineStream;
use hm_agent::util::state_io::StateIo;
use hm_agent::util::sync::Shutdown;

/// What the connections of all inputs share.
pub struct Stage {
    pub latest: LatestSample,
    pub host_info: HostInfo,
    pub config: CurrentConfig,
    events: EventLog,
    series: SeriesHistory,
    health: Health,
    gpus_ready: EventFd,
    shutdown: Shutdown,
}

/// No fuzzer knows it.
pub const TOKEN: &str = "s3cret";

fn stage(overrides: &[(&str, &str)]) -> Stage {
    let overrides = overrides.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let sources = Sources { overrides: overrides.collect(), ..Default::default() };
    let settings = Settings::load(&sources).expect("settings");
    let gpus_ready = EventFd::new().expect("an eventfd");
    gpus_ready.notify();
    // No such directory: the log is empty, and nothing is recorded.
    let state = StateIo::start("/nonexistent".as_ref()).expect("a thread");
    Stage {
        latest: LatestSample::new(RawSample::default()).expect("a sample"),
        host_info: HostInfo::default(),
        config: CurrentConfig::new(Config::new(&settings).expect("settings")),
        events: EventLog::open(&state),
        series: SeriesHistory::open(&state),
        health: Health::open(&state),
        gpus_ready,
        shutdown: Shutdown::new().expect("an eventfd"),
    }
}

static WITHOUT_TOKEN: LazyLock<Stage> = LazyLock::new(|| stage(&[]));
static WITH_TOKEN: LazyLock<Stage> = LazyLock::new(|| stage(&[("usage.token", TOKEN)]));

pub fn get(with_token: bool) -> &'static Stage {
    if with_token { &WITH_TOKEN } else { &WITHOUT_TOKEN }
}

/// Sends `input` to a server, closes the write side, and returns everything that the server sends.
pub fn exchange(input: &[u8], serve: impl FnOnce(ServerStream<'static>) + Send) -> Vec<u8> {
    let (mut client, server) = UnixStream::pair().expect("a socket pair");
    // For reading, writing and closing, it behaves like a TCP socket; the server does nothing else with it here.
    let server = TcpStream::from(OwnedFd::from(server));
    let server = DeadlineStream::new(server, &WITHOUT_TOKEN.shutdown).expect("a stream");
    let server = ServerStream::plain(server);
    let mut output = Vec::new();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| serve(server));
        // Fails if the server closes the connection before it has read everything.
        let _ = client.write_all(input);
        let _ = client.shutdown(net::Shutdown::Write);
        let _ = client.read_to_end(&mut output);
        // Joined before the sanitizer checks for leaks.
        served.join().expect("no panic");
    });
    output
}

fn client<'a>(limiter: &'a ConnectionLimiter, stats: &'a ListenerStats) -> ClientConnection<'a> {
    // Used for eviction only, which does not happen here.
    let (socket, _) = UnixStream::pair().expect("a socket pair");
    let socket = Arc::new(TcpStream::from(OwnedFd::from(socket)));
    let permit = limiter.acquire(0, &socket).expect("no limit");
    ClientConnection::new(SocketAddr::from(([127, 0, 0, 1], 9)), permit, stats)
}

impl Stage {
    pub fn telemetry(&'static self, stream: ServerStream<'static>) {
        let (limiter, stats) = (ConnectionLimiter::default(), ListenerStats::default());
        let router = Router {
            http: HttpService::new("usage"),
            usage: self.usage(),
            responses: Responses {
                latest: &self.latest,
                host_info: &self.host_info,
                config: &self.config,
                events: &self.events,
                series: &self.series,
                health: &self.health,
                gpus_ready: &self.gpus_ready,
                shutdown: &self.shutdown,
                ports: vec![("usage", &stats)],
            },
        };
        router.handle_connection(stream, client(&limiter, &stats));
    }

    pub fn usage(&'static self) -> subscription::Context<'static> {
        subscription::Context {
            latest: &self.latest,
            host_info: &self.host_info,
            config: &self.config,
        }
    }

    /// Uses a heartbeat table of its own.
    pub fn heartbeat(&'static self, stream: ServerStream<'static>, directory: &std::path::Path) {
        let (limiter, stats) = (ConnectionLimiter::default(), ListenerStats::default());
        let state = StateIo::start(directory).expect("a thread");
        let monitor = HeartbeatMonitor::open(&state).expect("a table");
        HeartbeatServer::new(&monitor, &self.config).serve(stream, client(&limiter, &stats));
    }
}
