//! What hm-hub can read from this node over an outbound connection: a description, the status, and the bodies of `/metrics`, `/snapshot`,
//! `/events`, `/history` and `/health`.
//! It needs no `usage.token`.

use std::sync::Arc;

use crate::agent::services::Services;
use crate::health;
use crate::hub_extension::messages::{AgentInfo, GetRequest};
use crate::hub_extension::node::{NodeResources, NodeResponse};
use crate::hub_extension::status::NodeStatus;
use crate::metrics::Format;
use crate::model::finding::HealthStatus;
use crate::model::health_problem::{HealthProblem, Severity};
use crate::telemetry::responses::{NOT_READY, NoHistory, RenderedBody};

impl NodeResources for Services {
    fn agent_info(&self) -> Option<AgentInfo> {
        if !self.responses().are_gpus_ready() {
            return None;
        }
        let snapshot = &self.latest.current().snapshot;
        let names = snapshot.gpus.each.iter().map(|gpu| gpu.name.clone());
        let mut gpu_models: Vec<String> = names.filter(|name| !name.is_empty()).collect();
        gpu_models.sort_unstable();
        gpu_models.dedup();
        Some(AgentInfo {
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            hostname: snapshot.hostname.clone().unwrap_or_default(),
            project: self.config.get().hm.as_ref().map(|hm| hm.project.clone()).unwrap_or_default(),
            gpu_models,
        })
    }

    fn status(&self) -> NodeStatus {
        let sample = self.latest.current();
        let report = self.responses().health_report(&sample);
        let problems = report
            .open()
            .map(|finding| HealthProblem { severity: finding.severity, text: finding.text() });
        let mut problems: Vec<HealthProblem> = problems.collect();
        if report.status == HealthStatus::Unknown {
            let text = "no current sample".to_owned();
            problems.push(HealthProblem { severity: Severity::Critical, text });
        }
        let snapshot = &sample.snapshot;
        NodeStatus::new(&snapshot.gpus, problems, health::recent_xids(snapshot))
    }

    fn get(&self, request: &GetRequest) -> NodeResponse {
        let responses = self.responses();
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let RenderedBody { content_type, bytes, is_gzip } = match path {
            "/metrics" | "/snapshot" | "/health" if !responses.are_gpus_ready() => {
                return text(503, NOT_READY);
            }
            "/metrics" => {
                let format = Format::negotiate([request.accept.as_str()].into_iter());
                responses.metrics_body(format, request.gzip)
            }
            "/snapshot" => responses.snapshot_body(request.gzip),
            "/health" => responses.health_body(request.gzip),
            "/events" => match responses.events_body(query, request.gzip) {
                Ok(body) => body,
                Err(why) => return text(400, &why),
            },
            "/history" => match responses.history_body(query, request.gzip) {
                Ok(body) => body,
                Err(NoHistory::BadQuery(why)) => return text(400, &why),
                Err(NoHistory::Unreadable(why)) => return text(503, &why),
            },
            _ => return text(404, "no such path"),
        };
        NodeResponse { status: 200, content_type, is_gzip, body: bytes }
    }
}

fn text(status: u16, text: &str) -> NodeResponse {
    let body: Arc<[u8]> = text.as_bytes().into();
    NodeResponse { status, content_type: "text/plain; charset=utf-8", is_gzip: false, body }
}
