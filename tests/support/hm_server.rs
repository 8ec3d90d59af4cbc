//! An hm server that behaves as the published one: it answers no pings, closes connections without a ping within its
//! deadline, requires "online" first and one connection per node, and answers each request once. Tests change its behaviour.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::{reserve_address, wait_until};

/// A received request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub kind: u64,
    pub id: u64,
    pub timestamp: u64,
    pub body: Value,
    /// Index of the connection.
    pub connection: usize,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// Codes for the next requests.
    codes: VecDeque<u64>,
    /// When each connection was established.
    connections: Vec<Instant>,
    pings: usize,
    /// Nodes, and the connection on which each is online.
    online: HashMap<String, usize>,
    /// Each request is also written to this file: kind, timestamp, connection.
    record: Option<File>,
}

/// Shared with the server's threads.
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
    /// Neither reads nor answers.
    frozen: AtomicBool,
    /// Sends close frames when it stops.
    send_close: AtomicBool,
    /// Sends pongs.
    pongs: AtomicBool,
    /// Closes connections without a ping for this long.
    deadline: Duration,
}

/// Stops when dropped.
pub struct HmServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HmServer {
    /// On a free port, without pongs, with the published deadline.
    pub fn start() -> Self {
        Self::on(reserve_address(), false, Duration::from_secs(30))
    }

    pub fn on(address: SocketAddr, pongs: bool, deadline: Duration) -> Self {
        let listener = super::listen(address);
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            stop: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            send_close: AtomicBool::new(false),
            pongs: AtomicBool::new(pongs),
            deadline,
        });
        let address = listener.local_addr().unwrap();
        let context = shared.clone();
        let thread = std::thread::spawn(move || accept(&listener, &context));
        Self { address, shared, thread: Some(thread) }
    }

    pub fn setting(&self) -> String {
        format!("hm.url=ws://{}/websocket", self.address)
    }

    /// The next requests are answered with these codes.
    pub fn codes(&self, codes: &[u64]) {
        self.shared.state.lock().unwrap().codes.extend(codes);
    }

    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Enables or disables pongs.
    pub fn pongs(&self, pongs: bool) {
        self.shared.pongs.store(pongs, Ordering::Relaxed);
    }

    /// Appends all further requests to `file`.
    pub fn record(&self, file: File) {
        self.shared.state.lock().unwrap().record = Some(file);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    pub fn connections(&self) -> usize {
        self.connected_at().len()
    }

    /// When each connection was established.
    pub fn connected_at(&self) -> Vec<Instant> {
        self.shared.state.lock().unwrap().connections.clone()
    }

    pub fn pings(&self) -> usize {
        self.shared.state.lock().unwrap().pings
    }

    /// Timestamps of the reports in order of arrival.
    pub fn reports(&self) -> Vec<u64> {
        self.seen().iter().filter(|seen| seen.kind == 2).map(|seen| seen.timestamp).collect()
    }

    /// Waits for `count` reports.
    pub fn wait_reports(&self, count: usize) -> Vec<u64> {
        wait_until("reports", || Some(self.reports()).filter(|reports| reports.len() >= count))
    }

    /// Stops without close frames; returns the requests.
    pub fn stop(mut self) -> Vec<Seen> {
        self.end();
        self.seen()
    }

    /// Stops with a close frame on each connection.
    pub fn shut_down(self) -> Vec<Seen> {
        self.shared.send_close.store(true, Ordering::Relaxed);
        self.stop()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for HmServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((socket, _)) => {
                let context = shared.clone();
                threads.push(std::thread::spawn(move || {
                    // An error ends only this connection.
                    let _ = serve(socket, context);
                }));
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// tungstenite answers pings by itself; this drops its pongs.
struct PongFilter(TcpStream, Arc<Shared>);

impl Read for PongFilter {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for PongFilter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        const PONG: u8 = 0x8a;
        if !self.1.pongs.load(Ordering::Relaxed) && bytes.first() == Some(&PONG) {
            return Ok(bytes.len());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn serve(socket: TcpStream, shared: Arc<Shared>) -> Result<(), Box<tungstenite::Error>> {
    socket.set_nonblocking(false).unwrap();
    let mut socket = tungstenite::accept(PongFilter(socket, shared.clone()))
        .map_err(|_| Box::new(tungstenite::Error::ConnectionClosed))?;
    let timeout = Some(Duration::from_millis(50));
    socket.get_ref().0.set_read_timeout(timeout).unwrap();
    let connection = {
        let mut state = shared.state.lock().unwrap();
        state.connections.push(Instant::now());
        state.connections.len() - 1
    };
    let result = run_connection(&mut socket, &shared, connection);
    shared.state.lock().unwrap().online.retain(|_, held| *held != connection);
    result
}

fn run_connection(
    socket: &mut WebSocket<PongFilter>,
    shared: &Shared,
    connection: usize,
) -> Result<(), Box<tungstenite::Error>> {
    let mut pinged = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) && pinged.elapsed() < shared.deadline {
        if shared.frozen.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(5));
            pinged = Instant::now();
            continue;
        }
        match socket.read() {
            Ok(Message::Text(text)) => {
                if let Some(answer) = shared.answer(&text, connection) {
                    socket.send(Message::text(answer)).map_err(Box::new)?;
                }
            }
            Ok(Message::Ping(_)) => {
                pinged = Instant::now();
                shared.state.lock().unwrap().pings += 1;
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(Box::new(error)),
        }
    }
    if shared.send_close.load(Ordering::Relaxed) {
        let frame = CloseFrame { code: CloseCode::Away, reason: "back soon".into() };
        socket.close(Some(frame)).map_err(Box::new)?;
        // Until the client has answered the close frame.
        while socket.read().is_ok() {}
    }
    Ok(())
}

impl Shared {
    fn answer(&self, text: &str, connection: usize) -> Option<String> {
        let request: Value = serde_json::from_str(text).unwrap();
        let mut state = self.state.lock().unwrap();
        let (id, kind) = (request["id"].as_u64().unwrap(), request["type"].as_u64().unwrap());
        let answer = |code: u64, id: u64, kind: u64| {
            let message = if code == 0 { "ok" } else { "no" };
            json!({"version": 0, "timestamp": 1, "id": id, "type": kind, "pub_key": "", "sign": "",
                "code": code, "message": message, "body": ""})
            .to_string()
        };
        let body = request["body"].as_str().and_then(|body| BASE64.decode(body.as_bytes()).ok());
        let Some(body) = body else { return Some(answer(1, 0, 0)) };
        let body: Value = serde_json::from_slice(&body).unwrap();
        let is_online = state.online.values().any(|held| *held == connection);
        let node = body["node_id"].as_str().unwrap_or_default();
        let is_elsewhere = state.online.get(node).is_some_and(|held| *held != connection);
        let code = match (kind, is_online) {
            (1, _) if is_elsewhere => 5,
            (2, false) => 6,
            _ => 0,
        };
        let code = state.codes.pop_front().unwrap_or(code);
        const NO_RESPONSE: u64 = 99;
        if code == NO_RESPONSE {
            return None;
        }
        if code == 0 {
            if kind == 1 {
                state.online.insert(node.to_owned(), connection);
            }
            let timestamp = request["timestamp"].as_u64().unwrap();
            if let Some(record) = &mut state.record {
                record.write_all(format!("{kind} {timestamp} {connection}\n").as_bytes()).unwrap();
            }
            state.seen.push(Seen { kind, id, timestamp, body, connection });
        }
        Some(answer(code, id, kind))
    }
}
