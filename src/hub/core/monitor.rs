//! Messages of monitor clients: dashboards that watch all nodes.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::hub::core::messages::{self, CoreNodeMessage};
use crate::hub::nodes::Presence;

/// What the caller does about a message.
#[derive(Debug, PartialEq, Eq)]
pub enum MonitorAction {
    Send(String),
    SendAndClose(String),
}

/// The first message to a client.
pub fn welcome(client_id: &str, now: SystemTime) -> String {
    let data = json!({"message": "欢迎连接到Server Manager监控", "client_id": client_id,
        "connection_type": "monitor"});
    messages::message("welcome", &messages::new_id(), now, &data)
}

/// All nodes, as objects of the REST API.
pub fn nodes_update(nodes: &[Value], now: SystemTime) -> String {
    messages::message("nodes_update", &messages::new_id(), now, &json!({"nodes": nodes}))
}

/// Metrics of any number of nodes, as objects of the REST API.
pub fn metrics_update(metrics: &[Value], now: SystemTime) -> String {
    messages::message("metrics_update", &messages::new_id(), now, &json!({"metrics": metrics}))
}

pub fn status_change(node_id: &str, presence: Presence, now: SystemTime) -> String {
    let data = json!({"node_id": node_id, "status": presence.to_string(),
        "timestamp": messages::message_time(now)});
    messages::message("node_status_change", &messages::new_id(), now, &data)
}

pub fn on_message(client_id: &str, now: SystemTime, message: &str) -> MonitorAction {
    let envelope = match CoreNodeMessage::parse(message) {
        Ok(envelope) => envelope,
        Err(why) => {
            let text = messages::error("PARSE_ERROR", "消息解析失败", &why, now);
            return MonitorAction::SendAndClose(text);
        }
    };
    if envelope.r#type == "ping" {
        let data = json!({"received": true, "client_id": client_id});
        return MonitorAction::Send(messages::message("pong", &envelope.id, now, &data));
    }
    let kind: String = envelope.r#type.chars().take(64).collect();
    let text = format!("未知的消息类型: {kind}");
    MonitorAction::Send(messages::error("UNKNOWN_MESSAGE_TYPE", &text, "支持的消息类型: ping", now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_pings_and_refuses_other_messages() {
        let now = SystemTime::UNIX_EPOCH;
        let kind = |text: &str| {
            let value: Value = serde_json::from_str(text).unwrap();
            let code = value["data"]["error_code"].as_str().or(value["type"].as_str());
            (code.unwrap().to_owned(), value["id"].clone())
        };
        let message =
            |kind: &str| json!({"type": kind, "id": "7", "timestamp": "", "data": {}}).to_string();
        let MonitorAction::Send(pong) = on_message("c", now, &message("ping")) else { panic!() };
        assert_eq!(kind(&pong), ("pong".into(), json!("7")));
        let MonitorAction::Send(error) = on_message("c", now, &message("x")) else { panic!() };
        assert_eq!(kind(&error).0, "UNKNOWN_MESSAGE_TYPE");
        let MonitorAction::SendAndClose(error) = on_message("c", now, "ping") else { panic!() };
        assert_eq!(kind(&error).0, "PARSE_ERROR");
    }
}
