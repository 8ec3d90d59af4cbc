//! `/sd`: the nodes for `http_sd_configs` of Prometheus. Nodes that are not connected stay listed: their scrape fails, so `up` is 0.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response};
use crate::hub::Hub;
use crate::hub::nodes::info::NodeInfo;
use crate::util::sync::lock;

pub fn response(hub: &Hub, head: &RequestHead<'_>) -> Result<Response, ErrorResponse> {
    // Prometheus scrapes nodes at the address that it used for this request.
    let Some(address) = head.hosts().find(|host| !host.is_empty()) else {
        return Err(ErrorResponse::new("400 Bad Request", "request without a Host"));
    };
    let nodes = lock(&hub.nodes).all();
    let mut nodes: Vec<_> = nodes.into_iter().map(|(id, _, info)| (id, info)).collect();
    nodes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let text = Value::Array(target_groups(address, &nodes)).to_string();
    Ok(Response::new(OK, "application/json", text.into_bytes().into())
        .header("Cache-Control: no-store"))
}

/// One group for each node that answers requests, or has done so.
fn target_groups(address: &str, nodes: &[(Arc<str>, Arc<NodeInfo>)]) -> Vec<Value> {
    let group = |(node_id, info): &(Arc<str>, Arc<NodeInfo>)| {
        let agent = info.agent.as_ref()?;
        Some(json!({
            "targets": [address],
            "labels": {
                // Prometheus encodes it.
                "__metrics_path__": format!("/nodes/{node_id}/metrics"),
                // Otherwise it would be the address of the hub for every node.
                "instance": &**node_id,
                "node_id": &**node_id,
                "hostname": agent.hostname,
                "group": info.group.as_deref().unwrap_or_default(),
                "project": agent.project,
                "gpu_model": agent.gpu_models.join(", "),
                "agent_version": agent.agent_version,
            },
        }))
    };
    nodes.iter().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_extension::messages::AgentInfo;

    #[test]
    fn lists_nodes_that_answer_requests() {
        let agent = AgentInfo {
            agent_version: "0.1.0".into(),
            hostname: "h\"1".into(),
            project: "p".into(),
            gpu_models: vec!["A".into(), "B".into()],
        };
        let info = NodeInfo {
            agent: Some(Arc::new(agent)),
            group: Some("blue".into()),
            ..NodeInfo::default()
        };
        let nodes = [("a/b c".into(), Arc::new(info)), ("published".into(), Arc::default())];
        let groups = target_groups("hub:9520", &nodes);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0]["targets"], json!(["hub:9520"]));
        let labels = &groups[0]["labels"];
        assert_eq!(labels["__metrics_path__"], "/nodes/a/b c/metrics");
        assert_eq!((&labels["instance"], &labels["node_id"]), (&json!("a/b c"), &json!("a/b c")));
        assert_eq!((&labels["hostname"], &labels["group"]), (&json!("h\"1"), &json!("blue")));
        assert_eq!(labels["gpu_model"], "A, B");
    }
}
