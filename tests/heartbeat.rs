//! The heartbeat port on the wire: what it answers, in which unit, and what it refuses.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use support::heartbeat::{Line, od_of};
use support::{Agent, PATIENCE, SLACK, wait_until};

fn start(settings: &[&str]) -> Agent {
    Agent::start(settings)
}

#[test]
fn an_answer_to_the_byte() {
    let agent = start(&[]);
    let mut line = Line::to(&agent);
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
fn every_command_in_milliseconds() {
    let agent = start(&[]);
    assert_eq!(agent.tell("/status"), "UNKNOWN - no heartbeat clients at the moment...");
    assert_eq!(agent.tell("/list"), "");
    assert_eq!(agent.tell("/hb_init?5000&appid=Tetris"), "6000");
    assert_eq!(agent.tell("/hb_init?0&appid=Tetris"), "1000", "an init of one that is known");
    assert_eq!(agent.tell("/hb_ping?1725&appid=Tetris"), "2725");
    let line = agent.tell("/status?cache_buster=1");
    assert!(line.starts_with("OK - fine application [Tetris]| od="), "{line}");
    assert!(od_of(&line) < 3.0 && line.ends_with(";3;5;0;6 delay=2725ms;;;"), "{line}");
    assert!(agent.tell("/status?0&appid=Tetris&cache_buster=1").starts_with("OK - fine"));
    assert_eq!(agent.tell("/hb_ping?0.5&appid=Zelda"), "1001", "never less than T");
    assert_eq!(agent.tell("/heartbeat.html?container=Sonic&next=700"), "1700");
    assert_eq!(agent.tell("/hb_ping?appid=Abba"), "1000", "no T");
    // In the order in which they came, not in that of the alphabet; who goes and comes back is last.
    assert_eq!(agent.list(), ["Tetris", "Zelda", "Sonic", "Abba"]);
    assert_eq!(
        agent.tell("/status"),
        "WARNING - multiple (4) applications: [Tetris,Zelda,Sonic,Abba]"
    );
    let goodbye = agent.tell("/hb_done?0&appid=Tetris");
    assert!(goodbye.starts_with("So long"), "{goodbye}");
    assert_eq!(agent.tell("/hb_done?0&appid=Tetris"), goodbye, "once more is no error");
    agent.tell("/hb_ping?60000&appid=Tetris");
    assert_eq!(agent.list(), ["Zelda", "Sonic", "Abba", "Tetris"]);
    assert_eq!(
        agent.tell("/status?appid=Pong"),
        "CRITICAL - no application record for queried ID: [Pong]"
    );
    agent.stop();
}

#[test]
fn every_command_in_the_prototypes_seconds() {
    let agent = start(&["heartbeat.unit=s"]);
    assert_eq!(agent.tell("/hb_init?5&appid=a"), "6");
    assert_eq!(agent.tell("/hb_ping?0.5&appid=a"), "1.5");
    assert_eq!(agent.tell("/hb_ping?604800&appid=a"), "604801");
    assert_eq!(agent.ask("/hb_ping?604801&appid=a").0, 400);
    agent.tell("/hb_ping?1.725&appid=a");
    let line = agent.tell("/status?appid=a");
    assert!(line.ends_with(";3;5;0;6 delay=2.725s;;;"), "{line}");
    // The older form says in its own words that its times are milliseconds.
    assert_eq!(agent.tell("/heartbeat.html?container=a&next=700"), "1700");
    assert_eq!(agent.tell("/maintenance?60"), "OK - host in maintenance for 60 s");
    agent.stop();
}

#[test]
fn methods_and_bodies() {
    let agent = start(&[]);
    let mut line = Line::to(&agent);
    // As the clients post, and as a page's beacon does at unload.
    line.say(
        "POST /hb_init?5000&appid=a HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: 13\r\n\r\n{\"appid\":\"a\"}",
    );
    assert_eq!(line.hear().body, "6000");
    line.say("POST /hb_ping?1&appid=a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(line.hear().body, "1001");
    // A body that comes late, and one as long as may be.
    line.say("POST /hb_ping?2&appid=a HTTP/1.1\r\nContent-Length: 65536\r\n\r\n");
    line.say(vec![b'x'; 65_536]);
    assert_eq!(line.hear().body, "1002");
    line.say("HEAD /hb_ping?41&appid=b HTTP/1.1\r\n\r\n");
    let answer = line.next(false).unwrap();
    assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("4")));
    assert_eq!(line.get("/list").body, "a\nb\n", "HEAD has no body, and counts as a beat");
    line.say("DELETE /hb_done?0&appid=a HTTP/1.1\r\n\r\n");
    let answer = line.hear();
    assert_eq!((answer.status, answer.header("Allow")), (405, Some("GET, POST, HEAD, OPTIONS")));
    assert_eq!(line.get("/list").body, "a\nb\n");
    agent.stop();
}

#[test]
fn a_page_of_any_origin_may_beat() {
    let agent = start(&[]);
    let answer = agent.say(
        "OPTIONS /hb_ping?5000&appid=page HTTP/1.1\r\nOrigin: https://exhibit.example\r\n\
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
    assert!(agent.list().is_empty(), "a question beforehand is no beat");
    let origin = "Origin: https://exhibit.example\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(agent.ask_with("/hb_ping?5000&appid=page", origin), (200, "6000".to_owned()));
    agent.stop();
}

#[test]
fn connections_end_and_stay_as_http_has_it() {
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
        let mut line = Line::to(&agent);
        let request = format!("GET /hb_ping?5000&appid=a HTTP/{version}\r\n{header}\r\n");
        line.say(&request);
        let answer = line.hear();
        let connection = if stays { "keep-alive" } else { "close" };
        assert_eq!(answer.header("Connection"), Some(connection), "{request}");
        assert_eq!(answer.body, "6000");
        match stays {
            true => assert_eq!(line.get("/list").body, "a\n", "{request}"),
            false => line.closed(),
        }
    }
    agent.stop();
}

#[test]
fn requests_that_come_all_at_once_are_answered_in_order() {
    let agent = start(&[]);
    let mut line = Line::to(&agent);
    let mut all = Vec::new();
    for number in 0..200 {
        match number % 3 {
            0 => write!(all, "GET /hb_ping?{number}&appid=a HTTP/1.1\r\n\r\n").unwrap(),
            1 => {
                write!(
                    all,
                    "POST /hb_ping?{number}&appid=a HTTP/1.1\r\nContent-Length: 3\r\n\r\nGET"
                )
                .unwrap();
            }
            _ => write!(all, "HEAD /hb_ping?{number}&appid=a HTTP/1.1\r\n\r\n").unwrap(),
        }
    }
    // Cut anywhere.
    for part in all.chunks(997) {
        line.say(part);
    }
    for number in 0..200 {
        let answer = line.next(number % 3 != 2).unwrap();
        let expected = if number % 3 == 2 { String::new() } else { (number + 1000).to_string() };
        assert_eq!(answer.body, expected);
    }
    agent.stop();
}

#[test]
fn what_is_wrong_with_a_request_is_said_and_the_connection_goes_on() {
    let agent = start(&[]);
    agent.tell("/hb_ping?60000&appid=a");
    let mut line = Line::to(&agent);
    for (target, why) in [
        ("/", "there is no \"\" here; there are hb_init, hb_ping, hb_done, list, status"),
        ("/favicon.ico", "there is no \"favicon.ico\" here"),
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
fn what_cannot_be_understood_is_refused_and_closed() {
    let agent = start(&[]);
    let refused = |request: &[u8], status: u16| {
        let mut line = Line::to(&agent);
        // It may have answered and closed before all was said.
        let _ = line.socket().write_all(request);
        let answer = line.hear();
        let begin = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert_eq!(answer.status, status, "{begin:?}: {}", answer.body);
        assert_eq!(answer.header("Connection"), Some("close"));
        assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
        assert!(answer.body.len() > 10, "{begin:?} without a word");
        line.closed();
    };
    let ping = "/hb_ping?1&appid=a HTTP/1.1\r\n";
    refused(format!("GET {ping}X: {}\r\n\r\n", "x".repeat(9000)).as_bytes(), 431);
    refused(format!("GET {ping}{}\r\n", "a: b\r\n".repeat(65)).as_bytes(), 431);
    refused(format!("GET /{}", "x".repeat(9000)).as_bytes(), 431);
    refused(format!("POST {ping}Content-Length: 65537\r\n\r\n").as_bytes(), 413);
    let huge = "9".repeat(40);
    refused(format!("POST {ping}Content-Length: {huge}\r\n\r\n").as_bytes(), 400);
    refused(format!("POST {ping}Content-Length: -1\r\n\r\n").as_bytes(), 400);
    refused(format!("POST {ping}Content-Length: 1\r\nContent-Length: 2\r\n\r\n").as_bytes(), 400);
    let chunked = "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(format!("POST {ping}{chunked}").as_bytes(), 411);
    for bad in ["\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "hello\r\n\r\n", "GET /list\r\n\r\n"] {
        refused(bad.as_bytes(), 400);
    }
    assert!(agent.list().is_empty(), "who was refused has not beaten");
    agent.stop();
}

#[test]
fn half_a_request_is_waited_for_10_s() {
    let agent = start(&[]);
    let start = Instant::now();
    let mut lines: Vec<_> =
        ["GET /hb_ping?1&app", "POST /list HTTP/1.1\r\nContent-Length: 5\r\n\r\nx"]
            .map(|half| {
                let mut line = Line::to(&agent);
                assert_eq!(line.get("/hb_ping?60000&appid=a").body, "61000");
                line.say(half);
                line
            })
            .into();
    for line in &mut lines {
        let answer = line.hear();
        assert_eq!(answer.status, 408, "{}", answer.body);
        line.closed();
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(10) + SLACK, "{took:?}");
    agent.stop();
}

#[test]
#[ignore = "waits 60 s"]
fn a_connection_on_which_nothing_is_asked_is_closed_after_60_s() {
    let agent = start(&[]);
    let mut line = Line::to(&agent);
    line.socket().set_read_timeout(Some(PATIENCE * 4)).unwrap();
    let start = Instant::now();
    line.get("/list");
    line.closed();
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(60) && took < Duration::from_secs(60) + SLACK, "{took:?}");
    agent.stop();
}

#[test]
fn ids_may_be_anything_and_break_no_line() {
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
        agent.tell(&format!("/hb_init?60000&appid={sent}"));
        assert_eq!(agent.list(), [shown]);
        for line in [agent.tell(&format!("/status?0&appid={sent}")), agent.tell("/status")] {
            let start = format!("OK - fine application [{shown}]| od=0.");
            assert!(line.starts_with(&start) && line.matches('|').count() == 1, "{line}");
        }
        agent.tell(&format!("/hb_done?0&appid={sent}"));
        assert!(agent.list().is_empty());
        let line = agent.tell(&format!("/status?0&appid={sent}"));
        assert_eq!(line, format!("CRITICAL - no application record for queried ID: [{shown}]"));
    }
    assert_eq!(agent.ask(&format!("/hb_init?0&appid={}", "x".repeat(256))).0, 200);
    let (status, body) = agent.ask(&format!("/hb_init?0&appid={}", "x".repeat(257)));
    assert_eq!((status, body.as_str()), (400, "the id has 257 bytes; 256 are the most"));
    assert_eq!(agent.ask(&format!("/hb_init?0&appid={}", "%e2%98%83".repeat(85))).0, 200);
    assert_eq!(agent.ask(&format!("/hb_init?0&appid={}", "%e2%98%83".repeat(86))).0, 400);
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains('\x1b')), "{log:#?}");
}

#[test]
fn of_ten_thousand_applications_none_is_lost_to_one_more() {
    let agent = start(&[]);
    let mut line = Line::to(&agent);
    for hundred in 0..100 {
        let ids = (0..100).map(|number| hundred * 100 + number);
        let beats: String =
            ids.map(|id| format!("GET /hb_ping?600000&appid=app{id} HTTP/1.1\r\n\r\n")).collect();
        line.say(beats);
        for _ in 0..100 {
            assert_eq!(line.hear().status, 200);
        }
    }
    let answer = line.get("/hb_init?600000&appid=one_more");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("there are 10000 applications already"), "{}", answer.body);
    assert_eq!(line.get("/hb_ping?600000&appid=app7").status, 200, "who beats is not refused");
    assert_eq!(line.get("/list").body.lines().count(), 10_000);
    let host = line.get("/status").body;
    assert!(host.starts_with("WARNING - multiple (10000) applications: [app0,app1,"), "{host}");
    assert!(host.len() < 2000, "{host}");
    assert_eq!(line.get("/hb_done?0&appid=app7").status, 200);
    assert_eq!(line.get("/hb_init?600000&appid=one_more").status, 200, "there is room again");
    agent.stop();
}

#[test]
fn while_the_agent_stops_idle_clients_are_let_go() {
    let agent = start(&[]);
    let mut idle: Vec<_> = (0..50).map(|_| Line::to(&agent)).collect();
    for line in &mut idle {
        line.get("/hb_ping?60000&appid=a");
    }
    let before = agent.status("Threads");
    let mut half = Line::to(&agent);
    half.say("GET /hb");
    agent.stop();
    assert!(before > 50, "{before}");
    for line in &mut idle {
        line.closed();
    }
    // Half a request that the agent has not read makes the end a reset.
    let mut rest = Vec::new();
    let _ = half.socket().read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn who_comes_and_goes_leaves_nothing_behind() {
    let agent = start(&[]);
    agent.tell("/list");
    let count = |agent: &Agent| (agent.status("Threads"), agent.descriptors());
    let before = wait_until("rest", || {
        let before = count(&agent);
        std::thread::park_timeout(Duration::from_millis(200));
        (count(&agent) == before).then_some(before)
    });
    for number in 0..200 {
        let mut line = Line::to(&agent);
        match number % 4 {
            0 => drop(line.get("/list")),
            1 => line.say("GET /lis"),
            2 => line.say("POST /list HTTP/1.1\r\nContent-Length: 9\r\n\r\n"),
            _ => {}
        }
    }
    // Those who came first may not have gone yet when it was counted.
    let few = |now: (u64, usize)| now.0 <= before.0 && now.1 <= before.1;
    wait_until("as few as before", || few(count(&agent)).then_some(()));
    agent.stop();
}
