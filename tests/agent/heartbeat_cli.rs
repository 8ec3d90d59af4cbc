//! `hm-agent status` and `hm-agent beat`: exit codes, output, and unreachable servers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::heartbeat::{client_of, lines_of, od_of};
use crate::support::{Agent, SLACK, TempDir, assert_best_of_five, hm_agent, wait_until};

/// Runs a command. Returns exit code, standard output and standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    finish(Running::new(command.stdin(Stdio::null())))
}

/// A program that is killed on drop.
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
        let status = wait_until("its exit", || self.0.try_wait().unwrap());
        status.code().unwrap_or_else(|| panic!("{status}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn finish(mut running: Running) -> (i32, String, String) {
    drop(running.0.stdin.take());
    let code = running.code();
    let (out, err) = (running.0.stdout.take().unwrap(), running.0.stderr.take().unwrap());
    (code, std::io::read_to_string(out).unwrap(), std::io::read_to_string(err).unwrap())
}

/// Runs `hm-agent status`. Returns exit code and output line.
fn status(agent: &Agent, arguments: &[&str]) -> (i32, String) {
    let (code, out, err) = run(&mut client_of(agent, &[&["status"], arguments].concat()));
    assert_eq!(err, "");
    assert!(out.ends_with('\n') && out.lines().count() == 1, "{out:?}");
    (code, out.trim_end().to_owned())
}

#[test]
fn status_prints_line_and_exit_code_of_nagios_plugin() {
    let agent = Agent::start(&[]);
    let none = "UNKNOWN - no heartbeat clients at the moment...";
    assert_eq!(status(&agent, &[]), (3, none.to_owned()));
    agent.get_ok("/hb_init?60000&appid=a%20b%26c%7C%C3%BC%25");
    let (code, line) = status(&agent, &["a b&c|ü%"]);
    assert_eq!(code, 0, "{line}");
    assert!(line.starts_with(r"OK - fine application [a b&c\x7cü%]| od=0."), "{line}");
    assert_eq!(status(&agent, &[]).0, 0, "the only application");
    // WARNING after 9 s, CRITICAL after 15 s, dropped after 18 s.
    agent.get_ok("/hb_init?2000&appid=late");
    let several = r"WARNING - multiple (2) applications: [a b&c\x7cü%,late]";
    assert_eq!(status(&agent, &[]), (1, several.to_owned()));
    let unknown = "CRITICAL - no application record for queried ID: [unknown]";
    assert_eq!(status(&agent, &["unknown"]), (2, unknown.to_owned()));
    let (code, line) = status(&agent, &[&"x".repeat(257)]);
    assert_eq!(code, 3);
    assert!(
        line.ends_with("returned HTTP status 400: the id has 257 bytes, the limit is 256"),
        "{line}"
    );
    agent.get_ok("/maintenance?60000&appid=unknown");
    assert_eq!(status(&agent, &["unknown"]).0, 0);
    agent.wait_status("late", "WARNING");
    assert_eq!(status(&agent, &["late"]).0, 1);
    agent.wait_status("late", "CRITICAL - quite late");
    assert_eq!(status(&agent, &["late"]).0, 2);
    agent.stop();
}

#[test]
fn server_is_selected_by_variables_and_url_flag() {
    let agent = Agent::start(&[]);
    agent.get_ok("/hb_init?60000&appid=a");
    agent.get_ok("/hb_init?60000&appid=b");
    let (address, url) = (agent.heartbeat(), format!("http://{}", agent.heartbeat()));
    let with = |variables: &[(&str, &str)], arguments: &[&str]| {
        run(hm_agent().arg("status").args(arguments).envs(variables.iter().copied())).0
    };
    let port = address.port().to_string();
    let dead = ("HB_URL", "http://127.0.0.1:1");
    assert_eq!(with(&[("HB_URL", &url), ("HB_PORT", "1")], &[]), 1);
    assert_eq!(with(&[("HB_URL", &format!("{url}/"))], &["a"]), 0);
    assert_eq!(with(&[("HB_HOST", "127.0.0.1"), ("HB_PORT", &port)], &["a"]), 0);
    assert_eq!(with(&[("HB_HOST", "localhost"), ("HB_PORT", &port)], &["a"]), 0);
    assert_eq!(with(&[("HB_PORT", &port), ("APP_ID", "b"), ("HB_URL", "")], &[]), 0);
    assert_eq!(
        with(&[("HB_PORT", &port), ("APP_ID", "unknown")], &["b"]),
        0,
        "the argument overrides APP_ID"
    );
    assert_eq!(with(&[dead], &["--url", &url, "a"]), 0);
    for bad in ["localhost:8888", "wss://localhost", "http://", "http://a b"] {
        let (code, out, err) = run(hm_agent().args(["status", "--url", bad]));
        assert_eq!((code, out.as_str()), (2, ""), "{bad}");
        assert!(err.contains("--url: ") && err.contains("is not http://HOST:PORT"), "{err}");
    }
    agent.stop();
}

/// A server that accepts connections and does not respond.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn status_is_critical_when_server_is_unreachable() {
    let query = |url: &str| {
        let start = Instant::now();
        let (code, out, err) = run(hm_agent().args(["status", "--url", url]));
        assert_eq!((code, err.as_str()), (2, ""), "{out}");
        assert_eq!(out.lines().count(), 1);
        let start_of = format!("CRITICAL - cannot reach the heartbeat server {url}: ");
        let why = out.strip_prefix(&start_of).unwrap_or_else(|| panic!("{out}")).trim_end();
        (why.to_owned(), start.elapsed())
    };
    assert_best_of_five(Duration::from_secs(1), || {
        let (why, took) = query("http://127.0.0.1:1");
        assert_eq!(why, "connection refused");
        took
    });
    let (listener, url) = silent_server();
    let (why, took) = query(&url);
    assert_eq!(why, "no response within 4 s");
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(4) + SLACK, "{took:?}");
    let other_protocol = std::thread::spawn(move || {
        // The client that timed out, then the next one.
        listener.accept().unwrap();
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        let _ = socket.read(&mut [0; 1024]);
    });
    assert_eq!(query(&url).0, "the response is not HTTP");
    other_protocol.join().unwrap();
}

/// Starts `hm-agent beat`.
fn beat(agent: &Agent, arguments: &[&str]) -> Running {
    let mut command = client_of(agent, &[&["beat"], arguments].concat());
    Running::new(command.stdin(Stdio::piped()))
}

#[test]
fn beat_sends_heartbeats_until_command_exits() {
    let agent = Agent::start(&[]);
    // Standard input and output belong to the command.
    let child = beat(&agent, &["--id", "a b|ü", "--every", "300", "--", "cat"]);
    let line = wait_until("its heartbeat", || {
        let line = agent.get_ok("/status");
        line.starts_with("OK - fine").then_some(line)
    });
    assert!(line.starts_with(r"OK - fine application [a b\x7cü]| od=0."), "{line}");
    assert!(line.ends_with(" delay=1300ms;;;"), "{line}");
    // A larger ratio would mean a missing heartbeat.
    assert_best_of_five(0.4, || {
        let (mut largest, until) = (0.0, Instant::now() + Duration::from_secs(2));
        while Instant::now() < until {
            largest = od_of(&agent.get_ok("/status")).max(largest);
        }
        largest
    });
    child.0.stdin.as_ref().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(finish(child), (0, "hello\n".to_owned(), String::new()));
    assert!(agent.list().is_empty(), "hb_done was sent before it exited");
    for (arguments, variable, id) in [
        (&["--", "/bin/sleep", "30"][..], None, "sleep"),
        (&["--", "/bin/sleep", "30"], Some("own"), "own"),
        (&["--id", "first", "sleep", "30"], Some("own"), "first"),
    ] {
        let mut command = client_of(&agent, &["beat"]);
        command.args(arguments).envs(variable.map(|id| ("APP_ID", id)));
        let mut child = Running::new(&mut command);
        wait_until(id, || (agent.list() == [id]).then_some(()));
        let line = agent.get_ok("/status");
        assert!(line.ends_with(" delay=6000ms;;;"), "the default interval is 5 s: {line}");
        child.signal("-TERM");
        assert_eq!(child.code(), 143);
        assert!(agent.list().is_empty());
    }
    agent.stop();
}

#[test]
fn beat_returns_exit_code_of_command() {
    let agent = Agent::start(&[]);
    let scratch = TempDir::new("commands");
    let plain = scratch.write("plain", "");
    for (command, code, stderr) in [
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
        let ended = finish(beat(&agent, &[&["--"], command].concat()));
        assert_eq!(ended, (code, String::new(), stderr.to_owned()), "{command:?}");
        // The same without a server.
        let mut alone = hm_agent();
        alone.args(["beat", "--url", "http://127.0.0.1:1", "--"]).args(command);
        assert_eq!(run(&mut alone).0, code, "{command:?}");
    }
    assert!(agent.list().is_empty());
    agent.stop();
}

#[test]
fn beat_forwards_signals_to_command() {
    let agent = Agent::start(&[]);
    let scratch = TempDir::new("signals");
    let file = scratch.0.join("log");
    let script = format!(
        "for s in INT USR1 USR2 HUP TERM; do trap \"echo $s >> {0}\" $s; done; echo ready >> {0}; \
         while [ -e {0} ] && ! grep -q TERM {0}; do sleep 0.05; done; exit 9",
        file.display()
    );
    // Tests started with & or nohup inherit ignored signals, which a shell cannot trap.
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
    assert_eq!(finish(child), (9, String::new(), String::new()));
    agent.stop();
}

/// The command used to inherit the signal mask, so that Ctrl-C ended only shells.
#[test]
fn command_starts_with_no_blocked_signal() {
    let mut command = hm_agent();
    command.args(["beat", "--url", "http://127.0.0.1:1"]);
    command.args(["--", "grep", "SigBlk", "/proc/self/status"]);
    assert_eq!(run(&mut command).1, "SigBlk:\t0000000000000000\n");
}

/// It used to wait forever, because a process that ignores SIGCHLD is not notified of a child's exit.
#[test]
fn beat_exits_with_command_when_sigchld_is_ignored() {
    let mut command = Command::new("env");
    command.args(["--ignore-signal=CHLD", env!("CARGO_BIN_EXE_hm-agent"), "beat"]);
    command.args(["--url", "http://127.0.0.1:1", "--", "sh", "-c", "exit 7"]);
    assert_eq!(run(&mut command).0, 7);
}

#[test]
fn heartbeats_resume_when_server_becomes_reachable() {
    // No other test uses this address, so the port stays free.
    let free = TcpListener::bind("127.7.7.7:0").unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let mut command = hm_agent();
    command.args(["beat", "--id", "a", "--every", "200", "--url", &url, "--", "cat"]);
    let mut child = Running::new(command.stdin(Stdio::piped()));
    let mut stderr = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let failure = format!("hm-agent beat: cannot send heartbeats to {url}: connection refused");
    assert_eq!(stderr.next().unwrap().unwrap(), failure);
    // Further heartbeats fail.
    std::thread::park_timeout(Duration::from_millis(500));
    let listen = format!("heartbeat.listen={free}");
    let agent = Agent::start(&[&listen]);
    wait_until("its heartbeat", || (agent.list() == ["a"]).then_some(()));
    agent.stop();
    // The reason may be a broken connection.
    let failure = format!("hm-agent beat: cannot send heartbeats to {url}: ");
    assert!(stderr.next().unwrap().unwrap().starts_with(&failure));
    std::thread::park_timeout(Duration::from_millis(500));
    let agent = Agent::start(&[&listen]);
    wait_until("its next heartbeat", || (agent.list() == ["a"]).then_some(()));
    child.0.stdin.as_ref().unwrap().write_all(b"unharmed\n").unwrap();
    drop(child.0.stdin.take());
    assert_eq!(child.code(), 0);
    let mut out = String::new();
    child.0.stdout.as_mut().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "unharmed\n");
    // One line for each outage.
    assert!(stderr.next().is_none());
    assert!(agent.list().is_empty());
    agent.stop();
}

#[test]
fn hung_server_delays_exit_by_request_timeout_only() {
    let (_listener, url) = silent_server();
    let mut command = hm_agent();
    command.args(["beat", "--every", "100", "--url", &url, "--", "sh", "-c", "sleep 0.2; exit 3"]);
    let start = Instant::now();
    assert_eq!(run(&mut command).0, 3);
    assert!(start.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", start.elapsed());
}

/// All missed heartbeats used to be sent at once.
#[test]
fn does_not_repeat_heartbeats_missed_by_hung_server() {
    let (listener, url) = silent_server();
    let mut command = hm_agent();
    command.args(["beat", "--every", "100", "--url", &url, "--", "sleep", "8"]);
    let running = Running::new(command.stdin(Stdio::null()));
    // The first request times out after 4 s.
    let _hung = listener.accept().unwrap();
    listener.accept().unwrap();
    let start = Instant::now();
    listener.set_nonblocking(true).unwrap();
    let mut requests = 0;
    while start.elapsed() < Duration::from_millis(500) {
        match listener.accept() {
            Ok(_) => requests += 1, // closes at once
            Err(_) => std::thread::park_timeout(Duration::from_millis(1)),
        }
    }
    assert!(requests <= 8, "{requests} requests within half a second, of forty that were due");
    drop(listener);
    assert_eq!(finish(running).0, 0);
}

/// A server that answers every heartbeat with `timeout(interval)` and keeps the request lines.
fn prototype(timeout: fn(u64) -> u64) -> (String, Arc<Mutex<Vec<String>>>) {
    let (listener, url) = silent_server();
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
            let body = timeout(time.unwrap_or(0));
            write!(socket, "HTTP/1.0 200 OK\r\nContent-type: text/plain\r\n\r\n{body}").unwrap();
        }
    });
    (url, requests)
}

#[test]
fn beat_detects_unit_of_server() {
    let (url, requests) = prototype(|time| time + 1000);
    let run = |url: &str, every: &str| {
        let mut command = hm_agent();
        command.args(["beat", "--id", "a&b", "--every", every, "--url", url, "--"]);
        assert_eq!(run(command.args(["sleep", "3"])), (0, String::new(), String::new()));
    };
    run(&url, "400");
    let (init, ping) =
        ("GET /hb_init?400&appid=a%26b HTTP/1.0", "GET /hb_ping?400&appid=a%26b HTTP/1.0");
    let done = "POST /hb_done?0&appid=a%26b HTTP/1.0";
    let mut seen = requests.lock().unwrap().clone();
    seen.dedup();
    assert_eq!(seen, [init, ping, done]);
    // A server that counts seconds answers with the interval plus one, and gets the interval again in seconds.
    let (url, requests) = prototype(|time| time + 1);
    run(&url, "400");
    run(&url, "30000");
    let mut seen = requests.lock().unwrap().clone();
    let ping = "GET /hb_ping?1&appid=a%26b HTTP/1.0";
    let (long, again) = (init.replace("400", "30000"), ping.replace("?1&", "?30&"));
    assert_eq!(seen.split_off(seen.len() - 3), [&long, &again, done]);
    seen.dedup();
    assert_eq!(seen, [init, ping, done]);
    let agent = Agent::start(&["heartbeat.unit=s"]);
    let child = beat(&agent, &["--id", "a", "--every", "1500", "--", "cat"]);
    wait_until("seconds", || agent.get_ok("/status").ends_with(" delay=3s;;;").then_some(()));
    assert_eq!(finish(child).0, 0);
    agent.stop();
}
