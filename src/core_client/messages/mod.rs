//! Messages of Core. Each is `{"type", "id", "timestamp", "data"}`; ids are UUIDs of version 4, timestamps RFC 3339 in UTC.
//! Source: the Core document, and what the published Core service does.

use serde::{Deserialize, Serialize};

use crate::model::{FileSystem, Snapshot};

/// What every message has beside its data.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// Of the message; an answer has that of its request.
    pub id: &'a str,
    /// RFC 3339.
    pub timestamp: &'a str,
}

/// Who this node is.
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// To all its masters.
    pub node_id: String,
    /// Its name in the network.
    pub hostname: String,
    /// The address that it uses towards Core.
    pub ip_address: String,
    /// `PRETTY_NAME` of os-release(5); left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_info: Option<String>,
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    /// Which.
    pub command_id: String,
    /// As a shell has it: 124 timeout, 126 refused or not to be run, 127 not found, 128 + n ended by signal n; and 125:
    /// the agent ended first.
    pub exit_code: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it wrote there, or the agent about it.
    pub stderr: String,
    /// Milliseconds.
    pub execution_time_ms: u64,
}

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Of the message.
    pub message_id: String,
    /// Of the command; the same one is never run twice.
    pub command_id: String,
    /// The command line; the error says what is wrong with the order.
    pub text: Result<String, &'static str>,
    /// Seconds; `None`: not said.
    pub timeout_seconds: Option<u64>,
}

/// What Core says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The first message of a connection.
    Welcome,
    /// The answer to `node_register`.
    Registered {
        /// Of the request.
        id: String,
        /// The node is known now; else why not.
        refused: Option<String>,
    },
    /// The answer to a heartbeat.
    Acknowledged {
        /// Of the heartbeat.
        id: String,
    },
    /// `execute_command`.
    Execute(Order),
    /// A result has arrived.
    Received {
        /// Of the result's message.
        id: String,
    },
    /// Something is wrong.
    Error {
        /// Of what it is about, or a fresh one.
        id: String,
        /// E.g. `NODE_NOT_FOUND`.
        code: String,
        /// For people.
        text: String,
    },
    /// A type that this version does not know.
    Unknown(String),
}

#[derive(Deserialize)]
struct Received {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    data: Option<Data>,
}

/// All fields that any message may have.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    success: Option<bool>,
    received: Option<bool>,
    message: Option<String>,
    details: Option<String>,
    error_code: Option<String>,
    command_id: Option<String>,
    command_text: Option<Scalar>,
    timeout: Option<Scalar>,
}

/// Whoever waits for a command gets an answer also if this is not what it should be.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(f64),
    Text(String),
    Other(serde::de::IgnoredAny),
}

impl Data {
    fn order(self, message_id: String) -> Result<Order, &'static str> {
        let seconds = match self.timeout {
            None => Ok(None),
            Some(Scalar::Number(seconds)) => Ok(Some(seconds)),
            Some(Scalar::Text(text)) => text.trim().parse().map(Some).map_err(drop),
            Some(Scalar::Other(_)) => Err(()),
        };
        let text = match (self.command_text, &seconds) {
            (Some(Scalar::Text(text)), Ok(_)) => Ok(text),
            (Some(Scalar::Text(_)), Err(())) => Err("its timeout is no number"),
            _ => Err("it has no command_text"),
        };
        Ok(Order {
            message_id,
            command_id: self.command_id.ok_or("execute_command without a command_id")?,
            text,
            timeout_seconds: seconds.ok().flatten().map(|seconds| seconds.ceil() as u64),
        })
    }
}

impl Incoming {
    /// Reads a message. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let received: Received = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let id = received.id.unwrap_or_default();
        let data = received.data.unwrap_or_default();
        Ok(match received.kind.as_str() {
            "welcome" => Self::Welcome,
            "register_response" => {
                let why = || data.message.unwrap_or_else(|| "no reason given".to_owned());
                Self::Registered { id, refused: (data.success == Some(false)).then(why) }
            }
            "heartbeat_ack" => Self::Acknowledged { id },
            // One that says "not received" is none.
            "command_received" if data.received != Some(false) => Self::Received { id },
            "execute_command" => Self::Execute(data.order(id)?),
            "error" => {
                let texts = [data.message, data.details].into_iter().flatten();
                let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
                Self::Error {
                    id,
                    code: data.error_code.unwrap_or_default(),
                    text: texts.join(": "),
                }
            }
            other => Self::Unknown(other.to_owned()),
        })
    }
}

#[derive(Serialize)]
struct Message<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    timestamp: &'a str,
    data: T,
}

fn message(kind: &str, envelope: Envelope<'_>, data: impl Serialize) -> String {
    let Envelope { id, timestamp } = envelope;
    // Texts, numbers and structures always become JSON.
    serde_json::to_string(&Message { kind, id, timestamp, data }).unwrap_or_default()
}

/// `node_register`.
pub fn register(envelope: Envelope<'_>, node: &Node) -> String {
    message("node_register", envelope, node)
}

#[derive(Serialize)]
struct Heartbeat<'a> {
    node_id: &'a str,
    status: &'a str,
    metrics: Metrics,
}

/// Percentages have one decimal. What cannot be measured is left out.
#[derive(Serialize)]
struct Metrics {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_usage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_usage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_usage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_average: Option<f64>,
}

/// `heartbeat`, with the four metrics.
pub fn heartbeat(envelope: Envelope<'_>, node_id: &str, snapshot: &Snapshot) -> String {
    let tenths = |percent: f64| (percent * 10.0).round() / 10.0;
    let memory = snapshot.memory.and_then(|memory| {
        let used = memory.used_bytes? as f64;
        (memory.total_bytes > 0).then(|| 100.0 * used / memory.total_bytes as f64)
    });
    let root = snapshot.file_systems.iter().find(|system| *system.mount_point == *"/");
    let metrics = Metrics {
        cpu_usage: snapshot.cpu.as_ref().map(|cpu| tenths(cpu.percent)),
        memory_usage: memory.map(tenths),
        disk_usage: root.and_then(FileSystem::used_percent).map(tenths),
        load_average: snapshot.load.map(|load| load.one),
    };
    message("heartbeat", envelope, Heartbeat { node_id, status: "online", metrics })
}

#[derive(Serialize)]
struct Started<'a> {
    command_id: &'a str,
}

/// `command_started`, under the id of the request.
pub fn command_started(envelope: Envelope<'_>, command_id: &str) -> String {
    message("command_started", envelope, Started { command_id })
}

/// `command_result`.
pub fn command_result(envelope: Envelope<'_>, result: &CommandResult) -> String {
    message("command_result", envelope, result)
}

/// A UUID of version 4 (RFC 9562 section 5.4) made of random bytes.
pub fn uuid_v4(mut random: [u8; 16]) -> String {
    random[6] = random[6] & 0x0f | 0x40;
    random[8] = random[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&random);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests;
