//! A running hm-hub, and connections of hm nodes to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hm_agent::hub::store::records::Selection;
use hm_agent::hub::store::sqlite::hm_reports::query;
use hm_agent::hub::store::sqlite::schema;
use serde_json::{Value, json};
use tungstenite::client::client_with_config;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

pub use super::http_body::json_body;
use super::{TEST_TIMEOUT, TempDir, wait_until, websocket};

/// The hub's program, isolated from settings in the environment of the test run.
pub fn hm_hub() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hm-hub"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HM_HUB_") || name == "JOURNAL_STREAM" {
            command.env_remove(name);
        }
    }
    command
}

/// A hub on a free loopback port, killed on drop.
pub struct Hub {
    child: Child,
    /// Of the hm port.
    pub address: SocketAddr,
    pub core: SocketAddr,
    pub web: SocketAddr,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Hub {
    /// Starts a hub that keeps its database in `state`.
    pub fn start(state: &TempDir, settings: &[&str]) -> Self {
        Self::spawn(Self::command(state, "127.0.0.1:0", settings))
    }

    pub fn command(state: &TempDir, listen: &str, settings: &[&str]) -> Command {
        let mut command = hm_hub();
        command.arg("-s").arg(format!("state_dir={}", state.0.display()));
        command.arg("-s").arg(format!("hm.listen={listen}"));
        command.args(["-s", "core.listen=127.0.0.1:0", "-s", "web.listen=127.0.0.1:0"]);
        for setting in settings {
            command.args(["-s", setting]);
        }
        command
    }

    pub fn spawn(command: Command) -> Self {
        Self::try_spawn(command).unwrap_or_else(|log| panic!("the hub has exited: {log:#?}"))
    }

    /// Fails if the hub exits instead of starting, with its log.
    pub fn try_spawn(mut command: Command) -> Result<Self, Vec<String>> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let (lines, stderr) = (log.clone(), BufReader::new(child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in stderr.lines() {
                lines.0.lock().unwrap().push(line.unwrap());
                lines.1.notify_all();
            }
        });
        let none = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut hub = Self { child, address: none, core: none, web: none, log };
        let has_started =
            |hub: &Self| hub.log().iter().any(|line| line.contains("started; settings"));
        wait_until("the start of the hub", || {
            (has_started(&hub) || hub.child.try_wait().unwrap().is_some()).then_some(())
        });
        if !has_started(&hub) {
            return Err(hub.log());
        }
        let address = |line: String| line.rsplit(' ').next().unwrap().parse().unwrap();
        hub.address = address(hub.wait_log("hm listening on "));
        hub.core = address(hub.wait_log("core listening on "));
        hub.web = address(hub.wait_log("web listening on "));
        Ok(hub)
    }

    pub fn log(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }

    /// Waits for a log line that contains `text`.
    pub fn wait_log(&self, text: &str) -> String {
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let lines = self.log.0.lock().unwrap();
        let waiting = |lines: &mut Vec<String>| find(lines).is_none();
        let (lines, _) = self.log.1.wait_timeout_while(lines, TEST_TIMEOUT, waiting).unwrap();
        find(&lines).unwrap_or_else(|| panic!("no line {text:?} in {lines:#?}"))
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its memory that no other process shares.
    pub fn private_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_until("exit of the hub", || self.child.try_wait().unwrap())
    }

    /// Sends SIGTERM and asserts exit code 0.
    pub fn stop(mut self) -> Vec<String> {
        self.signal("-TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
        self.log()
    }

    /// Kills it at once, as a crash does.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn node(&self) -> Node {
        Node::connect(self.address, "").unwrap()
    }

    /// A response of the hm port, with its head.
    pub fn get(&self, target: &str, headers: &str) -> String {
        http(self.address, "GET", target, headers, "")
    }

    /// Writes that wait for a commit, by the hub's own metrics.
    pub fn queued_writes(&self) -> u64 {
        let metrics = http(self.web, "GET", "/metrics", "", "");
        let line = metrics.lines().find_map(|line| line.strip_prefix("hm_hub_queued_writes "));
        line.unwrap().parse().unwrap()
    }

    /// The body of a response of the REST API, whose status is always 200.
    pub fn rest(&self, method: &str, target: &str, body: &str) -> Value {
        let length = format!("Content-Length: {}\r\n", body.len());
        let response = http(self.core, method, &format!("/api/v1/{target}"), &length, body);
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        json_body(&response)
    }

    /// The same with the token of an operator.
    pub fn rest_with(&self, method: &str, target: &str, token: &str) -> Value {
        let headers = format!("Authorization: Bearer {token}\r\n");
        json_body(&http(self.core, method, &format!("/api/v1/{target}"), &headers, ""))
    }

    /// A Core connection, e.g. with `node_id=a&token=default-token`.
    pub fn core(&self, path: &str, query: &str) -> CoreLink {
        CoreLink(websocket::connect(self.core, &format!("{path}?{query}")))
    }
}

/// A response with its head.
pub fn http(address: SocketAddr, method: &str, target: &str, headers: &str, body: &str) -> String {
    try_http(address, method, target, headers, body).unwrap()
}

/// Fails if the hub is killed meanwhile.
pub fn try_http(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: &str,
) -> io::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(TEST_TIMEOUT))?;
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}"
    );
    socket.write_all(request.as_bytes())?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    Ok(response)
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Path of the hub's database.
pub fn database(state: &TempDir) -> PathBuf {
    state.0.join("hub.db")
}

/// A command that copies the database to the place where a hub with the state directory `to` has it.
pub fn backup_command(state: &TempDir, to: &TempDir) -> Command {
    let mut command = hm_hub();
    command.arg("-s").arg(format!("state_dir={}", state.0.display()));
    command.arg("backup").arg(database(to));
    command
}

/// Times of a node's stored reports, oldest first.
pub fn stored(state: &TempDir, node_id: &str) -> Vec<i64> {
    let db = schema::open_read_only(&database(state)).unwrap();
    let node_id = node_id.to_owned();
    let all = Selection { node_id, start: i64::MIN, end: i64::MAX, limit: u32::MAX };
    let reports = query::reports(&db, &all).unwrap();
    reports.iter().rev().map(|report| report.timestamp).collect()
}

/// A connection that speaks hm.
pub struct Node<S = TcpStream>(pub WebSocket<S>);

impl Node {
    /// Fails if the hub refuses the handshake, with its response.
    pub fn connect(address: SocketAddr, token: &str) -> Result<Self, String> {
        loop {
            let socket = TcpStream::connect(address).map_err(|error| error.to_string())?;
            socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            match Self::over(socket, address, token) {
                // See `support::websocket`.
                Err(error) if error.contains("Interrupted system call") => {}
                connected => return connected,
            }
        }
    }

    /// Reads until the connection ends. Returns the close code of the hub; 0: none.
    pub fn close_code(&mut self, within: Duration) -> u16 {
        self.0.get_ref().set_read_timeout(Some(within)).unwrap();
        let mut code = 0;
        loop {
            match self.0.read() {
                Ok(Message::Close(frame)) => code = frame.map_or(0, |frame| frame.code.into()),
                Ok(_) => {}
                Err(tungstenite::Error::ConnectionClosed) => return code,
                // This process was stopped for a while.
                Err(tungstenite::Error::Io(error))
                    if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl<S: Read + Write> Node<S> {
    /// Connects over `socket`, which may have TLS.
    pub fn over(socket: S, address: SocketAddr, token: &str) -> Result<Self, String> {
        let mut request = http::Request::builder()
            .uri(format!("ws://{address}/websocket"))
            .header("Host", address.to_string())
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", tungstenite::handshake::client::generate_key());
        if !token.is_empty() {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        // The default buffer of 128 KiB would be much for thousands of nodes.
        let config = WebSocketConfig::default().read_buffer_size(512);
        client_with_config(request.body(()).unwrap(), socket, Some(config))
            .map(|(socket, _)| Self(socket))
            .map_err(|error| error.to_string())
    }

    pub fn send(&mut self, kind: u32, id: u64, timestamp: i64, body: &Value) {
        self.try_send(kind, id, timestamp, body).unwrap();
    }

    /// Fails if the connection has ended.
    pub fn try_send(
        &mut self,
        kind: u32,
        id: u64,
        timestamp: i64,
        body: &Value,
    ) -> tungstenite::Result<()> {
        let body = data_encoding::BASE64.encode(body.to_string().as_bytes());
        let request = json!({"version": 0, "timestamp": timestamp, "id": id, "type": kind,
            "pub_key": null, "sign": null, "body": body});
        self.0.send(Message::text(request.to_string()))
    }

    /// The next message.
    pub fn response(&mut self) -> Value {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                // A read with a timeout ends when the machine is suspended.
                Err(tungstenite::Error::Io(error))
                    if error.kind() == io::ErrorKind::Interrupted => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// `type`, `id` and `code` of the next message.
    pub fn header(&mut self) -> (u64, u64, u64) {
        let response = self.response();
        let number = |key: &str| response[key].as_u64().unwrap();
        (number("type"), number("id"), number("code"))
    }

    pub fn online(&mut self, node_id: &str) -> u64 {
        self.send(1, 0, 0, &json!({"node_id": node_id}));
        self.header().2
    }

    /// Sends a report and returns the code of the answer.
    pub fn report(&mut self, sent: i64) -> u64 {
        self.send(2, 1, sent, &report());
        self.header().2
    }
}

/// The body of the published document.
pub fn report() -> Value {
    json!({"project": "DecentralGPT", "models": [{"model": "Codestral-22B-v0.1"}],
        "gpu_name": "NVIDIA RTX A5000", "utilization_gpu": 30, "memory_total": 24564, "memory_used": 22128})
}

/// A connection that speaks Core.
pub struct CoreLink(pub WebSocket<TcpStream>);

impl CoreLink {
    pub fn send(&mut self, kind: &str, id: &str, data: &Value) {
        self.try_send(kind, id, data).unwrap();
    }

    /// Fails if the connection has ended.
    pub fn try_send(&mut self, kind: &str, id: &str, data: &Value) -> tungstenite::Result<()> {
        let message =
            json!({"type": kind, "id": id, "timestamp": "2025-01-21T10:00:00Z", "data": data});
        self.0.send(Message::text(message.to_string()))
    }

    /// The next message.
    pub fn next(&mut self) -> Value {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                // A read with a timeout ends when the machine is suspended.
                Err(tungstenite::Error::Io(error))
                    if error.kind() == io::ErrorKind::Interrupted => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Skips messages up to the first of this type and returns its data.
    pub fn until(&mut self, kind: &str) -> Value {
        loop {
            let mut message = self.next();
            if message["type"] == kind {
                return message["data"].take();
            }
        }
    }

    pub fn register(&mut self, node_id: &str) -> Value {
        let data = json!({"node_id": node_id, "hostname": "server-01",
            "ip_address": "192.168.1.100", "os_info": "Ubuntu 22.04 LTS", "cpu_count": 8});
        self.send("node_register", "r1", &data);
        self.until("register_response")
    }

    pub fn heartbeat(&mut self, node_id: &str, cpu_usage: f64) -> Value {
        let metrics = json!({"cpu_usage": cpu_usage, "memory_usage": 68.5, "disk_usage": 34.1,
            "load_average": 1.23, "memory_total": 8_000_000});
        self.send(
            "heartbeat",
            "h1",
            &json!({"node_id": node_id, "status": "online", "metrics": metrics}),
        );
        self.until("heartbeat_ack")
    }
}
