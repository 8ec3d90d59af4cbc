//! Attackers and misbehaving servers (tests/peers/flood.py), as processes with a lower CPU priority than the agent: in reality
//! they run on other machines.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::Agent;

/// What was sent and received: numbers of connections, HTTP statuses, close codes, bytes.
pub type Counts = BTreeMap<String, u64>;

pub struct Attacker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Attacker {
    /// Starts an attack on the three ports of an agent, from `sources` addresses of the loopback.
    pub fn start(
        attack: &str,
        time: Duration,
        agent: &Agent,
        monitor: SocketAddr,
        sources: u8,
    ) -> Self {
        let port = |address: SocketAddr| address.port().to_string();
        let ports = [port(agent.address), port(agent.heartbeat()), port(monitor)];
        let sources: Vec<String> = (2..2 + sources).map(|last| format!("127.0.0.{last}")).collect();
        let (seconds, sources) = (time.as_secs_f64().to_string(), sources.join(","));
        let [usage, heartbeat, monitor] = &ports;
        Self::run(&[attack, &seconds, usage, heartbeat, monitor, &sources])
    }

    /// Starts a server on this port of the loopback.
    pub fn serve(behaviour: &str, port: u16) -> Self {
        let mut server = Self::run(&["serve", behaviour, &port.to_string()]);
        let mut line = String::new();
        server.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        server
    }

    fn run(arguments: &[&str]) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "10"]);
        command.arg(std::env::var("HM_TEST_PYTHON").unwrap_or("python3".to_owned()));
        command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/flood.py"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), stdout, child }
    }

    /// Waits until the attack's time is over, or ends the server.
    pub fn finish(mut self) -> Counts {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        serde_json::from_str(&text).unwrap_or_default()
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
