//! Authenticates and routes the requests of the telemetry port.

use tungstenite::WebSocket;

use crate::config::UsageConfig;
use crate::http::auth::check_token;
use crate::http::client_network::CountedClient;
use crate::http::csrf::check_host_and_origin;
use crate::http::forwarded::client_ip;
use crate::http::listener::{ClientConnection, client_limit_message};
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, not_found_message};
use crate::http::service::{HttpService, Routed};
use crate::http::stream::ServerStream;
use crate::http::websocket;
use crate::telemetry::responses::{GPUS_READY_TIMEOUT, Resource, Responses};
use crate::telemetry::subscription;

/// Shared by all connections of the telemetry port.
pub struct Router<'a> {
    pub http: HttpService,
    pub usage: subscription::Context<'a>,
    pub responses: Responses<'a>,
}

impl Router<'_> {
    /// Serves one connection to its end.
    pub fn handle_connection(&self, stream: ServerStream<'_>, mut client: ClientConnection<'_>) {
        let upgrade = self
            .http
            .handle_connection(stream, &mut client, |head, client| self.route(head, client));
        if let Some(upgrade) = upgrade {
            let session = |socket: &mut WebSocket<ServerStream<'_>>| self.usage.run(socket);
            let max_bytes = subscription::MAX_CLIENT_MESSAGE_BYTES;
            self.http.run_session(upgrade, &client, max_bytes, session);
        }
    }

    fn route(
        &self,
        head: &RequestHead<'_>,
        client: &mut ClientConnection<'_>,
    ) -> Result<Routed, ErrorResponse> {
        let config = self.responses.config.get();
        let Some(resource) = Resource::from_path(head.path) else {
            return match head.path {
                "/usage" => self.upgrade(head, client, &config.usage),
                path => Err(not_found(path)),
            };
        };
        if !["GET", "HEAD"].contains(&head.method) {
            let error = ErrorResponse::new("405 Method Not Allowed", "use GET or HEAD");
            return Err(error.header("Allow: GET, HEAD"));
        }
        if !resource.is_public() {
            let token = config.usage.token.as_ref();
            check_token(head, token)?;
            // A page of another site does not know the token.
            if token.is_none() {
                check_host_and_origin(head, &config.usage.allowed_origins)?;
            }
            attribute_to_client(head, client, &config.usage)?;
            self.responses.wait_for_gpus(GPUS_READY_TIMEOUT)?;
        }
        self.responses.respond(resource, head).map(Routed::Response)
    }

    fn upgrade(
        &self,
        head: &RequestHead<'_>,
        client: &mut ClientConnection<'_>,
        config: &UsageConfig,
    ) -> Result<Routed, ErrorResponse> {
        check_token(head, config.token.as_ref())?;
        if !websocket::origin_allowed(head, &config.allowed_origins) {
            let text = "origin not allowed; see usage.allowed_origins";
            return Err(ErrorResponse::new("403 Forbidden", text));
        }
        let key = websocket::upgrade_key(head)?.to_owned();
        attribute_to_client(head, client, config)?;
        self.responses.wait_for_gpus(GPUS_READY_TIMEOUT)?;
        Ok(Routed::Upgrade(key))
    }
}

/// Counts the connection of a trusted proxy for the client that the request names. Only for authenticated requests: by
/// default every local user is a trusted proxy, and must not use up the connections of an address.
fn attribute_to_client(
    head: &RequestHead<'_>,
    client: &mut ClientConnection<'_>,
    config: &UsageConfig,
) -> Result<(), ErrorResponse> {
    let (peer, max) = (client.peer.ip(), config.max_connections_per_ip);
    if config.trusted_proxies.contains(&peer) {
        let network = client_ip(head, peer, &config.trusted_proxies).into();
        if !client.permit.assign_client(CountedClient { network, is_forwarded: true }, max) {
            return Err(ErrorResponse::service_unavailable(client_limit_message(network, max)));
        }
    }
    Ok(())
}

fn not_found(path: &str) -> ErrorResponse {
    let message = not_found_message(path);
    let text = format!(
        "{message}; telemetry is at /, /usage, /metrics, /snapshot, /events, /history and /health"
    );
    ErrorResponse::new("404 Not Found", text)
}
