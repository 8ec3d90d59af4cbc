//! The hm port: `/websocket` for nodes and `/metrics/prometheus`. Each connection has a thread until its handshake is complete; then an
//! event loop takes it over.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::config::Secret;
use crate::http::auth::bearer_token;
use crate::http::listener::{ClientConnection, ConnectionLimits, Listener};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::http::stream::ServerStream;
use crate::http::websocket::{origin_allowed, upgrade_key};
use crate::hub::Hub;
use crate::hub::admission::Admission;
use crate::hub::authorization::{check_browser_access, proxy_header, refuse_proxied};
use crate::hub::event_loop::mailbox::{AcceptedSocket, ClientAccess, LoopMessage, NewLink};
use crate::hub::hm::metrics;
use crate::hub::web::EXPOSITION;
use crate::util::error::{Error, reason};
use crate::util::sync::lock;

/// Connections whose request is not complete. More are refused with 503, so that a fleet that reconnects at once is accepted in batches.
const MAX_HANDSHAKES: usize = 1000;

pub struct HmServer {
    service: HttpService,
    job: String,
    /// Event loop of the next connection.
    next_loop: AtomicUsize,
}

impl HmServer {
    pub fn new(job: String) -> Self {
        Self { service: HttpService::new("hm"), job, next_loop: AtomicUsize::new(0) }
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
            Err(error) => log::debug!("hm: {peer} disconnected: {}", reason(&error)),
        }
    }

    fn route(
        &self,
        hub: &Hub,
        head: &RequestHead<'_>,
        client_access: &mut Option<(ClientAccess, NewLink)>,
    ) -> Result<Routed, ErrorResponse> {
        match head.path {
            "/websocket" => {
                let key = upgrade_key(head)?;
                // Nodes are programs, which send no Origin. A page that a user of this host visits must not pose as a node.
                if !origin_allowed(head, &[]) {
                    let text = "browsers cannot connect as nodes";
                    return Err(ErrorResponse::new("403 Forbidden", text));
                }
                let access = hub.access();
                if matches!(access.admission, Admission::Loopback) {
                    refuse_proxied(head, "nodes.admission")?;
                }
                let token = bearer_token(head);
                let is_local = proxy_header(head).is_none();
                let admitted = access.hm_node(token, is_local).ok_or_else(|| {
                    let text = match token {
                        Some(_) => "this token is not in nodes.tokens_file of the hub",
                        None => "token required: \"Authorization: Bearer TOKEN\"",
                    };
                    ErrorResponse::new("401 Unauthorized", text).header("WWW-Authenticate: Bearer")
                })?;
                let token = token.map(|token| Secret::new(token.to_owned()));
                *client_access = Some((
                    ClientAccess { at_handshake: access, token, is_local },
                    NewLink::HmNode(admitted),
                ));
                Ok(Routed::Upgrade(key.to_owned()))
            }
            "/metrics/prometheus" if matches!(head.method, "GET" | "HEAD") => {
                check_browser_access(head)?;
                let mut reports = lock(&hub.nodes).reports();
                let text = metrics::render(&self.job, &mut reports);
                Ok(Routed::Response(Response::new(OK, EXPOSITION, text.into_bytes().into())))
            }
            "/metrics/prometheus" => {
                let error = ErrorResponse::new("405 Method Not Allowed", "only GET and HEAD");
                Err(error.header("Allow: GET, HEAD"))
            }
            path => Err(ErrorResponse::new("404 Not Found", not_found_message(path))),
        }
    }
}
