//! Those who are inside while something happens to an agent: each is served all the time, on the connections it has; and
//! those who come afterwards, who are let in soon.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::heartbeat::HttpConnection;
use super::monitor::MonitorClient;
use super::{Agent, Client, PATIENCE, pass};

/// When something came, and how long it was waited for.
type Served = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// Clients of an agent with `interval=1`, each with a thread of its own.
pub struct Inside {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    updates: Served,
    beats: Served,
    scrapes: Served,
    events: Served,
}

/// The longest that somebody waited.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Waits {
    /// From one update of `/usage` to the next.
    pub update: Duration,
    /// For the answer to a beat.
    pub beat: Duration,
    /// For the answer to a scrape.
    pub scrape: Duration,
    /// From one event of `/monitor` to the next.
    pub event: Duration,
}

impl Waits {
    /// All that is due every second came in time; events of a host come every two.
    pub fn are_fine(&self) -> bool {
        let most = Duration::from_millis(1500);
        self.update < most
            && self.beat < Duration::from_secs(1)
            && self.scrape < Duration::from_secs(1)
            && self.event < 2 * most
    }
}

/// It beats every second, and has promised to within two, to which the agent adds half.
pub const APP: &str = "inside";

impl Inside {
    /// A dashboard, an application, a Prometheus, and who watches this machine over SSH, if somebody does.
    pub fn of(agent: &Agent, watcher: Option<MonitorClient>) -> Self {
        let mut inside = Self {
            over: Arc::default(),
            threads: Vec::new(),
            updates: Arc::default(),
            beats: Arc::default(),
            scrapes: Arc::default(),
            events: Arc::default(),
        };
        let mut dashboard = agent.subscribe();
        let served = inside.updates.clone();
        inside.keep(served, Duration::ZERO, move || {
            assert_eq!(dashboard.json()["type"], "usage_update");
        });
        let mut application = HttpConnection::open(agent);
        let served = inside.beats.clone();
        inside.keep(served, Duration::from_secs(1), move || {
            let answer = application.get(&format!("/hb_ping?2000&appid={APP}"));
            assert_eq!((answer.status, answer.body.as_str()), (200, "3000"));
        });
        let mut prometheus = HttpConnection::from_socket(agent.socket());
        let served = inside.scrapes.clone();
        inside.keep(served, Duration::from_secs(1), move || {
            let answer = prometheus.get("/metrics");
            assert_eq!(answer.status, 200, "{}", answer.body);
            assert!(answer.body.contains("\nnode_load1 "), "{}", answer.body);
        });
        if let Some(mut watcher) = watcher {
            let served = inside.events.clone();
            inside.keep(served, Duration::ZERO, move || {
                let event: Value = watcher.socket.json();
                assert_eq!(event["method"], "ssh.notification", "{event}");
            });
        }
        inside
    }

    /// Lets somebody wait for what it gets, again and again, with a pause. What it does not get ends the test.
    fn keep(&mut self, served: Served, pause: Duration, mut wait: impl FnMut() + Send + 'static) {
        let over = self.over.clone();
        let mut last = Instant::now();
        self.threads.push(std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                wait();
                let now = Instant::now();
                served.lock().unwrap().push((now, now - last));
                pass(pause);
                last = if pause.is_zero() { now } else { Instant::now() };
            }
        }));
    }

    /// How long they waited at the most since then. Whoever waits still counts as well.
    pub fn since(&self, start: Instant) -> Waits {
        let longest = |served: &Served, pending: bool| {
            let served = served.lock().unwrap();
            let until_now = served.last().map_or(start.elapsed(), |(at, _)| at.elapsed());
            let waits = served.iter().rev().take_while(|(at, _)| *at > start);
            let longest = waits.map(|(_, wait)| *wait).max().unwrap_or_default();
            if pending { longest.max(until_now) } else { longest }
        };
        let due = Duration::from_secs(1);
        Waits {
            update: longest(&self.updates, true),
            // Those who ask have a pause behind each answer.
            beat: longest(&self.beats, false).max(self.late(&self.beats, due)),
            scrape: longest(&self.scrapes, false).max(self.late(&self.scrapes, due)),
            event: if self.threads.len() > 3 {
                longest(&self.events, true)
            } else {
                Duration::ZERO
            },
        }
    }

    fn late(&self, served: &Served, due: Duration) -> Duration {
        let last = served.lock().unwrap().last().map(|(at, _)| at.elapsed());
        last.unwrap_or_default().saturating_sub(due)
    }

    /// How many updates, beats, scrapes and events there were.
    pub fn counts(&self) -> [usize; 4] {
        [&self.updates, &self.beats, &self.scrapes, &self.events]
            .map(|served| served.lock().unwrap().len())
    }

    /// Whether somebody was not served.
    pub fn assert_all_here(&self, agent: &Agent) {
        assert!(
            !self.threads.iter().any(JoinHandle::is_finished),
            "somebody inside was not served: {:#?}",
            agent.log()
        );
    }

    /// They leave.
    pub fn leave(self) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// How long each kind of new client needs, from `since`, to be served: a dashboard to its first update, an application to
/// the answer to its beat, one of /monitor to be let in.
pub fn newcomers(agent: &Agent, monitor: Option<SocketAddr>, since: Instant) -> [Duration; 3] {
    let usage = agent.address;
    let heartbeat = agent.heartbeat();
    std::thread::scope(|scope| {
        let kinds = [
            scope.spawn(move || served(since, || dashboard(usage))),
            scope.spawn(move || served(since, || beat(heartbeat))),
            scope.spawn(move || monitor.map_or(Duration::ZERO, |at| served(since, || watch(at)))),
        ];
        kinds.map(|kind| kind.join().unwrap())
    })
}

fn served(since: Instant, come: impl Fn() -> Option<()>) -> Duration {
    while come().is_none() {
        assert!(since.elapsed() < PATIENCE, "nobody new is served");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    since.elapsed()
}

/// Whoever has waited for so long tries again.
const TRY: Duration = Duration::from_millis(500);

fn socket(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, TRY).ok()?;
    socket.set_read_timeout(Some(TRY)).ok()?;
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
    socket.write_all(b"GET /hb_ping?60000&appid=new HTTP/1.1\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200 ").then_some(())
}

fn watch(address: SocketAddr) -> Option<()> {
    tungstenite::client(format!("ws://{address}/monitor"), socket(address)?).ok().map(drop)
}
