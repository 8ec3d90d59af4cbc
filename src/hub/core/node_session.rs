//! One connection of a Core node, without I/O: messages and the time go in, actions come out.
//!
//! The published node agent reads one message per 30 s although three are sent to it, treats a ping as a close, and never reconnects after
//! one. So it is never pinged and never closed for silence, and answers that it does not need are skipped while it does not read.
//!
//! Texts are those of the published server, which its clients display; texts of the hub's own errors are English.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::hub::core::messages::{
    self, CommandStarted, CoreNodeMessage, ReceivedHeartbeat, ReceivedMetrics, ReceivedResult,
    Register,
};

/// A longer id is refused.
const MAX_NODE_ID_BYTES: usize = 256;

/// Longer host names, addresses and systems are refused.
const MAX_TEXT_BYTES: usize = 1024;

/// What the caller does about a message.
#[derive(Debug, PartialEq)]
pub enum CoreNodeAction {
    Send(String),
    /// Send it, and close the connection.
    SendAndClose(String),
    /// Store it, and then send [`answer`](super::answers::answer).
    Store(CoreNodeRequest),
}

/// What is stored for a node, with the id of the message to answer.
#[derive(Debug, Clone, PartialEq)]
pub struct CoreNodeRequest {
    pub id: String,
    pub node_id: Arc<str>,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    Register(Register),
    /// `None`: the node has sent no metrics, or wrong ones.
    Heartbeat(Option<ReceivedMetrics>),
    Metrics(ReceivedMetrics),
    CommandStarted(CommandStarted),
    CommandResult(ReceivedResult),
}

impl Content {
    /// Approximate size of its texts in memory.
    pub fn size(&self) -> usize {
        match self {
            Self::Register(register) => {
                let os_info = register.os_info.as_ref().map_or(0, String::len);
                register.hostname.len() + register.ip_address.len() + os_info
            }
            Self::CommandResult(result) => result.stdout.len() + result.stderr.len(),
            Self::Heartbeat(_) | Self::Metrics(_) | Self::CommandStarted(_) => 0,
        }
    }
}

#[derive(Debug)]
pub struct NodeSession {
    /// From the URL, or random.
    node_id: Arc<str>,
    /// The first accepted message binds the connection to the node that it names, else to that of the URL. Later messages cannot write for
    /// another node.
    is_bound: bool,
    /// The only node that the token admits.
    admitted: Option<Arc<str>>,
}

impl NodeSession {
    /// `url_node_id` is from the query of the URL, `admitted` the only node that the token admits.
    pub fn new(url_node_id: Option<&str>, admitted: Option<&str>) -> Self {
        let node_id = url_node_id.map_or_else(|| messages::new_id().into(), Arc::from);
        Self { node_id, is_bound: false, admitted: admitted.map(Arc::from) }
    }

    /// The only node that the token admits has changed.
    pub fn set_admitted(&mut self, admitted: Option<&str>) {
        self.admitted = admitted.map(Arc::from);
    }

    /// The node, once a message has named it.
    pub fn node_id(&self) -> Option<&Arc<str>> {
        self.is_bound.then_some(&self.node_id)
    }

    pub fn welcome(&self, now: SystemTime) -> String {
        let data = json!({"message": "欢迎连接到Server Manager Core", "node_id": &*self.node_id});
        messages::message("welcome", &messages::new_id(), now, &data)
    }

    pub fn on_message(&mut self, now: SystemTime, message: &str) -> CoreNodeAction {
        let envelope = match CoreNodeMessage::parse(message) {
            Ok(envelope) => envelope,
            Err(why) => {
                let text = messages::error("PARSE_ERROR", "消息解析失败", &why, now);
                return CoreNodeAction::SendAndClose(text);
            }
        };
        let data = &envelope.data;
        match envelope.r#type.as_str() {
            "node_register" => self.on_register(now, &envelope),
            "heartbeat" => {
                let heartbeat = ReceivedHeartbeat::deserialize(data).ok();
                let (named, metrics) = match heartbeat {
                    Some(heartbeat) => {
                        (heartbeat.node_id, ReceivedMetrics::parse(&heartbeat.metrics))
                    }
                    None => (None, None),
                };
                self.store(now, &envelope, named, Content::Heartbeat(metrics))
            }
            "metrics" => match ReceivedMetrics::parse(data) {
                Some(metrics) => self.store(now, &envelope, named(data), Content::Metrics(metrics)),
                None => {
                    let text = messages::error("INVALID_METRIC_DATA", "监控数据格式错误", "", now);
                    CoreNodeAction::SendAndClose(text)
                }
            },
            "command_started" => match CommandStarted::deserialize(data) {
                Ok(started) => {
                    self.store(now, &envelope, named(data), Content::CommandStarted(started))
                }
                Err(why) => invalid(now, &why.to_string()),
            },
            "command_result" => match ReceivedResult::deserialize(data) {
                Ok(result) => {
                    self.store(now, &envelope, named(data), Content::CommandResult(result))
                }
                Err(why) => invalid(now, &why.to_string()),
            },
            other => CoreNodeAction::Send(unknown_type(other, now)),
        }
    }

    fn on_register(&mut self, now: SystemTime, envelope: &CoreNodeMessage) -> CoreNodeAction {
        let register = match Register::deserialize(&envelope.data) {
            Ok(register) => register,
            Err(why) => {
                let why = why.to_string();
                let text =
                    messages::error("INVALID_REGISTER_DATA", "节点注册数据格式错误", &why, now);
                return CoreNodeAction::SendAndClose(text);
            }
        };
        let texts =
            [Some(&register.hostname), Some(&register.ip_address), register.os_info.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_TEXT_BYTES) {
            return invalid(now, "hostname, ip_address or os_info is too long");
        }
        let node_id = register.node_id.clone();
        self.store(now, envelope, node_id, Content::Register(register))
    }

    /// Binds the connection to the node that the message names, and stores the message for it.
    fn store(
        &mut self,
        now: SystemTime,
        envelope: &CoreNodeMessage,
        named: Option<String>,
        content: Content,
    ) -> CoreNodeAction {
        let named: Arc<str> =
            named.filter(|id| !id.is_empty()).map_or(self.node_id.clone(), Arc::from);
        if named.len() > MAX_NODE_ID_BYTES {
            return invalid(now, "node_id is too long");
        }
        // PostgreSQL stores none.
        if named.contains('\0') {
            return invalid(now, "node_id contains U+0000");
        }
        if self.is_bound && named != self.node_id {
            return invalid(now, &format!("this connection belongs to node {}", self.node_id));
        }
        if self.admitted.as_ref().is_some_and(|admitted| *admitted != named) {
            let text = messages::error(
                "INVALID_TOKEN",
                "认证令牌无效",
                "the token belongs to another node",
                now,
            );
            return CoreNodeAction::Send(text);
        }
        (self.node_id, self.is_bound) = (named.clone(), true);
        CoreNodeAction::Store(CoreNodeRequest { id: envelope.id.clone(), node_id: named, content })
    }
}

fn named(data: &Value) -> Option<String> {
    data.get("node_id").and_then(Value::as_str).map(str::to_owned)
}

fn invalid(now: SystemTime, why: &str) -> CoreNodeAction {
    CoreNodeAction::Send(messages::error("VALIDATION_ERROR", "数据验证失败", why, now))
}

fn unknown_type(kind: &str, now: SystemTime) -> String {
    let known =
        "支持的消息类型: node_register, heartbeat, metrics, command_started, command_result";
    let kind: String = kind.chars().take(64).collect();
    messages::error("UNKNOWN_MESSAGE_TYPE", &format!("未知的消息类型: {kind}"), known, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn message(kind: &str, data: &Value) -> String {
        json!({"type": kind, "id": "7", "timestamp": "t", "data": data}).to_string()
    }

    /// `error_code` of an error, `type` of another message.
    fn kind(text: &str) -> String {
        let value: Value = serde_json::from_str(text).unwrap();
        let code = value["data"]["error_code"].as_str();
        code.or(value["type"].as_str()).unwrap().to_owned()
    }

    #[test]
    fn welcomes_with_the_id_of_the_url_or_a_new_one() {
        let welcome: Value =
            serde_json::from_str(&NodeSession::new(Some("a"), None).welcome(now())).unwrap();
        assert_eq!(
            (&welcome["type"], &welcome["data"]["node_id"]),
            (&json!("welcome"), &json!("a"))
        );
        let welcome: Value =
            serde_json::from_str(&NodeSession::new(None, None).welcome(now())).unwrap();
        assert_eq!(welcome["data"]["node_id"].as_str().unwrap().len(), 36);
    }

    #[test]
    fn malformed_messages_are_errors_and_some_end_the_connection() {
        let long = "x".repeat(2000);
        for (text, code, ends) in [
            ("x".to_owned(), "PARSE_ERROR", true),
            (message("node_register", &json!({})), "INVALID_REGISTER_DATA", true),
            (message("metrics", &json!({"cpu_usage": "x"})), "INVALID_METRIC_DATA", true),
            (message("command_result", &json!({})), "VALIDATION_ERROR", false),
            (message("command_started", &json!({})), "VALIDATION_ERROR", false),
            (message("nonsense", &json!({})), "UNKNOWN_MESSAGE_TYPE", false),
            (message("heartbeat", &json!({"node_id": long})), "VALIDATION_ERROR", false),
            (message("heartbeat", &json!({"node_id": "a\0"})), "VALIDATION_ERROR", false),
            (
                message("node_register", &json!({"hostname": long, "ip_address": ""})),
                "VALIDATION_ERROR",
                false,
            ),
        ] {
            match NodeSession::new(Some("a"), None).on_message(now(), &text) {
                CoreNodeAction::Send(answer) => assert!(!ends && kind(&answer) == code, "{answer}"),
                CoreNodeAction::SendAndClose(answer) => {
                    assert!(ends && kind(&answer) == code, "{answer}");
                }
                CoreNodeAction::Store(request) => panic!("{request:?}"),
            }
        }
    }

    #[test]
    fn first_message_that_names_a_node_binds_the_connection() {
        let mut session = NodeSession::new(Some("url"), None);
        assert!(session.node_id().is_none());
        let heartbeat = |node: &str| message("heartbeat", &json!({"node_id": node}));
        assert!(matches!(session.on_message(now(), &heartbeat("a")), CoreNodeAction::Store(_)));
        assert_eq!(session.node_id().map(|id| &**id), Some("a"));
        let CoreNodeAction::Send(refused) = session.on_message(now(), &heartbeat("b")) else {
            panic!()
        };
        assert_eq!(kind(&refused), "VALIDATION_ERROR");
        let unnamed = session.on_message(now(), &message("heartbeat", &json!(null)));
        let expected = CoreNodeRequest {
            id: "7".into(),
            node_id: "a".into(),
            content: Content::Heartbeat(None),
        };
        assert_eq!(unnamed, CoreNodeAction::Store(expected));
    }

    #[test]
    fn token_of_another_node_is_refused() {
        let mut session = NodeSession::new(Some("a"), None);
        session.set_admitted(Some("b"));
        let CoreNodeAction::Send(refused) =
            session.on_message(now(), &message("heartbeat", &json!({})))
        else {
            panic!()
        };
        assert_eq!(kind(&refused), "INVALID_TOKEN");
    }
}
