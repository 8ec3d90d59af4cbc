//! Messages to a service manager by the protocol of sd_notify(3).

use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::heartbeat::list_setting;
use crate::support::notify_socket::NotifySocket;
use crate::support::{Agent, TEST_TIMEOUT, TempDir, hm_agent, reserve_address, wait_until};

/// The command of an agent that notifies `manager`.
fn notifying(manager: &NotifySocket, settings: &[&str]) -> Command {
    let mut command = hm_agent();
    command.env("NOTIFY_SOCKET", &manager.name).args(["-s", "usage.listen=127.0.0.1:0"]);
    for setting in settings {
        command.args(["-s", setting]);
    }
    command
}

#[test]
fn reports_ready_when_every_port_accepts_connections() {
    let manager = NotifySocket::new();
    // The test must know the ports before the log shows them.
    let ports = [(); 3].map(|()| reserve_address());
    let mut command = notifying(&manager, &["monitor.enabled=true"]);
    for (name, port) in ["usage", "heartbeat", "monitor"].iter().zip(&ports) {
        command.args(["-s", &format!("{name}.listen={port}")]);
    }
    let scratch = TempDir::new("state");
    let mut child = command.env("HM_AGENT_STATE_DIR", &scratch.0).spawn().unwrap();
    let ready = manager.next_message();
    let connected: Vec<_> = ports.iter().map(TcpStream::connect).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ready, "READY=1\nSTATUS=services: usage, heartbeat, monitor");
    assert!(connected.iter().all(Result::is_ok), "{connected:?}");
}

#[test]
fn reports_reloading_and_stopping() {
    let (manager, scratch) = (NotifySocket::new(), TempDir::new("reload"));
    let file = scratch.write("a.toml", "interval = 7\n");
    let mut command = notifying(&manager, &[]);
    let agent = Agent::spawn({
        command.args(["-c", &file]);
        command
    });
    assert_eq!(manager.next_message(), "READY=1\nSTATUS=services: usage, heartbeat");
    let mut last = 0;
    for (text, result) in [
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
        let reloading = manager.next_message();
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        let at: u64 = at.parse().unwrap();
        // The same clock, which excludes the time that the machine was suspended.
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(at > last && at as f64 <= (uptime + 0.02) * 1e6, "{at} µs, up for {uptime} s");
        last = at;
        assert_eq!(
            manager.next_message(),
            format!("READY=1\nSTATUS=services: usage, heartbeat; {result}")
        );
    }
    agent.stop();
    assert_eq!(manager.next_message(), "STOPPING=1\nSTATUS=stopping");
}

#[test]
fn notifies_abstract_socket() {
    let name = format!("hm-agent-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    let mut command = hm_agent();
    command.env("NOTIFY_SOCKET", format!("@{name}")).args(["-s", "usage.listen=127.0.0.1:0"]);
    let agent = Agent::spawn(command);
    let mut message = [0; 7];
    socket.recv(&mut message).unwrap();
    assert_eq!(&message, b"READY=1");
    agent.stop();
}

#[test]
fn retries_full_socket_and_ignores_missing_one() {
    let manager = NotifySocket::new();
    let filler = UnixDatagram::unbound().unwrap();
    filler.set_nonblocking(true).unwrap();
    while filler.send_to(b"WATCHDOG=1", &manager.name).is_ok() {}
    let agent = Agent::spawn(notifying(&manager, &["interval=1"]));
    // The agent is not blocked.
    let mut client = agent.subscribe();
    client.json();
    assert_eq!(manager.next_message(), "READY=1\nSTATUS=services: usage, heartbeat");
    agent.stop();
    for nowhere in ["/nonexistent/notify", "@not-bound", "vsock:2:1", ""] {
        let mut command = notifying(&manager, &[]);
        let agent = Agent::spawn({
            command.env("NOTIFY_SOCKET", nowhere);
            command
        });
        agent.wait_log("started");
        let log = agent.stop();
        let text = "the service manager is not notified";
        let warnings = log.iter().filter(|line| line.contains(text)).count();
        assert_eq!(warnings, usize::from(nowhere.starts_with("vsock")), "{log:#?}");
    }
}

#[test]
fn sends_watchdog_messages_only_if_requested_for_own_pid() {
    let script = |set: &str| {
        let manager = NotifySocket::new();
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{set}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_hm-agent")]);
        command.args(["-s", "usage.listen=127.0.0.1:0"]).env("NOTIFY_SOCKET", &manager.name);
        command.env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
        let agent = Agent::spawn(command);
        manager.next_message();
        (manager, agent)
    };
    for set in ["export WATCHDOG_USEC=200000", "export WATCHDOG_USEC=200000 WATCHDOG_PID=$$"] {
        let (manager, agent) = script(set);
        let mut count = 0;
        wait_until("watchdog messages", || {
            count += manager.count_watchdog(Duration::from_secs(1));
            (count >= 10).then_some(())
        });
        // Every 100 ms, and not as fast as possible.
        assert!(manager.count_watchdog(Duration::from_secs(1)) <= 30);
        agent.stop();
    }
    for set in ["true", "export WATCHDOG_USEC=200000 WATCHDOG_PID=1", "export WATCHDOG_USEC=0"] {
        let (manager, agent) = script(set);
        assert_eq!(manager.count_watchdog(Duration::from_secs(1)), 0, "{set}");
        agent.stop();
    }
}

/// A FUSE filesystem that does not answer. Reading in its directory blocks until it is dropped.
struct HungMount(Child);

impl HungMount {
    /// Mounts it in the agent's mount namespace.
    fn new(directory: &str, agent: &Agent) -> Self {
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

impl Drop for HungMount {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs root and /dev/fuse; half a minute"]
fn sends_no_watchdog_messages_while_sampler_is_stalled() {
    let (manager, scratch) = (NotifySocket::new(), TempDir::new("proc"));
    for file in ["stat", "meminfo"] {
        scratch.write(file, &std::fs::read_to_string(format!("/proc/{file}")).unwrap());
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", env!("CARGO_BIN_EXE_hm-agent"), "-s", "usage.listen=127.0.0.1:0"]);
    command.args(["-s", "interval=1", "-s", &format!("path.proc={}", scratch.0.display())]);
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "1000000");
    command.env_remove("WATCHDOG_PID");
    let agent = Agent::spawn(command);
    manager.next_message();
    assert!(manager.count_watchdog(Duration::from_secs(3)) >= 3);
    let hung = HungMount::new(&scratch.0.display().to_string(), &agent);
    agent.wait_log("thread sampler is stalled: no watchdog messages are sent");
    manager.count_watchdog(Duration::ZERO);
    while manager.receive(Duration::from_millis(1)).is_some() {}
    assert_eq!(manager.count_watchdog(Duration::from_secs(5)), 0);
    // What does not need the sampler still works.
    assert_eq!(agent.http("/nothing", "").0, 404);
    drop(hung);
    agent.wait_log("stalled thread recovered");
    assert!(manager.count_watchdog(Duration::from_secs(3)) >= 3);
    agent.stop();
}

#[test]
fn hooks_do_not_inherit_service_manager_variables() {
    let (manager, scratch) = (NotifySocket::new(), TempDir::new("children"));
    let script = format!("env > {0}/new; mv {0}/new {0}/environment", scratch.0.display());
    let hook = list_setting("heartbeat.on_overdue", &["sh", "-c", &script]);
    let mut command = notifying(&manager, &[&hook]);
    command.env("WATCHDOG_USEC", "60000000").env("KEPT", "yes");
    let agent = Agent::spawn(command);
    agent.get_ok("/hb_init?1&appid=late");
    let file = scratch.0.join("environment");
    let environment = wait_until("the program", || std::fs::read_to_string(&file).ok());
    assert!(environment.contains("KEPT=yes"));
    for name in ["NOTIFY_SOCKET", "WATCHDOG_"] {
        assert!(!environment.contains(name), "{environment}");
    }
    agent.stop();
}

/// The command of `beat` may have its own service manager.
#[test]
fn beat_passes_environment_to_command() {
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
fn messages_equal_those_of_systemd_notify() {
    let manager = NotifySocket::new();
    let mut command = Command::new("systemd-notify");
    command
        .args(["--no-block", "--ready", "--status=services: usage, heartbeat"])
        .env("NOTIFY_SOCKET", &manager.name);
    assert!(command.status().unwrap().success());
    let sorted = |message: String| {
        let mut fields: Vec<_> = message.lines().map(str::to_owned).collect();
        fields.retain(|field| !field.starts_with("MAINPID=")); // that of systemd-notify's parent
        fields.sort();
        fields
    };
    let expected = sorted(manager.next_message());
    let agent = Agent::spawn(notifying(&manager, &[]));
    assert_eq!(sorted(manager.next_message()), expected);
    agent.stop();
}
