//! The Core port: nodes and monitor clients over WebSocket, and the REST API.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

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
use crate::hub::event_loop::mailbox::{AcceptedSocket, LoopMessage, NewLink};
use crate::hub::operators::{Operators, Role};
use crate::hub::web::{refuse_pages, refuse_proxied};
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::{Error, reason};
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Connections whose request is not complete. More are refused with 503.
const MAX_HANDSHAKES: usize = 1000;

/// The token of the published service, which published clients send.
const DEFAULT_TOKEN: &str = "default-token";

/// Admission of nodes, and tokens of operators.
struct Access {
    admission: Admission,
    operators: Operators,
}

pub struct CoreServer {
    service: HttpService,
    access: Mutex<Access>,
    rest: Rest,
    next_loop: AtomicUsize,
}

impl CoreServer {
    pub fn new(admission: Admission, operators: Operators, commands_enabled: bool) -> Self {
        Self {
            service: HttpService::new("core").keep_bodies().allow_idle_start(),
            access: Mutex::new(Access { admission, operators }),
            rest: Rest::new(commands_enabled),
            next_loop: AtomicUsize::new(0),
        }
    }

    /// Applies a reloaded configuration to new connections.
    pub fn set_access(&self, admission: Admission, operators: Operators) {
        *lock(&self.access) = Access { admission, operators };
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
                hub.send(event_loop, LoopMessage::Accepted(accepted));
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
        refuse_pages(head)?;
        match head.path {
            "/api/v1/ws" | "/ws/node" | "/ws/client" => self.upgrade(head, protocol),
            path => {
                let rest = path.strip_prefix("/api/v1/");
                if let Some(path) = rest {
                    self.check_operator(head, path)?;
                }
                let answer = rest.and_then(|path| self.rest.answer(hub, path, head));
                let not_found = || ErrorResponse::new("404 Not Found", not_found_message(path));
                answer.map(Routed::Response).ok_or_else(not_found)
            }
        }
    }

    fn check_operator(&self, head: &RequestHead<'_>, path: &str) -> Result<(), ErrorResponse> {
        let role = match head.method {
            "GET" | "HEAD" => Role::Read,
            "POST" => Role::Command,
            // DELETE.
            _ => Role::Operate,
        };
        let operator = {
            let access = lock(&self.access);
            access.operators.check_request(head, role)?.map(str::to_owned)
        };
        if role > Role::Read {
            let (method, path) = (head.method, escape_for_log(path, EXCERPT_CHARS));
            let name = operator.as_deref().unwrap_or("of this machine");
            log::info!("operator {name}: {method} {path}");
        }
        Ok(())
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
        let node_id = query("node_id");
        let access = lock(&self.access);
        let link = match query("type").as_deref() {
            Some("monitor") => {
                if access.operators.0.is_none() {
                    refuse_proxied(head, "operators.tokens_file")?;
                }
                access.monitor(&token)
            }
            _ => {
                if matches!(access.admission, Admission::Loopback) {
                    refuse_proxied(head, "nodes.admission")?;
                }
                access.node(&token, node_id.as_deref())
            }
        };
        let Some(link) = link else {
            return Ok(Routed::Response(Response::text(OK, "Invalid token")));
        };
        *protocol = Some(link);
        Ok(Routed::Upgrade(key.to_owned()))
    }
}

impl Access {
    fn node(&self, token: &str, node_id: Option<&str>) -> Option<NewLink> {
        let admitted = match &self.admission {
            Admission::Open | Admission::Loopback if token == DEFAULT_TOKEN => {
                self.admission.admit(None)
            }
            Admission::Open | Admission::Loopback => None,
            Admission::Token(_) => self.admission.admit(Some(token.as_bytes())),
        }?;
        let session = NodeSession::new(node_id, admitted.node());
        Some(NewLink::CoreNode(session, admitted))
    }

    fn monitor(&self, token: &str) -> Option<NewLink> {
        let is_operator = match &self.operators.0 {
            Some(_) => self.operators.check(Some(token.as_bytes()), Role::Read).is_ok(),
            None => token == DEFAULT_TOKEN,
        };
        is_operator.then(|| NewLink::Monitor(messages::new_id()))
    }
}
