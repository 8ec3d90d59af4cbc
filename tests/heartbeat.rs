//! The heartbeat port on the wire: responses, units and rejected requests.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::heartbeat::{HttpConnection, od_of};
use support::{Agent, SLACK, TEST_TIMEOUT, wait_until};

fn start(settings: &[&str]) -> Agent {
    Agent::start(settings)
}

#[test]
fn response_is_byte_exact() {
    let agent = start(&[]);
    let mut line = HttpConnection::open(&agent);
    let answer = line.get("/hb_ping?5000&appid=demo&cache_buster=1700000000_123");
    assert_eq!(
        answer.head,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 4\r\n\
         Access-Control-Allow-Origin: *\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(answer.body, "6000");
    agent.stop();
}

#[test]
fn answers_every_command_in_milliseconds() {
    let agent = start(&[]);
    assert_eq!(agent.get_ok("/status"), "UNKNOWN - no heartbeat clients at the moment...");
    assert_eq!(agent.get_ok("/list"), "");
    assert_eq!(agent.get_ok("/hb_init?5000&appid=Tetris"), "6000");
    assert_eq!(agent.get_ok("/hb_init?0&appid=Tetris"), "1000", "init of a known application");
    assert_eq!(agent.get_ok("/hb_ping?1725&appid=Tetris"), "2725");
    let line = agent.get_ok("/status?cache_buster=1");
    assert!(line.starts_with("OK - fine application [Tetris]| od="), "{line}");
    assert!(od_of(&line) < 3.0 && line.ends_with(";3;5;0;6 delay=2725ms;;;"), "{line}");
    assert!(agent.get_ok("/status?0&appid=Tetris&cache_buster=1").starts_with("OK - fine"));
    assert_eq!(agent.get_ok("/hb_ping?0.5&appid=Zelda"), "1001", "never less than T");
    assert_eq!(agent.get_ok("/heartbeat.html?container=Sonic&next=700"), "1700");
    assert_eq!(agent.get_ok("/hb_ping?appid=Abba"), "1000", "no T");
    // In the order of their first heartbeats, not alphabetical. An application that returns after done is last.
    assert_eq!(agent.list(), ["Tetris", "Zelda", "Sonic", "Abba"]);
    assert_eq!(
        agent.get_ok("/status"),
        "WARNING - multiple (4) applications: [Tetris,Zelda,Sonic,Abba]"
    );
    let goodbye = agent.get_ok("/hb_done?0&appid=Tetris");
    assert!(goodbye.starts_with("So long"), "{goodbye}");
    assert_eq!(agent.get_ok("/hb_done?0&appid=Tetris"), goodbye, "a repetition is no error");
    agent.get_ok("/hb_ping?60000&appid=Tetris");
    assert_eq!(agent.list(), ["Zelda", "Sonic", "Abba", "Tetris"]);
    assert_eq!(
        agent.get_ok("/status?appid=Pong"),
        "CRITICAL - no application record for queried ID: [Pong]"
    );
    agent.stop();
}

#[test]
fn answers_every_command_in_seconds_of_prototype() {
    let agent = start(&["heartbeat.unit=s"]);
    assert_eq!(agent.get_ok("/hb_init?5&appid=a"), "6");
    assert_eq!(agent.get_ok("/hb_ping?0.5&appid=a"), "1.5");
    assert_eq!(agent.get_ok("/hb_ping?604800&appid=a"), "604801");
    assert_eq!(agent.get("/hb_ping?604801&appid=a").0, 400);
    agent.get_ok("/hb_ping?1.725&appid=a");
    let line = agent.get_ok("/status?appid=a");
    assert!(line.ends_with(";3;5;0;6 delay=2.725s;;;"), "{line}");
    // The times of the older form are always milliseconds.
    assert_eq!(agent.get_ok("/heartbeat.html?container=a&next=700"), "1700");
    assert_eq!(agent.get_ok("/maintenance?60"), "OK - host in maintenance for 60 s");
    agent.stop();
}

#[test]
fn accepts_get_post_head_and_ignores_bodies() {
    let agent = start(&[]);
    let mut line = HttpConnection::open(&agent);
    // As the clients send it, and as a page's beacon does at unload.
    line.send(
        "POST /hb_init?5000&appid=a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: 13\r\n\r\n{\"appid\":\"a\"}",
    );
    assert_eq!(line.read().body, "6000");
    line.send("POST /hb_ping?1&appid=a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(line.read().body, "1001");
    // A body that arrives later and has the maximum length.
    line.send("POST /hb_ping?2&appid=a HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n");
    line.send(vec![b'x'; 65_536]);
    assert_eq!(line.read().body, "1002");
    let chunked = "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    line.send(format!("POST /hb_ping?3&appid=a HTTP/1.1\r\n{chunked}8;x=y\r\nepoch 7\n\r\n"));
    line.send("0\r\nChecksum: 1\r\n\r\n");
    assert_eq!(line.read().body, "1003");
    line.send("GET http://a:1/hb_ping?4&appid=a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(line.read().body, "1004");
    line.send("HEAD /hb_ping?41&appid=b HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = line.next(false).unwrap();
    assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("4")));
    assert_eq!(line.get("/list").body, "a\nb\n", "HEAD has no body and counts as a heartbeat");
    line.send("DELETE /hb_done?0&appid=a HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = line.read();
    assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET, POST, HEAD, OPTIONS")));
    assert_eq!(line.get("/list").body, "a\nb\n");
    agent.stop();
}

#[test]
fn accepts_heartbeats_of_pages_of_any_origin() {
    let agent = start(&[]);
    let answer = agent.request(
        "OPTIONS /hb_ping?5000&appid=page HTTP/1.1\r\nHost: a\r\nOrigin: https://exhibit.example\r\n\
         Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: x-a\r\n\
         Access-Control-Request-Private-Network: true\r\n\r\n",
    );
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    for (name, value) in [
        ("Access-Control-Allow-Origin", "*"),
        ("Access-Control-Allow-Methods", "GET, POST, HEAD, OPTIONS"),
        ("Access-Control-Allow-Headers", "*"),
        ("Access-Control-Allow-Private-Network", "true"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{answer:?}");
    }
    assert!(agent.list().is_empty(), "a preflight request is no heartbeat");
    let origin = "Origin: https://exhibit.example\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(
        agent.get_with_headers("/hb_ping?5000&appid=page", origin),
        (200, "6000".to_owned())
    );
    agent.stop();
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
fn escapes_ids_with_special_characters() {
    let agent = start(&[]);
    for (sent, shown) in [
        ("a%20b%26c", "a b&c"),
        ("a+b", "a+b"),
        ("100%", "100%"),
        ("%E2%98%83", "☃"),
        ("☃", "☃"),
        ("a%0Ab%0D%09", r"a\nb\r\t"),
        ("a|b%7Cc", r"a\x7cb\x7cc"),
        ("back%5Cslash", r"back\x5cslash"),
        ("%1b[31m%00", r"\u{1b}[31m\u{0}"),
        ("<script>", "<script>"),
    ] {
        agent.get_ok(&format!("/hb_init?60000&appid={sent}"));
        assert_eq!(agent.list(), [shown]);
        for line in [agent.get_ok(&format!("/status?0&appid={sent}")), agent.get_ok("/status")] {
            let start = format!("OK - fine application [{shown}]| od=0.");
            assert!(line.starts_with(&start) && line.matches('|').count() == 1, "{line}");
        }
        agent.get_ok(&format!("/hb_done?0&appid={sent}"));
        assert!(agent.list().is_empty());
        let line = agent.get_ok(&format!("/status?0&appid={sent}"));
        assert_eq!(line, format!("CRITICAL - no application record for queried ID: [{shown}]"));
    }
    assert_eq!(agent.get(&format!("/hb_init?0&appid={}", "x".repeat(256))).0, 200);
    let (status, body) = agent.get(&format!("/hb_init?0&appid={}", "x".repeat(257)));
    assert_eq!((status, body.as_str()), (400, "the id has 257 bytes, the limit is 256"));
    assert_eq!(agent.get(&format!("/hb_init?0&appid={}", "%e2%98%83".repeat(85))).0, 200);
    assert_eq!(agent.get(&format!("/hb_init?0&appid={}", "%e2%98%83".repeat(86))).0, 400);
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains('\x1b')), "{log:#?}");
}

#[test]
fn full_table_rejects_new_applications_and_keeps_others() {
    let agent = start(&[]);
    let mut line = HttpConnection::open(&agent);
    for hundred in 0..100 {
        let ids = (0..100).map(|number| hundred * 100 + number);
        let beats: String = ids
            .map(|id| format!("GET /hb_ping?600000&appid=app{id} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .collect();
        line.send(beats);
        for _ in 0..100 {
            assert_eq!(line.read().status, 200);
        }
    }
    let answer = line.get("/hb_init?600000&appid=one_more");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("the limit of 10000 applications is reached"), "{}", answer.body);
    assert_eq!(
        line.get("/hb_ping?600000&appid=app7").status,
        200,
        "known applications are accepted"
    );
    assert_eq!(line.get("/list").body.lines().count(), 10_000);
    let host = line.get("/status").body;
    assert!(host.starts_with("WARNING - multiple (10000) applications: [app0,app1,"), "{host}");
    assert!(host.len() < 2000, "{host}");
    assert_eq!(line.get("/hb_done?0&appid=app7").status, 200);
    assert_eq!(line.get("/hb_init?600000&appid=one_more").status, 200, "after one is done");
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
