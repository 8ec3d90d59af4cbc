//! Clients that use an agent during an attack or a fault: each must be served without interruption on its open connection. And
//! new clients afterwards, which must be served soon.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::heartbeat::HttpConnection;
use super::monitor::MonitorClient;
use super::slowdown::Control;
use super::{Agent, Client, TEST_TIMEOUT, sleep_for};

const SECOND: Duration = Duration::from_secs(1);

/// Time of each answer, and how long the client waited for it.
type Answers = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// Clients of an agent with `interval=1`, each with a thread of its own.
pub struct Bystanders {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    updates: Answers,
    beats: Answers,
    scrapes: Answers,
    events: Answers,
    control: Control,
}

/// The longest waits.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Waits {
    /// Between two updates of `/usage`.
    pub update: Duration,
    /// For the response to a heartbeat.
    pub beat: Duration,
    /// For the response to a scrape.
    pub scrape: Duration,
    /// Between two events of `/monitor`.
    pub event: Duration,
    /// How many times longer than on an idle machine a thread of the test had to wait for its processor time.
    pub slowdown: f64,
}

impl Waits {
    /// Everything due each second arrived in time. Events of a host are due every two seconds.
    pub fn within_limits(&self) -> bool {
        let (max, second) = (self.scaled(Duration::from_millis(1500)), self.scaled(SECOND));
        self.update < max && self.beat < second && self.scrape < second && self.event < 2 * max
    }

    /// A limit for this machine at this time.
    pub fn scaled(&self, limit: Duration) -> Duration {
        limit.mul_f64(self.slowdown)
    }
}

/// Sends a heartbeat every second with an interval of two seconds, to which the agent adds half.
pub const APP: &str = "bystander";

impl Bystanders {
    /// Starts a dashboard, an application, a Prometheus, and optionally a client that watches this host over SSH.
    pub fn start(agent: &Agent, watcher: Option<MonitorClient>) -> Self {
        let mut bystanders = Self {
            stopping: Arc::default(),
            threads: Vec::new(),
            updates: Arc::default(),
            beats: Arc::default(),
            scrapes: Arc::default(),
            events: Arc::default(),
            control: Control::start(),
        };
        let mut dashboard = agent.subscribe();
        let served = bystanders.updates.clone();
        bystanders.spawn(served, Duration::ZERO, move || {
            assert_eq!(dashboard.json()["type"], "usage_update");
        });
        let mut application = HttpConnection::open(agent);
        let served = bystanders.beats.clone();
        bystanders.spawn(served, Duration::from_secs(1), move || {
            let answer = application.get(&format!("/hb_ping?2000&appid={APP}"));
            assert_eq!((answer.status, answer.body.as_str()), (200, "3000"));
        });
        let mut prometheus = HttpConnection::from_socket(agent.socket());
        let served = bystanders.scrapes.clone();
        bystanders.spawn(served, Duration::from_secs(1), move || {
            let answer = prometheus.get("/metrics");
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert!(answer.body.contains("\nnode_load1 "), "{}", answer.body);
        });
        if let Some(mut watcher) = watcher {
            let served = bystanders.events.clone();
            bystanders.spawn(served, Duration::ZERO, move || {
                let event: Value = watcher.socket.json();
                assert_eq!(event["method"], "ssh.notification", "{event}");
            });
        }
        bystanders
    }

    /// Runs `wait` repeatedly with a pause in between. A failure ends the thread, which the test notices.
    fn spawn(&mut self, served: Answers, pause: Duration, mut wait: impl FnMut() + Send + 'static) {
        let stopping = self.stopping.clone();
        let mut last = Instant::now();
        self.threads.push(std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                wait();
                let now = Instant::now();
                served.lock().unwrap().push((now, now - last));
                sleep_for(pause);
                last = if pause.is_zero() { now } else { Instant::now() };
            }
        }));
    }

    /// The longest waits since `start`, including those that are not over.
    pub fn since(&self, start: Instant) -> Waits {
        let longest = |served: &Answers, pending: bool| {
            let served = served.lock().unwrap();
            let until_now = served.last().map_or(start.elapsed(), |(at, _)| at.elapsed());
            let waits = served.iter().rev().take_while(|(at, _)| *at > start);
            let longest = waits.map(|(_, wait)| *wait).max().unwrap_or_default();
            if pending { longest.max(until_now) } else { longest }
        };
        let due = Duration::from_secs(1);
        Waits {
            update: longest(&self.updates, true),
            // These clients pause after each answer.
            beat: longest(&self.beats, false).max(self.late(&self.beats, due)),
            scrape: longest(&self.scrapes, false).max(self.late(&self.scrapes, due)),
            slowdown: self.control.slowdown_since(start),
            event: if self.threads.len() > 3 {
                longest(&self.events, true)
            } else {
                Duration::ZERO
            },
        }
    }

    fn late(&self, served: &Answers, due: Duration) -> Duration {
        let last = served.lock().unwrap().last().map(|(at, _)| at.elapsed());
        last.unwrap_or_default().saturating_sub(due)
    }

    /// Numbers of updates, heartbeats, scrapes and events.
    pub fn counts(&self) -> [usize; 4] {
        [&self.updates, &self.beats, &self.scrapes, &self.events]
            .map(|served| served.lock().unwrap().len())
    }

    /// Asserts that every client is still served.
    pub fn assert_all_served(&self, agent: &Agent) {
        assert!(
            !self.threads.iter().any(JoinHandle::is_finished),
            "a client was not served: {:#?}",
            agent.log()
        );
    }

    /// Stops all clients.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// How long a new client of each kind needs, from `since`, to be served: a dashboard until its first update, an application until
/// the response to its heartbeat, a client of /monitor until the upgrade.
pub fn new_client_delays(
    agent: &Agent,
    monitor: Option<SocketAddr>,
    since: Instant,
) -> [Duration; 3] {
    let usage = agent.address;
    let heartbeat = agent.heartbeat();
    std::thread::scope(|scope| {
        let kinds = [
            scope.spawn(move || time_until_served(since, || dashboard(usage))),
            scope.spawn(move || time_until_served(since, || beat(heartbeat))),
            scope.spawn(move || {
                monitor.map_or(Duration::ZERO, |at| time_until_served(since, || watch(at)))
            }),
        ];
        kinds.map(|kind| kind.join().unwrap())
    })
}

fn time_until_served(since: Instant, connect: impl Fn() -> Option<()>) -> Duration {
    while connect().is_none() {
        assert!(since.elapsed() < TEST_TIMEOUT, "no new client is served");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    since.elapsed()
}

/// A client that has waited this long tries again.
const RETRY_TIMEOUT: Duration = Duration::from_millis(500);

fn socket(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, RETRY_TIMEOUT).ok()?;
    socket.set_read_timeout(Some(RETRY_TIMEOUT)).ok()?;
    Some(socket)
}

fn dashboard(address: SocketAddr) -> Option<()> {
    let (socket, _) =
        tungstenite::client(format!("ws://{address}/usage"), socket(address)?).ok()?;
    let mut client = Client(socket);
    client.0.send(tungstenite::Message::text("subscribe:usage")).ok()?;
    (0..3).try_for_each(|_| client.0.read().ok().map(drop))
}

fn beat(address: SocketAddr) -> Option<()> {
    let mut socket = socket(address)?;
    socket
        .write_all(b"GET /hb_ping?60000&appid=new HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200 ").then_some(())
}

fn watch(address: SocketAddr) -> Option<()> {
    tungstenite::client(format!("ws://{address}/monitor"), socket(address)?).ok().map(drop)
}
