//! Requests to the telemetry port of the running agent.

use serde::de::DeserializeOwned;

use crate::config::UsageConfig;
use crate::heartbeat::client::HeartbeatClient;
use crate::util::percent;

/// The JSON that the agent at `usage.listen` returns for `path` and `query`. The error is the reason why there is none.
pub fn get<T: DeserializeOwned>(usage: &UsageConfig, path: &str, query: &str) -> Result<T, String> {
    if !usage.enabled {
        return Err("usage.enabled is false, so the agent serves none".to_owned());
    }
    let server = HeartbeatClient::local(usage.listen);
    let token = usage.token.as_ref().map(|token| percent::encode(token.expose()));
    let token = token.map_or(String::new(), |token| format!("&token={token}"));
    let answer = server.request("GET", &format!("{path}?{query}{token}"));
    let (status, text) = answer.map_err(|why| format!("{}: {why}", server.url()))?;
    if status != 200 {
        let line = text.lines().next().unwrap_or_default();
        return Err(format!("{} returned HTTP status {status}: {line}", server.url()));
    }
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", server.url()))
}
