//! The heartbeat port: short HTTP requests, many per connection, each answered at once in the connection's thread.
//!
//! Web pages of any origin may send heartbeats and query the status, but may not start maintenance.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use log::Level;

use crate::config::{CurrentConfig, TimeUnit};
use crate::heartbeat::monitor::HeartbeatMonitor;
use crate::heartbeat::nagios;
use crate::heartbeat::protocol::HeartbeatRequest;
use crate::heartbeat::table::{Busy, HeartbeatTable, IdList, MAX_APPS};
use crate::http::csrf::is_browser;
use crate::http::listener::ClientConnection;
use crate::http::request::RequestHead;
use crate::http::response::{OK, PLAIN_TEXT, Response};
use crate::http::service::{HttpService, Routed};
use crate::http::stream::ServerStream;
use crate::model::status::AppStatus;

/// Shared by all connections of the heartbeat port.
pub struct HeartbeatServer<'a> {
    monitor: &'a HeartbeatMonitor,
    config: &'a CurrentConfig,
    http: HttpService,
}

const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin: *";
const ALLOW: &str = "Allow: GET, POST, HEAD, OPTIONS";

impl<'a> HeartbeatServer<'a> {
    pub fn new(monitor: &'a HeartbeatMonitor, config: &'a CurrentConfig) -> Self {
        let http = HttpService::new("heartbeat").allow_idle_start();
        let http = http.with_rejection_header(ALLOW_ORIGIN);
        Self { monitor, config, http }
    }

    /// Serves one connection until it ends.
    pub fn serve(&self, stream: ServerStream<'_>, mut client: ClientConnection<'_>) {
        // This port has no WebSocket upgrade.
        self.http.handle_connection(stream, &mut client, |head, client| {
            Ok(Routed::Response(self.respond(head, client)))
        });
    }

    fn respond(&self, head: &RequestHead<'_>, client: &ClientConnection<'_>) -> Response {
        match head.method {
            "GET" | "POST" | "HEAD" => {}
            // A CORS preflight. From a public page to a private address, browsers require Private Network Access too.
            "OPTIONS" => {
                return text(OK, "")
                    .header("Access-Control-Allow-Methods: GET, POST, HEAD, OPTIONS")
                    .header("Access-Control-Allow-Headers: *")
                    .header("Access-Control-Allow-Private-Network: true")
                    .header("Access-Control-Max-Age: 86400");
            }
            _ => {
                return text("405 Method Not Allowed", "use GET, POST, HEAD or OPTIONS")
                    .header(ALLOW);
            }
        }
        let unit = self.config.get().heartbeat.unit;
        let response = HeartbeatRequest::parse(head.path, head.query, unit)
            .map_err(|why| ("400 Bad Request", why))
            .and_then(|request| self.execute(request, head, unit));
        match response {
            Ok(response) => response,
            Err((status, body)) => {
                self.http.log_rejected(client, status, &body);
                text(status, &body)
            }
        }
    }

    /// Returns the response, or a status line and an error message.
    fn execute(
        &self,
        request: HeartbeatRequest,
        head: &RequestHead<'_>,
        unit: TimeUnit,
    ) -> Result<Response, (&'static str, String)> {
        let unavailable = |message: String| ("503 Service Unavailable", message);
        let full = |what: &str| unavailable(format!("the limit of {MAX_APPS} {what} is reached"));
        match request {
            HeartbeatRequest::Heartbeat(id, interval, unit) => self
                .monitor
                .with_table(|table, now| table.heartbeat(&id, interval, now))
                .map(|timeout| text(OK, &nagios::timeout(timeout, unit)))
                .map_err(|_| full("applications")),
            HeartbeatRequest::Done(id) => {
                self.monitor.with_table(|table, now| table.done(&id, now));
                Ok(text(OK, nagios::DONE))
            }
            HeartbeatRequest::List => self
                .monitor
                .with_table(HeartbeatTable::ids)
                .map(list)
                .map_err(|Busy| unavailable("too many lists are being sent".to_owned())),
            HeartbeatRequest::Status(id) => {
                let status = |table: &mut HeartbeatTable, now| Status::find(table, id, now);
                let status = self.monitor.with_table(status);
                Ok(text(OK, &status.line(unit)))
            }
            HeartbeatRequest::Maintenance(id, length) => {
                if is_browser(head) {
                    let message = "web pages may not start or end maintenance".to_owned();
                    return Err(("403 Forbidden", message));
                }
                self.monitor
                    .with_table(|table, now| table.set_maintenance(id.as_deref(), length, now))
                    .map_err(|_| full("applications in maintenance"))?;
                let line = nagios::maintenance_line(id.as_deref(), length);
                self.http.log.write(Level::Info, || format!("heartbeat: {line}"));
                Ok(text(OK, &line))
            }
        }
    }
}

fn text(status: &'static str, body: &str) -> Response {
    with_headers(Response::text(status, body))
}

/// The response to `/list`. It is rendered while it is written: clients that do not read must not hold megabytes each.
fn list(list: Arc<IdList>) -> Response {
    let length = list.bytes;
    let write = move |out: &mut dyn Write| nagios::write_list(&list.ids, out);
    with_headers(Response::streamed(OK, PLAIN_TEXT, length, write))
}

fn with_headers(response: Response) -> Response {
    response.header(ALLOW_ORIGIN).header("Cache-Control: no-store")
}

/// What `/status` describes: copied from the table, so that it is not locked while the line is rendered.
enum Status {
    App(AppStatus),
    UnknownApp { id: String, maintenance: Option<Duration> },
    Host { count: usize, first_ids: Vec<Arc<str>>, maintenance: Option<Duration> },
}

impl Status {
    /// The status of an application, or of the host. A host with a single application has that application's status.
    fn find(table: &mut HeartbeatTable, id: Option<String>, now: Duration) -> Self {
        let id = match id {
            Some(id) => id,
            None => {
                let first_ids = table.first_ids(nagios::MAX_LISTED_IDS, now);
                match first_ids.as_slice() {
                    [only] => only.to_string(),
                    _ => {
                        let (count, maintenance) = (table.count(now), table.maintenance(None, now));
                        return Self::Host { count, first_ids, maintenance };
                    }
                }
            }
        };
        match table.status(&id, now) {
            Some(status) => Self::App(status),
            None => Self::UnknownApp { maintenance: table.maintenance(Some(&id), now), id },
        }
    }

    fn line(&self, unit: TimeUnit) -> String {
        match self {
            Self::App(status) => nagios::status_line(status, unit),
            Self::UnknownApp { id, maintenance } => nagios::unknown_line(id, *maintenance),
            Self::Host { count, first_ids, maintenance } => {
                nagios::host_line(*count, first_ids, *maintenance)
            }
        }
    }
}
