//! Core nodes, and commands for them that are submitted to random hubs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Error, Message};

use crate::support::hub::CoreLink;
use crate::support::rng::Rng;
use crate::support::sleep_for;

/// The text of a command without an answer.
const NEVER: &str = "never";
/// In seconds, of such a command.
const SHORT_TIMEOUT: u64 = 3;
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(12);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A node that gets nothing for this long connects again, as hm-agent does.
const SILENCE: Duration = Duration::from_secs(10);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(2);

/// What nodes and operators have seen.
#[derive(Default)]
pub struct Seen {
    /// Ids of commands whose creation was acknowledged, with whether they are answered.
    pub acknowledged: BTreeMap<String, bool>,
    /// What each command that has run has printed: as an agent, a node repeats a result instead of running it again.
    pub outputs: BTreeMap<String, String>,
    /// Results that a hub has confirmed.
    pub confirmed: BTreeSet<String>,
    /// Commands that a node has got more than once on one connection.
    pub repeated: Vec<String>,
}

pub struct Commands {
    pub seen: Mutex<Seen>,
    pub stop: AtomicBool,
}

impl Commands {
    pub fn new() -> Self {
        Self { seen: Mutex::default(), stop: AtomicBool::new(false) }
    }

    fn is_running(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Submits commands for `nodes` to random hubs until `end`.
    pub fn submit(&self, hubs: &[SocketAddr], nodes: &[String], end: Instant, mut rng: Rng) {
        while Instant::now() < end && self.is_running() {
            sleep_for(Duration::from_millis(rng.below(400)));
            let hub = hubs[rng.below(hubs.len() as u64) as usize];
            let node = &nodes[rng.below(nodes.len() as u64) as usize];
            let is_answered = rng.below(8) > 0;
            let (text, timeout) = if is_answered { ("true", 3600) } else { (NEVER, SHORT_TIMEOUT) };
            let body = json!({"command_text": text, "timeout": timeout}).to_string();
            let Ok(answer) = post(hub, &format!("/api/v1/nodes/{node}/commands"), &body) else {
                continue;
            };
            if let Some(id) = answer["data"]["command_id"].as_str() {
                self.seen.lock().unwrap().acknowledged.insert(id.to_owned(), is_answered);
            }
        }
    }

    /// A node that connects again and again.
    pub fn run_node(&self, hubs: SocketAddr, node_id: &str) {
        let mut unconfirmed = BTreeSet::new();
        while self.is_running() {
            // The next connection repeats what this one has not achieved.
            let _ = self.connection(hubs, node_id, &mut unconfirmed);
            sleep_for(Duration::from_millis(500));
        }
    }

    fn connection(
        &self,
        hubs: SocketAddr,
        node_id: &str,
        unconfirmed: &mut BTreeSet<String>,
    ) -> tungstenite::Result<()> {
        let socket = TcpStream::connect(hubs)?;
        socket.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        let url = format!("ws://{hubs}/ws/node?token=default-token&node_id={node_id}");
        let Ok((socket, _)) = tungstenite::client(url, socket) else { return Ok(()) };
        let mut link = CoreLink(socket);
        link.0.get_ref().set_read_timeout(Some(Duration::from_millis(200)))?;
        // Once for each connection: the commands of the node follow.
        let data = json!({"node_id": node_id, "hostname": node_id, "ip_address": "192.0.2.1"});
        link.try_send("node_register", "r", &data)?;
        let (mut is_registered, mut got) = (false, HashSet::new());
        let mut last_message = Instant::now();
        let mut next_heartbeat = last_message;
        while self.is_running() && last_message.elapsed() < SILENCE {
            if is_registered && next_heartbeat <= Instant::now() {
                next_heartbeat = Instant::now() + HEARTBEAT_INTERVAL;
                let data =
                    json!({"node_id": node_id, "status": "online", "metrics": {"cpu_usage": 1.5}});
                link.try_send("heartbeat", "h", &data)?;
                for id in &*unconfirmed {
                    self.send_result(&mut link, id)?;
                }
            }
            let message: Value = match link.0.read() {
                Ok(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
                Ok(_) => continue,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            last_message = Instant::now();
            match message["type"].as_str().unwrap() {
                "register_response" => is_registered = message["data"]["success"] == true,
                "error" if !is_registered => return Ok(()),
                "execute_command" => {
                    let id = message["data"]["command_id"].as_str().unwrap().to_owned();
                    if !got.insert(id.clone()) {
                        self.seen.lock().unwrap().repeated.push(id.clone());
                    }
                    if message["data"]["command_text"] != NEVER {
                        self.send_result(&mut link, &id)?;
                        unconfirmed.insert(id);
                    }
                }
                "command_received" => {
                    let id = message["id"].as_str().unwrap();
                    unconfirmed.remove(id);
                    self.seen.lock().unwrap().confirmed.insert(id.to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn send_result(&self, link: &mut CoreLink, id: &str) -> tungstenite::Result<()> {
        let output = {
            let outputs = &mut self.seen.lock().unwrap().outputs;
            let number = outputs.len();
            outputs.entry(id.to_owned()).or_insert(format!("output {number}")).clone()
        };
        let result = json!({"command_id": id, "exit_code": 0, "stdout": output});
        link.try_send("command_result", id, &result)
    }
}

/// The body of the response; an error also if it does not come in time.
fn post(address: SocketAddr, target: &str, body: &str) -> io::Result<Value> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(SUBMIT_TIMEOUT))?;
    let length = body.len();
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes())?;
    let mut response = String::new();
    socket.read_to_string(&mut response)?;
    let (_, body) = response.split_once("\r\n\r\n").unwrap_or_default();
    Ok(serde_json::from_str(body)?)
}
