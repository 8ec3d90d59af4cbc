//! Who attacks an agent: a process with less right to the processors than the agent has, as it would be on other machines.
//! And servers that mean harm.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::Agent;

/// What was done, and what came back: numbers of connections, statuses, codes, bytes.
pub type Counts = BTreeMap<String, u64>;

/// The three ports of an agent that is attacked at `host`.
pub struct Target<'a> {
    pub agent: &'a Agent,
    pub monitor: SocketAddr,
    pub host: &'a str,
    /// Addresses to come from.
    pub sources: String,
}

/// One of them.
pub struct Attacker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Attacker {
    /// Begins an attack of `tests/peers/flood.py`. `prefix` puts it elsewhere, e.g. into a network namespace.
    pub fn start(prefix: &[&str], attack: &str, time: Duration, target: &Target<'_>) -> Self {
        let port = |address: SocketAddr| address.port().to_string();
        let Target { agent, monitor, host, sources } = target;
        let ports = [port(agent.address), port(agent.heartbeat()), port(*monitor)];
        let seconds = time.as_secs_f64().to_string();
        let mut arguments = vec![attack, &seconds, host];
        arguments.extend(ports.iter().map(String::as_str));
        arguments.push(sources);
        Self::run(prefix, &arguments)
    }

    /// A server on this port of the loopback.
    pub fn serve(behaviour: &str, port: u16) -> Self {
        let mut server = Self::run(&[], &["serve", behaviour, &port.to_string()]);
        server.wait_ready();
        server
    }

    fn run(prefix: &[&str], arguments: &[&str]) -> Self {
        let mut command = Command::new("nice");
        command.args(["-n", "10"]).args(prefix);
        command.arg(std::env::var("HM_TEST_PYTHON").unwrap_or("python3".to_owned()));
        command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/flood.py"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), stdout, child }
    }

    /// Waits until all of it is there.
    pub fn wait_ready(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }

    /// Its end, with all its connections: at once if it waits for that, or else when its time is up.
    pub fn end(mut self) -> Counts {
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
