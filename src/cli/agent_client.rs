//! Reads from a running agent what only that process has: the status of its upstream connections.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use serde::Deserialize;
use tungstenite::Message;

use crate::config::UsageConfig;
use crate::model::status::UpstreamStatus;
use crate::net::endpoint::Endpoint;
use crate::net::url::{Scheme, Url};
use crate::net::websocket::WebSocketClient;
use crate::util::percent;
use crate::util::sync::Shutdown;

#[derive(Deserialize)]
struct Update {
    r#type: Option<String>,
    #[serde(default, rename = "links")]
    upstreams: Vec<UpstreamStatus>,
}

/// The upstream connections of the agent that listens at `usage.listen`; empty if no agent responds until the deadline.
pub fn upstreams(usage: &UsageConfig, deadline: Instant) -> Vec<UpstreamStatus> {
    let Ok(stop) = Shutdown::new() else { return Vec::new() };
    let update = thread::scope(|scope| {
        let (sender, update) = channel();
        // Nothing receives an update that arrives after the deadline.
        let stop = &stop;
        let exchange = move || drop(sender.send(request_update(usage, deadline, stop)));
        thread::Builder::new().name("usage-client".into()).spawn_scoped(scope, exchange).ok()?;
        let update = update.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        // Ends the exchange in whichever step it is, because the scope waits for the thread.
        stop.trigger();
        update.ok().flatten()
    });
    update.map_or_else(Vec::new, |update| update.upstreams)
}

fn request_update(usage: &UsageConfig, deadline: Instant, stop: &Shutdown) -> Option<Update> {
    let address = crate::net::replace_unspecified_ip(usage.listen);
    let token = usage.token.as_ref();
    let token = token.map(|token| format!("?token={}", percent::encode(token.expose())));
    let target = format!("/usage{}", token.unwrap_or_default());
    let url = Url {
        scheme: Scheme::Ws,
        host: address.ip().to_string(),
        port: address.port(),
        target,
        userinfo: None,
    };
    let endpoint = Endpoint { url, proxy: None, ca_file: None, token: None };
    let mut socket = WebSocketClient::connect(&endpoint, None, stop).ok()?;
    socket.send(Message::text("subscribe:detail")).ok()?;
    loop {
        match socket.receive().ok()? {
            Some(Message::Text(text)) => {
                let update: Update = serde_json::from_str(&text).ok()?;
                if update.r#type.as_deref() == Some("usage_update") {
                    socket.close();
                    return Some(update);
                }
            }
            Some(_) => {}
            None => {
                let remaining = deadline.checked_duration_since(Instant::now())?;
                socket.wait(remaining);
            }
        }
    }
}
