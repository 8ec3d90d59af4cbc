//! A Core as the published service behaves: it wants its token in the address and says no with HTTP 200, welcomes
//! first, wants all four fields of a message, knows no `command_started`, and does what a test tells it to.

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
use super::wait_until;

/// A message that Core has read.
#[derive(Debug, Clone)]
pub struct Seen {
    pub kind: String,
    pub id: String,
    pub data: Value,
    /// All of it.
    pub message: Value,
    /// Which connection, counted from 0.
    pub connection: usize,
    pub at: Instant,
}

/// What Core does with a message instead of answering it.
#[derive(Clone)]
enum Instead {
    Nothing,
    Text(String),
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// For the next messages of these types.
    instead: VecDeque<(String, Instead)>,
    /// Types of messages that are not answered at all.
    withheld: Vec<String>,
    /// Ids of results that were acknowledged.
    acknowledged: Vec<String>,
    /// To be sent to who is registered last.
    outbox: VecDeque<Message>,
    registered: Option<usize>,
    /// Paths and queries, also of those who were not let in, and when they came.
    requests: Vec<(String, Instant)>,
    connections: usize,
    /// Of them.
    ended: usize,
    pings: usize,
    /// Connections on which agents have said goodbye.
    goodbyes: Vec<usize>,
    /// What was seen and acknowledged is written there too, a line of JSON each.
    record: Option<File>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    stop: AtomicBool,
    /// Reads and answers nothing.
    frozen: AtomicBool,
    /// Says goodbye when it stops.
    goodbye: AtomicBool,
    /// Says nothing after the upgrade.
    silent: AtomicBool,
}

/// A running Core; it stops when it goes out of scope.
pub struct Core {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Core {
    pub fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap())
    }

    pub fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
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

    /// From now on it says no welcome.
    pub fn silent(&self) {
        self.shared.silent.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// From now on messages of these types are not answered.
    pub fn withhold(&self, kinds: &[&str]) {
        self.state().withheld = kinds.iter().map(ToString::to_string).collect();
    }

    /// The next message of this type is answered with this, `$ID` being its id; `Null`: not at all.
    pub fn instead(&self, kind: &str, answer: &Value) {
        let answer =
            if answer.is_null() { Instead::Nothing } else { Instead::Text(answer.to_string()) };
        self.state().instead.push_back((kind.to_owned(), answer));
    }

    /// The next message of this type is answered with this error.
    pub fn error(&self, kind: &str, code: &str) {
        self.instead(kind, &error(code));
    }

    /// Sends something to the node, as soon as it is registered.
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

    /// From now on what is seen and acknowledged is appended to `file`.
    pub fn record(&self, file: File) {
        self.state().record = Some(file);
    }

    /// Everything of this type; all types if it is empty.
    pub fn seen(&self, kind: &str) -> Vec<Seen> {
        let state = self.state();
        let is_wanted = |seen: &&Seen| kind.is_empty() || seen.kind == kind;
        state.seen.iter().filter(is_wanted).cloned().collect()
    }

    /// Waits for so many of this type.
    pub fn wait(&self, kind: &str, count: usize) -> Vec<Seen> {
        let what = format!("{count} of {kind}");
        wait_until(&what, || Some(self.seen(kind)).filter(|seen| seen.len() >= count))
    }

    /// Results of a command, repeated ones too.
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

    /// Paths and queries of all who came, and when.
    pub fn requests(&self) -> Vec<(String, Instant)> {
        self.state().requests.clone()
    }

    /// Of those who were let in.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// Those of them that have ended.
    pub fn ended(&self) -> usize {
        self.state().ended
    }

    pub fn pings(&self) -> usize {
        self.state().pings
    }

    pub fn goodbyes(&self) -> Vec<usize> {
        self.state().goodbyes.clone()
    }

    /// Ends it, with all its connections; returns what it has seen.
    pub fn stop(mut self) -> Vec<Seen> {
        self.end();
        self.seen("")
    }

    /// The same in good order, with a close frame to everybody.
    pub fn shut_down(self) -> Vec<Seen> {
        self.shared.goodbye.store(true, Ordering::Relaxed);
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
                    // However it ends, the connection is over.
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
    let refusal = match query(&target, "token") {
        None => "Token required",
        Some(token) if token != TOKEN => "Invalid token",
        Some(_) => return welcome(socket, shared),
    };
    let mut socket = socket;
    let length = refusal.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{refusal}"
    );
    socket.write_all(answer.as_bytes()).map_err(broken)?;
    // What is not read would turn the end into a reset.
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
    if !shared.silent.load(Ordering::Relaxed) {
        let data = json!({"message": "欢迎连接到Server Manager Core", "node_id": "node-001"});
        let text = message("welcome", &fresh_id(), &data).to_string();
        socket.send(Message::text(text)).map_err(Box::new)?;
    }
    let result = converse(&mut socket, shared, connection);
    let mut state = shared.state.lock().unwrap();
    state.registered = state.registered.filter(|registered| *registered != connection);
    state.ended += 1;
    result
}

fn converse(
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
            Ok(Message::Close(_)) => shared.state.lock().unwrap().goodbyes.push(connection),
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(Box::new(error)),
        }
    }
    if shared.goodbye.load(Ordering::Relaxed) {
        let frame = CloseFrame { code: CloseCode::Away, reason: "back soon".into() };
        socket.close(Some(frame)).map_err(Box::new)?;
        // Until the other end has said goodbye too.
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
        state.note(connection, &json!({"seen": message}));
        let seen = Seen { kind, id, data, message, connection, at: Instant::now() };
        state.seen.push(seen.clone());
        state.reply(&seen)
    }
}

impl State {
    fn note(&mut self, connection: usize, what: &Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        if let Some(file) = &mut self.record {
            let line = json!({"core": std::process::id(), "connection": connection,
                "unix_milliseconds": now, "what": what});
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }

    fn reply(&mut self, seen: &Seen) -> Option<String> {
        let Seen { kind, id, data, connection, .. } = seen;
        if self.withheld.contains(kind) {
            return None;
        }
        if let Some(at) = self.instead.iter().position(|(wanted, _)| wanted == kind) {
            return match self.instead.remove(at)?.1 {
                Instead::Nothing => None,
                Instead::Text(text) => Some(text.replace("$ID", id)),
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
                self.note(*connection, &json!({"acknowledged": id}));
                ("command_received", received)
            }
            _ => return Some(error("UNKNOWN_MESSAGE_TYPE").to_string()),
        };
        Some(message(kind, id, &data).to_string())
    }
}
