//! HTTP on the heartbeat port: connections, pipelining, malformed and incomplete requests.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::support::heartbeat::HttpConnection;
use crate::support::{Agent, SLACK, TEST_TIMEOUT, wait_until};

fn start(settings: &[&str]) -> Agent {
    Agent::start(settings)
}

#[test]
fn keeps_or_closes_connection_as_http_requires() {
    let agent = start(&[]);
    for (version, header, stays) in [
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", true),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: TE, Close\r\n", false),
    ] {
        let mut line = HttpConnection::open(&agent);
        let request =
            format!("GET /hb_ping?5000&appid=a HTTP/{version}\r\nHost: a\r\n{header}\r\n");
        line.send(&request);
        let answer = line.read();
        let connection = if stays { "keep-alive" } else { "close" };
        assert_eq!(answer.header("Connection"), Some(connection), "{request}");
        assert_eq!(answer.body, "6000");
        match stays {
            true => assert_eq!(line.get("/list").body, "a\n", "{request}"),
            false => line.assert_closed(),
        }
    }
    agent.stop();
}

#[test]
fn answers_pipelined_requests_in_order() {
    let agent = start(&[]);
    let mut line = HttpConnection::open(&agent);
    let mut all = Vec::new();
    for number in 0..200 {
        match number % 3 {
            0 => write!(all, "GET /hb_ping?{number}&appid=a HTTP/1.1\r\nHost: a\r\n\r\n").unwrap(),
            1 => {
                write!(
                    all,
                    "POST /hb_ping?{number}&appid=a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nGET"
                )
                .unwrap();
            }
            _ => write!(all, "HEAD /hb_ping?{number}&appid=a HTTP/1.1\r\nHost: a\r\n\r\n").unwrap(),
        }
    }
    // Split at arbitrary positions.
    for part in all.chunks(997) {
        line.send(part);
    }
    for number in 0..200 {
        let answer = line.next(number % 3 != 2).unwrap();
        let expected = if number % 3 == 2 { String::new() } else { (number + 1000).to_string() };
        assert_eq!(answer.body, expected);
    }
    agent.stop();
}

#[test]
fn rejects_invalid_request_with_reason_and_keeps_connection() {
    let agent = start(&[]);
    agent.get_ok("/hb_ping?60000&appid=a");
    let mut line = HttpConnection::open(&agent);
    for (target, why) in [
        ("/", "unknown command \"\"; commands: hb_init, hb_ping, hb_done, list, status"),
        ("/favicon.ico", "unknown command \"favicon.ico\""),
        ("/hb_ping", "appid is missing"),
        ("/hb_ping?5000&appid=", "appid is missing"),
        ("/hb_done", "appid is missing"),
        ("/hb_ping?abc&appid=a", "got \"abc\": it is not a number"),
        ("/hb_ping?-1&appid=a", "it is negative"),
        ("/hb_ping?1e3&appid=a", "it is not a number"),
        ("/hb_ping?604800001&appid=a", "it is longer than a week"),
        ("/hb_ping?5000&appid=%ff", "not UTF-8"),
        ("/heartbeat.html?next=5", "container is missing"),
        ("/heartbeat.html?container=a&next=soon", "next must be milliseconds"),
        ("/maintenance", "T is missing"),
        ("/hb_ping?%1b[2J&appid=a", "got \"\\x1b[2J\""),
    ] {
        let answer = line.get(target);
        assert_eq!(answer.status, 400, "{target}");
        assert!(answer.body.contains(why), "{target}: {}", answer.body);
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
        assert!(!answer.body.contains('\x1b'));
    }
    assert_eq!(line.get("/list").body, "a\n");
    agent.stop();
}

#[test]
fn rejects_malformed_http_and_closes_connection() {
    let agent = start(&[]);
    let refused = |request: &[u8], status: u16| {
        let mut line = HttpConnection::open(&agent);
        // The agent may respond and close before the whole request is sent.
        let _ = line.socket().write_all(request);
        let answer = line.read();
        let begin = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert_eq!(answer.status, status, "{begin:?}: {}", answer.body);
        assert_eq!(answer.header("Connection"), Some("close"));
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
        assert!(answer.body.len() > 10, "{begin:?}: no message");
        line.assert_closed();
    };
    let ping = "/hb_ping?1&appid=a HTTP/1.1\r\nHost: a\r\n";
    refused(format!("GET {ping}X: {}\r\n\r\n", "x".repeat(9000)).as_bytes(), 431);
    refused(format!("GET {ping}{}\r\n", "a: b\r\n".repeat(65)).as_bytes(), 431);
    refused(format!("GET /{}", "x".repeat(9000)).as_bytes(), 431);
    refused(format!("POST {ping}Content-Length: 65537\r\n\r\n").as_bytes(), 413);
    let huge = "9".repeat(40);
    refused(format!("POST {ping}Content-Length: {huge}\r\n\r\n").as_bytes(), 400);
    refused(format!("POST {ping}Content-Length: -1\r\n\r\n").as_bytes(), 400);
    refused(format!("POST {ping}Content-Length: 1\r\nContent-Length: 2\r\n\r\n").as_bytes(), 400);
    let twice = "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx";
    refused(format!("POST {ping}{twice}").as_bytes(), 400);
    for space in ["\u{a0}", "\u{85}", "\u{2003}", "\u{3000}"] {
        refused(format!("POST {ping}Content-Length: {space}1\r\n\r\nx").as_bytes(), 400);
    }
    let chunked = "Transfer-Encoding: chunked\r\n";
    let both = format!("POST {ping}{chunked}Content-Length: 5\r\n\r\n0\r\n\r\n");
    refused(both.as_bytes(), 400);
    refused(format!("POST {ping}Transfer-Encoding: gzip, {chunked}\r\n").as_bytes(), 400);
    refused(format!("POST {ping}{chunked}\r\n1\r\nxy\r\n0\r\n\r\n").as_bytes(), 400);
    refused(format!("POST {ping}{chunked}\r\n10001\r\n").as_bytes(), 413);
    refused(b"GET /hb_ping?1&appid=a HTTP/1.1\r\n\r\n", 400);
    refused(format!("GET {ping}Host: b\r\n\r\n").as_bytes(), 400);
    for bad in ["\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "hello\r\n\r\n", "GET /list\r\n\r\n"] {
        refused(bad.as_bytes(), 400);
    }
    assert!(agent.list().is_empty(), "a rejected request is no heartbeat");
    agent.stop();
}

#[test]
fn rejects_incomplete_request_after_10_s() {
    let agent = start(&[]);
    let start = Instant::now();
    let mut lines: Vec<_> =
        ["GET /hb_ping?1&app", "POST /list HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nx"]
            .map(|half| {
                let mut line = HttpConnection::open(&agent);
                assert_eq!(line.get("/hb_ping?60000&appid=a").body, "61000");
                line.send(half);
                line
            })
            .into();
    for line in &mut lines {
        let answer = line.read();
        assert_eq!(answer.status, 408, "{}", answer.body);
        line.assert_closed();
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(10) + SLACK, "{took:?}");
    agent.stop();
}

#[test]
#[ignore = "waits 60 s"]
fn closes_idle_connection_after_60_s() {
    let agent = start(&[]);
    let mut line = HttpConnection::open(&agent);
    line.socket().set_read_timeout(Some(TEST_TIMEOUT * 4)).unwrap();
    let start = Instant::now();
    line.get("/list");
    line.assert_closed();
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(60) + SLACK, "{took:?}");
    agent.stop();
}

#[test]
fn closes_idle_connections_on_shutdown() {
    let agent = start(&[]);
    let mut idle: Vec<_> = (0..50).map(|_| HttpConnection::open(&agent)).collect();
    for line in &mut idle {
        line.get("/hb_ping?60000&appid=a");
    }
    let before = agent.status("Threads");
    let mut half = HttpConnection::open(&agent);
    half.send("GET /hb");
    agent.stop();
    assert!(before > 50, "{before}");
    for line in &mut idle {
        line.assert_closed();
    }
    // Unread bytes of the incomplete request make the kernel send a reset.
    let mut rest = Vec::new();
    let _ = half.socket().read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn closed_connections_leave_no_thread_or_descriptor() {
    let agent = start(&[]);
    agent.get_ok("/list");
    let count = |agent: &Agent| (agent.status("Threads"), agent.descriptors());
    let before = wait_until("constant numbers", || {
        let before = count(&agent);
        std::thread::park_timeout(Duration::from_millis(200));
        (count(&agent) == before).then_some(before)
    });
    for number in 0..200 {
        let mut line = HttpConnection::open(&agent);
        match number % 4 {
            0 => drop(line.get("/list")),
            1 => line.send("GET /lis"),
            2 => line.send("POST /list HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"),
            _ => {}
        }
    }
    // The first connections may still have been open when the number was read.
    let few = |now: (u64, usize)| now.0 <= before.0 && now.1 <= before.1;
    wait_until("as few as before", || few(count(&agent)).then_some(()));
    agent.stop();
}
