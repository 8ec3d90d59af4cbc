//! A client of `/monitor`.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Agent, Client, PATIENCE, SLACK, Scratch, hm_agent};

/// An agent with that port, and known hosts of its own.
pub struct Monitor {
    pub agent: Agent,
    pub known_hosts: Scratch,
    /// Where its clients find it, if not where it listens.
    relay: Option<SocketAddr>,
}

impl Monitor {
    pub fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, |_| {})
    }

    pub fn start_with(settings: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let known_hosts = Scratch::new("known hosts");
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

    /// An agent that was started otherwise.
    pub fn of(agent: Agent, known_hosts: Scratch) -> Self {
        Self { agent, known_hosts, relay: None }
    }

    /// In a network namespace. Clients are not there, so a process for each is between.
    pub fn start_in(network: &str) -> Self {
        let inside = ["netns", "exec", network];
        let mut monitor = Self::start_with(&[], |command| {
            let mut outer = Command::new("ip");
            outer.args(inside).arg(command.get_program());
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
                let mut between = Command::new("ip");
                between.args(["netns", "exec", &network, "busybox", "nc", "127.0.0.1", &port]);
                let input = std::os::fd::OwnedFd::from(socket.try_clone().unwrap());
                let mut between = between
                    .stdin(input)
                    .stdout(std::os::fd::OwnedFd::from(socket))
                    .spawn()
                    .unwrap();
                std::thread::spawn(move || between.wait());
            }
        });
        monitor
    }

    /// A good end; the log.
    pub fn stop(mut self) -> Vec<String> {
        self.agent.signal("-TERM");
        let (status, took) = self.agent.wait();
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
        self.agent.log()
    }

    pub fn address(&self) -> SocketAddr {
        if let Some(relay) = self.relay {
            return relay;
        }
        let line = self.agent.wait_log("monitor listening on ");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub fn connect(&self) -> Watcher {
        let socket = TcpStream::connect(self.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let url = format!("ws://{}/monitor", self.address());
        Watcher {
            client: Client(tungstenite::client(url, socket).unwrap().0),
            events: VecDeque::new(),
            asked: 0,
        }
    }

    /// Children of the agent that run this program.
    pub fn children(&self, program: &str) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let is_child = |number: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            let Some((name, rest)) = stat.rsplit_once(") ") else { return false };
            let parent = rest.split(' ').nth(1).and_then(|parent| parent.parse().ok());
            parent == Some(self.agent.pid()) && name.ends_with(&format!("({program}"))
        };
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(is_child)
            .collect()
    }
}

pub struct Watcher {
    pub client: Client,
    /// Came while something else was waited for: when, and `params[0]`.
    events: VecDeque<(Instant, Value)>,
    asked: u64,
}

impl Watcher {
    /// Asks for something and returns the answer's `error`.
    pub fn ask(&mut self, method: &str, hosts: Value) -> Value {
        self.asked += 1;
        let id = format!("id-{}", self.asked);
        self.client.say(&json!({"id": id, "method": method, "params": hosts}).to_string());
        let answer = self.answer();
        assert_eq!(answer["id"], id.as_str(), "{answer}");
        assert!(answer.as_object().unwrap().contains_key("result") && answer["result"].is_null());
        answer["error"].clone()
    }

    /// The next answer; what else comes is kept.
    pub fn answer(&mut self) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no answer among {:?}", self.events);
            let message = self.client.json();
            if message.get("method").is_none() {
                return message;
            }
            self.keep(message);
        }
    }

    /// All hosts are watched.
    pub fn start(&mut self, hosts: &[Value]) {
        assert_eq!(self.ask("ssh.start_monitor", hosts.into()), Value::Null);
    }

    /// One host cannot be; why.
    pub fn refused(&mut self, host: &Value) -> String {
        let error = self.ask("ssh.start_monitor", json!([host]));
        error.as_str().expect("an error").to_owned()
    }

    fn keep(&mut self, message: Value) {
        assert_eq!(
            (&message["id"], &message["method"]),
            (&Value::Null, &json!("ssh.notification"))
        );
        self.events.push_back((Instant::now(), message["params"][0].clone()));
    }

    /// The next event of this name from this host: its message.
    pub fn event(&mut self, name: &str, key: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some((_, event)) = self.events.pop_front() {
                if event["event"] == name && event["message"]["ssh_key"] == key {
                    return event["message"].clone();
                }
            }
            assert!(Instant::now() < deadline, "no {name} from {key}");
            let message = self.client.json();
            self.keep(message);
        }
    }

    /// Everything that comes within a time, and when.
    pub fn gather(&mut self, time: Duration) -> Vec<(Instant, Value)> {
        let deadline = Instant::now() + time;
        while let Some(left) =
            deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.client.0.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.client.0.read() {
                Ok(message) => {
                    let message = serde_json::from_str(message.to_text().unwrap()).unwrap();
                    self.keep(message);
                }
                Err(tungstenite::Error::Io(error))
                    if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.client.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
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
