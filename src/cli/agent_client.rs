//! One look at what another process of this agent knows and nobody else can: the links that it keeps.

use std::time::Instant;

use serde::Deserialize;
use tungstenite::Message;

use crate::config::Usage;
use crate::heartbeat::client::encode;
use crate::limits;
use crate::model::status::UpstreamStatus;
use crate::net::url::Address;
use crate::net::websocket::{Route, Socket};
use crate::util::sync::Shutdown;

#[derive(Deserialize)]
struct Update {
    r#type: Option<String>,
    #[serde(default)]
    links: Vec<UpstreamStatus>,
}

/// The links of the agent that listens at `usage.listen` of these settings. None if there is no such agent, or
/// it does not answer soon.
pub fn links(usage: &Usage) -> Vec<UpstreamStatus> {
    let Ok(stop) = Shutdown::new() else { return Vec::new() };
    ask(usage, &stop).unwrap_or_default()
}

fn ask(usage: &Usage, stop: &Shutdown) -> Option<Vec<UpstreamStatus>> {
    let address = crate::net::local(usage.listen);
    let token = usage.token.as_ref().map(|token| format!("?token={}", encode(token.expose())));
    let target = format!("/usage{}", token.unwrap_or_default());
    let address =
        Address { secure: false, host: address.ip().to_string(), port: address.port(), target };
    let route = Route { address, proxy: None, tls: None };
    let mut socket = Socket::connect(&route, stop).ok()?;
    socket.send(Message::text("subscribe:detail")).ok()?;
    let deadline = Instant::now() + limits::QUESTION;
    loop {
        match socket.receive().ok()? {
            Some(Message::Text(text)) => {
                let update: Update = serde_json::from_str(&text).ok()?;
                if update.r#type.as_deref() == Some("usage_update") {
                    socket.close();
                    return Some(update.links);
                }
            }
            Some(_) => {}
            None => {
                let left = deadline.checked_duration_since(Instant::now())?;
                socket.wait(left);
            }
        }
    }
}
