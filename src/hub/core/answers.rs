//! Answers to what a Core node has sent. Texts are those of the published server, which its clients display.

use std::time::SystemTime;

use serde_json::json;

use crate::hub::core::messages;
use crate::hub::core::node_session::{Content, CoreNodeRequest};
use crate::hub::store::Stored;
use crate::hub_extension::messages::HubInfo;

/// The answer to a request after the attempt to store it; `None`: there is none.
/// `hub_info` is what a registered node learns of the hub.
pub fn answer(
    request: &CoreNodeRequest,
    stored: Stored,
    now: SystemTime,
    hub_info: &HubInfo,
) -> Option<String> {
    let node_id = &request.node_id;
    let (kind, data) = match (&request.content, stored) {
        (Content::Register(_), Stored::Failed) => {
            let text = messages::error("CREATE_NODE_FAILED", "节点注册失败", "database error", now);
            return Some(text);
        }
        (Content::Register(register), Stored::Registered) => {
            let info = json!({"id": &**node_id, "hostname": register.hostname,
                "ip_address": register.ip_address, "status": "online"});
            let data = json!({"success": true, "message": "节点注册成功", "node_id": &**node_id,
                "action": "created", "node_info": info, "hub": hub_info});
            ("register_response", data)
        }
        (Content::Register(_), Stored::Done | Stored::Removed { .. } | Stored::Metrics { .. }) => {
            let data = json!({"success": true, "message": "节点信息更新成功", "node_id": &**node_id,
                "action": "updated", "hub": hub_info});
            ("register_response", data)
        }
        (Content::Heartbeat(_), stored) => {
            let saved = stored != Stored::Failed;
            let data = json!({"received": true, "node_id": &**node_id, "metrics_saved": saved});
            ("heartbeat_ack", data)
        }
        (Content::Metrics(_), Stored::Failed) => {
            return Some(messages::error(
                "SAVE_METRICS_FAILED",
                "保存监控数据失败",
                "database error",
                now,
            ));
        }
        (Content::Metrics(_), stored) => {
            let metric_id = match stored {
                Stored::Metrics { id } => Some(id),
                Stored::Registered | Stored::Removed { .. } | Stored::Done | Stored::Failed => None,
            };
            let data = json!({"success": true, "message": "监控数据保存成功", "node_id": &**node_id,
                "metric_id": metric_id});
            ("metrics_response", data)
        }
        (Content::CommandStarted(_), _) => return None,
        // Without a confirmation the node repeats the result.
        (Content::CommandResult(_), Stored::Failed) => return None,
        (Content::CommandResult(_), _) => {
            ("command_received", json!({"received": true, "node_id": &**node_id}))
        }
    };
    Some(messages::message(kind, &request.id, now, &data))
}

/// Whether a node that does not read can do without the answer.
pub fn is_optional(request: &CoreNodeRequest) -> bool {
    matches!(request.content, Content::Heartbeat(_) | Content::Metrics(_))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::hub::core::messages::{CommandStarted, ReceivedMetrics, ReceivedResult, Register};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    /// `error_code` of an error, `type` of another message.
    fn kind(text: &str) -> String {
        let value: Value = serde_json::from_str(text).unwrap();
        let code = value["data"]["error_code"].as_str();
        code.or(value["type"].as_str()).unwrap().to_owned()
    }

    #[test]
    fn answers_depend_on_content_and_store() {
        let register =
            Register { hostname: "h".into(), ip_address: "i".into(), node_id: None, os_info: None };
        let started = CommandStarted { command_id: "c".into() };
        let result = ReceivedResult {
            command_id: "c".into(),
            exit_code: Some(0),
            stdout: String::new(),
            stderr: String::new(),
            execution_time_ms: None,
        };
        let done = Stored::Done;
        let request =
            |content: Content| CoreNodeRequest { id: "7".into(), node_id: "a".into(), content };
        for (content, stored, expected) in [
            (Content::Register(register.clone()), Stored::Registered, Some("register_response")),
            (Content::Register(register.clone()), done, Some("register_response")),
            (Content::Register(register), Stored::Failed, Some("CREATE_NODE_FAILED")),
            (Content::Heartbeat(None), done, Some("heartbeat_ack")),
            (Content::Heartbeat(None), Stored::Failed, Some("heartbeat_ack")),
            (Content::Metrics(ReceivedMetrics::default()), done, Some("metrics_response")),
            (
                Content::Metrics(ReceivedMetrics::default()),
                Stored::Failed,
                Some("SAVE_METRICS_FAILED"),
            ),
            (Content::CommandStarted(started), done, None),
            (Content::CommandResult(result.clone()), done, Some("command_received")),
            (Content::CommandResult(result), Stored::Failed, None),
        ] {
            let request = request(content);
            let found = answer(&request, stored, now(), &HubInfo::own(None));
            assert_eq!(found.as_deref().map(kind).as_deref(), expected, "{request:?}");
            if let Some(text) = found {
                assert!(text.contains("\"id\":\"7\"") || text.contains("error_code"), "{text}");
                let saved = stored != Stored::Failed;
                let is_ack = text.contains("heartbeat_ack");
                assert!(!is_ack || text.contains(&format!("\"metrics_saved\":{saved}")), "{text}");
            }
        }
    }
}
