//! `/nodes/ID/metrics` and `/nodes/ID/snapshot`: fetched from the node through the connection that it has opened.

use std::time::Duration;

use crate::http::gzip;
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, PLAIN_TEXT, Response};
use crate::hub::Hub;
use crate::hub::node_requests::{self, NoAnswer, NodeAnswer};
use crate::hub_extension::messages::GetRequest;
use crate::metrics::Format;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// For clients that do not say how long they wait.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Prometheus sends how long it waits for a scrape.
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
/// Part of that time in which the response reaches the client.
const TIMEOUT_SHARE: f64 = 0.95;
/// A longer `Accept` is not passed on.
const MAX_ACCEPT_BYTES: usize = 1024;

const BAD_GATEWAY: &str = "502 Bad Gateway";

/// The answer to `/nodes/ID/PATH`. `path` begins with a slash.
pub fn response(
    hub: &Hub,
    head: &RequestHead<'_>,
    node_id: &str,
    path: &str,
) -> Result<Response, ErrorResponse> {
    let accept: Vec<&str> = head.header_values("accept").collect();
    let accept = Some(accept.join(",")).filter(|accept| accept.len() <= MAX_ACCEPT_BYTES);
    let request = GetRequest {
        id: 0, // given later
        path: path.to_owned(),
        accept: accept.unwrap_or_default(),
        gzip: gzip::is_accepted(head.header_values("accept-encoding")),
    };
    let timeout = timeout(head.header(TIMEOUT_HEADER));
    match node_requests::request(hub, node_id, request, timeout) {
        Ok(answer) => to_response(answer),
        Err(why) => Err(describe(&why, node_id, timeout)),
    }
}

fn timeout(header: Option<&str>) -> Duration {
    let seconds = header.and_then(|text| text.parse().ok()).filter(|seconds: &f64| *seconds > 0.0);
    let share = seconds.map(|seconds| Duration::try_from_secs_f64(seconds * TIMEOUT_SHARE));
    share.map_or(DEFAULT_TIMEOUT, |time| time.map_or(MAX_TIMEOUT, |time| time.min(MAX_TIMEOUT)))
}

fn describe(why: &NoAnswer, node_id: &str, timeout: Duration) -> ErrorResponse {
    let node = format!("node {}", escape_for_log(node_id, EXCERPT_CHARS));
    let (status, text) = match why {
        NoAnswer::UnknownNode => ("404 Not Found", format!("{node} is unknown")),
        NoAnswer::NotConnected(Some(since)) => {
            (BAD_GATEWAY, format!("{node} is not connected since {} s", since.as_secs()))
        }
        NoAnswer::NotConnected(None) => {
            (BAD_GATEWAY, format!("{node} is not connected since the hub started"))
        }
        NoAnswer::NotSupported => {
            (BAD_GATEWAY, format!("{node} is connected, but not with an hm-agent that can answer"))
        }
        NoAnswer::Disconnected => (BAD_GATEWAY, format!("{node} has disconnected")),
        NoAnswer::TooMany => {
            return ErrorResponse::service_unavailable(format!(
                "too many requests wait for {node}"
            ));
        }
        NoAnswer::Timeout => {
            let seconds = timeout.as_secs_f64();
            ("504 Gateway Timeout", format!("{node} has not answered within {seconds:.1} s"))
        }
    };
    ErrorResponse::new(status, text)
}

/// Passes on what a node may send. With another content type, a node could run a script in the browser of an operator.
fn to_response(answer: NodeAnswer) -> Result<Response, ErrorResponse> {
    let NodeAnswer { head, body } = answer;
    let types = [
        Format::Prometheus.content_type(),
        Format::OpenMetrics.content_type(),
        "application/json",
        PLAIN_TEXT,
    ];
    let content_type = types.into_iter().find(|known| *known == head.content_type);
    let status = match head.status {
        200 => OK,
        503 => "503 Service Unavailable",
        _ => BAD_GATEWAY,
    };
    let Some(content_type) = content_type else {
        let found = escape_for_log(&head.content_type, EXCERPT_CHARS);
        let text = format!("the node has answered with the content type \"{found}\"");
        return Err(ErrorResponse::new(BAD_GATEWAY, text));
    };
    let response = Response::new(status, content_type, body.into())
        .header("Vary: Accept, Accept-Encoding")
        .header("Cache-Control: no-store");
    Ok(match head.gzip {
        true => response.header("Content-Encoding: gzip"),
        false => response,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_extension::messages::ResponseHead;

    #[test]
    fn client_gets_the_answer_before_its_own_deadline() {
        for (header, milliseconds) in [
            (None, 10_000),
            (Some("10"), 9_500),
            (Some("0.2"), 190),
            (Some("1e99"), 60_000),
            (Some("600"), 60_000),
            (Some("0"), 10_000),
            (Some("-1"), 10_000),
            (Some("NaN"), 10_000),
            (Some("x"), 10_000),
        ] {
            assert_eq!(timeout(header), Duration::from_millis(milliseconds), "{header:?}");
        }
    }

    #[test]
    fn answer_of_another_type_or_status_is_not_passed_on() {
        let answer = |status, content_type: &str| {
            let content_type = content_type.to_owned();
            let head = ResponseHead { id: 1, status, content_type, gzip: false };
            to_response(NodeAnswer { head, body: b"x".to_vec() }).map(|response| response.status)
        };
        assert_eq!(answer(200, "application/json").unwrap(), OK);
        assert_eq!(answer(503, PLAIN_TEXT).unwrap(), "503 Service Unavailable");
        assert_eq!(answer(404, PLAIN_TEXT).unwrap(), BAD_GATEWAY);
        for other in ["text/html", "text/plain\r\nX: y", ""] {
            assert_eq!(answer(200, other).unwrap_err().status, BAD_GATEWAY, "{other}");
        }
    }
}
