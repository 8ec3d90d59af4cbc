//! Requests to the telemetry port of the running agent.

use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::UsageConfig;
use crate::heartbeat::client::{HeartbeatClient, REQUEST_TIMEOUT};
use crate::model::status::UpstreamStatus;
use crate::util::percent;

/// The JSON that the agent at `usage.listen` returns for `path` and `query`. The error is the reason why there is none.
pub fn get<T: DeserializeOwned>(usage: &UsageConfig, path: &str, query: &str) -> Result<T, String> {
    get_by(usage, path, query, Instant::now() + REQUEST_TIMEOUT)
}

/// The upstream connections of the agent that listens at `usage.listen`; empty if no agent responds until the deadline.
pub fn upstreams(usage: &UsageConfig, deadline: Instant) -> Vec<UpstreamStatus> {
    #[derive(Deserialize)]
    struct Snapshot {
        links: Vec<UpstreamStatus>,
    }
    let snapshot = get_by(usage, "/snapshot", "", deadline);
    snapshot.map_or_else(|_| Vec::new(), |snapshot: Snapshot| snapshot.links)
}

fn get_by<T: DeserializeOwned>(
    usage: &UsageConfig,
    path: &str,
    query: &str,
    deadline: Instant,
) -> Result<T, String> {
    if !usage.enabled {
        return Err("usage.enabled is false, so the agent serves none".to_owned());
    }
    let server = HeartbeatClient::local(usage.listen, usage.tls.as_ref())?;
    let token = usage.token.as_ref().map(|token| percent::encode(token.expose()));
    let token = token.map_or(String::new(), |token| format!("&token={token}"));
    let answer = server.request_by("GET", &format!("{path}?{query}{token}"), deadline);
    let (status, text) = answer.map_err(|why| format!("{}: {why}", server.url()))?;
    if status != 200 {
        let line = text.lines().next().unwrap_or_default();
        return Err(format!("{} returned HTTP status {status}: {line}", server.url()));
    }
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", server.url()))
}
