//! Nodes that speak Core, and a client that sends heartbeats and reads no answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use hm_agent::util::backoff::random_unit;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::link::{TIMEOUT, config, random_below, to_io};
use crate::open_all;

/// What the client that reads nothing sends at most. The answers, of more than 200 bytes each, are more than the send buffer of a
/// server and the receive buffer of this client hold, whose usual limits are 4 MiB and 6 MiB.
const STALLED_HEARTBEATS: u32 = 100_000;
/// A server that takes nothing for this time reads no more.
const STALLED_WRITE_TIMEOUT: Duration = Duration::from_secs(3);
/// Mean time between two heartbeats of each other node.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long the answer to the last heartbeats may take.
const LAST_ANSWER: Duration = Duration::from_secs(5);

pub struct CoreTarget(SocketAddr);

impl CoreTarget {
    pub fn new(server: SocketAddr) -> Self {
        Self(server)
    }

    /// Opens a link with a random id and registers the node.
    pub fn open(&self) -> io::Result<CoreLink> {
        let socket = TcpStream::connect(self.0)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let node_id = format!("{:016x}", (random_unit() * 1e19) as u64);
        let url = format!("ws://{}/api/v1/ws?token=default-token&node_id={node_id}", self.0);
        let (link, _) = tungstenite::client::client_with_config(url, socket, Some(config()))
            .map_err(|error| io::Error::other(error.to_string()))?;
        let mut link = CoreLink { link, node_id };
        let data = json!({"node_id": link.node_id, "hostname": link.node_id,
            "ip_address": "127.0.0.1", "os_info": "Debian GNU/Linux 12"});
        link.send("node_register", &data)?;
        link.read_until("register_response").map(|_| link)
    }
}

pub struct CoreLink {
    link: WebSocket<TcpStream>,
    node_id: String,
}

impl CoreLink {
    fn send(&mut self, kind: &str, data: &Value) -> io::Result<()> {
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let id = format!("{:016x}", (random_unit() * 1e19) as u64);
        let message = json!({"type": kind, "id": id, "timestamp": now, "data": data});
        self.link.send(Message::text(message.to_string())).map_err(to_io)
    }

    /// The data of the next message of this type.
    fn read_until(&mut self, kind: &str) -> io::Result<Value> {
        loop {
            if let Message::Text(text) = self.link.read().map_err(to_io)? {
                let mut message: Value = serde_json::from_str(&text)?;
                match message["type"].as_str() {
                    Some("error") => return Err(io::Error::other(text.to_string())),
                    found if found == Some(kind) => return Ok(message["data"].take()),
                    _ => {}
                }
            }
        }
    }

    fn send_heartbeat(&mut self) -> io::Result<()> {
        let percent = || f64::from(random_below(10_001)) / 100.0;
        let metrics = json!({"cpu_usage": percent(), "memory_usage": percent(),
            "disk_usage": percent(), "load_average": percent(),
            "memory_total": 8_000_000, "memory_available": random_below(8_000_000)});
        let data = json!({"node_id": self.node_id, "status": "online", "metrics": metrics});
        self.send("heartbeat", &data)
    }

    /// Returns 0 if the metrics were stored, by the answer.
    pub fn heartbeat(&mut self) -> io::Result<u64> {
        self.send_heartbeat()?;
        let answer = self.read_until("heartbeat_ack")?;
        Ok(u64::from(answer["metrics_saved"] != true))
    }
}

/// Prints how the heartbeats of the links are answered before another client stops to read, and while it does not read.
pub fn stall(server: SocketAddr, links: u32, seconds: u32) -> io::Result<()> {
    let target = CoreTarget::new(server);
    let mut open = open_all(&|_| target.open(), links)?;
    let time = Duration::from_secs(seconds.into());
    let before = exchange(&mut open, time)?;
    let (stalled, sent, blocked) = open_stalled(&target)?;
    let during = exchange(&mut open, time)?;
    drop(stalled);
    let line = json!({"before": before.json(), "during": during.json(), "stalled_sent": sent,
        "stalled_blocked": blocked});
    writeln!(io::stdout(), "{line}")
}

/// A client that has sent heartbeats and read nothing, how many it has sent, and whether its server reads no more.
fn open_stalled(target: &CoreTarget) -> io::Result<(CoreLink, u32, bool)> {
    let mut link = target.open()?;
    link.link.get_ref().set_write_timeout(Some(STALLED_WRITE_TIMEOUT))?;
    for sent in 0..STALLED_HEARTBEATS {
        match link.send_heartbeat() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((link, sent, true)),
            Err(error) => return Err(error),
        }
    }
    Ok((link, STALLED_HEARTBEATS, false))
}

/// Sends commands through `server` to a node that is connected to `node_hub`, at random times. Prints how long each takes to arrive.
pub fn send_commands(server: SocketAddr, count: u32, node_hub: SocketAddr) -> io::Result<()> {
    let mut link = CoreTarget::new(node_hub).open()?;
    let deadline = Instant::now() + TIMEOUT;
    // The hub learns of a node of another one after a second.
    while post_command(server, &link.node_id)?.is_none() {
        if Instant::now() >= deadline {
            return Err(io::Error::other("the hub does not know the node"));
        }
        std::thread::sleep(LAST_ANSWER.mul_f64(random_unit() / 10.0));
    }
    link.read_until("execute_command")?;
    let mut times = Vec::new();
    for _ in 0..count {
        std::thread::sleep(INTERVAL.mul_f64(2.0 * random_unit()));
        let sent = Instant::now();
        let command_id = post_command(server, &link.node_id)?;
        let received = link.read_until("execute_command")?;
        times.push(sent.elapsed().as_secs_f64() * 1e3);
        if received["command_id"].as_str() != command_id.as_deref() {
            return Err(io::Error::other(format!("{command_id:?} was sent: {received}")));
        }
        let result = json!({"command_id": command_id, "exit_code": 0, "stdout": "", "stderr": "",
            "execution_time": 1});
        link.send("command_result", &result)?;
    }
    times.sort_unstable_by(f64::total_cmp);
    let line = json!({"commands": count, "p50_ms": times.get(times.len() / 2), "longest_ms": times.last()});
    writeln!(io::stdout(), "{line}")
}

/// The id of a new command; `None`: the hub does not know the node.
fn post_command(server: SocketAddr, node_id: &str) -> io::Result<Option<String>> {
    let mut socket = TcpStream::connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let body = json!({"command_text": "true", "timeout": 30}).to_string();
    let length = body.len();
    let head =
        "Host: hub\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length:";
    write!(
        socket,
        "POST /api/v1/nodes/{node_id}/commands HTTP/1.1\r\n{head} {length}\r\n\r\n{body}"
    )?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    let Some((_, body)) = response.split_once("\r\n\r\n") else {
        return Err(io::Error::other(response));
    };
    let answer: Value = serde_json::from_str(body)?;
    match answer["data"]["command_id"].as_str() {
        Some(command_id) => Ok(Some(command_id.to_owned())),
        None if response.contains("NODE_NOT_FOUND") => Ok(None),
        None => Err(io::Error::other(response)),
    }
}

#[derive(Default)]
struct Answers {
    sent: usize,
    micros: Vec<u32>,
    /// Number of links with an answer.
    answered_links: usize,
}

impl Answers {
    fn json(mut self) -> Value {
        self.micros.sort_unstable();
        let ms = |micros: Option<&u32>| micros.map(|&micros| f64::from(micros) / 1e3);
        json!({"sent": self.sent, "answered": self.micros.len(),
            "answered_links": self.answered_links,
            "p50_ms": ms(self.micros.get(self.micros.len() / 2)),
            "longest_ms": ms(self.micros.last())})
    }
}

/// Each link sends heartbeats at random times for this long.
fn exchange(links: &mut [CoreLink], time: Duration) -> io::Result<Answers> {
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            links.iter_mut().map(|link| scope.spawn(move || exchange_one(link, end))).collect();
        let mut all = Answers::default();
        for thread in threads {
            let answers = thread.join().map_err(|_| io::Error::other("a thread has failed"))??;
            all.sent += answers.sent;
            all.answered_links += usize::from(!answers.micros.is_empty());
            all.micros.extend(answers.micros);
        }
        Ok(all)
    })
}

fn exchange_one(link: &mut CoreLink, end: Instant) -> io::Result<Answers> {
    let mut answers = Answers::default();
    loop {
        std::thread::sleep(INTERVAL.mul_f64(2.0 * random_unit()));
        let sent = Instant::now();
        if sent >= end {
            return Ok(answers);
        }
        link.link.get_ref().set_read_timeout(Some(end - sent + LAST_ANSWER))?;
        answers.sent += 1;
        match link.heartbeat() {
            Ok(0) => answers.micros.push(sent.elapsed().as_micros() as u32),
            Ok(code) => return Err(io::Error::other(format!("code {code}"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answers),
            Err(error) => return Err(error),
        }
    }
}
