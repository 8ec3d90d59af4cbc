//! The Core port: nodes and monitor clients over WebSocket, and the REST API.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::config::Secret;
use crate::http::auth::bearer_token;
use crate::http::listener::{ClientConnection, ConnectionLimits, Listener};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::http::websocket::upgrade_key;
use crate::hub::Hub;
use crate::hub::admission::Admission;
use crate::hub::core::messages;
use crate::hub::core::node_session::NodeSession;
use crate::hub::core::rest::Rest;
use crate::hub::event_loop::mailbox::{AcceptedSocket, ClientAccess, LoopMessage, NewLink};
use crate::hub::operators::Role;
use crate::hub::web::{refuse_pages, refuse_proxied};
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::{Error, reason};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Connections whose request is not complete. More are refused with 503.
const MAX_HANDSHAKES: usize = 1000;

pub struct CoreServer {
    service: HttpService,
    rest: Rest,
    next_loop: AtomicUsize,
}

impl CoreServer {
    pub fn new(commands_enabled: bool) -> Self {
        Self {
            service: HttpService::new("core").keep_bodies().allow_idle_start(),
            rest: Rest::new(commands_enabled),
            next_loop: AtomicUsize::new(0),
        }
    }

    /// Serves the port until shutdown.
    pub fn run(&self, hub: &Hub, listener: &Listener) -> Result<(), Error> {
        let limits = || ConnectionLimits::total(MAX_HANDSHAKES);
        listener.run(&hub.shutdown, limits, |stream, client| self.serve(hub, stream, client))
    }

    fn serve(&self, hub: &Hub, stream: DeadlineStream<'_>, mut client: ClientConnection<'_>) {
        let mut client_access = None;
        let upgrade = self.service.handle_connection(stream, &mut client, |head, _| {
            self.route(hub, head, &mut client_access)
        });
        let (Some(upgrade), Some((access, protocol))) = (upgrade, client_access) else { return };
        let peer = client.peer;
        match upgrade.into_socket() {
            Ok((socket, buffered)) => {
                let accepted = AcceptedSocket { socket, peer, buffered, access, protocol };
                let event_loop = self.next_loop.fetch_add(1, Relaxed) % hub.mailboxes.len();
                hub.send(event_loop, LoopMessage::Accepted(accepted));
            }
            Err(error) => log::debug!("core: {peer} disconnected: {}", reason(&error)),
        }
    }

    fn route(
        &self,
        hub: &Hub,
        head: &RequestHead<'_>,
        client_access: &mut Option<(ClientAccess, NewLink)>,
    ) -> Result<Routed, ErrorResponse> {
        refuse_pages(head)?;
        match head.path {
            "/api/v1/ws" | "/ws/node" | "/ws/client" => upgrade(hub, head, client_access),
            path => {
                let rest = path.strip_prefix("/api/v1/");
                if let Some(path) = rest {
                    check_operator(hub, head, path)?;
                }
                let answer = rest.and_then(|path| self.rest.answer(hub, path, head));
                let not_found = || ErrorResponse::new("404 Not Found", not_found_message(path));
                answer.map(Routed::Response).ok_or_else(not_found)
            }
        }
    }
}

fn check_operator(hub: &Hub, head: &RequestHead<'_>, path: &str) -> Result<(), ErrorResponse> {
    let role = match head.method {
        "GET" | "HEAD" => Role::Read,
        "POST" => Role::Command,
        // DELETE.
        _ => Role::Operate,
    };
    let access = hub.access();
    let operator = access.operators.check_request(head, role)?;
    if role > Role::Read {
        let (method, path) = (head.method, escape_for_log(path, EXCERPT_CHARS));
        let name = operator.unwrap_or("of this machine");
        log::info!("operator {name}: {method} {path}");
    }
    Ok(())
}

fn upgrade(
    hub: &Hub,
    head: &RequestHead<'_>,
    client_access: &mut Option<(ClientAccess, NewLink)>,
) -> Result<Routed, ErrorResponse> {
    let key = upgrade_key(head)?;
    let query = |name| {
        let value = head.query_value(name)?;
        Some(String::from_utf8_lossy(&value).into_owned()).filter(|value| !value.is_empty())
    };
    let token = query("token").or_else(|| bearer_token(head).map(str::to_owned));
    // As the published service: clients expect status 200.
    let Some(token) = token else {
        return Ok(Routed::Response(Response::text(OK, "Token required")));
    };
    let node_id = query("node_id");
    let access = hub.access();
    let link = match query("type").as_deref() {
        Some("monitor") => {
            if access.operators.0.is_none() {
                refuse_proxied(head, "operators.tokens_file")?;
            }
            access.is_monitor(&token).then(|| NewLink::Monitor(messages::new_id()))
        }
        _ => {
            if matches!(access.admission, Admission::Loopback) {
                refuse_proxied(head, "nodes.admission")?;
            }
            access.core_node(&token).map(|admitted| {
                let session = NodeSession::new(node_id.as_deref(), admitted.node());
                NewLink::CoreNode(session, admitted)
            })
        }
    };
    let Some(link) = link else {
        return Ok(Routed::Response(Response::text(OK, "Invalid token")));
    };
    let access = ClientAccess { at_handshake: access, token: Some(Secret::new(token)) };
    *client_access = Some((access, link));
    Ok(Routed::Upgrade(key.to_owned()))
}
