//! `hm-agent status` and `hm-agent beat`: exit codes, lines, and a server that is away.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::heartbeat::{client_of, lines_of, od_of};
use support::{Agent, SLACK, Scratch, at_best, hm_agent, wait_until};

/// Runs it to its end: exit code, standard output and standard error.
fn ran(command: &mut Command) -> (i32, String, String) {
    end_of(Running::new(command.stdin(Stdio::null())))
}

/// A program that is killed when it goes out of scope.
struct Running(Child);

impl Running {
    fn new(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn code(&mut self) -> i32 {
        let status = wait_until("its end", || self.0.try_wait().unwrap());
        status.code().unwrap_or_else(|| panic!("{status}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn end_of(mut running: Running) -> (i32, String, String) {
    drop(running.0.stdin.take());
    let code = running.code();
    let text = |from: &mut dyn Read| {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    };
    let (mut out, mut err) = (running.0.stdout.take().unwrap(), running.0.stderr.take().unwrap());
    (code, text(&mut out), text(&mut err))
}

/// `hm-agent status`: exit code and the one line.
fn status(agent: &Agent, arguments: &[&str]) -> (i32, String) {
    let (code, out, err) = ran(&mut client_of(agent, &[&["status"], arguments].concat()));
    assert_eq!(err, "");
    assert!(out.ends_with('\n') && out.lines().count() == 1, "{out:?}");
    (code, out.trim_end().to_owned())
}

#[test]
fn status_is_a_nagios_plugin() {
    let agent = Agent::start(&[]);
    let none = "UNKNOWN - no heartbeat clients at the moment...";
    assert_eq!(status(&agent, &[]), (3, none.to_owned()));
    agent.tell("/hb_init?60000&appid=a%20b%26c%7C%C3%BC%25");
    let (code, line) = status(&agent, &["a b&c|ü%"]);
    assert_eq!(code, 0, "{line}");
    assert!(line.starts_with(r"OK - fine application [a b&c\x7cü%]| od=0."), "{line}");
    assert_eq!(status(&agent, &[]).0, 0, "the only one");
    // Late after nine seconds, very late after fifteen, dropped after eighteen.
    agent.tell("/hb_init?2000&appid=late");
    let several = r"WARNING - multiple (2) applications: [a b&c\x7cü%,late]";
    assert_eq!(status(&agent, &[]), (1, several.to_owned()));
    let unknown = "CRITICAL - no application record for queried ID: [nobody]";
    assert_eq!(status(&agent, &["nobody"]), (2, unknown.to_owned()));
    let (code, line) = status(&agent, &[&"x".repeat(257)]);
    assert_eq!(code, 3);
    assert!(line.ends_with("answers 400: the id has 257 bytes; 256 are the most"), "{line}");
    agent.tell("/maintenance?60000&appid=nobody");
    assert_eq!(status(&agent, &["nobody"]).0, 0);
    agent.wait_line("late", "WARNING");
    assert_eq!(status(&agent, &["late"]).0, 1);
    agent.wait_line("late", "CRITICAL - quite late");
    assert_eq!(status(&agent, &["late"]).0, 2);
    agent.stop();
}

#[test]
fn the_server_is_named_as_the_protocols_clients_name_it() {
    let agent = Agent::start(&[]);
    agent.tell("/hb_init?60000&appid=a");
    agent.tell("/hb_init?60000&appid=b");
    let (address, url) = (agent.heartbeat(), format!("http://{}", agent.heartbeat()));
    let with = |variables: &[(&str, &str)], arguments: &[&str]| {
        ran(hm_agent().arg("status").args(arguments).envs(variables.iter().copied())).0
    };
    let port = address.port().to_string();
    let dead = ("HB_URL", "http://127.0.0.1:1");
    assert_eq!(with(&[("HB_URL", &url), ("HB_PORT", "1")], &[]), 1);
    assert_eq!(with(&[("HB_URL", &format!("{url}/"))], &["a"]), 0);
    assert_eq!(with(&[("HB_HOST", "127.0.0.1"), ("HB_PORT", &port)], &["a"]), 0);
    assert_eq!(with(&[("HB_HOST", "localhost"), ("HB_PORT", &port)], &["a"]), 0);
    assert_eq!(with(&[("HB_PORT", &port), ("APP_ID", "b"), ("HB_URL", "")], &[]), 0);
    assert_eq!(with(&[("HB_PORT", &port), ("APP_ID", "nobody")], &["b"]), 0, "arguments go first");
    assert_eq!(with(&[dead], &["--url", &url, "a"]), 0);
    for bad in ["localhost:8888", "https://localhost", "http://", "http://a b"] {
        let (code, out, err) = ran(hm_agent().args(["status", "--url", bad]));
        assert_eq!((code, out.as_str()), (2, ""), "{bad}");
        assert!(err.contains("--url: ") && err.contains("is not http://HOST:PORT"), "{err}");
    }
    agent.stop();
}

/// Accepts and does not answer.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn a_server_that_cannot_be_asked_is_critical() {
    let ask = |url: &str| {
        let start = Instant::now();
        let (code, out, err) = ran(hm_agent().args(["status", "--url", url]));
        assert_eq!((code, err.as_str()), (2, ""), "{out}");
        assert_eq!(out.lines().count(), 1);
        let start_of = format!("CRITICAL - cannot ask the heartbeat server {url}: ");
        let why = out.strip_prefix(&start_of).unwrap_or_else(|| panic!("{out}")).trim_end();
        (why.to_owned(), start.elapsed())
    };
    at_best(Duration::from_secs(1), || {
        let (why, took) = ask("http://127.0.0.1:1");
        assert_eq!(why, "connection refused");
        took
    });
    let (listener, url) = silent();
    let (why, took) = ask(&url);
    assert_eq!(why, "no answer in time");
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(4) + SLACK, "{took:?}");
    let babbler = std::thread::spawn(move || {
        // The client that gave up, and the next one.
        listener.accept().unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        let _ = socket.read(&mut [0; 1024]);
    });
    assert_eq!(ask(&url).0, "something that is no HTTP answers");
    babbler.join().unwrap();
}

/// A running `hm-agent beat`.
fn beat(agent: &Agent, arguments: &[&str]) -> Running {
    let mut command = client_of(agent, &[&["beat"], arguments].concat());
    Running::new(command.stdin(Stdio::piped()))
}

#[test]
fn a_command_beats_while_it_lives() {
    let agent = Agent::start(&[]);
    // What it reads and writes is its own.
    let child = beat(&agent, &["--id", "a b|ü", "--every", "300", "--", "cat"]);
    let line = wait_until("its beat", || {
        let line = agent.tell("/status");
        line.starts_with("OK - fine").then_some(line)
    });
    assert!(line.starts_with(r"OK - fine application [a b\x7cü]| od=0."), "{line}");
    assert!(line.ends_with(" delay=1300ms;;;"), "{line}");
    // More and a beat would be missing.
    at_best(0.4, || {
        let (mut largest, until) = (0.0, Instant::now() + Duration::from_secs(2));
        while Instant::now() < until {
            largest = od_of(&agent.tell("/status")).max(largest);
        }
        largest
    });
    child.0.stdin.as_ref().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(end_of(child), (0, "hello\n".to_owned(), String::new()));
    assert!(agent.list().is_empty(), "its goodbye was said before it ended");
    for (arguments, variable, id) in [
        (&["--", "/bin/sleep", "30"][..], None, "sleep"),
        (&["--", "/bin/sleep", "30"], Some("own"), "own"),
        (&["--id", "first", "sleep", "30"], Some("own"), "first"),
    ] {
        let mut command = client_of(&agent, &["beat"]);
        command.args(arguments).envs(variable.map(|id| ("APP_ID", id)));
        let mut child = Running::new(&mut command);
        wait_until(id, || (agent.list() == [id]).then_some(()));
        let line = agent.tell("/status");
        assert!(line.ends_with(" delay=6000ms;;;"), "every five seconds, if nobody says: {line}");
        child.signal("-TERM");
        assert_eq!(child.code(), 143);
        assert!(agent.list().is_empty());
    }
    agent.stop();
}

#[test]
fn the_exit_code_is_the_commands() {
    let agent = Agent::start(&[]);
    let scratch = Scratch::new("commands");
    let plain = scratch.write("plain", "");
    for (command, code, said) in [
        (&["true"][..], 0, ""),
        (&["sh", "-c", "exit 7"], 7, ""),
        (&["sh", "-c", "exit 255"], 255, ""),
        (&["sh", "-c", "kill -9 $$"], 137, ""),
        (&["sh", "-c", "kill -ABRT $$"], 134, ""),
        (
            &["nonexistent-program"],
            127,
            "hm-agent beat: run nonexistent-program: no such file or directory\n",
        ),
        (&[&plain], 126, &format!("hm-agent beat: run {plain}: permission denied\n")),
    ] {
        let ended = end_of(beat(&agent, &[&["--"], command].concat()));
        assert_eq!(ended, (code, String::new(), said.to_owned()), "{command:?}");
        // The same while nobody hears it.
        let mut alone = hm_agent();
        alone.args(["beat", "--url", "http://127.0.0.1:1", "--"]).args(command);
        assert_eq!(ran(&mut alone).0, code, "{command:?}");
    }
    assert!(agent.list().is_empty());
    agent.stop();
}

#[test]
fn signals_reach_the_command() {
    let agent = Agent::start(&[]);
    let scratch = Scratch::new("signals");
    let file = scratch.0.join("log");
    let script = format!(
        "for s in INT USR1 USR2 HUP TERM; do trap \"echo $s >> {0}\" $s; done; echo ready >> {0}; \
         while [ -e {0} ] && ! grep -q TERM {0}; do sleep 0.05; done; exit 9",
        file.display()
    );
    // A script that starts the tests with & or nohup has them ignore signals, and a shell cannot trap what it was told to
    // ignore.
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_hm-agent"), "beat"]);
    command.args(["--url", &format!("http://{}", agent.heartbeat()), "--", "sh", "-c", &script]);
    let child = Running::new(command.stdin(Stdio::piped()));
    let mut expected = vec!["ready".to_owned()];
    wait_until("a ready script", || (lines_of(&file) == expected).then_some(()));
    for name in ["INT", "USR1", "USR2", "HUP", "TERM"] {
        child.signal(&format!("-{name}"));
        expected.push(name.to_owned());
        wait_until(name, || (lines_of(&file) == expected).then_some(()));
    }
    assert_eq!(end_of(child), (9, String::new(), String::new()));
    agent.stop();
}

/// It passed on what it had blocked for itself, so that Ctrl-C ended no program but shells.
#[test]
fn the_command_starts_with_no_signal_blocked() {
    let mut command = hm_agent();
    command.args(["beat", "--url", "http://127.0.0.1:1"]);
    command.args(["--", "grep", "SigBlk", "/proc/self/status"]);
    assert_eq!(ran(&mut command).1, "SigBlk:\t0000000000000000\n");
}

/// It waited for ever: whoever ignores SIGCHLD is not told of a child's end.
#[test]
fn where_the_ends_of_children_are_ignored_it_ends_with_its_command() {
    let mut command = Command::new("env");
    command.args(["--ignore-signal=CHLD", env!("CARGO_BIN_EXE_hm-agent"), "beat"]);
    command.args(["--url", "http://127.0.0.1:1", "--", "sh", "-c", "exit 7"]);
    assert_eq!(ran(&mut command).0, 7);
}

#[test]
fn a_server_that_is_away_costs_the_command_nothing_and_beats_resume() {
    // An address that no other test has, so that nobody takes the port meanwhile.
    let free = TcpListener::bind("127.7.7.7:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let mut command = hm_agent();
    command.args(["beat", "--id", "a", "--every", "200", "--url", &url, "--", "cat"]);
    let mut child = Running::new(command.stdin(Stdio::piped()));
    let mut said = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let away = format!("hm-agent beat: no heartbeats to {url}: connection refused");
    assert_eq!(said.next().unwrap().unwrap(), away);
    // More beats that nobody hears.
    std::thread::park_timeout(Duration::from_millis(500));
    let listen = format!("heartbeat.listen={free}");
    let agent = Agent::start(&[&listen]);
    wait_until("its beat", || (agent.list() == ["a"]).then_some(()));
    agent.stop();
    // It may have found a connection that broke.
    let away = format!("hm-agent beat: no heartbeats to {url}: ");
    assert!(said.next().unwrap().unwrap().starts_with(&away));
    std::thread::park_timeout(Duration::from_millis(500));
    let agent = Agent::start(&[&listen]);
    wait_until("its beat again", || (agent.list() == ["a"]).then_some(()));
    child.0.stdin.as_ref().unwrap().write_all(b"unharmed\n").unwrap();
    drop(child.0.stdin.take());
    assert_eq!(child.code(), 0);
    let mut out = String::new();
    child.0.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "unharmed\n");
    // One line for each time it went away.
    assert!(said.next().is_none());
    assert!(agent.list().is_empty());
    agent.stop();
}

#[test]
fn a_server_that_hangs_does_not_keep_the_command_from_its_end_for_long() {
    let (_listener, url) = silent();
    let mut command = hm_agent();
    command.args(["beat", "--every", "100", "--url", &url, "--", "sh", "-c", "sleep 0.2; exit 3"]);
    let start = Instant::now();
    assert_eq!(ran(&mut command).0, 3);
    assert!(start.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", start.elapsed());
}

/// They came all at once, as many as would have been due.
#[test]
fn beats_that_a_hanging_server_has_missed_are_not_made_up_for() {
    let (listener, url) = silent();
    let mut command = hm_agent();
    command.args(["beat", "--every", "100", "--url", &url, "--", "sleep", "8"]);
    let beating = Running::new(command.stdin(Stdio::null()));
    // The first one is given up after four seconds.
    let _hung = listener.accept().unwrap();
    listener.accept().unwrap();
    let start = Instant::now();
    listener.set_nonblocking(true).unwrap();
    let mut beats = 0;
    while start.elapsed() < Duration::from_millis(500) {
        match listener.accept() {
            Ok(_) => beats += 1, // and hangs up
            Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
    assert!(beats <= 8, "{beats} beats within half a second, of forty that were due");
    drop(listener);
    assert_eq!(end_of(beating).0, 0);
}

/// Answers every beat as the prototype does, and keeps the requests' first lines.
fn prototype(grants: fn(u64) -> u64) -> (String, Arc<Mutex<Vec<String>>>) {
    let (listener, url) = silent();
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = requests.clone();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut request = vec![0; 4096];
            let count = socket.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..count]).into_owned();
            let line = request.lines().next().unwrap_or_default().to_owned();
            let time = line.split(['?', '&']).nth(1).and_then(|time| time.parse().ok());
            kept.lock().unwrap().push(line);
            let body = grants(time.unwrap_or(0));
            write!(socket, "HTTP/1.0 200 OK\r\nContent-type: text/plain\r\n\r\n{body}").unwrap();
        }
    });
    (url, requests)
}

#[test]
fn what_is_sent_in_the_unit_of_the_server() {
    let (url, requests) = prototype(|time| time + 1000);
    let run = |url: &str, every: &str| {
        let mut command = hm_agent();
        command.args(["beat", "--id", "a&b", "--every", every, "--url", url, "--"]);
        assert_eq!(ran(command.args(["sleep", "3"])), (0, String::new(), String::new()));
    };
    run(&url, "400");
    let (init, ping) =
        ("GET /hb_init?400&appid=a%26b HTTP/1.1", "GET /hb_ping?400&appid=a%26b HTTP/1.1");
    let done = "POST /hb_done?0&appid=a%26b HTTP/1.1";
    let mut seen = requests.lock().unwrap().clone();
    seen.dedup();
    assert_eq!(seen, [init, ping, done]);
    // One that counts seconds grants one more than it was told, and is told again.
    let (url, requests) = prototype(|time| time + 1);
    run(&url, "400");
    run(&url, "30000");
    let mut seen = requests.lock().unwrap().clone();
    let ping = "GET /hb_ping?1&appid=a%26b HTTP/1.1";
    let (long, again) = (init.replace("400", "30000"), ping.replace("?1&", "?30&"));
    assert_eq!(seen.split_off(seen.len() - 3), [&long, &again, done]);
    seen.dedup();
    assert_eq!(seen, [init, ping, done]);
    let agent = Agent::start(&["heartbeat.unit=s"]);
    let child = beat(&agent, &["--id", "a", "--every", "1500", "--", "cat"]);
    wait_until("seconds", || agent.tell("/status").ends_with(" delay=3s;;;").then_some(()));
    assert_eq!(end_of(child).0, 0);
    agent.stop();
}
