//! Messages of Core: `{"type", "id", "timestamp", "data"}`, with ids that are UUIDs (version 4) and RFC 3339 timestamps in
//! UTC. Source: the Core document and the behavior of the published service.

use std::fmt;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::hub_extension::messages::HubInfo;
use crate::model::{FileSystem, Snapshot};

/// Ids of commands and messages are kept and sent back. Core's are UUIDs of 36 bytes.
pub const MAX_ID_BYTES: usize = 1024;
/// Waiting commands are kept. The kernel executes no more than two megabytes of arguments.
pub const MAX_COMMAND_BYTES: usize = 1 << 20;

/// What every message has in addition to its data.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    /// A response has the id of its request.
    pub id: &'a str,
    /// RFC 3339.
    pub timestamp: &'a str,
}

#[derive(Debug, Clone, Serialize)]
pub struct Node {
    pub node_id: String,
    pub hostname: String,
    /// This machine's address in the connection to Core.
    pub ip_address: String,
    /// `PRETTY_NAME` of os-release(5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_info: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    pub command_id: String,
    /// As in a shell: 124 timeout, 126 rejected or not executable, 127 not found, 128 + n killed by signal n; and 125: the
    /// agent stopped first.
    pub exit_code: i32,
    pub stdout: String,
    /// Standard error of the command, or why it did not run.
    pub stderr: String,
    pub execution_time_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRequest {
    pub message_id: String,
    /// A command with the same id is not run twice.
    pub command_id: String,
    /// The command line; or why the request is invalid, which the result reports.
    pub text: Result<String, &'static str>,
    pub timeout_seconds: Option<u64>,
}

/// A message from Core. `id` is that of the request that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreMessage {
    /// The first message of a connection.
    Welcome,
    /// `register_response`.
    Registered {
        id: String,
        /// Why the node is not registered.
        rejected: Option<String>,
        /// From hm-hub.
        hub: Option<HubInfo>,
    },
    /// `heartbeat_ack`.
    HeartbeatAck { id: String },
    /// `execute_command`.
    Execute(CommandRequest),
    /// `command_received`: the result is stored.
    ResultReceived { id: String },
    /// `error`. The id may match no request.
    Error {
        id: String,
        /// Error code, e.g. `NODE_NOT_FOUND`.
        code: String,
        text: String,
    },
    /// An unknown type.
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

/// The fields of all messages.
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
    hub: Option<Box<RawValue>>,
}

/// Any JSON value, so that a request with a field of the wrong type gets a result instead of a parse error.
enum Scalar {
    Number(f64),
    Text(String),
    Other,
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// Skips arrays and objects. Serde's `untagged` would first copy them into a tree of sixteen times their size.
struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number as f64))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number as f64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Scalar, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Scalar, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

impl Data {
    fn command_request(self, message_id: String) -> Result<CommandRequest, &'static str> {
        let seconds = match self.timeout {
            None => Ok(None),
            Some(Scalar::Number(seconds)) => Ok(Some(seconds)),
            Some(Scalar::Text(text)) => text.trim().parse().map(Some).map_err(drop),
            Some(Scalar::Other) => Err(()),
        };
        let text = match (self.command_text, &seconds) {
            (Some(Scalar::Text(text)), _) if text.len() > MAX_COMMAND_BYTES => {
                Err("command_text is longer than 1 MiB")
            }
            (Some(Scalar::Text(text)), Ok(_)) => Ok(text),
            (Some(Scalar::Text(_)), Err(())) => Err("timeout is not a number"),
            _ => Err("command_text is missing"),
        };
        let command_id = self.command_id.ok_or("execute_command without a command_id")?;
        if command_id.len().max(message_id.len()) > MAX_ID_BYTES {
            return Err("execute_command with an id longer than 1 KiB");
        }
        Ok(CommandRequest {
            message_id,
            command_id,
            text,
            timeout_seconds: seconds.ok().flatten().map(|seconds| seconds.ceil() as u64),
        })
    }
}

impl CoreMessage {
    pub fn parse(text: &str) -> Result<Self, String> {
        let received: Received = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let id = received.id.unwrap_or_default();
        let data = received.data.unwrap_or_default();
        Ok(match received.kind.as_str() {
            "welcome" => Self::Welcome,
            "register_response" => {
                let why = || data.message.unwrap_or_else(|| "no reason given".to_owned());
                let rejected = (data.success == Some(false)).then(why);
                // A server that is not hm-hub may send anything here.
                let hub = data.hub.and_then(|hub| HubInfo::parse(hub.get()));
                Self::Registered { id, rejected, hub }
            }
            "heartbeat_ack" => Self::HeartbeatAck { id },
            "command_received" if data.received != Some(false) => Self::ResultReceived { id },
            "execute_command" => Self::Execute(data.command_request(id)?),
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
    // Serialization cannot fail: the data has neither maps nor custom implementations.
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

/// Percentages have one decimal. Unknown values are omitted.
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

/// `heartbeat` with metrics.
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

/// `command_started`; the envelope has the id of the request.
pub fn command_started(envelope: Envelope<'_>, command_id: &str) -> String {
    message("command_started", envelope, Started { command_id })
}

/// `command_result`.
pub fn command_result(envelope: Envelope<'_>, result: &CommandResult) -> String {
    message("command_result", envelope, result)
}

#[cfg(test)]
mod tests;
