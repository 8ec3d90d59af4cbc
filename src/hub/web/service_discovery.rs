//! `/sd`: the nodes for `http_sd_configs` of Prometheus. Nodes that are not connected stay listed: their scrape fails, so `up` is 0.

use serde_json::{Value, json};

use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response};
use crate::hub::Hub;
use crate::hub::nodes::info::NodeInfo;
use crate::net::url::Url;
use crate::util::sync::lock;

pub fn response(hub: &Hub, head: &RequestHead<'_>) -> Result<Response, ErrorResponse> {
    // Prometheus scrapes nodes at the address that it used for this request.
    let Some(address) = head.hosts().find(|host| !host.is_empty()) else {
        return Err(ErrorResponse::new("400 Bad Request", "request without a Host"));
    };
    let mut nodes: Vec<_> = {
        let nodes = lock(&hub.nodes);
        let all = nodes.all().into_iter();
        all.map(|(id, _, info)| (nodes.answering_remote_owner(&id), id, info)).collect()
    };
    nodes.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    let groups = nodes.iter().filter_map(|(owner, id, info)| {
        let peer = owner.and_then(|owner| hub.cluster.as_ref()?.peer(owner));
        // A hub without hub.url is reached through this one.
        let url = peer.as_ref().and_then(|peer| peer.url.as_ref());
        target_group(address, url, id, info)
    });
    let text = Value::Array(groups.collect()).to_string();
    Ok(Response::new(OK, "application/json", text.into_bytes().into())
        .header("Cache-Control: no-store"))
}

/// A node that answers requests, or has done so. `hub_url` is that of the other hub to which it is connected.
fn target_group(
    address: &str,
    hub_url: Option<&Url>,
    node_id: &str,
    info: &NodeInfo,
) -> Option<Value> {
    let agent = info.agent.as_ref()?;
    let authority = hub_url.map(Url::authority);
    let mut group = json!({
        "targets": [authority.as_deref().unwrap_or(address)],
        "labels": {
            // Prometheus encodes it.
            "__metrics_path__": format!("/nodes/{node_id}/metrics"),
            // Otherwise it would be the address of the hub for every node.
            "instance": node_id,
            "node_id": node_id,
            "hostname": agent.hostname,
            "group": info.group.as_deref().unwrap_or_default(),
            "project": agent.project,
            "gpu_model": agent.gpu_models.join(", "),
            "agent_version": agent.agent_version,
        },
    });
    if let Some(url) = hub_url {
        group["labels"]["__scheme__"] = json!(if url.is_secure() { "https" } else { "http" });
    }
    Some(group)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        let group = target_group("hub:9520", None, "a/b c", &info).unwrap();
        assert_eq!(target_group("hub:9520", None, "published", &NodeInfo::default()), None);
        assert_eq!(group["targets"], json!(["hub:9520"]));
        let labels = &group["labels"];
        assert_eq!(labels["__scheme__"], Value::Null);
        assert_eq!(labels["__metrics_path__"], "/nodes/a/b c/metrics");
        assert_eq!((&labels["instance"], &labels["node_id"]), (&json!("a/b c"), &json!("a/b c")));
        assert_eq!((&labels["hostname"], &labels["group"]), (&json!("h\"1"), &json!("blue")));
        assert_eq!(labels["gpu_model"], "A, B");
        let url = Url::parse_web("https://other").unwrap();
        let group = target_group("hub:9520", Some(&url), "a", &info).unwrap();
        assert_eq!(group["targets"], json!(["other:443"]));
        assert_eq!(group["labels"]["__scheme__"], "https");
    }
}
