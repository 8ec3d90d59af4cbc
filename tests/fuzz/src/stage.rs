//! A connection to the agent in memory, and the agent behind it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};

use hm_agent::config::{Config, Current, Settings, Sources};
use hm_agent::feed::Feed;
use hm_agent::logger::PeerLog;
use hm_agent::proto::usage::Machine;
use hm_agent::serve::fan::Fan;
use hm_agent::serve::counters::Counters;
use hm_agent::serve::documents::Documents;
use hm_agent::serve::heartbeat::Heartbeat;
use hm_agent::serve::listener::Guest;
use hm_agent::serve::permits::Permits;
use hm_agent::serve::telemetry::Telemetry;
use hm_agent::serve::usage;
use hm_agent::snapshot::Reading;
use hm_agent::stream::Stream;
use hm_agent::sync::Stop;
use hm_agent::sys::Event;
use hm_agent::watchdog::Watchdog;

/// What outlives a connection.
pub struct Stage {
    pub feed: Feed,
    pub fan: Fan,
    pub machine: Machine,
    pub settings: Current,
    complete: Event,
    stop: Stop,
}

/// Known to no fuzzer.
pub const TOKEN: &str = "s3cret";

fn stage(overrides: &[(&str, &str)]) -> Stage {
    let overrides = overrides.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    let sources = Sources { overrides: overrides.collect(), ..Default::default() };
    let settings = Settings::load(&sources).expect("settings");
    let complete = Event::new().expect("an event");
    complete.ring();
    Stage {
        feed: Feed::new(Reading::default()).expect("a feed"),
        fan: Fan::new().expect("a fan"),
        machine: Machine::default(),
        settings: Current::new(Config::new(&settings).expect("settings")),
        complete,
        stop: Stop::new().expect("a stop"),
    }
}

static OPEN: LazyLock<Stage> = LazyLock::new(|| stage(&[]));
static LOCKED: LazyLock<Stage> = LazyLock::new(|| stage(&[("usage.token", TOKEN)]));

/// One without a token, or one with.
pub fn get(locked: bool) -> &'static Stage {
    if locked { &LOCKED } else { &OPEN }
}

/// Has a client say all of `words` and then nothing more; returns what it hears.
pub fn heard(words: &[u8], serve: impl FnOnce(Stream<'static>) + Send) -> Vec<u8> {
    let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
    // For reading, writing and closing they are like any other; nothing else is done with them here.
    let server = TcpStream::from(OwnedFd::from(server));
    let server = Stream::new(server, &OPEN.stop).expect("a stream");
    let mut answer = Vec::new();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| serve(server));
        // It may close before all is said.
        let _ = client.write_all(words);
        let _ = client.shutdown(Shutdown::Write);
        let _ = client.read_to_end(&mut answer);
        // To its very end, or what it has of its own is taken for a leak.
        served.join().expect("no panic");
    });
    answer
}

fn guest<'a>(permits: &'a Permits, counters: &'a Counters) -> Guest<'a> {
    // Nobody has to give way here.
    let (socket, _) = UnixStream::pair().expect("a pair of sockets");
    let socket = Arc::new(TcpStream::from(OwnedFd::from(socket)));
    let permit = permits.enter(0, &socket).expect("a place");
    Guest::new(SocketAddr::from(([127, 0, 0, 1], 9)), permit, counters)
}

impl Stage {
    /// The port of `/usage`, `/metrics` and the page.
    pub fn telemetry(&'static self, stream: Stream<'static>) {
        let (permits, counters) = (Permits::default(), Counters::default());
        let telemetry = Telemetry {
            usage: self.usage(),
            documents: Documents {
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
            log: PeerLog::new(),
        };
        telemetry.serve(stream, guest(&permits, &counters));
    }

    /// What subscribers see.
    pub fn usage(&'static self) -> usage::Source<'static> {
        usage::Source { feed: &self.feed, fan: &self.fan, machine: &self.machine, settings: &self.settings }
    }

    /// The port of heartbeats, with a table of its own.
    pub fn heartbeat(&'static self, stream: Stream<'static>, directory: &std::path::Path) {
        let (permits, counters) = (Permits::default(), Counters::default());
        let watchdog = Watchdog::open(directory).expect("a table");
        let heartbeat =
            Heartbeat { watchdog: &watchdog, settings: &self.settings, log: PeerLog::new() };
        heartbeat.serve(stream, &guest(&permits, &counters));
    }
}
