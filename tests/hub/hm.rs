//! The hm port of hm-hub, as nodes and Prometheus see it.

use crate::support;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use serde_json::json;
use tungstenite::Message;

use crate::support::hub::{Hub, report, stored};
use crate::support::{Agent, SLACK, TEST_TIMEOUT, TempDir, assert_best_of_five, wait_until};

#[test]
fn answers_the_request_sequence_of_the_published_client() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    node.0.send(Message::Ping(b"x".to_vec().into())).unwrap();
    assert_eq!(node.0.read().unwrap(), Message::Pong(b"x".to_vec().into()));
    node.send(1, 0, 0, &json!({"node_id": "123456789"}));
    let online = node.response();
    let unix_seconds = online["timestamp"].as_u64().unwrap();
    assert!((1_700_000_000..100_000_000_000).contains(&unix_seconds), "{online}");
    let info = data_encoding::BASE64.decode(online["body"].as_str().unwrap().as_bytes()).unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info).unwrap();
    assert_eq!(info["hub"]["extensions"], json!(["get", "snapshot", "credential"]));
    let mut expected = json!({"version": 0, "id": 0, "type": 1, "pub_key": "", "sign": "", "code": 0,
        "message": "ok"});
    expected["timestamp"] = online["timestamp"].clone();
    expected["body"] = online["body"].clone();
    assert_eq!(online, expected);
    node.send(2, u64::MAX, 1_718_000_000_123, &report());
    let answer = node.response();
    expected["timestamp"] = answer["timestamp"].clone();
    (expected["id"], expected["type"], expected["body"]) = (json!(u64::MAX), json!(2), json!(""));
    assert_eq!(answer, expected);
    assert_eq!(stored(&state, "123456789"), [1_718_000_000_123]);
}

#[test]
fn answers_malformed_and_untimely_requests_and_stays_connected() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    for message in [Message::text("x"), Message::text("[]"), Message::binary(vec![0xff])] {
        node.0.send(message).unwrap();
        assert_eq!(node.header(), (0, 0, 1));
    }
    for (kind, id, body, code) in [
        (0, 1, json!({}), 1),
        (9, 2, json!({}), 1),
        (2, 3, report(), 6),
        (1, 4, json!([]), 1),
        (1, 5, json!({"node_id": ""}), 0),
        (2, 6, report(), 6),
        (1, 7, json!({"NODE_ID": "a"}), 0),
        (1, 8, json!({"node_id": "a"}), 5),
        (1, 9, json!({"node_id": "b"}), 5),
        (2, 10, json!({"utilization_gpu": 30.5}), 1),
        (2, 11, json!({}), 0),
    ] {
        node.send(kind, id, 5, &body);
        assert_eq!(node.header(), (u64::from(kind), id, code), "{body}");
    }
    // A binary frame is handled as a text frame.
    let request = json!({"type": 2, "id": 12, "timestamp": 6, "body": "e30="});
    node.0.send(Message::binary(request.to_string().into_bytes())).unwrap();
    assert_eq!(node.header(), (2, 12, 0));
    assert_eq!(stored(&state, "a"), [5, 6]);
    assert!(hub.log().iter().all(|line| !line.contains("error")), "{:#?}", hub.log());
}

#[test]
fn stores_a_repeated_report_once() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    assert_eq!(node.online("a"), 0);
    for sent in [5, 5, 3, 5, 3] {
        assert_eq!(node.report(sent), 0);
    }
    assert_eq!(stored(&state, "a"), [3, 5]);
}

#[test]
fn live_node_keeps_its_id_and_frozen_node_is_replaced() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let (mut first, mut second) = (hub.node(), hub.node());
    assert_eq!(first.online("a"), 0);
    let (answered, end) = std::sync::mpsc::channel::<()>();
    let reader = std::thread::spawn(move || {
        // Reading answers the ping.
        first.0.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while end.try_recv() == Err(TryRecvError::Empty) {
            let _ = first.0.read();
        }
        first
    });
    // Without an answer of the live node it would take two seconds.
    assert_best_of_five(Duration::from_secs(1), || {
        let start = Instant::now();
        assert_eq!(second.online("a"), 5);
        start.elapsed()
    });
    drop(answered);
    let _frozen = reader.join().unwrap();
    // From now on nothing answers: the second one may ask again and replaces it.
    assert_eq!(second.online("a"), 0);
    assert_eq!(second.report(1), 0);
}

#[test]
fn closes_connection_without_messages_or_pings() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let (mut silent, mut pinging) = (hub.node(), hub.node());
    assert_eq!((silent.online("silent"), pinging.online("pinging")), (0, 0));
    let start = Instant::now();
    let pings = std::thread::spawn(move || {
        while start.elapsed() < Duration::from_secs(33) {
            pinging.0.send(Message::Ping(Vec::new().into())).unwrap();
            assert!(matches!(pinging.0.read().unwrap(), Message::Pong(_)));
            std::thread::sleep(Duration::from_secs(3));
        }
        pinging.report(1)
    });
    assert_eq!(silent.close_code(TEST_TIMEOUT), 1008);
    let after = start.elapsed();
    // The hub adds the time in which a busy machine did not run it.
    assert!(after > Duration::from_secs(29) && after < TEST_TIMEOUT, "{after:?}");
    hub.wait_log("node silent is lost");
    assert_eq!(pings.join().unwrap(), 0);
}

#[test]
fn node_that_does_not_read_delays_no_other() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut stuck = hub.node();
    assert_eq!(stuck.online("stuck"), 0);
    let socket = stuck.0.get_ref().try_clone().unwrap();
    socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let sent = (0..).find(|sent| {
        let body = data_encoding::BASE64.encode(b"{}");
        let request = json!({"type": 2, "id": sent, "timestamp": sent, "body": body});
        stuck.0.send(Message::text(request.to_string())).is_err()
    });
    assert!(sent.unwrap() > 1000, "the hub has stopped reading after {sent:?}");
    let mut other = hub.node();
    assert_eq!(other.online("other"), 0);
    for sent in 0..20 {
        let start = Instant::now();
        assert_eq!(other.report(sent), 0);
        assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    }
}

#[test]
fn nodes_return_at_once_after_kill_and_after_stop() {
    let state = TempDir::new("hub");
    for end in [Hub::kill as fn(Hub), |hub| drop(hub.stop())] {
        let hub = Hub::start(&state, &[]);
        let mut node = hub.node();
        assert_eq!(node.online("a"), 0, "{:#?}", hub.log());
        end(hub);
    }
}

#[test]
fn stop_answers_every_report_and_closes_connections() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    assert_eq!(node.online("a"), 0);
    assert_eq!(node.report(1), 0);
    let stop = std::thread::spawn(move || hub.stop());
    assert_eq!(node.close_code(TEST_TIMEOUT), 1001);
    let log = stop.join().unwrap();
    assert!(!log.iter().any(|line| line.contains("is lost")), "{log:#?}");
}

#[test]
fn refuses_pages_of_browsers_and_other_paths() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let head = |target: &str, headers: &str| {
        let response = hub.get(target, headers);
        response.lines().next().unwrap_or_default().to_owned()
    };
    let of_page = format!("Origin: http://localhost\r\n{upgrade}");
    assert_eq!(head("/websocket", &of_page), "HTTP/1.1 403 Forbidden");
    assert_eq!(head("/websocket", ""), "HTTP/1.1 426 Upgrade Required");
    assert_eq!(head("/", ""), "HTTP/1.1 404 Not Found");
}

#[test]
fn exposes_reports_of_connected_nodes_to_prometheus() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &["hm.job=fleet"]);
    let mut node = hub.node();
    assert_eq!(node.online("a"), 0);
    assert_eq!(node.report(1), 0);
    let metrics = hub.get("/metrics/prometheus", "");
    for line in [
        "utilization_gpu{instance=\"a\",job=\"fleet\"} 30",
        "memory_total{instance=\"a\",job=\"fleet\"} 24564",
        "memory_used{instance=\"a\",job=\"fleet\"} 22128",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    drop(node);
    hub.wait_log("node a is lost");
    let metrics = hub.get("/metrics/prometheus", "");
    assert!(!metrics.contains("instance="), "{metrics}");
}

#[test]
fn agents_reports_arrive_without_gap_over_hub_restarts() {
    let (state, port) = (TempDir::new("hub"), support::reserve_port());
    let listen = format!("127.0.0.1:{port}");
    let url = format!("hm.url=ws://{listen}/websocket");
    let agent = Agent::start(&[
        &url,
        "node_id=n1",
        "hm.report_interval=1",
        "interval=1",
        "gpu.source=none",
    ]);
    for end in [Hub::kill as fn(Hub), |hub| drop(hub.stop()), |hub| drop(hub.stop())] {
        let hub = Hub::spawn(Hub::command(&state, &listen, &[]));
        let before = stored(&state, "n1").len();
        wait_until("reports", || (stored(&state, "n1").len() > before + 2).then_some(()));
        end(hub);
    }
    agent.stop();
    let times = stored(&state, "n1");
    for pair in times.windows(2) {
        let apart = pair[1] - pair[0];
        // A report that a busy machine delays is late; a lost one leaves a gap of whole seconds.
        let is_late = apart < 5000 && (20..980).contains(&(apart % 1000));
        assert!((1..1900).contains(&apart) || is_late, "{pair:?} of {times:?}");
    }
}

#[test]
fn message_over_the_limit_ends_the_connection() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    node.0.send(Message::text("x".repeat(100_000))).unwrap();
    assert!(node.0.read().is_err());
    assert_eq!(hub.node().online("a"), 0);
}
