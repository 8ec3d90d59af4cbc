//! The web port: health endpoints, the hub's own metrics, and those of the nodes for Prometheus.

mod node_pages;
mod service_discovery;

use std::time::Instant;

use percent_encoding::percent_decode_str;

use crate::http::csrf;
use crate::http::listener::{ClientConnection, ConnectionLimits, Listener};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::hub::Hub;
use crate::hub::operators::Role;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::Error;
use crate::util::sync::lock;

/// A scrape holds its connection until the node has answered. Prometheus keeps up to 1000 idle ones.
const MAX_CONNECTIONS: usize = 2000;

/// Content type of the text exposition format.
pub const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Refuses requests of pages that a user of this host visits in a browser: they must not read the fleet's state.
pub fn refuse_pages(head: &RequestHead<'_>) -> Result<(), ErrorResponse> {
    let text = "browsers have access under an IP address or localhost only, and pages of other origins have none";
    csrf::check_host_and_origin(head, &[]).map_err(|_| ErrorResponse::new("403 Forbidden", text))
}

/// Refuses a request that a proxy has forwarded: the settings permit every client of this machine, which this one may not be.
pub fn refuse_proxied(head: &RequestHead<'_>, setting: &str) -> Result<(), ErrorResponse> {
    const HEADERS: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];
    match HEADERS.iter().find(|name| head.header(name).is_some()) {
        Some(name) => {
            let text =
                format!("request with the header {name} of a proxy: set {setting} of the hub");
            Err(ErrorResponse::new("403 Forbidden", text))
        }
        None => Ok(()),
    }
}

fn check_reader(hub: &Hub, head: &RequestHead<'_>) -> Result<(), ErrorResponse> {
    hub.access().operators.check_request(head, Role::Read).map(drop)
}

pub struct WebServer {
    service: HttpService,
    started: Instant,
}

impl Default for WebServer {
    fn default() -> Self {
        Self { service: HttpService::new("web").allow_idle_start(), started: Instant::now() }
    }
}

impl WebServer {
    /// Serves the port until shutdown.
    pub fn run(&self, hub: &Hub, listener: &Listener) -> Result<(), Error> {
        let limits = || ConnectionLimits::total(MAX_CONNECTIONS);
        listener.run(&hub.shutdown, limits, |stream, client| self.serve(hub, stream, client))
    }

    fn serve(&self, hub: &Hub, stream: DeadlineStream<'_>, mut client: ClientConnection<'_>) {
        self.service.handle_connection(stream, &mut client, |head, _| {
            self.route(hub, head).map(Routed::Response)
        });
    }

    fn route(&self, hub: &Hub, head: &RequestHead<'_>) -> Result<Response, ErrorResponse> {
        refuse_pages(head)?;
        if !matches!(head.method, "GET" | "HEAD") {
            let error = ErrorResponse::new("405 Method Not Allowed", "only GET and HEAD");
            return Err(error.header("Allow: GET, HEAD"));
        }
        match head.path {
            "/-/healthy" => Ok(Response::text(OK, "OK\n")),
            "/-/ready" => match hub.store.failure() {
                None => Ok(Response::text(OK, "OK\n")),
                Some(error) => Ok(Response::text(
                    "503 Service Unavailable",
                    &format!("the store cannot commit: {error}\n"),
                )),
            },
            "/metrics" => {
                check_reader(hub, head)?;
                Ok(Response::new(OK, EXPOSITION, self.metrics(hub).into_bytes().into()))
            }
            "/sd" => {
                check_reader(hub, head)?;
                service_discovery::response(hub, head)
            }
            // An id may contain slashes.
            path => match path.strip_prefix("/nodes/").and_then(|rest| rest.rsplit_once('/')) {
                Some((node_id, resource @ ("metrics" | "snapshot"))) => {
                    check_reader(hub, head)?;
                    let node_id = percent_decode_str(node_id).decode_utf8_lossy();
                    Ok(node_pages::response(hub, head, &node_id, &format!("/{resource}")))
                }
                _ => Err(ErrorResponse::new("404 Not Found", not_found_message(path))),
            },
        }
    }

    fn metrics(&self, hub: &Hub) -> String {
        let (counts, core) = {
            let nodes = lock(&hub.nodes);
            (nodes.counts(), nodes.core_connections())
        };
        let [online, lost, offline] = counts;
        let (stored, failed) = hub.store.counts();
        let is_ready = u8::from(hub.store.failure().is_none());
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
# HELP hm_hub_store_up Whether the last transaction was committed.
# TYPE hm_hub_store_up gauge
hm_hub_store_up {is_ready}
# HELP hm_hub_node_requests_total Requests of clients for /nodes/ID/metrics and /nodes/ID/snapshot by status code.
# TYPE hm_hub_node_requests_total counter
{requests}# HELP hm_hub_node_requests_waiting Clients that wait for the answer of a node.
# TYPE hm_hub_node_requests_waiting gauge
hm_hub_node_requests_waiting {waiting}
# HELP hm_hub_uptime_seconds Time since the start.
# TYPE hm_hub_uptime_seconds gauge
hm_hub_uptime_seconds {uptime}
"
        )
    }
}
