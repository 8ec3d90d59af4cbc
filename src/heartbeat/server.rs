//! The heartbeat port: short HTTP requests, many per connection, each answered at once in the connection's thread.
//!
//! Web pages of any origin may send heartbeats and query the status, but may not start maintenance.

use std::time::Duration;

use log::Level;

use crate::config::{Current, TimeUnit};
use crate::heartbeat::monitor::HeartbeatMonitor;
use crate::heartbeat::nagios;
use crate::heartbeat::protocol::Request;
use crate::heartbeat::table::{HeartbeatTable, MAX_APPS};
use crate::http::csrf::is_browser;
use crate::http::listener::ClientConnection;
use crate::http::request::RequestHead;
use crate::http::response::{OK, Response};
use crate::http::service::{HttpService, Routed};
use crate::util::deadline_stream::DeadlineStream;

/// Shared by all connections of the heartbeat port.
pub struct HeartbeatServer<'a> {
    monitor: &'a HeartbeatMonitor,
    settings: &'a Current,
    http: HttpService,
}

const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin: *";
const ALLOW: &str = "Allow: GET, POST, HEAD, OPTIONS";

impl<'a> HeartbeatServer<'a> {
    pub fn new(monitor: &'a HeartbeatMonitor, settings: &'a Current) -> Self {
        let http = HttpService::new("heartbeat").allow_idle_start();
        let http = http.with_rejection_header(ALLOW_ORIGIN);
        Self { monitor, settings, http }
    }

    /// Serves one connection until it ends.
    pub fn serve(&self, stream: DeadlineStream<'_>, mut client: ClientConnection<'_>) {
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
        let unit = self.settings.get().heartbeat.unit;
        let response = Request::parse(head.path, head.query, unit)
            .map_err(|why| ("400 Bad Request", why))
            .and_then(|request| self.execute(request, head, unit));
        match response {
            Ok(body) => text(OK, &body),
            Err((status, body)) => {
                self.http.log_rejected(client, status, &body);
                text(status, &body)
            }
        }
    }

    /// Returns the body of the response, or a status line and an error message.
    fn execute(
        &self,
        request: Request,
        head: &RequestHead<'_>,
        unit: TimeUnit,
    ) -> Result<String, (&'static str, String)> {
        let full = |what: &str| {
            let message = format!("the limit of {MAX_APPS} {what} is reached");
            ("503 Service Unavailable", message)
        };
        match request {
            Request::Heartbeat(id, interval, unit) => self
                .monitor
                .with_table(|table, now| table.heartbeat(&id, interval, now))
                .map(|timeout| nagios::timeout(timeout, unit))
                .map_err(|_| full("applications")),
            Request::Done(id) => {
                self.monitor.with_table(|table, now| table.done(&id, now));
                Ok(nagios::DONE.to_owned())
            }
            Request::List => {
                Ok(self.monitor.with_table(|table, now| nagios::list(&table.ids(now))))
            }
            Request::Status(id) => {
                Ok(self.monitor.with_table(|table, now| status(table, id.as_deref(), now, unit)))
            }
            Request::Maintenance(id, length) => {
                if is_browser(head) {
                    let message = "web pages may not start or end maintenance".to_owned();
                    return Err(("403 Forbidden", message));
                }
                self.monitor
                    .with_table(|table, now| table.set_maintenance(id.as_deref(), length, now))
                    .map_err(|_| full("applications in maintenance"))?;
                let line = nagios::maintenance_line(id.as_deref(), length);
                self.http.log.write(Level::Info, || format!("heartbeat: {line}"));
                Ok(line)
            }
        }
    }
}

fn text(status: &'static str, body: &str) -> Response {
    Response::text(status, body).header(ALLOW_ORIGIN).header("Cache-Control: no-store")
}

/// The status line of an application, or of the host. A host with a single application has that application's line.
fn status(table: &mut HeartbeatTable, id: Option<&str>, now: Duration, unit: TimeUnit) -> String {
    let id = match id {
        Some(id) => id.to_owned(),
        None => {
            let maintenance = table.maintenance(None, now);
            match table.ids(now).as_slice() {
                [only] => (*only).to_owned(),
                ids => return nagios::host_line(ids, maintenance),
            }
        }
    };
    match table.status(&id, now) {
        Some(status) => nagios::status_line(&status, unit),
        None => nagios::unknown_line(&id, table.maintenance(Some(&id), now)),
    }
}
