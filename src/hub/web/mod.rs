//! The web port: the fleet page and its API, health endpoints, the hub's own metrics, and those of the nodes for Prometheus.

mod fleet;
mod login;
mod node_resources;
mod pages;
mod service_discovery;

use std::sync::Arc;
use std::time::Instant;

use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq;

use crate::history::event_log::EventQuery;
use crate::history::series::Range;
use crate::http::auth::bearer_token;
use crate::http::gzip;
use crate::http::listener::{ClientConnection, ConnectionLimits, Listener};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::http::stream::ServerStream;
use crate::hub::Hub;
use crate::hub::authorization::{Accepts, authorize, authorize_rest, check_web_browser_access};
use crate::hub::core::rest::Rest;
use crate::hub::operators::Role;
use crate::util::error::Error;
use crate::util::sync::lock;

/// A scrape holds its connection until the node has answered. Prometheus keeps up to 1000 idle ones.
const MAX_CONNECTIONS: usize = 2000;

/// Content type of the text exposition format.
pub const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

pub struct WebServer {
    service: HttpService,
    rest: Arc<Rest>,
    started: Instant,
}

impl WebServer {
    pub fn new(rest: Arc<Rest>) -> Self {
        let service = HttpService::new("web").keep_bodies().allow_idle_start();
        Self { service, rest, started: Instant::now() }
    }

    /// Serves the port until shutdown.
    pub fn run(&self, hub: &Hub, listener: &Listener) -> Result<(), Error> {
        let limits = || ConnectionLimits::total(MAX_CONNECTIONS);
        listener.run(&hub.shutdown, limits, |stream, client| self.serve(hub, stream, client))
    }

    fn serve(&self, hub: &Hub, stream: ServerStream<'_>, mut client: ClientConnection<'_>) {
        self.service.handle_connection(stream, &mut client, |head, client| {
            self.route(hub, head, client).map(Routed::Response)
        });
    }

    fn route(
        &self,
        hub: &Hub,
        head: &RequestHead<'_>,
        client: &ClientConnection<'_>,
    ) -> Result<Response, ErrorResponse> {
        check_web_browser_access(&hub.access().operators, head)?;
        if let Some(path) = head.path.strip_prefix("/api/") {
            return self.api(hub, head, path, client);
        }
        if !matches!(head.method, "GET" | "HEAD") {
            return Err(method_not_allowed("GET, HEAD"));
        }
        match head.path {
            "/-/healthy" => Ok(Response::text(OK, "OK\n")),
            "/-/ready" => Ok(ready(hub)),
            "/" => pages::fleet(accepts_gzip(head)),
            "/metrics" => {
                require_read_role(hub, head)?;
                Ok(Response::new(OK, EXPOSITION, self.metrics(hub).into_bytes().into()))
            }
            "/sd" => {
                require_read_role(hub, head)?;
                service_discovery::response(hub, head)
            }
            path => match path.strip_prefix("/nodes/") {
                Some(rest) => node_response(hub, head, rest),
                None => Err(not_found(path)),
            },
        }
    }

    /// `path` is what follows `/api/`.
    fn api(
        &self,
        hub: &Hub,
        head: &RequestHead<'_>,
        path: &str,
        client: &ClientConnection<'_>,
    ) -> Result<Response, ErrorResponse> {
        let response = match (head.method, path) {
            (_, path) if path.starts_with("v1/") => {
                let operator = authorize_rest(hub, head, Accepts::BearerOrSession)?;
                let answer = path
                    .strip_prefix("v1/")
                    .and_then(|it| self.rest.answer(hub, it, head, &operator));
                answer.ok_or_else(|| not_found(head.path))
            }
            ("GET" | "HEAD", "session") => {
                Ok(login::session(hub, head, self.rest.commands_enabled))
            }
            ("GET" | "HEAD", "fleet") => {
                require_read_role(hub, head)?;
                fleet::response(hub, head)
            }
            ("POST", "login") => login::log_in(hub, head, client, self.rest.commands_enabled),
            ("POST", "logout") => Ok(login::log_out(hub, head)),
            (_, "session" | "fleet") => Err(method_not_allowed("GET, HEAD")),
            (_, "login" | "logout") => Err(method_not_allowed("POST")),
            _ => Err(not_found(head.path)),
        }?;
        Ok(response.header("Cache-Control: no-store"))
    }

    fn metrics(&self, hub: &Hub) -> String {
        let (counts, core, connected) = {
            let nodes = lock(&hub.nodes);
            (nodes.counts(), nodes.core_connections(), nodes.connected_here())
        };
        let other_hubs = hub.cluster.as_ref().map_or_else(String::new, |cluster| {
            let is_up = u8::from(cluster.failure().is_none());
            let is_leader = u8::from(cluster.is_leader());
            format!(
                "# HELP hm_hub_cluster_up Whether the other hubs of the database are reached.
# TYPE hm_hub_cluster_up gauge
hm_hub_cluster_up {is_up}
# HELP hm_hub_leader Whether this hub runs fleet.on_change for all.
# TYPE hm_hub_leader gauge
hm_hub_leader {is_leader}
"
            )
        });
        let [online, lost, offline] = counts;
        let (stored, failed) = hub.store.counts();
        // With several hubs, the database may be away without a write that has failed.
        let is_ready = u8::from(hub.failures().is_empty());
        let queued = hub.store.queued();
        let uptime = self.started.elapsed().as_secs();
        let (responses, waiting) = hub.requests.counts();
        let series =
            |(code, count)| format!("hm_hub_node_requests_total{{code=\"{code}\"}} {count}\n");
        let requests: String = responses.map(series).concat();
        format!(
            "# HELP hm_hub_nodes Number of nodes by state.
# TYPE hm_hub_nodes gauge
hm_hub_nodes{{state=\"online\"}} {online}
hm_hub_nodes{{state=\"lost\"}} {lost}
hm_hub_nodes{{state=\"offline\"}} {offline}
# HELP hm_hub_connected_nodes Number of nodes with a connection to this hub.
# TYPE hm_hub_connected_nodes gauge
hm_hub_connected_nodes {connected}
# HELP hm_hub_core_connections Number of connections of Core nodes.
# TYPE hm_hub_core_connections gauge
hm_hub_core_connections {core}
# HELP hm_hub_writes_total Records by the result of storing them.
# TYPE hm_hub_writes_total counter
hm_hub_writes_total{{result=\"stored\"}} {stored}
hm_hub_writes_total{{result=\"failed\"}} {failed}
# HELP hm_hub_queued_writes Records that wait for a commit.
# TYPE hm_hub_queued_writes gauge
hm_hub_queued_writes {queued}
# HELP hm_hub_store_up Whether the last transaction was committed, and the database of several hubs is reached.
# TYPE hm_hub_store_up gauge
hm_hub_store_up {is_ready}
# HELP hm_hub_node_requests_total Requests of clients for resources of nodes, such as /nodes/ID/metrics, by status code.
# TYPE hm_hub_node_requests_total counter
{requests}{other_hubs}# HELP hm_hub_node_requests_waiting Clients that wait for the answer of a node.
# TYPE hm_hub_node_requests_waiting gauge
hm_hub_node_requests_waiting {waiting}
# HELP hm_hub_uptime_seconds Time since the start.
# TYPE hm_hub_uptime_seconds gauge
hm_hub_uptime_seconds {uptime}
"
        )
    }
}

/// The answer to `/nodes/ID` or `/nodes/ID/RESOURCE`.
fn node_response(hub: &Hub, head: &RequestHead<'_>, rest: &str) -> Result<Response, ErrorResponse> {
    // An id may contain slashes. In the address of a page it is percent-encoded.
    match rest.rsplit_once('/') {
        Some((
            node_id,
            resource @ ("metrics" | "snapshot" | "events" | "history" | "health" | "last_snapshot"),
        )) => {
            if !is_other_hub(hub, head) {
                require_read_role(hub, head)?;
            }
            let node_id = percent_decode_str(node_id).decode_utf8_lossy();
            Ok(match resource {
                "last_snapshot" => node_resources::last_snapshot(hub, head, &node_id),
                "events" => {
                    let query = EventQuery::parse(head.query)
                        .map_err(|why| ErrorResponse::new("400 Bad Request", why))?;
                    let path = format!("/events?{}", query.to_text());
                    node_resources::response(hub, head, &node_id, &path)
                }
                "history" => {
                    let range = Range::parse(head.query)
                        .map_err(|why| ErrorResponse::new("400 Bad Request", why))?;
                    let path = format!("/history?{}", range.to_text());
                    node_resources::response(hub, head, &node_id, &path)
                }
                _ => node_resources::response(hub, head, &node_id, &format!("/{resource}")),
            })
        }
        None if !rest.is_empty() => pages::node(accepts_gzip(head)),
        _ => Err(not_found(head.path)),
    }
}

/// Whether the request is one of another hub of the fleet.
fn is_other_hub(hub: &Hub, head: &RequestHead<'_>) -> bool {
    let (Some(cluster), Some(token)) = (&hub.cluster, bearer_token(head)) else { return false };
    token.as_bytes().ct_eq(cluster.secret().as_bytes()).into()
}

fn accepts_gzip(head: &RequestHead<'_>) -> bool {
    gzip::is_accepted(head.header_values("accept-encoding"))
}

fn require_read_role(hub: &Hub, head: &RequestHead<'_>) -> Result<(), ErrorResponse> {
    authorize(hub, head, Role::Read, Accepts::BearerOrSession).map(drop)
}

fn ready(hub: &Hub) -> Response {
    match hub.failures() {
        failures if failures.is_empty() => Response::text(OK, "OK\n"),
        failures => {
            let text = failures.join("\n") + "\n";
            Response::text("503 Service Unavailable", &text)
        }
    }
}

fn method_not_allowed(methods: &str) -> ErrorResponse {
    let error = ErrorResponse::new("405 Method Not Allowed", format!("only {methods}"));
    error.header(&format!("Allow: {methods}"))
}

fn not_found(path: &str) -> ErrorResponse {
    ErrorResponse::new("404 Not Found", not_found_message(path))
}
