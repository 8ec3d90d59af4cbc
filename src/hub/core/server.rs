//! The Core port: nodes and monitor clients over WebSocket, and the REST API.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::http::auth::bearer_token;
use crate::http::csrf;
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
use crate::hub::event_loop::mailbox::{AcceptedSocket, Message, NewLink};
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::{Error, reason};
use crate::util::sync::lock;

/// Connections whose request is not complete. More are refused with 503.
const MAX_HANDSHAKES: usize = 1000;

/// The token of the published service, which published clients send.
const DEFAULT_TOKEN: &str = "default-token";

pub struct CoreServer {
    service: HttpService,
    admission: Mutex<Admission>,
    rest: Rest,
    next_loop: AtomicUsize,
}

impl CoreServer {
    pub fn new(admission: Admission, commands_enabled: bool) -> Self {
        Self {
            service: HttpService::new("core").keep_bodies().allow_idle_start(),
            admission: Mutex::new(admission),
            rest: Rest::new(commands_enabled),
            next_loop: AtomicUsize::new(0),
        }
    }

    /// Applies a reloaded configuration to new connections.
    pub fn set_admission(&self, admission: Admission) {
        *lock(&self.admission) = admission;
    }

    /// Serves the port until shutdown.
    pub fn run(&self, hub: &Hub, listener: &Listener) -> Result<(), Error> {
        let limits = || ConnectionLimits::total(MAX_HANDSHAKES);
        listener.run(&hub.shutdown, limits, |stream, client| self.serve(hub, stream, client))
    }

    fn serve(&self, hub: &Hub, stream: DeadlineStream<'_>, mut client: ClientConnection<'_>) {
        let mut protocol = None;
        let upgrade = self
            .service
            .handle_connection(stream, &mut client, |head, _| self.route(hub, head, &mut protocol));
        let (Some(upgrade), Some(protocol)) = (upgrade, protocol) else { return };
        let peer = client.peer;
        match upgrade.into_socket() {
            Ok((socket, buffered)) => {
                let accepted = AcceptedSocket { socket, peer, buffered, protocol };
                let event_loop = self.next_loop.fetch_add(1, Relaxed) % hub.mailboxes.len();
                hub.send(event_loop, Message::Accepted(accepted));
            }
            Err(error) => log::debug!("core: {peer} disconnected: {}", reason(&error)),
        }
    }

    fn route(
        &self,
        hub: &Hub,
        head: &RequestHead<'_>,
        protocol: &mut Option<NewLink>,
    ) -> Result<Routed, ErrorResponse> {
        // A page that a user of this host visits must not read the fleet's state or send commands.
        csrf::check_host_and_origin(head, &[]).map_err(|_| {
            ErrorResponse::new("403 Forbidden", "pages of other origins have no access")
        })?;
        match head.path {
            "/api/v1/ws" | "/ws/node" | "/ws/client" => self.upgrade(head, protocol),
            path => {
                let rest = path.strip_prefix("/api/v1/");
                let answer = rest.and_then(|path| self.rest.answer(hub, path, head));
                let body = answer
                    .ok_or_else(|| ErrorResponse::new("404 Not Found", not_found_message(path)))?;
                let response =
                    Response::new(OK, "application/json; charset=utf-8", body.into_bytes().into());
                Ok(Routed::Response(response))
            }
        }
    }

    fn upgrade(
        &self,
        head: &RequestHead<'_>,
        protocol: &mut Option<NewLink>,
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
        let admitted = {
            let admission = lock(&self.admission);
            match &*admission {
                Admission::Open if token == DEFAULT_TOKEN => admission.admit(None),
                Admission::Open => None,
                Admission::Token(_) => admission.admit(Some(token.as_bytes())),
            }
        };
        let Some(admitted) = admitted else {
            return Ok(Routed::Response(Response::text(OK, "Invalid token")));
        };
        *protocol = Some(match query("type").as_deref() {
            Some("monitor") => NewLink::Monitor(messages::new_id()),
            _ => {
                let node_id = query("node_id");
                NewLink::CoreNode(NodeSession::new(node_id.as_deref(), admitted.node()))
            }
        });
        Ok(Routed::Upgrade(key.to_owned()))
    }
}
