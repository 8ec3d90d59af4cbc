//! What operators change through the REST API. Each attempt is in the audit log.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::request::RequestHead;
use crate::hub::Hub;
use crate::hub::audit::AuditEntry;
use crate::hub::authorization::OperatorName;
use crate::hub::core::messages;
use crate::hub::core::rest::{Answer, ApiError, error};
use crate::hub::store::records::NewCommand;
use crate::hub::store::{Stored, Write};
use crate::util::error::reason;
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Timeout of a command that has none, in seconds.
pub const DEFAULT_TIMEOUT_S: u32 = 30;
/// hm-agent accepts at most this.
pub const MAX_TIMEOUT_S: u32 = 3600;
const MAX_COMMAND_BYTES: usize = 32 << 10;

/// Sends a command to a node that is connected over Core, or keeps it until the node registers.
pub(super) fn command(
    hub: &Hub,
    is_enabled: bool,
    id: &str,
    head: &RequestHead<'_>,
    operator: &OperatorName,
) -> Answer {
    let entry = AuditEntry {
        operator: &operator.0,
        action: "command",
        result: "accepted",
        node: Some(id),
        command_id: None,
        text: None,
    };
    let command = match check_command(hub, is_enabled, id, head) {
        Ok(command) => command,
        Err(Refusal { why, error, text }) => {
            let result = format!("refused: {why}");
            let text = text.as_deref();
            audit(hub, &AuditEntry { result: &result, text, ..entry })?;
            return Err(error);
        }
    };
    let NewCommand { command_id, text, .. } = &command;
    audit(hub, &AuditEntry { command_id: Some(command_id), text: Some(text), ..entry })?;
    // A node that is not connected gets it when it registers. Of several hubs, the one that has the connection sends it.
    let is_taken = hub.cluster.is_none() || lock(&hub.nodes).command_link(id).is_some();
    let command_id = command.command_id.clone();
    let write = Write::Command { node_id: id.into(), command, is_taken };
    if hub.store.write(write) == Stored::Failed {
        let failure = "the store did not confirm the command; it may still run";
        return Err(error("DATABASE_ERROR", failure));
    }
    let data = json!({"command_id": command_id, "status": "pending", "message": "命令已提交执行"});
    Ok((data, "命令已提交执行"))
}

/// Why a command is refused.
struct Refusal {
    /// For the audit log.
    why: String,
    error: ApiError,
    /// Of the command, if there is one.
    text: Option<String>,
}

/// The command that the body describes.
fn check_command(
    hub: &Hub,
    is_enabled: bool,
    id: &str,
    head: &RequestHead<'_>,
) -> Result<NewCommand, Refusal> {
    #[derive(Deserialize)]
    struct Body {
        command_text: String,
        timeout: Option<u32>,
    }
    let body: Body = serde_json::from_slice(head.body).map_err(|failure| {
        let why = failure.to_string();
        Refusal { error: error("VALIDATION_ERROR", &why), why, text: None }
    })?;
    let (text, timeout_s) = (body.command_text, body.timeout.unwrap_or(DEFAULT_TIMEOUT_S));
    let is_too_long = text.len() > MAX_COMMAND_BYTES;
    let (code, why) = if text.trim().is_empty() || is_too_long {
        ("VALIDATION_ERROR", format!("command_text must have 1 to {MAX_COMMAND_BYTES} bytes"))
    } else if !is_enabled {
        ("UNAUTHORIZED", "commands are disabled; see commands.enabled".to_owned())
    } else if !(1..=MAX_TIMEOUT_S).contains(&timeout_s) {
        ("VALIDATION_ERROR", format!("timeout must be 1 to {MAX_TIMEOUT_S} seconds"))
    } else if lock(&hub.nodes).info(id).is_none() {
        let error = error("NODE_NOT_FOUND", "节点不存在");
        return Err(Refusal { why: "unknown node".to_owned(), error, text: Some(text) });
    } else if lock(&hub.nodes).is_refused_commands(id) {
        let why = "the node has not proved its identity (no credential or token with node=), so it gets no commands";
        ("UNAUTHORIZED", why.to_owned())
    } else {
        return Ok(NewCommand { command_id: messages::new_id(), text, timeout_s });
    };
    let text = Some(text).filter(|_| !is_too_long);
    Err(Refusal { error: error(code, &why), why, text })
}

/// Forgets a node that is not connected, or with `force=true` any. Its connections end, and its credential is not valid any more. A node
/// that this hub does not know is looked up by `stored`: another hub may have stored it, and this one has not read it yet.
pub(super) fn delete(
    hub: &Hub,
    id: &str,
    head: &RequestHead<'_>,
    operator: &OperatorName,
    stored: impl FnOnce(&str) -> Result<Option<bool>, ApiError>,
) -> Answer {
    let is_forced = head.query_value("force").as_deref() == Some(b"true");
    let known = {
        let nodes = lock(&hub.nodes);
        nodes.info(id).map(|_| nodes.has_connection(id))
    };
    let refusal = match known.map_or_else(|| stored(id), |is_connected| Ok(Some(is_connected))) {
        Ok(None) => Some(("unknown node", error("NODE_NOT_FOUND", "节点不存在"))),
        Ok(Some(true)) if !is_forced => {
            let text = "节点在线，无法删除: the node is connected";
            Some(("the node is connected", error("VALIDATION_ERROR", text)))
        }
        Ok(Some(_)) => None,
        Err(failure) => Some(("the store failed", failure)),
    };
    let result = match &refusal {
        Some((why, _)) => format!("refused: {why}"),
        None => "accepted".to_owned(),
    };
    let entry = AuditEntry {
        operator: &operator.0,
        action: "forget",
        result: &result,
        node: Some(id),
        command_id: None,
        text: None,
    };
    audit(hub, &entry)?;
    if let Some((_, refusal)) = refusal {
        return Err(refusal);
    }
    hub.forget(id);
    match hub.store.write(Write::DeleteNode(id.into())) {
        Stored::Failed => {
            return Err(error("DATABASE_ERROR", "the store did not confirm the deletion"));
        }
        Stored::Removed { removal } => {
            hub.cluster.iter().for_each(|cluster| cluster.on_own_removal(removal));
        }
        Stored::Registered | Stored::Metrics { .. } | Stored::Done => {}
    }
    Ok((Value::Null, "节点删除成功"))
}

/// Without an entry in the audit log, nothing is done.
fn audit(hub: &Hub, entry: &AuditEntry<'_>) -> Result<(), ApiError> {
    let AuditEntry { operator, action, result, .. } = entry;
    let node = escape_for_log(entry.node.unwrap_or_default(), EXCERPT_CHARS);
    log::info!("operator {operator}: {action} for node {node} {result}");
    hub.audit.write(entry).map_err(|failure| {
        error("DATABASE_ERROR", format!("cannot write the audit log: {}", reason(&failure)))
    })
}
