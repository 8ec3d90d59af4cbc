//! Start, reload and stop, logging, and recovery from a lack of descriptors and memory.

use crate::support;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Agent, SLACK, TempDir, assert_best_of_five, wait_until};

#[test]
fn logs_startup_and_stops_on_sigterm() {
    let agent = Agent::start(&["node_id=n1"]);
    let line = agent.wait_log("started");
    assert!(line.contains(env!("CARGO_PKG_VERSION")) && line.contains("on node n1"), "{line}");
    assert!(line.contains("started; settings from no file; services: usage, heartbeat"), "{line}");
    let log = agent.stop();
    assert!(log.last().unwrap().ends_with("info stopping"), "{log:#?}");
}

#[test]
fn starts_and_stops_within_two_seconds() {
    assert_best_of_five(Duration::from_secs(2), || Agent::start(&[]).started.elapsed());
    assert_best_of_five(Duration::from_secs(2), || {
        let mut agent = Agent::start(&[]);
        // Clients that send nothing and do not disconnect.
        let (_idle, _silent) = (agent.socket(), agent.subscribe());
        agent.signal("-TERM");
        agent.wait().1
    });
}

#[test]
fn stops_on_sigint() {
    let mut agent = Agent::start(&[]);
    agent.signal("-INT");
    assert_eq!(agent.wait().0.code(), Some(0));
}

#[test]
fn second_signal_kills_immediately() {
    assert_best_of_five(Duration::from_millis(500), || {
        let mut agent = Agent::start(&[]);
        // Shutdown waits a second for a client that does not answer the close frame.
        let _silent = agent.subscribe();
        agent.signal("-TERM");
        agent.wait_log("stopping");
        agent.signal("-TERM");
        let (status, duration) = agent.wait();
        // The agent may have stopped before the second signal.
        if status.signal() == Some(15) { duration } else { support::TEST_TIMEOUT }
    });
}

#[test]
fn sighup_reloads_settings_and_invalid_file_changes_nothing() {
    let scratch = TempDir::new("reload");
    let file = scratch.write("a.toml", "interval = 3600\n");
    let agent = Agent::start_with(&[], &["-c", &file]);
    let mut client = agent.subscribe();
    scratch.write("a.toml", "intervall = 1\n");
    agent.signal("-HUP");
    let line = agent.wait_log("configuration reload failed, keeping previous");
    assert!(
        line.ends_with(&format!(
            "{file} line 1: unknown key \"intervall\", did you mean interval?"
        ))
    );
    client.assert_no_message_for(Duration::from_millis(1200));
    scratch.write("a.toml", "interval = 1\n[usage]\nenabled = false\ntoken = \"t\"\n");
    agent.signal("-HUP");
    agent.wait_log("configuration reloaded");
    agent.wait_log("restart required for: usage.enabled");
    assert_eq!(client.json()["type"], "usage_update", "the new interval");
    assert_eq!(client.json()["type"], "usage_update");
    assert_eq!(agent.http("/usage", "").0, 401, "the new token");
    agent.stop();
}

#[test]
fn journal_lines_have_level_prefix_and_no_time() {
    let started_with = |journal: &str| {
        let mut command = Command::new("sh");
        let script = format!("export JOURNAL_STREAM={journal}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_hm-agent")]);
        command.args(["-s", "usage.listen=127.0.0.1:0"]);
        let agent = Agent::spawn(command);
        let line = agent.wait_log("started");
        agent.stop();
        line
    };
    assert!(started_with("$(stat -Lc %d:%i /dev/stderr)").starts_with("<6>hm-agent "));
    // Inherited from a parent service with another standard error.
    assert!(started_with("8:1").contains("Z info hm-agent "));
}

#[test]
fn keeps_serving_when_log_cannot_be_written() {
    let mut command = Command::new("sh");
    // Standard error is a full disk after the lines that the test waits for.
    let agent = env!("CARGO_BIN_EXE_hm-agent");
    command.args([
        "-c",
        "exec 3>&2 2>/dev/full; echo usage listening on 127.0.0.1:1 >&3; exec \"$0\" \"$@\"",
        agent,
    ]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "log_level=trace"]);
    command.args(["-s", "heartbeat.enabled=false"]);
    let mut agent = Agent::spawn(command);
    let port = wait_until("a listening port", || listening_port(agent.pid()));
    agent.address.set_port(port);
    agent.subscribe();
    agent.stop();
}

/// The port that a process listens on, by /proc.
fn listening_port(pid: u32) -> Option<u16> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links: Vec<String> = fds
        .filter_map(|fd| Some(std::fs::read_link(fd.ok()?.path()).ok()?.display().to_string()))
        .collect();
    let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    sockets.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listening = fields.get(3) == Some(&"0A");
        let ours = links.contains(&format!("socket:[{}]", fields.get(9)?));
        let port = fields.get(1)?.rsplit(':').next()?;
        (listening && ours).then(|| u16::from_str_radix(port, 16).ok())?
    })
}

/// After the machine was suspended or the process stopped.
#[test]
fn sends_one_update_after_pause_instead_of_missed_ones() {
    let agent = Agent::start(&["interval=1"]);
    let mut client = agent.subscribe();
    client.json();
    agent.signal("-STOP");
    wait_until("it stopped", || (agent.state() == "T").then_some(()));
    // Discards earlier updates.
    client.0.get_ref().set_nonblocking(true).unwrap();
    while client.0.read().is_ok() {}
    client.0.get_ref().set_nonblocking(false).unwrap();
    client.assert_no_message_for(Duration::from_millis(3500));
    let start = Instant::now();
    agent.signal("-CONT");
    for _ in 0..3 {
        client.json();
    }
    let duration = start.elapsed();
    let limit = Duration::from_secs(3) + SLACK;
    assert!(duration > Duration::from_secs(1) && duration < limit, "{duration:?}");
    agent.stop();
}

#[test]
fn resumes_accepting_after_running_out_of_descriptors() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 80; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
    let agent = Agent::spawn(command);
    let mut subscriber = agent.subscribe();
    let flood: Vec<_> = (0..100).map(|_| agent.socket()).collect();
    agent.wait_log("cannot accept connections: ");
    for _ in 0..3 {
        let update = subscriber.json();
        assert!(update["cpu_percent"].is_number(), "open connections are served: {update}");
    }
    drop(flood);
    let start = Instant::now();
    agent.subscribe();
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    agent.stop();
}

/// Without a check of free memory the process would abort: std panics when it cannot map a new thread's signal stack.
#[test]
fn resumes_accepting_after_running_out_of_thread_memory() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v 60000; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
    command.args(["-s", "usage.max_connections=0", "-s", "usage.max_connections_per_ip=0"]);
    let agent = Agent::spawn(command);
    let mut subscriber = agent.subscribe();
    let mut flood = Vec::new();
    wait_until("a thread that does not start", || {
        flood.extend((0..20).map(|_| agent.socket()));
        agent.log().iter().any(|line| line.contains("cannot start a thread")).then_some(())
    });
    for _ in 0..3 {
        assert_eq!(subscriber.json()["type"], "usage_update", "open connections are served");
    }
    drop(flood);
    let start = Instant::now();
    wait_until("an accepted connection", || {
        (agent.http_status("/usage") == Some(426)).then_some(())
    });
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    agent.stop();
}

#[test]
fn serves_and_stops_while_log_pipe_is_full() {
    let mut command = support::hm_agent();
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "log_level=debug"]);
    command.args(["-s", "heartbeat.enabled=false"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let unread = child.stderr.take().unwrap();
    let port = wait_until("a listening port", || listening_port(child.id()));
    // Each connection writes a line; a pipe holds 64 KiB.
    for _ in 0..2000 {
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
    std::io::Write::write_all(&mut client, b"GET /usage HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut response = [0; 12];
    std::io::Read::read_exact(&mut client, &mut response).unwrap();
    assert_eq!(&response, b"HTTP/1.1 426");
    let start = Instant::now();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    let status = wait_until("its exit", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", start.elapsed());
    drop(unread);
}
