//! Clients of the protocol: those of hilbert-heartbeat 1.0.0 and of the prototype.
//!
//! Their captured requests (`tests/fixtures/heartbeat`) are always replayed. If `HM_TEST_HEARTBEAT_CLIENTS` names a checkout
//! of the hilbert-heartbeat repository, and `bc` and `wget` or `curl` are installed, its bash and Python clients run too, and
//! its JavaScript library in Chromium.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::Agent;
use crate::support::heartbeat::HttpConnection;

/// Sends a captured request. Returns the body of the response, without performance data.
fn replay(agent: &Agent, name: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let request = std::fs::read(tests.join(format!("fixtures/heartbeat/{name}.http"))).unwrap();
    let mut line = HttpConnection::open(agent);
    line.send(&request);
    let answer = line.read();
    assert_eq!(answer.status, 200, "{name}: {answer:?}");
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"), "{name}");
    let text = String::from_utf8_lossy(&request).to_lowercase();
    match text.contains("\r\nconnection: close\r\n") {
        true => line.assert_closed(),
        // The agent has read the whole request.
        false => assert_eq!(line.get("/hb_done?0&appid=none").status, 200, "{name}"),
    }
    answer.body.split("| od=").next().unwrap().to_owned()
}

const DONE: &str = "So long, and thanks for all the beats!";

#[test]
fn answers_requests_of_released_clients() {
    let agent = Agent::start(&[]);
    let none = "UNKNOWN - no heartbeat clients at the moment...";
    for tool in ["wget", "curl"] {
        let fine = format!("OK - fine application [demo_{tool}]");
        let list = format!("demo_{tool}\n");
        for (command, answer) in [
            ("host", none),
            ("init", "6000"),
            ("ping", "6000"),
            ("status", &fine),
            ("host", &fine),
            ("check", &fine),
            ("list", &list),
            ("done", DONE),
            ("check", none),
        ] {
            let name = format!("bash-{tool}-{command}");
            assert_eq!(replay(&agent, &name), answer, "{name}");
        }
    }
    for (name, answer) in [
        ("python-check", none),
        ("python-init", "1500"),
        ("python-ping", "2000"),
        ("python-check", "OK - fine application [test_python]"),
        ("python-status", "CRITICAL - no application record for queried ID: [x]"),
        ("python-list", "test_python\n"),
        ("python-done", DONE),
        ("python-list", ""),
        ("js-init", "2000"),
        ("js-ping", "2000"),
        ("python-list", "newjs\n"),
        ("js-done", DONE),
        ("python-list", ""),
    ] {
        assert_eq!(replay(&agent, name), answer, "{name}");
    }
    agent.stop();
}

#[test]
fn answers_requests_of_prototype_clients_in_seconds() {
    let agent = Agent::start(&["heartbeat.unit=s"]);
    for (name, answer) in [
        ("prototype-bash-init", "4"),
        ("prototype-bash-ping", "6"),
        ("prototype-bash-done", DONE),
        ("prototype-js-init", "2.5"),
        ("prototype-js-ping", "2.5"),
        ("python-check", "OK - fine application [oldjs]"),
    ] {
        assert_eq!(replay(&agent, name), answer, "{name}");
    }
    assert!(agent.get_ok("/status").ends_with(" delay=2.5s;;;"));
    agent.stop();
}

/// Runs a client in its directory. Returns standard output without performance data, and the exit code.
fn run(agent: &Agent, program: &Path, id: Option<&str>, arguments: &[&str]) -> (String, i32) {
    let mut command = Command::new(program);
    command.current_dir(program.parent().unwrap()).args(arguments);
    let port = agent.heartbeat().port().to_string();
    command.env_remove("HB_URL").env("HB_PORT", port).env("HB_PING_INTERVAL", "300");
    match id {
        Some(id) => command.env("APP_ID", id),
        None => command.env_remove("APP_ID"),
    };
    let Output { status, stdout, .. } = command.output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    (text.split("| od=").next().unwrap().trim_end().to_owned(), status.code().unwrap())
}

fn checkout() -> Option<PathBuf> {
    let path = std::env::var_os("HM_TEST_HEARTBEAT_CLIENTS").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: HM_TEST_HEARTBEAT_CLIENTS is not set");
    }
    path
}

#[test]
#[ignore = "needs HM_TEST_HEARTBEAT_CLIENTS"]
fn serves_released_clients() {
    let Some(checkout) = checkout() else { return };
    let agent = Agent::start(&[]);
    let bash = |script: &str, id, arguments: &[&str]| {
        run(&agent, &checkout.join("client/bash").join(script), id, arguments)
    };
    let python =
        |script: &str, id| run(&agent, &checkout.join("client/python").join(script), id, &[]);
    let none = ("UNKNOWN - no heartbeat clients at the moment...".to_owned(), 3);
    assert_eq!(bash("check_heartbeat.sh", None, &[]), none);
    assert_eq!(python("check_heartbeat.py", None), none);
    let success =
        |what: &str, answer: &str| (format!("OK: Heartbeat server {what} response: [{answer}]"), 0);
    assert_eq!(bash("hb_init.sh", Some("a"), &["5000"]), success("init", "6000"));
    assert_eq!(bash("hb_ping.sh", Some("a"), &["7000"]), success("ping", "8000"));
    let fine = ("OK - fine application [a]".to_owned(), 0);
    assert_eq!(bash("hb_status.sh", Some("a"), &[]), fine);
    assert_eq!(bash("hb_status.sh", None, &[]), fine);
    assert_eq!(bash("check_heartbeat.sh", None, &[]), fine);
    assert_eq!(python("check_heartbeat.py", Some("a")), fine);
    assert_eq!(bash("hb_init.sh", Some("b"), &["5000"]).1, 0);
    assert_eq!(bash("hb_list.sh", None, &[]), ("a\nb".to_owned(), 0));
    let two = ("WARNING - multiple (2) applications: [a,b]".to_owned(), 1);
    assert_eq!(bash("check_heartbeat.sh", None, &[]), two);
    assert_eq!(python("check_heartbeat.py", None), two);
    let unknown = ("CRITICAL - no application record for queried ID: [c]".to_owned(), 2);
    assert_eq!(python("check_heartbeat.py", Some("c")), unknown);
    for id in ["a", "b"] {
        assert_eq!(bash("hb_done.sh", Some(id), &["0"]), success("done", DONE));
    }
    assert!(agent.list().is_empty());
    for (script, code) in [("hb_wrapper.sh", 7), ("hb_dummy.sh", 7)] {
        let (text, exit_code) = bash(script, Some("w"), &["sh", "-c", "sleep 1; exit 7"]);
        assert_eq!(exit_code, code, "{text}");
        assert!(
            text.contains(&success("init", "11000").0) && text.ends_with(&success("done", DONE).0),
            "{text}"
        );
    }
    assert_eq!(bash("test.sh", None, &[]).1, 0);
    let (text, code) = python("test.py", None);
    assert_eq!(code, 0);
    assert!(text.ends_with(&format!("\n1500\n2000\n{DONE}")), "{text}");
    assert!(agent.list().is_empty());
    agent.stop();
}

fn page(library: Option<&Path>) {
    let agent = Agent::start(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/heartbeat_page.mjs");
    let url = format!("http://{}", agent.heartbeat());
    let mut command = Command::new("node");
    command.arg(script).args([&url, "page"]).args(library);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    print!("{}", String::from_utf8_lossy(&output.stdout));
    agent.stop();
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn page_of_other_origin_sends_heartbeats_and_done() {
    page(None);
}

#[test]
#[ignore = "needs Chromium, playwright-core and HM_TEST_HEARTBEAT_CLIENTS"]
fn page_with_released_library_sends_heartbeats_and_done() {
    let Some(checkout) = checkout() else { return };
    page(Some(&checkout.join("client/js/hilbert-heartbeat.js")));
}
