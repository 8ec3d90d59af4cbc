//! `run --supervise`: the agent on a machine without a service manager.

use crate::support;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::supervised::{Setup, children, is_running, signal, stat};
use crate::support::{SLACK, wait_until};

#[test]
fn detach_returns_when_agent_is_ready_and_leaves_terminal() {
    let setup = Setup::new("detach");
    let supervisor = setup.in_background(&[]);
    assert!(setup.is_listening(), "at once");
    let (own, agent) = (stat(supervisor.pid).unwrap(), supervisor.agent());
    assert_eq!(own[1], "1", "its parent has exited");
    assert_eq!(own[4], "0", "it has no terminal");
    assert_ne!(own[3], supervisor.pid.to_string(), "no session leader: it cannot acquire one");
    assert_ne!(own[3], stat(std::process::id()).unwrap()[3]);
    for pid in [supervisor.pid, agent] {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        assert_eq!(link("cwd").as_os_str(), "/");
        assert_eq!(link("fd/1").as_os_str(), "/dev/null");
    }
    assert_eq!(setup.path("pid").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    supervisor.stop();
    assert!(!setup.path("pid").exists() && !setup.is_listening());
}

#[test]
fn detach_reports_failed_start_at_terminal() {
    let setup = Setup::new("detach-failure");
    let taken = TcpListener::bind(setup.address).unwrap();
    let refused = |arguments: &[&str]| {
        let output = setup.detach(arguments);
        assert!(!setup.path("pid").exists());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, stderr) = refused(&[]);
    let lines: Vec<_> = stderr.lines().collect();
    let [why, giving_up] = lines[..] else { panic!("{stderr}") };
    // The rest is the C library's text.
    assert!(
        why.starts_with(&format!("hm-agent: usage cannot listen on {}: ", setup.address)),
        "{why}"
    );
    assert_eq!(giving_up, "hm-agent: agent exited (exit status: 1), giving up");
    assert_eq!(code, Some(1));
    let (code, stderr) = refused(&["-s", "interval=0"]);
    assert_eq!(code, Some(2));
    let expected = "hm-agent: command line: interval: expected whole seconds";
    assert!(stderr.starts_with(expected), "{stderr}");
    // An error of the supervisor itself.
    let (code, stderr) = refused(&["--pid-file", "nowhere/pid"]);
    assert_eq!(code, Some(1));
    let path = setup.path("nowhere/pid");
    let why = format!("lock pid file {}: no such file or directory", path.display());
    assert_eq!(stderr, format!("hm-agent: {why}\n"));
    drop(taken);
}

#[test]
fn restarts_killed_agent_with_doubling_delay() {
    let setup = Setup::new("crash");
    let mut supervisor = setup.in_foreground(&["--pid-file", "pid"]);
    setup.wait_log("started; settings", 1);
    // None that a shell has its background jobs ignore, as SIGQUIT.
    for (name, seconds) in [("KILL", 1), ("ILL", 2), ("ABRT", 4)] {
        let (agent, start) = (supervisor.agent(), Instant::now());
        signal(agent, &format!("-{name}"));
        wait_until("its exit", || (!children(supervisor.pid).contains(&agent)).then_some(()));
        wait_until("a restart", || setup.is_listening().then_some(()));
        let delay = start.elapsed();
        assert!(delay >= Duration::from_secs(seconds), "after {delay:?}");
        assert!(delay < Duration::from_secs(seconds) + SLACK, "after {delay:?}");
        setup.wait_log(&format!("(SIG{name})"), 1);
        setup.wait_log(&format!("; restarting in {seconds} s"), 1);
        assert!(supervisor.is_running());
    }
    // A request to stop ends the delay.
    signal(supervisor.agent(), "-KILL");
    setup.wait_log("restarting in 8 s", 1);
    let start = Instant::now();
    supervisor.signal("-TERM");
    supervisor.wait();
    assert!(start.elapsed() < SLACK && !setup.path("pid").exists());
}

#[test]
fn foreground_retries_failed_start_unless_settings_are_invalid() {
    let setup = Setup::new("foreground");
    let taken = TcpListener::bind(setup.address).unwrap();
    let supervisor = setup.in_foreground(&[]);
    setup.wait_log("Z warn agent exited (exit status: 1); restarting in 1 s", 1);
    drop(taken);
    wait_until("a restart", || setup.is_listening().then_some(()));
    supervisor.stop();
    // Settings that become invalid after a successful start do not end the supervisor.
    std::fs::write(setup.path("a.toml"), "").unwrap();
    let supervisor = setup.in_foreground(&["-c", "a.toml"]);
    // It reports its start to the supervisor next. Only listening is not a successful start.
    setup.wait_log("started; settings", 2);
    std::fs::write(setup.path("a.toml"), "nonsense\n").unwrap();
    signal(supervisor.agent(), "-KILL");
    setup.wait_log("Z warn agent exited (exit status: 2); restarting in 2 s", 1);
    drop(supervisor);
    let output = setup.command(&["-c", "a.toml"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.starts_with("hm-agent: ") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn exits_when_agent_stops_on_request() {
    let setup = Setup::new("stopped");
    let mut supervisor = setup.in_foreground(&["--pid-file", "pid"]);
    setup.wait_log("started; settings", 1);
    signal(supervisor.agent(), "-TERM");
    assert_eq!(supervisor.wait(), Some(0));
    assert!(!setup.path("pid").exists());
}

/// A terminal signals its whole process group. The agent must not receive a second signal, which would end it at once.
#[test]
fn forwards_interrupt_once_to_agent_in_own_group() {
    let setup = Setup::new("interrupt");
    let mut supervisor = setup.in_foreground(&[]);
    setup.wait_log("started; settings", 1);
    assert_ne!(stat(supervisor.agent()).unwrap()[2], stat(supervisor.pid).unwrap()[2]);
    supervisor.signal("-INT");
    assert_eq!(supervisor.wait(), Some(0));
    assert!(setup.read("log").ends_with("Z info stopping\n"));
}

#[test]
fn agent_exits_with_supervisor_and_stale_pid_file_is_taken_over() {
    let setup = Setup::new("orphan");
    let mut first = setup.in_background(&[]);
    let agent = first.agent();
    first.signal("-KILL");
    wait_until("its exit", || (!is_running(agent)).then_some(()));
    first.wait();
    assert_eq!(setup.read("pid"), format!("{}\n", first.pid), "a stale file");
    let second = setup.in_background(&[]);
    assert_ne!(second.pid, first.pid);
    second.stop();
    // The PID of a running process does not count without the lock.
    std::fs::write(setup.path("pid"), format!("{}\n", std::process::id())).unwrap();
    setup.in_background(&[]).stop();
}

#[test]
fn second_supervisor_is_refused_with_pid_of_first() {
    let setup = Setup::new("double");
    let supervisor = setup.in_background(&[]);
    let output = setup.detach(&[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (path, pid) = (setup.path("pid"), supervisor.pid);
    let why = format!("lock pid file {}: held by running process {pid}", path.display());
    assert_eq!(stderr, format!("hm-agent: {why}\n"));
    assert!(setup.is_listening());
    supervisor.stop();
}

/// Before the agent waits for signals, SIGHUP would kill it, as it does any process by default.
#[test]
fn delivers_early_signal_after_startup() {
    let setup = Setup::new("early");
    let settings = setup.path("a.toml");
    assert!(Command::new("mkfifo").arg(&settings).status().unwrap().success());
    let mut supervisor = setup.in_foreground(&["-c", "a.toml"]);
    // The agent blocks reading its settings.
    let agent = supervisor.agent();
    supervisor.signal("-HUP");
    wait_until("a pending signal", || {
        let status = std::fs::read_to_string(format!("/proc/{agent}/status")).ok();
        let status = status.expect("the agent runs");
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t")).unwrap();
        pending.ends_with('1').then_some(())
    });
    std::fs::write(&settings, "").unwrap();
    setup.wait_log("started", 1);
    std::fs::write(&settings, "").unwrap();
    setup.wait_log("configuration reloaded", 1);
    supervisor.signal("-TERM");
    assert_eq!(supervisor.wait(), Some(0));
    assert!(!setup.read("log").contains("agent exited"), "{}", setup.read("log"));
}

#[test]
#[ignore = "a minute"]
fn kills_and_restarts_agent_without_watchdog_messages() {
    let setup = Setup::new("silent");
    let mut supervisor = setup.in_foreground(&[]);
    setup.wait_log("started; settings", 1);
    let agent = supervisor.agent();
    // It handles signals once it has sent READY=1.
    signal(agent, "-HUP");
    setup.wait_log("configuration reloaded", 1);
    let start = Instant::now();
    signal(agent, "-STOP");
    // The last watchdog message may be half a minute old.
    std::thread::park_timeout(Duration::from_secs(25));
    wait_until("its exit", || (!is_running(agent)).then_some(()));
    assert!(start.elapsed() > Duration::from_secs(29), "{:?}", start.elapsed());
    setup.wait_log("Z error killing agent: no watchdog message for 60 s", 1);
    wait_until("a restart", || setup.is_listening().then_some(()));
    // A stopped process does not handle SIGTERM either.
    signal(supervisor.agent(), "-STOP");
    let start = Instant::now();
    supervisor.signal("-TERM");
    supervisor.wait();
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", start.elapsed());
    setup.wait_log("Z error killing agent: it did not stop within 5 s", 1);
}

/// Wraps the agent's command so that /dev/log is a link to `socket`.
fn with_syslog(setup: &mut Setup, socket: &Path) {
    let dev = setup.path("dev");
    std::fs::create_dir(&dev).unwrap();
    let script = format!(
        "mount -t tmpfs none {0} && mknod -m 666 {0}/null c 1 3 && ln -s {1} {0}/log && \
         mount --bind {0} /dev && exec \"$0\" \"$@\"",
        dev.display(),
        socket.display()
    );
    setup.wrapper = ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
}

fn bind_syslog(socket: &Path) -> UnixDatagram {
    let syslog = UnixDatagram::bind(socket).unwrap();
    syslog.set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
    syslog
}

fn receive(syslog: &UnixDatagram) -> String {
    let mut line = [0; 4096];
    // A receive with a timeout is interrupted if the process is stopped and continued.
    let length = loop {
        match syslog.recv(&mut line) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received.expect("a line"),
        }
    };
    String::from_utf8(line[..length].to_vec()).unwrap()
}

#[test]
#[ignore = "needs root and unshare"]
fn syslog_receives_every_line_and_is_found_after_restart() {
    let mut setup = Setup::new("syslog");
    let socket = setup.path("socket");
    with_syslog(&mut setup, &socket);
    let syslog = bind_syslog(&socket);
    let supervisor = setup.in_background(&[]);
    let (pid, agent) = (supervisor.pid, supervisor.agent());
    let text = format!("<30>hm-agent[{agent}]: usage listening on {}", setup.address);
    assert_eq!(receive(&syslog), text);
    while !receive(&syslog).contains("started") {}
    signal(agent, "-KILL");
    let text =
        format!("<28>hm-agent[{pid}]: agent exited (signal: 9 (SIGKILL)); restarting in 1 s");
    assert_eq!(receive(&syslog), text);
    drop(syslog);
    std::fs::remove_file(&socket).unwrap();
    wait_until("a restart", || setup.is_listening().then_some(()));
    let syslog = bind_syslog(&socket);
    supervisor.signal("-HUP");
    while !receive(&syslog).ends_with(": configuration reloaded") {}
    // A daemon that does not read must not block the supervisor.
    for _ in 0..100 {
        supervisor.signal("-HUP");
    }
    assert_eq!(children(supervisor.pid).len(), 1);
    supervisor.stop();
}

#[test]
#[ignore = "needs root and unshare"]
fn detach_without_syslog_option_requires_syslog_daemon() {
    let mut setup = Setup::new("no-syslog");
    let socket = setup.path("socket");
    with_syslog(&mut setup, &socket);
    let output = setup.command(&["--detach"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("hm-agent: --detach logs to /dev/log: "), "{stderr}");
    assert!(stderr.ends_with("or pass --syslog to start without one\n"), "{stderr}");
}

#[test]
#[ignore = "needs root and unshare"]
fn hook_that_outlives_agent_still_logs_to_syslog() {
    let mut setup = Setup::new("hook");
    let socket = setup.path("socket");
    with_syslog(&mut setup, &socket);
    let syslog = bind_syslog(&socket);
    let hook = "heartbeat.on_overdue=[\"sh\", \"-c\", \"echo begun >&2; sleep 3; echo done >&2\"]";
    let supervisor = setup.in_background(&["-s", hook]);
    let line = std::iter::repeat_with(|| receive(&syslog))
        .find(|line| line.contains("heartbeat listening on "))
        .unwrap();
    let mut port = std::net::TcpStream::connect(line.rsplit(' ').next().unwrap()).unwrap();
    std::io::Write::write_all(&mut port, b"GET /hb_init?1&appid=late HTTP/1.0\r\n\r\n").unwrap();
    while !receive(&syslog).ends_with(": begun") {}
    signal(supervisor.agent(), "-KILL");
    while !receive(&syslog).ends_with(": done") {}
    supervisor.stop();
}
