//! Messages of Core: text frames of JSON with `type`, `id`, `timestamp` and `data`, as the published service reads and writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::hub::store::records::NewCommand;
use crate::util::random::uuid;

/// A message of a node or of a monitor client. All four fields are needed; `timestamp` is not interpreted.
#[derive(Debug, Deserialize)]
pub struct CoreNodeMessage {
    pub r#type: String,
    pub id: String,
    #[serde(rename = "timestamp")]
    _timestamp: String,
    pub data: Value,
}

impl CoreNodeMessage {
    pub fn parse(message: &str) -> Result<Self, String> {
        serde_json::from_str(message).map_err(|error| error.to_string())
    }
}

/// Data of `node_register`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Register {
    pub hostname: String,
    pub ip_address: String,
    pub node_id: Option<String>,
    pub os_info: Option<String>,
}

/// Data of `heartbeat`; `metrics` is read by [`ReceivedMetrics::parse`].
#[derive(Debug, Deserialize)]
pub struct ReceivedHeartbeat {
    pub node_id: Option<String>,
    #[serde(default)]
    pub metrics: Value,
}

/// What a node measures. Everything is optional. Usage is in percent, totals in the unit of the sender.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceivedMetrics {
    pub cpu_usage: Option<f64>,
    pub memory_usage: Option<f64>,
    pub disk_usage: Option<f64>,
    pub load_average: Option<f64>,
    pub memory_total: Option<f64>,
    pub memory_available: Option<f64>,
    pub disk_total: Option<f64>,
    pub disk_available: Option<f64>,
    pub uptime: Option<f64>,
}

impl ReceivedMetrics {
    pub fn parse(data: &Value) -> Option<Self> {
        Self::deserialize(data).ok()
    }
}

/// Data of `command_result`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReceivedResult {
    pub command_id: String,
    pub exit_code: Option<i64>,
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
    pub execution_time_ms: Option<u64>,
}

/// Data of `command_started`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CommandStarted {
    pub command_id: String,
}

/// A message of the hub. `now` is the hub's time.
pub fn message(kind: &str, id: &str, now: SystemTime, data: &Value) -> String {
    json!({"type": kind, "id": id, "timestamp": message_time(now), "data": data}).to_string()
}

/// An `error` message, which has an id of its own.
pub fn error(code: &str, message_text: &str, details: &str, now: SystemTime) -> String {
    let data = json!({"error_code": code, "message": message_text, "details": details});
    message("error", &new_id(), now, &data)
}

/// A command for a node.
pub fn execute_command(command: &NewCommand, now: SystemTime) -> String {
    let NewCommand { command_id, text, timeout_s } = command;
    let data = json!({"command_id": command_id, "command_text": text, "timeout": timeout_s});
    message("execute_command", &new_id(), now, &data)
}

pub fn new_id() -> String {
    // The kernel's generator does not fail once the system has booted.
    uuid().unwrap_or_else(|_| uuid::Uuid::nil().to_string())
}

/// The form of times in messages: nanoseconds and `+00:00`.
pub fn message_time(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string().replace('Z', "+00:00")
}

/// The form of times in the REST API: whole seconds and `Z`.
pub fn rest_time(milliseconds: i64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(u64::try_from(milliseconds).unwrap_or_default());
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A time of RFC 3339, with its offset, in Unix milliseconds.
pub fn parse_time(text: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

/// Unix milliseconds.
pub fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelope_needs_all_fields() {
        let whole = json!({"type": "t", "id": "1", "timestamp": "any", "data": {}});
        assert!(CoreNodeMessage::parse(&whole.to_string()).is_ok());
        for field in ["type", "id", "timestamp", "data"] {
            let mut cut = whole.clone();
            cut.as_object_mut().unwrap().remove(field);
            assert!(CoreNodeMessage::parse(&cut.to_string()).is_err(), "{field}");
        }
        assert!(CoreNodeMessage::parse("").is_err() && CoreNodeMessage::parse("[]").is_err());
    }

    #[test]
    fn reads_the_documents_of_the_published_protocol() {
        let register = json!({"node_id": "node-001", "hostname": "server-01",
            "ip_address": "192.168.1.100", "os_info": "Ubuntu 22.04 LTS", "cpu_count": 8});
        let register = Register::deserialize(&register).unwrap();
        assert_eq!(register.node_id.as_deref(), Some("node-001"));
        let metrics = json!({"cpu_usage": 45.2, "memory_usage": 68, "disk_usage": null, "x": []});
        let expected = ReceivedMetrics {
            cpu_usage: Some(45.2),
            memory_usage: Some(68.0),
            ..Default::default()
        };
        assert_eq!(ReceivedMetrics::parse(&metrics), Some(expected));
        assert_eq!(ReceivedMetrics::parse(&json!({"cpu_usage": "45"})), None);
        let result = json!({"command_id": "cmd-001", "exit_code": 0, "stdout": "x", "stderr": "",
            "execution_time_ms": 125});
        assert_eq!(ReceivedResult::deserialize(&result).unwrap().execution_time_ms, Some(125));
    }

    #[test]
    fn times_have_the_forms_of_the_published_service() {
        let time = UNIX_EPOCH + Duration::new(1_737_453_600, 5);
        assert_eq!(message_time(time), "2025-01-21T10:00:00.000000005+00:00");
        assert_eq!(rest_time(1_737_453_600_999), "2025-01-21T10:00:00Z");
        assert_eq!(parse_time("2025-01-21T18:00:00.5+08:00"), Some(1_737_453_600_500));
        for text in ["2025-01-21T10:00:00", "2025-01-21", "", "x"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
