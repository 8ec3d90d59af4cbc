//! The hm port: `/websocket` for nodes and `/metrics/prometheus`. Each connection has a thread until its handshake is complete; then an
//! event loop takes it over.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::http::auth::bearer_token;
use crate::http::listener::{ClientConnection, ConnectionLimits, Listener};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::http::websocket::{origin_allowed, upgrade_key};
use crate::hub::Hub;
use crate::hub::admission::{Admission, Admitted};
use crate::hub::event_loop::mailbox::{AcceptedSocket, LoopMessage, NewLink};
use crate::hub::hm::metrics;
use crate::hub::web::{EXPOSITION, refuse_pages, refuse_proxied};
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::{Error, reason};
use crate::util::sync::lock;

/// Connections whose request is not complete. More are refused with 503, so that a fleet that reconnects at once is accepted in batches.
const MAX_HANDSHAKES: usize = 1000;

pub struct HmServer {
    service: HttpService,
    admission: Mutex<Admission>,
    job: String,
    /// Event loop of the next connection.
    next_loop: AtomicUsize,
}

impl HmServer {
    pub fn new(admission: Admission, job: String) -> Self {
        let service = HttpService::new("hm");
        Self { service, admission: Mutex::new(admission), job, next_loop: AtomicUsize::new(0) }
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
        let mut admitted = Admitted::default();
        let upgrade = self
            .service
            .handle_connection(stream, &mut client, |head, _| self.route(hub, head, &mut admitted));
        let Some(upgrade) = upgrade else { return };
        let peer = client.peer;
        match upgrade.into_socket() {
            Ok((socket, buffered)) => {
                let accepted =
                    AcceptedSocket { socket, peer, buffered, protocol: NewLink::HmNode(admitted) };
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
        admitted: &mut Admitted,
    ) -> Result<Routed, ErrorResponse> {
        match head.path {
            "/websocket" => {
                let key = upgrade_key(head)?;
                // Nodes are programs, which send no Origin. A page that a user of this host visits must not pose as a node.
                if !origin_allowed(head, &[]) {
                    let text = "browsers cannot connect as nodes";
                    return Err(ErrorResponse::new("403 Forbidden", text));
                }
                if matches!(*lock(&self.admission), Admission::Loopback) {
                    refuse_proxied(head, "nodes.admission")?;
                }
                let token = bearer_token(head);
                *admitted =
                    lock(&self.admission).admit(token.map(str::as_bytes)).ok_or_else(|| {
                        let text = match token {
                            Some(_) => "this token is not in nodes.tokens_file of the hub",
                            None => "token required: \"Authorization: Bearer TOKEN\"",
                        };
                        ErrorResponse::new("401 Unauthorized", text)
                            .header("WWW-Authenticate: Bearer")
                    })?;
                Ok(Routed::Upgrade(key.to_owned()))
            }
            "/metrics/prometheus" if matches!(head.method, "GET" | "HEAD") => {
                refuse_pages(head)?;
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
