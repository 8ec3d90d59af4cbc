//! A Core that behaves as the published service: it requires a token in the URL and rejects others with HTTP 200, sends a
//! welcome first, requires all four fields of a message, and does not know `command_started`. Tests change its behaviour.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

use super::core_wire::{TOKEN, error, fresh_id, message, peek_request, query};
use super::{reserve_address, wait_until};

/// A received message.
#[derive(Debug, Clone)]
pub struct Seen {
    pub kind: String,
    pub id: String,
    pub data: Value,
    /// The whole message.
    pub message: Value,
    /// Index of the connection.
    pub connection: usize,
    pub at: Instant,
}

/// A replacement for the usual response.
#[derive(Clone)]
enum Override {
    Nothing,
    Text(String),
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// For the next messages of these types.
    overrides: VecDeque<(String, Override)>,
    /// Types of messages that are not answered.
    ignored: Vec<String>,
    /// Ids of results that were acknowledged.
    acknowledged: Vec<String>,
    /// To be sent on the connection that registered last.
    outbox: VecDeque<Message>,
    registered: Option<usize>,
    /// Paths and queries with times, also of rejected connections.
    requests: Vec<(String, Instant)>,
    connections: usize,
    /// Connections that have ended.
    ended: usize,
    pings: usize,
    /// Connections on which a close frame was received.
    close_frames: Vec<usize>,
    /// Messages and confirmations are also written to this file, a line of JSON each.
    record: Option<File>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
    /// Neither reads nor answers.
    frozen: AtomicBool,
    /// Sends close frames when it stops.
    send_close: AtomicBool,
    /// Sends no welcome.
    skip_welcome: AtomicBool,
}

/// Stops when dropped.
pub struct Core {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Core {
    pub fn start() -> Self {
        Self::on(reserve_address())
    }

    pub fn on(address: SocketAddr) -> Self {
        let listener = super::listen(address);
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::<Shared>::default();
        let address = listener.local_addr().unwrap();
        let context = shared.clone();
        let thread = std::thread::spawn(move || accept(&listener, &context));
        Self { address, shared, thread: Some(thread) }
    }

    pub fn setting(&self) -> String {
        format!("core.url=ws://{}/api/v1/ws", self.address)
    }

    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.store(frozen, Ordering::Relaxed);
    }

    /// Sends no welcome from now on.
    pub fn skip_welcome(&self) {
        self.shared.skip_welcome.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Does not answer messages of these types from now on.
    pub fn ignore_kinds(&self, kinds: &[&str]) {
        self.state().ignored = kinds.iter().map(ToString::to_string).collect();
    }

    /// Answers the next message of this type with `response`, where `$ID` is its id; `Null`: not at all.
    pub fn respond_once(&self, kind: &str, response: &Value) {
        let response = match response.is_null() {
            true => Override::Nothing,
            false => Override::Text(response.to_string()),
        };
        self.state().overrides.push_back((kind.to_owned(), response));
    }

    /// Answers the next message of this type with an error.
    pub fn error(&self, kind: &str, code: &str) {
        self.respond_once(kind, &error(code));
    }

    /// Sends a message as soon as the node is registered.
    pub fn push(&self, what: impl Into<Message>) {
        self.state().outbox.push_back(what.into());
    }

    /// Sends a command; returns the id of the message.
    pub fn execute(&self, command_id: &str, text: &str, timeout: u64) -> String {
        self.request(&json!({"command_id": command_id, "command_text": text, "timeout": timeout}))
    }

    pub fn request(&self, data: &Value) -> String {
        let id = fresh_id();
        self.push(message("execute_command", &id, data).to_string());
        id
    }

    /// Appends further messages and confirmations to `file`.
    pub fn record(&self, file: File) {
        self.state().record = Some(file);
    }

    /// Messages of this type; of all types if it is empty.
    pub fn seen(&self, kind: &str) -> Vec<Seen> {
        let state = self.state();
        let is_wanted = |seen: &&Seen| kind.is_empty() || seen.kind == kind;
        state.seen.iter().filter(is_wanted).cloned().collect()
    }

    /// Waits for `count` messages of this type.
    pub fn wait(&self, kind: &str, count: usize) -> Vec<Seen> {
        let what = format!("{count} of {kind}");
        wait_until(&what, || Some(self.seen(kind)).filter(|seen| seen.len() >= count))
    }

    /// Results of a command, with repeated ones.
    pub fn results(&self, command_id: &str) -> Vec<Seen> {
        let results = self.seen("command_result").into_iter();
        results.filter(|seen| seen.data["command_id"] == command_id).collect()
    }

    /// Waits for the first result of a command.
    pub fn result(&self, command_id: &str) -> Seen {
        let what = format!("the result of {command_id}");
        wait_until(&what, || self.results(command_id).first().cloned())
    }

    pub fn acknowledged(&self) -> Vec<String> {
        self.state().acknowledged.clone()
    }

    /// Paths and queries of all connections, with times.
    pub fn requests(&self) -> Vec<(String, Instant)> {
        self.state().requests.clone()
    }

    /// Number of accepted connections.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// Number of accepted connections that have ended.
    pub fn ended(&self) -> usize {
        self.state().ended
    }

    pub fn pings(&self) -> usize {
        self.state().pings
    }

    pub fn close_frames(&self) -> Vec<usize> {
        self.state().close_frames.clone()
    }

    /// Stops without close frames; returns the messages.
    pub fn stop(mut self) -> Vec<Seen> {
        self.end();
        self.seen("")
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

impl Drop for Core {
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
                    let _ = serve(socket, &context);
                }));
            }
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn serve(socket: TcpStream, shared: &Shared) -> Result<(), Box<tungstenite::Error>> {
    socket.set_nonblocking(false).unwrap();
    let broken = |error: io::Error| Box::new(tungstenite::Error::Io(error));
    let target = peek_request(&socket).map_err(broken)?;
    shared.state.lock().unwrap().requests.push((target.clone(), Instant::now()));
    let rejection = match query(&target, "token") {
        None => "Token required",
        Some(token) if token != TOKEN => "Invalid token",
        Some(_) => return welcome(socket, shared),
    };
    let mut socket = socket;
    let length = rejection.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{rejection}"
    );
    socket.write_all(answer.as_bytes()).map_err(broken)?;
    // Closing with unread data would send a reset.
    let _ = socket.read(&mut [0; 4096]);
    Ok(())
}

fn welcome(socket: TcpStream, shared: &Shared) -> Result<(), Box<tungstenite::Error>> {
    let mut socket =
        tungstenite::accept(socket).map_err(|_| Box::new(tungstenite::Error::ConnectionClosed))?;
    socket.get_ref().set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let connection = {
        let mut state = shared.state.lock().unwrap();
        state.connections += 1;
        state.connections - 1
    };
    if !shared.skip_welcome.load(Ordering::Relaxed) {
        let data = json!({"message": "欢迎连接到Server Manager Core", "node_id": "node-001"});
        let text = message("welcome", &fresh_id(), &data).to_string();
        socket.send(Message::text(text)).map_err(Box::new)?;
    }
    let result = run_connection(&mut socket, shared, connection);
    let mut state = shared.state.lock().unwrap();
    state.registered = state.registered.filter(|registered| *registered != connection);
    state.ended += 1;
    result
}

fn run_connection(
    socket: &mut WebSocket<TcpStream>,
    shared: &Shared,
    connection: usize,
) -> Result<(), Box<tungstenite::Error>> {
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.frozen.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(5));
            continue;
        }
        if let Some(message) = shared.pushed(connection) {
            socket.send(message).map_err(Box::new)?;
        }
        match socket.read() {
            Ok(Message::Text(text)) => {
                let answer = shared.answer(&text, connection);
                let is_wrong = matches!(&answer, Some(text) if text.contains("PARSE_ERROR"));
                if let Some(answer) = answer {
                    socket.send(Message::text(answer)).map_err(Box::new)?;
                }
                if is_wrong {
                    break;
                }
            }
            Ok(Message::Ping(_)) => shared.state.lock().unwrap().pings += 1,
            Ok(Message::Close(_)) => shared.state.lock().unwrap().close_frames.push(connection),
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
    fn pushed(&self, connection: usize) -> Option<Message> {
        let mut state = self.state.lock().unwrap();
        (state.registered == Some(connection)).then(|| state.outbox.pop_front())?
    }

    /// The answer to a message, if it has one.
    fn answer(&self, text: &str, connection: usize) -> Option<String> {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let fields = ["type", "id", "timestamp"].map(|name| message[name].as_str());
        let [Some(kind), Some(id), Some(_)] = fields else {
            return Some(error("PARSE_ERROR").to_string());
        };
        if message["data"].is_null() {
            return Some(error("PARSE_ERROR").to_string());
        }
        let (kind, id, data) = (kind.to_owned(), id.to_owned(), message["data"].clone());
        let mut state = self.state.lock().unwrap();
        state.write_record(connection, &json!({"seen": message}));
        let seen = Seen { kind, id, data, message, connection, at: Instant::now() };
        state.seen.push(seen.clone());
        state.reply(&seen)
    }
}

impl State {
    fn write_record(&mut self, connection: usize, what: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        if let Some(file) = &mut self.record {
            let line = json!({"core": std::process::id(), "connection": connection,
                "unix_milliseconds": now, "what": what});
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }

    fn reply(&mut self, seen: &Seen) -> Option<String> {
        let Seen { kind, id, data, connection, .. } = seen;
        if self.ignored.contains(kind) {
            return None;
        }
        if let Some(at) = self.overrides.iter().position(|(wanted, _)| wanted == kind) {
            return match self.overrides.remove(at)?.1 {
                Override::Nothing => None,
                Override::Text(text) => Some(text.replace("$ID", id)),
            };
        }
        let is_registered = self.registered == Some(*connection);
        let received = json!({"received": true, "node_id": "node-001"});
        let (kind, data) = match kind.as_str() {
            "node_register" if data["hostname"].is_string() && data["ip_address"].is_string() => {
                self.registered = Some(*connection);
                let data = json!({"success": true, "message": "节点注册成功", "action": "updated",
                    "node_id": data["node_id"], "node_info": {"id": 7, "status": "online"}});
                ("register_response", data)
            }
            "node_register" => return Some(error("INVALID_REGISTER_DATA").to_string()),
            "heartbeat" if is_registered => ("heartbeat_ack", received),
            "heartbeat" => return Some(error("NODE_NOT_FOUND").to_string()),
            "command_result" => {
                self.acknowledged.push(id.clone());
                self.write_record(*connection, &json!({"acknowledged": id}));
                ("command_received", received)
            }
            _ => return Some(error("UNKNOWN_MESSAGE_TYPE").to_string()),
        };
        Some(message(kind, id, &data).to_string())
    }
}
