//! What is known of a node, also while it is away.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::hub::core::messages::{ReceivedMetrics, Register, rest_time};
use crate::hub::nodes::Presence;
use crate::hub_extension::messages::AgentInfo;
use crate::hub_extension::status::NodeStatus;

/// A node. Times are Unix milliseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeInfo {
    /// `None`: it has not registered over Core.
    pub register: Option<Registration>,
    pub first_seen: i64,
    pub updated_at: i64,
    pub last_heartbeat: Option<i64>,
    pub metrics: Option<StoredMetrics>,
    /// `None`: it has never answered requests.
    pub agent: Option<Arc<AgentInfo>>,
    /// Group of the join token with which the node connected.
    pub group: Option<Arc<str>>,
    /// Project of the last report over hm since the hub started.
    pub project: Option<Arc<str>>,
    pub status: Option<Arc<ReceivedStatus>>,
    /// The state that `fleet.on_change` was run for, online or offline; `None`: the node is new.
    pub hook_state: Option<Presence>,
}

/// What an hm-agent has last sent of its own accord. Of a published client of hm, the status is what its last report tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReceivedStatus {
    pub status: NodeStatus,
    /// The body of `/snapshot`; empty: none.
    pub snapshot: Arc<[u8]>,
    pub is_gzip: bool,
    /// Unix milliseconds of its arrival.
    pub at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub hostname: String,
    pub ip_address: String,
    pub os_info: Option<String>,
}

impl From<&Register> for Registration {
    fn from(register: &Register) -> Self {
        let Register { hostname, ip_address, os_info, .. } = register.clone();
        Self { hostname, ip_address, os_info }
    }
}

/// Metrics with the time of their arrival.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredMetrics {
    pub id: i64,
    pub at: i64,
    pub metrics: ReceivedMetrics,
}

impl ReceivedStatus {
    /// Approximate size in memory.
    pub fn size(&self) -> usize {
        self.snapshot.len() + self.status.size()
    }
}

impl NodeInfo {
    pub fn register(&mut self, register: &Register, now: i64) {
        self.register = Some(register.into());
        self.updated_at = now;
        self.note_first(now);
    }

    pub fn add_metrics(&mut self, metrics: StoredMetrics, is_heartbeat: bool) {
        self.note_first(metrics.at);
        if is_heartbeat {
            self.last_heartbeat = Some(metrics.at);
        }
        self.metrics = Some(metrics);
    }

    /// Notes the time of the first message.
    pub fn note_first(&mut self, now: i64) {
        if self.first_seen == 0 {
            (self.first_seen, self.updated_at) = (now, now);
        }
    }

    /// The node object of the REST API. A node without a registration has the values of the published service.
    pub fn to_json(&self, node_id: &str, presence: Presence) -> Value {
        let register = self.register.as_ref();
        let mut node = json!({
            "id": node_id,
            "node_id": node_id,
            "hostname": register.map_or("unknown", |register| &register.hostname),
            "ip_address": register.map_or("0.0.0.0", |register| &register.ip_address),
            "os_info": register.and_then(|register| register.os_info.as_deref()),
            "status": presence.to_string(),
            "last_heartbeat": self.last_heartbeat.map(rest_time),
            "registered_at": rest_time(self.first_seen),
            "updated_at": rest_time(self.updated_at),
        });
        // Of hm-agents only: the objects of published nodes are those of the published service.
        if let Some(agent) = &self.agent {
            node["agent"] = json!(**agent);
            node["group"] = json!(self.group.as_deref());
        }
        node
    }
}

impl StoredMetrics {
    /// The metric object of the REST API.
    pub fn to_json(&self, node_id: &str) -> Value {
        let ReceivedMetrics {
            cpu_usage,
            memory_usage,
            disk_usage,
            load_average,
            memory_total,
            memory_available,
            disk_total,
            disk_available,
            uptime,
        } = &self.metrics;
        // The published service stores totals as integers.
        let whole = |value: &Option<f64>| value.map(|value| value as i64);
        json!({
            "id": self.id,
            "node_id": node_id,
            "metric_time": rest_time(self.at),
            "cpu_usage": cpu_usage,
            "memory_usage": memory_usage,
            "disk_usage": disk_usage,
            "disk_total": whole(disk_total),
            "disk_available": whole(disk_available),
            "load_average": load_average,
            "memory_total": whole(memory_total),
            "memory_available": whole(memory_available),
            "uptime": whole(uptime),
            "created_at": rest_time(self.at),
        })
    }
}
