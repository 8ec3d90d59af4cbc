//! `/nodes/ID/metrics`, `snapshot`, `events`, `history` and `health`: fetched from the node through the connection that it has opened;
//! and `/nodes/ID/last_snapshot`, which the hub keeps.

use std::time::{Duration, SystemTime};

use crate::http::gzip;
use crate::http::request::RequestHead;
use crate::http::response::{OK, PLAIN_TEXT, Response};
use crate::hub::Hub;
use crate::hub::cluster::peer::PeerResponse;
use crate::hub::core::messages::unix_ms;
use crate::hub::node_requests::{self, NoAnswer, NodeAnswer};
use crate::hub::nodes::shared::InstanceId;
use crate::hub_extension::messages::{GetRequest, ResponseHead};
use crate::metrics::Format;
use crate::util::error::reason;
use crate::util::percent;
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// For clients that send no timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Prometheus sends how long it waits for a scrape.
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
/// Share of that time in which the node must answer; the rest is for the response to Prometheus.
const NODE_SHARE: f64 = 0.95;
/// A longer `Accept` is not passed on.
const MAX_ACCEPT_BYTES: usize = 1024;

/// Of a request that another hub has passed on.
const FORWARDED_HEADER: &str = "x-hm-hub-forwarded";

const NOT_FOUND: &str = "404 Not Found";
const NOT_ACCEPTABLE: &str = "406 Not Acceptable";
const BAD_GATEWAY: &str = "502 Bad Gateway";
const UNAVAILABLE: &str = "503 Service Unavailable";
const TIMEOUT: &str = "504 Gateway Timeout";

/// The answer to `/nodes/ID/PATH`. `path` begins with a slash.
pub fn response(hub: &Hub, head: &RequestHead<'_>, node_id: &str, path: &str) -> Response {
    let accept: Vec<&str> = head.header_values("accept").collect();
    let accept = Some(accept.join(",")).filter(|accept| accept.len() <= MAX_ACCEPT_BYTES);
    let gzip = gzip::is_accepted(head.header_values("accept-encoding"));
    let request =
        |id| GetRequest { id, path: path.to_owned(), accept: accept.unwrap_or_default(), gzip };
    let timeout = timeout(head.header(TIMEOUT_HEADER));
    let response = match node_requests::request(hub, node_id, request, timeout) {
        Ok(answer) => to_response(answer, gzip),
        Err(NoAnswer::Elsewhere(instance)) => {
            elsewhere(hub, head, instance, (node_id, path), timeout)
        }
        Err(why) => describe(&why, node_id, timeout),
    };
    hub.requests.count(response.status);
    response.header("Cache-Control: no-store")
}

/// Lets the hub to which the node is connected answer. `path` begins with a slash. A request is passed on once: two hubs that each hold the
/// other for the owner must not do so without end.
fn elsewhere(
    hub: &Hub,
    head: &RequestHead<'_>,
    instance: InstanceId,
    (node_id, path): (&str, &str),
    timeout: Duration,
) -> Response {
    let node = escape_for_log(node_id, EXCERPT_CHARS);
    let peer = hub.cluster.as_ref().and_then(|cluster| Some((cluster, cluster.peer(instance)?)));
    let Some((cluster, peer)) = peer else {
        return Response::text(BAD_GATEWAY, &format!("the hub of node {node} has just stopped\n"));
    };
    let name = &peer.row.name;
    if head.header(FORWARDED_HEADER).is_some() {
        let text = format!("node {node} has just connected to hub {name}\n");
        return Response::text(BAD_GATEWAY, &text);
    }
    let _counted = match hub.requests.begin_forwarded(instance) {
        Ok(counted) => counted,
        Err(why) => return describe(&why, node_id, timeout),
    };
    let mut headers = vec![
        format!("{FORWARDED_HEADER}: 1"),
        format!("{TIMEOUT_HEADER}: {:.3}", timeout.as_secs_f64()),
    ];
    headers.extend(head.header_values("accept").map(|value| format!("Accept: {value}")));
    if gzip::is_accepted(head.header_values("accept-encoding")) {
        headers.push("Accept-Encoding: gzip".to_owned());
    }
    let target = format!("/nodes/{}{path}", percent::encode(node_id));
    let answer = match cluster.get(&peer, &target, &headers, timeout) {
        Ok(answer) => answer,
        Err(error) => {
            let why = reason(&error);
            let text =
                format!("node {node} is connected to hub {name}, which cannot be reached: {why}\n");
            return Response::text(BAD_GATEWAY, &text);
        }
    };
    let PeerResponse { status, content_type, is_gzip, age, body } = answer;
    let Some(status) = [OK, NOT_FOUND, NOT_ACCEPTABLE, UNAVAILABLE, TIMEOUT]
        .into_iter()
        .find(|known| known.starts_with(&status.to_string()))
    else {
        let text = format!("hub {name} of node {node} has answered with status {status}\n");
        return Response::text(BAD_GATEWAY, &text);
    };
    let head = ResponseHead { id: 0, status: 200, content_type, gzip: is_gzip };
    let mut response = to_response(NodeAnswer { head, body }, true);
    if response.status == OK {
        response.status = status;
    }
    match age {
        Some(age) => response.header(&format!("Age: {age}")),
        None => response,
    }
}

/// The snapshot that the node has last sent of its own accord, with its age.
pub fn last_snapshot(hub: &Hub, head: &RequestHead<'_>, node_id: &str) -> Response {
    let (info, owner) = {
        let nodes = lock(&hub.nodes);
        (nodes.info(node_id).map(|(_, info)| info), nodes.answering_remote_owner(node_id))
    };
    if let Some(owner) = owner {
        return elsewhere(hub, head, owner, (node_id, "/last_snapshot"), DEFAULT_TIMEOUT)
            .header("Cache-Control: no-store");
    }
    let received = info.as_ref().and_then(|info| info.status.as_ref());
    let Some(received) = received.filter(|received| !received.snapshot.is_empty()) else {
        let node = escape_for_log(node_id, EXCERPT_CHARS);
        return Response::text(NOT_FOUND, &format!("no snapshot of node {node} is known\n"));
    };
    let age = (unix_ms(SystemTime::now()) - received.at).max(0) / 1000;
    let accepts_gzip = gzip::is_accepted(head.header_values("accept-encoding"));
    if received.is_gzip && !accepts_gzip {
        let text = "the snapshot is kept compressed: request it with \"Accept-Encoding: gzip\"\n";
        return Response::text(NOT_ACCEPTABLE, text);
    }
    let head = ResponseHead {
        id: 0,
        status: 200,
        content_type: "application/json".to_owned(),
        gzip: received.is_gzip,
    };
    let answer = NodeAnswer { head, body: received.snapshot.to_vec() };
    to_response(answer, accepts_gzip)
        .header(&format!("Age: {age}"))
        .header("Cache-Control: no-store")
}

fn timeout(header: Option<&str>) -> Duration {
    let seconds = header.and_then(|text| text.parse().ok()).filter(|seconds: &f64| *seconds > 0.0);
    let share = seconds.map(|seconds| Duration::try_from_secs_f64(seconds * NODE_SHARE));
    let timeout = share.map_or(DEFAULT_TIMEOUT, |time| time.unwrap_or(MAX_TIMEOUT));
    timeout.clamp(MIN_TIMEOUT, MAX_TIMEOUT)
}

/// An error is an ordinary response: a node that is away must neither end the connection of Prometheus nor fill the log.
fn describe(why: &NoAnswer, node_id: &str, timeout: Duration) -> Response {
    let node = format!("node {}", escape_for_log(node_id, EXCERPT_CHARS));
    let (status, text) = match why {
        NoAnswer::UnknownNode => (NOT_FOUND, format!("{node} is unknown")),
        NoAnswer::NotConnected(Some(disconnected_for)) => {
            (BAD_GATEWAY, format!("{node} disconnected {} s ago", disconnected_for.as_secs()))
        }
        NoAnswer::NotConnected(None) => {
            (BAD_GATEWAY, format!("{node} has not connected since the hub started"))
        }
        NoAnswer::Elsewhere(_) => (BAD_GATEWAY, format!("{node} is connected to another hub")),
        NoAnswer::NotSupported => {
            (BAD_GATEWAY, format!("{node} is connected, but not with an hm-agent that can answer"))
        }
        NoAnswer::Disconnected => (BAD_GATEWAY, format!("{node} has disconnected")),
        NoAnswer::TooMany => (UNAVAILABLE, format!("too many requests wait for {node}")),
        NoAnswer::TooManyInAll => (UNAVAILABLE, "too many requests wait for nodes".to_owned()),
        NoAnswer::Unresponsive => (TIMEOUT, format!("{node} has not answered earlier requests")),
        NoAnswer::Timeout => {
            let seconds = timeout.as_secs_f64();
            (TIMEOUT, format!("{node} has not answered within {seconds:.1} s"))
        }
    };
    Response::text(status, &format!("{text}\n"))
}

/// Passes on what a node may send. With another content type, a node could run a script in the browser of an operator.
fn to_response(answer: NodeAnswer, accepts_gzip: bool) -> Response {
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
        503 => UNAVAILABLE,
        _ => BAD_GATEWAY,
    };
    let Some(content_type) = content_type else {
        let found = escape_for_log(&head.content_type, EXCERPT_CHARS);
        let text = format!("the node has answered with the content type \"{found}\"\n");
        return Response::text(BAD_GATEWAY, &text);
    };
    if head.gzip && !accepts_gzip {
        return Response::text(BAD_GATEWAY, "the node has sent a compressed body\n");
    }
    let response = Response::new(status, content_type, body.into());
    let response = response.header("Vary: Accept, Accept-Encoding");
    match head.gzip {
        true => response.header("Content-Encoding: gzip"),
        false => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_gets_the_answer_before_its_own_deadline() {
        for (header, milliseconds) in [
            (None, 10_000),
            (Some("10"), 9_500),
            (Some("0.2"), 190),
            (Some("0.001"), 100),
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
        let answer = |status, content_type: &str, accepts_gzip| {
            let content_type = content_type.to_owned();
            let head = ResponseHead { id: 1, status, content_type, gzip: true };
            to_response(NodeAnswer { head, body: b"x".to_vec() }, accepts_gzip).status
        };
        assert_eq!(answer(200, "application/json", true), OK);
        assert_eq!(answer(200, "application/json", false), BAD_GATEWAY);
        assert_eq!(answer(503, PLAIN_TEXT, true), UNAVAILABLE);
        assert_eq!(answer(404, PLAIN_TEXT, true), BAD_GATEWAY);
        for other in ["text/html", "text/plain\r\nX: y", ""] {
            assert_eq!(answer(200, other, true), BAD_GATEWAY, "{other}");
        }
    }
}
