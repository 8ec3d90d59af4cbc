//! An agent with the `/monitor` port, and its clients.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Agent, Client, SLACK, TEST_TIMEOUT, TempDir, hm_agent, websocket};

/// An agent that serves `/monitor` and has its own file of host keys.
pub struct Monitor {
    pub agent: Agent,
    pub known_hosts: TempDir,
    /// Where clients connect, if they cannot reach the agent's own port.
    relay: Option<SocketAddr>,
}

impl Monitor {
    pub fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, |_| {})
    }

    pub fn start_with(settings: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let known_hosts = TempDir::new("known hosts");
        let mut command = hm_agent();
        change(&mut command);
        command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "monitor.enabled=true"]);
        command.args(["-s", "monitor.listen=127.0.0.1:0", "-s"]);
        command.arg(format!("monitor.known_hosts={}", known_hosts.0.join("known").display()));
        for setting in settings {
            command.args(["-s", setting]);
        }
        Self { agent: Agent::spawn(command), known_hosts, relay: None }
    }

    /// Wraps a running agent.
    pub fn of(agent: Agent, known_hosts: TempDir) -> Self {
        Self { agent, known_hosts, relay: None }
    }

    /// Starts the agent in a network namespace. Clients are outside of it, so a process relays each connection.
    pub fn start_in(network: &str) -> Self {
        let netns_exec = ["netns", "exec", network];
        let mut monitor = Self::start_with(&[], |command| {
            let mut outer = Command::new("ip");
            outer.args(netns_exec).arg(command.get_program());
            for (name, value) in command.get_envs() {
                match value {
                    Some(value) => outer.env(name, value),
                    None => outer.env_remove(name),
                };
            }
            *command = outer;
        });
        let port = monitor.address().port().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        monitor.relay = Some(listener.local_addr().unwrap());
        let network = network.to_owned();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let mut relay = Command::new("ip");
                relay.args(["netns", "exec", &network, "busybox", "nc", "127.0.0.1", &port]);
                let input = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
                let mut relay =
                    relay.stdin(input).stdout(std::os::fd::OwnedFd::from(socket)).spawn().unwrap();
                std::thread::spawn(move || relay.wait());
            }
        });
        monitor
    }

    /// Stops the agent and returns its log.
    pub fn stop(mut self) -> Vec<String> {
        self.agent.signal("-TERM");
        let (status, duration) = self.agent.wait();
        assert_eq!(status.code(), Some(0));
        assert!(duration < Duration::from_secs(2) + SLACK, "{duration:?}");
        self.agent.log()
    }

    pub fn address(&self) -> SocketAddr {
        if let Some(relay) = self.relay {
            return relay;
        }
        let line = self.agent.wait_log("monitor listening on ");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub fn connect(&self) -> MonitorClient {
        MonitorClient {
            socket: Client(websocket::connect(self.address(), "/monitor")),
            events: VecDeque::new(),
            requests: 0,
        }
    }

    /// PIDs of the processes with this name that the agent has started, each below a supervisor.
    pub fn children(&self, program: &str) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let is_child = |pid: &u32| {
            let Some((name, supervisor)) = name_and_parent(*pid) else { return false };
            let agent = name_and_parent(supervisor).map(|(_, parent)| parent);
            agent == Some(self.agent.pid()) && name == program
        };
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(is_child)
            .collect()
    }
}

fn name_and_parent(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.rsplit_once(") ")?;
    let name = name.split_once(" (")?.1.to_owned();
    Some((name, rest.split(' ').nth(1)?.parse().ok()?))
}

/// A WebSocket client of `/monitor`.
pub struct MonitorClient {
    pub socket: Client,
    /// Notifications that arrived during other waits: the time, and `params[0]`.
    events: VecDeque<(Instant, Value)>,
    requests: u64,
}

impl MonitorClient {
    /// Sends a request and returns the `error` of the response.
    pub fn request(&mut self, method: &str, hosts: Value) -> Value {
        self.requests += 1;
        let id = format!("id-{}", self.requests);
        self.socket.send_text(&json!({"id": id, "method": method, "params": hosts}).to_string());
        let response = self.response();
        assert_eq!(response["id"], id.as_str(), "{response}");
        assert!(response.as_object().unwrap().contains_key("result"));
        assert!(response["result"].is_null());
        response["error"].clone()
    }

    /// Waits for the next response, and keeps the notifications before it.
    pub fn response(&mut self) -> Value {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "no response, but {:?}", self.events);
            let message = self.socket.json();
            if message.get("method").is_none() {
                return message;
            }
            self.keep(message);
        }
    }

    /// Starts hosts, and asserts that all of them log in.
    pub fn start(&mut self, hosts: &[Value]) {
        assert_eq!(self.request("ssh.start_monitor", hosts.into()), Value::Null);
    }

    /// Starts a host, and returns why it failed.
    pub fn start_error(&mut self, host: &Value) -> String {
        let error = self.request("ssh.start_monitor", json!([host]));
        error.as_str().expect("an error").to_owned()
    }

    fn keep(&mut self, message: Value) {
        assert_eq!(
            (&message["id"], &message["method"]),
            (&Value::Null, &json!("ssh.notification"))
        );
        self.events.push_back((Instant::now(), message["params"][0].clone()));
    }

    /// Waits for an event of a host, and returns its message.
    pub fn wait_event(&mut self, name: &str, key: &str) -> Value {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            while let Some((_, event)) = self.events.pop_front() {
                if event["event"] == name && event["message"]["ssh_key"] == key {
                    return event["message"].clone();
                }
            }
            assert!(Instant::now() < deadline, "no {name} from {key}");
            let message = self.socket.json();
            self.keep(message);
        }
    }

    /// Collects the notifications of a period, with their times.
    pub fn collect_events(&mut self, time: Duration) -> Vec<(Instant, Value)> {
        let deadline = Instant::now() + time;
        while let Some(left) =
            deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.socket.0.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.socket.0.read() {
                Ok(message) if message.is_ping() => {}
                Ok(message) => {
                    let message = serde_json::from_str(message.to_text().unwrap()).unwrap();
                    self.keep(message);
                }
                Err(tungstenite::Error::Io(error))
                    if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.socket.0.get_ref().set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        std::mem::take(&mut self.events).into()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:#?}", self.agent.log());
        }
    }
}
