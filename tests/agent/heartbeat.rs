//! The heartbeat port on the wire: responses, units and rejected requests.

use crate::support::Agent;
use crate::support::heartbeat::{HttpConnection, od_of};

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
