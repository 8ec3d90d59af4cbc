//! The heartbeat port: short HTTP requests, many on one connection, none of which waits for anything.
//!
//! Runs in the connection's thread. Pages of any origin may beat and ask; maintenance is not theirs to declare.

use std::time::Duration;

use log::Level;

use crate::config::Current;
use crate::heartbeat::monitor::HeartbeatMonitor;
use crate::heartbeat::protocol;
use crate::heartbeat::protocol::{Request, Unit};
use crate::heartbeat::table::HeartbeatTable;
use crate::http::csrf::is_browser;
use crate::http::listener::ClientConnection;
use crate::http::pipeline::{Pipeline, Routed};
use crate::http::request::RequestHead;
use crate::http::response::{OK, Response};
use crate::limits;
use crate::util::deadline_stream::DeadlineStream;

/// Shared by all connections of the heartbeat port.
pub struct Heartbeat<'a> {
    watchdog: &'a HeartbeatMonitor,
    settings: &'a Current,
    pipeline: Pipeline,
}

const ALLOW_ORIGIN: &str = "Access-Control-Allow-Origin: *";
const ALLOW: &str = "Allow: GET, POST, HEAD, OPTIONS";

impl<'a> Heartbeat<'a> {
    pub fn new(watchdog: &'a HeartbeatMonitor, settings: &'a Current) -> Self {
        let pipeline = Pipeline::new("heartbeat").allow_idle_start();
        let pipeline = pipeline.with_rejection_header(ALLOW_ORIGIN);
        Self { watchdog, settings, pipeline }
    }

    /// Serves one connection to its end.
    pub fn serve(&self, stream: DeadlineStream<'_>, mut client: ClientConnection<'_>) {
        // No request on this port asks for an upgrade.
        self.pipeline.handle_connection(stream, &mut client, |head, client| {
            Ok(Routed::Response(self.respond(head, client)))
        });
    }

    fn respond(&self, head: &RequestHead<'_>, client: &ClientConnection<'_>) -> Response {
        let response = |status, body: &str| {
            let response = Response::text(status, body).header(ALLOW_ORIGIN);
            response.header("Cache-Control: no-store")
        };
        match head.method {
            "GET" | "POST" | "HEAD" => {}
            // A CORS preflight. From a public page to a private address, browsers require Private Network Access too.
            "OPTIONS" => {
                return response(OK, "")
                    .header("Access-Control-Allow-Methods: GET, POST, HEAD, OPTIONS")
                    .header("Access-Control-Allow-Headers: *")
                    .header("Access-Control-Allow-Private-Network: true")
                    .header("Access-Control-Max-Age: 86400");
            }
            _ => {
                let text = "use GET, POST, HEAD or OPTIONS";
                return response("405 Method Not Allowed", text).header(ALLOW);
            }
        }
        let unit = self.settings.get().heartbeat.unit;
        let answered = Request::parse(head.path, head.query, unit)
            .map_err(|text| ("400 Bad Request", text))
            .and_then(|request| self.obey(request, head, unit));
        match answered {
            Ok(body) => response(OK, &body),
            Err((status, body)) => {
                self.pipeline.log_rejected(client, status, &body);
                response(status, &body)
            }
        }
    }

    fn obey(
        &self,
        request: Request,
        head: &RequestHead<'_>,
        unit: Unit,
    ) -> Result<String, (&'static str, String)> {
        let full = |what: &str| {
            let most = limits::HEARTBEAT_APPS;
            (
                "503 Service Unavailable",
                format!("there are {most} {what} already, the most that may be"),
            )
        };
        match request {
            Request::Beat(id, promised, unit) => self
                .watchdog
                .with(|watch, now| watch.beat(&id, promised, now))
                .map(|granted| protocol::granted(granted, unit))
                .map_err(|_| full("applications")),
            Request::Done(id) => {
                self.watchdog.with(|watch, now| watch.done(&id, now));
                Ok(protocol::GOODBYE.to_owned())
            }
            Request::List => Ok(self.watchdog.with(|watch, now| protocol::list(&watch.ids(now)))),
            Request::Status(id) => {
                Ok(self.watchdog.with(|watch, now| status(watch, id.as_deref(), now, unit)))
            }
            Request::Maintenance(id, length) => {
                if is_browser(head) {
                    let text = "pages may not declare maintenance".to_owned();
                    return Err(("403 Forbidden", text));
                }
                self.watchdog
                    .with(|watch, now| watch.maintain(id.as_deref(), length, now))
                    .map_err(|_| full("applications in maintenance"))?;
                let line = protocol::maintenance_line(id.as_deref(), length);
                self.pipeline.log.write(Level::Info, || format!("heartbeat: {line}"));
                Ok(line)
            }
        }
    }
}

/// The line of an application, or of the host: that of its only application, if it has one.
fn status(watch: &mut HeartbeatTable, id: Option<&str>, now: Duration, unit: Unit) -> String {
    let id = match id {
        Some(id) => id.to_owned(),
        None => {
            let maintenance = watch.maintenance(None, now);
            match watch.ids(now).as_slice() {
                [only] => (*only).to_owned(),
                ids => return protocol::host_line(ids, maintenance),
            }
        }
    };
    match watch.status(&id, now) {
        Some(status) => protocol::status_line(&status, unit),
        None => protocol::unknown_line(&id, watch.maintenance(Some(&id), now)),
    }
}
