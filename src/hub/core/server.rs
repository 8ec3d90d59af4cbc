//! The Core port: nodes and monitor clients over WebSocket, and the REST API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::config::Secret;
use crate::http::auth::bearer_token;
use crate::http::listener::{ClientConnection, ConnectionLimits, Listener};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::http::stream::ServerStream;
use crate::http::websocket::upgrade_key;
use crate::hub::Hub;
use crate::hub::admission::Admission;
use crate::hub::authorization::{
    Accepts, authorize_rest, check_browser_access, proxy_header, refuse_proxied,
};
use crate::hub::core::messages;
use crate::hub::core::node_session::NodeSession;
use crate::hub::core::rest::Rest;
use crate::hub::event_loop::mailbox::{AcceptedSocket, ClientAccess, LoopMessage, NewLink};
use crate::util::error::{Error, reason};

/// Connections whose request is not complete. More are refused with 503.
const MAX_HANDSHAKES: usize = 1000;

pub struct CoreServer {
    service: HttpService,
    rest: Arc<Rest>,
    next_loop: AtomicUsize,
}

impl CoreServer {
    pub fn new(rest: Arc<Rest>) -> Self {
        Self {
            service: HttpService::new("core").keep_bodies().allow_idle_start(),
            rest,
            next_loop: AtomicUsize::new(0),
        }
    }

    /// Serves the port until shutdown.
    pub fn run(&self, hub: &Hub, listener: &Listener) -> Result<(), Error> {
        let limits = || ConnectionLimits::total(MAX_HANDSHAKES);
        listener.run(&hub.shutdown, limits, |stream, client| self.serve(hub, stream, client))
    }

    fn serve(&self, hub: &Hub, stream: ServerStream<'_>, mut client: ClientConnection<'_>) {
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
        check_browser_access(head)?;
        match head.path {
            "/api/v1/ws" | "/ws/node" | "/ws/client" => upgrade(hub, head, client_access),
            path => {
                let not_found = || ErrorResponse::new("404 Not Found", not_found_message(path));
                let rest = path.strip_prefix("/api/v1/").ok_or_else(not_found)?;
                let operator = authorize_rest(hub, head, Accepts::Bearer)?;
                let answer = self.rest.answer(hub, rest, head, &operator);
                answer.map(Routed::Response).ok_or_else(not_found)
            }
        }
    }
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
    let (access, is_local) = (hub.access(), proxy_header(head).is_none());
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
            access.core_node(bearer_token(head), &token, is_local).map(|admitted| {
                let session = NodeSession::new(node_id.as_deref(), admitted.node());
                NewLink::CoreNode(session, admitted)
            })
        }
    };
    let Some(link) = link else {
        return Ok(Routed::Response(Response::text(OK, "Invalid token")));
    };
    let is_credential =
        matches!(&link, NewLink::CoreNode(_, admitted) if admitted.has_credential());
    let presented = bearer_token(head).filter(|_| is_credential).map(str::to_owned);
    let token = Some(Secret::new(presented.unwrap_or(token)));
    let access = ClientAccess { at_handshake: access, token, is_local };
    *client_access = Some((access, link));
    Ok(Routed::Upgrade(key.to_owned()))
}
