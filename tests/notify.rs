//! What a service manager hears of the agent, by the protocol of sd_notify(3), and what nobody else may.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::heartbeat::list_setting;
use support::manager::Manager;
use support::{Agent, PATIENCE, Scratch, hm_agent, wait_until};

/// An agent that reports to `manager`.
fn managed(manager: &Manager, settings: &[&str]) -> Command {
    let mut command = hm_agent();
    command.env("NOTIFY_SOCKET", &manager.name).args(["-s", "usage.listen=127.0.0.1:0"]);
    for setting in settings {
        command.args(["-s", setting]);
    }
    command
}

#[test]
fn it_is_ready_when_every_port_can_be_connected_to() {
    let manager = Manager::new();
    // Free ones, just now: which they are the test has to know before the log says it.
    let free: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports: Vec<_> = free.iter().map(|port| port.local_addr().unwrap()).collect();
    drop(free);
    let mut command = managed(&manager, &["monitor.enabled=true"]);
    for (name, port) in ["usage", "heartbeat", "monitor"].iter().zip(&ports) {
        command.args(["-s", &format!("{name}.listen={port}")]);
    }
    let scratch = Scratch::new("state");
    let mut child = command.env("HM_AGENT_STATE_DIR", &scratch.0).spawn().unwrap();
    let ready = manager.word();
    let connected: Vec<_> = ports.iter().map(TcpStream::connect).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ready, "READY=1\nSTATUS=on: usage, heartbeat, monitor");
    assert!(connected.iter().all(Result::is_ok), "{connected:?}");
}

#[test]
fn reloading_and_stopping_are_said() {
    let (manager, scratch) = (Manager::new(), Scratch::new("reload"));
    let file = scratch.write("a.toml", "interval = 7\n");
    let mut command = managed(&manager, &[]);
    let agent = Agent::spawn({
        command.args(["-c", &file]);
        command
    });
    assert_eq!(manager.word(), "READY=1\nSTATUS=on: usage, heartbeat");
    let mut last = 0;
    for (text, news) in [
        ("interval = 8\n", "configuration reloaded".to_owned()),
        (
            "interval = 0\n",
            format!(
                "configuration reload failed, keeping previous: {file} line 1: interval: expected whole seconds from 1 to 3600, got \"0\""
            ),
        ),
    ] {
        scratch.write("a.toml", text);
        agent.signal("-HUP");
        let reloading = manager.word();
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        let at: u64 = at.parse().unwrap();
        // The same clock, but for times in which the machine slept.
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(at > last && at as f64 <= (uptime + 0.02) * 1e6, "{at} µs, up for {uptime} s");
        last = at;
        assert_eq!(manager.word(), format!("READY=1\nSTATUS=on: usage, heartbeat; {news}"));
    }
    agent.stop();
    assert_eq!(manager.word(), "STOPPING=1\nSTATUS=stopping");
}

#[test]
fn a_socket_without_a_place_in_the_file_system_will_do() {
    let name = format!("hm-agent-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = hm_agent();
    command.env("NOTIFY_SOCKET", format!("@{name}")).args(["-s", "usage.listen=127.0.0.1:0"]);
    let agent = Agent::spawn(command);
    let mut message = [0; 7];
    socket.recv(&mut message).unwrap();
    assert_eq!(&message, b"READY=1");
    agent.stop();
}

#[test]
fn a_manager_that_does_not_listen_is_told_later_and_one_that_is_not_there_never() {
    let manager = Manager::new();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"WATCHDOG=1", &manager.name).is_ok() {}
    let agent = Agent::spawn(managed(&manager, &["interval=1"]));
    // It goes on.
    let mut client = agent.subscribe();
    client.json();
    assert_eq!(manager.word(), "READY=1\nSTATUS=on: usage, heartbeat");
    agent.stop();
    for nowhere in ["/nonexistent/notify", "@nobody-is-here", "vsock:2:1", ""] {
        let mut command = managed(&manager, &[]);
        let agent = Agent::spawn({
            command.env("NOTIFY_SOCKET", nowhere);
            command
        });
        agent.wait_log("started");
        let log = agent.stop();
        let said = log.iter().filter(|line| line.contains("nobody is told")).count();
        assert_eq!(said, usize::from(nowhere.starts_with("vsock")), "{log:#?}");
    }
}

#[test]
fn it_beats_for_whom_it_is_meant() {
    let script = |set: &str| {
        let manager = Manager::new();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{set}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_hm-agent")]);
        command.args(["-s", "usage.listen=127.0.0.1:0"]).env("NOTIFY_SOCKET", &manager.name);
        command.env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
        let agent = Agent::spawn(command);
        manager.word();
        (manager, agent)
    };
    for set in ["export WATCHDOG_USEC=200000", "export WATCHDOG_USEC=200000 WATCHDOG_PID=$$"] {
        let (manager, agent) = script(set);
        let mut beats = 0;
        wait_until("beats", || {
            beats += manager.beats(Duration::from_secs(1));
            (beats >= 10).then_some(())
        });
        // Once in 100 ms, and not as fast as it can.
        assert!(manager.beats(Duration::from_secs(1)) <= 30);
        agent.stop();
    }
    for set in ["true", "export WATCHDOG_USEC=200000 WATCHDOG_PID=1", "export WATCHDOG_USEC=0"] {
        let (manager, agent) = script(set);
        assert_eq!(manager.beats(Duration::from_secs(1)), 0, "{set}");
        agent.stop();
    }
}

/// Something that holds whoever reads in a directory, until it is dropped: a FUSE file system that does not answer.
struct Hanging(Child);

impl Hanging {
    /// As `agent` sees it.
    fn at(directory: &str, agent: &Agent) -> Self {
        const MOUNT: &str = "\
import ctypes, os, sys
device = os.open('/dev/fuse', os.O_RDWR)
options = f'fd={device},rootmode=40000,user_id=0,group_id=0'.encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b'hung', sys.argv[1].encode(), b'fuse.hung', 0, options) != 0:
    raise OSError(ctypes.get_errno(), 'mount')
print(flush=True)
sys.stdin.read()";
        let mut command = Command::new("nsenter");
        command.args(["-t", &agent.pid().to_string(), "-m", "python3", "-c", MOUNT, directory]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter");
        let mut line = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).expect("a mount");
        Self(child)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse; half a minute"]
fn it_does_not_beat_while_the_sampler_hangs() {
    let (manager, scratch) = (Manager::new(), Scratch::new("proc"));
    for file in ["stat", "meminfo"] {
        scratch.write(file, &std::fs::read_to_string(format!("/proc/{file}")).unwrap());
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", env!("CARGO_BIN_EXE_hm-agent"), "-s", "usage.listen=127.0.0.1:0"]);
    command.args(["-s", "interval=1", "-s", &format!("path.proc={}", scratch.0.display())]);
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "1000000");
    command.env_remove("WATCHDOG_PID");
    let agent = Agent::spawn(command);
    manager.word();
    assert!(manager.beats(Duration::from_secs(3)) >= 3);
    let hanging = Hanging::at(&scratch.0.display().to_string(), &agent);
    agent.wait_log("the thread sampler hangs: the service manager is not told that all is well");
    manager.beats(Duration::ZERO);
    while manager.hear(Duration::from_millis(1)).is_some() {}
    assert_eq!(manager.beats(Duration::from_secs(5)), 0);
    // What does not need the sampler is there still.
    assert_eq!(agent.http("/nothing", "").0, 404);
    drop(hanging);
    agent.wait_log("no thread hangs any more");
    assert!(manager.beats(Duration::from_secs(3)) >= 3);
    agent.stop();
}

#[test]
fn programs_that_it_starts_know_nothing_of_the_manager() {
    let (manager, scratch) = (Manager::new(), Scratch::new("children"));
    let script = format!("env > {0}/new; mv {0}/new {0}/environment", scratch.0.display());
    let hook = list_setting("heartbeat.on_overdue", &["sh", "-c", &script]);
    let mut command = managed(&manager, &[&hook]);
    command.env("WATCHDOG_USEC", "60000000").env("KEPT", "yes");
    let agent = Agent::spawn(command);
    agent.tell("/hb_init?1&appid=late");
    let file = scratch.0.join("environment");
    let environment = wait_until("the program", || std::fs::read_to_string(&file).ok());
    assert!(environment.contains("KEPT=yes"));
    for name in ["NOTIFY_SOCKET", "WATCHDOG_"] {
        assert!(!environment.contains(name), "{environment}");
    }
    agent.stop();
}

/// It stands before a program of somebody else, which may have a manager of its own.
#[test]
fn beat_hands_its_environment_on() {
    let mut command = hm_agent();
    command.args(["beat", "--url", "http://127.0.0.1:1", "--", "env"]);
    command.env("NOTIFY_SOCKET", "/nonexistent").env("WATCHDOG_USEC", "5");
    let output = command.output().unwrap();
    let environment = String::from_utf8(output.stdout).unwrap();
    assert!(environment.contains("NOTIFY_SOCKET=/nonexistent\n"), "{environment}");
    assert!(environment.contains("WATCHDOG_USEC=5\n"), "{environment}");
}

#[test]
#[ignore = "needs systemd-notify"]
fn its_words_are_those_of_systemd_notify() {
    let manager = Manager::new();
    let mut command = Command::new("systemd-notify");
    command
        .args(["--no-block", "--ready", "--status=on: usage, heartbeat"])
        .env("NOTIFY_SOCKET", &manager.name);
    assert!(command.status().unwrap().success());
    let sorted = |words: String| {
        let mut words: Vec<_> = words.lines().map(str::to_owned).collect();
        words.retain(|word| !word.starts_with("MAINPID=")); // that of whoever has called it
        words.sort();
        words
    };
    let theirs = sorted(manager.word());
    let agent = Agent::spawn(managed(&manager, &[]));
    assert_eq!(sorted(manager.word()), theirs);
    agent.stop();
}
