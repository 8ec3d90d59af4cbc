//! Runs the real agent on free ports, and has clients for it.
#![allow(clippy::unwrap_used, dead_code)]

pub mod attack;
pub mod balancer;
pub mod browser;
pub mod bystanders;
mod client;
#[cfg(feature = "hub")]
pub mod cluster;
pub mod control_group;
pub mod core;
pub mod core_fixture;
pub mod core_process;
pub mod core_wire;
pub mod fake_nvml;
pub mod full_disk;
pub mod golden;
pub mod gpu_server;
pub mod heartbeat;
pub mod hm_clients;
pub mod hm_server;
pub mod http_body;
#[cfg(feature = "hub")]
pub mod hub;
pub mod hung_disk;
pub mod monitor;
pub mod netns;
pub mod nginx;
pub mod notify_socket;
#[cfg(feature = "hub")]
pub mod postgres;
pub mod rng;
pub mod slowdown;
pub mod sshd;
#[cfg(feature = "hub")]
pub mod store;
pub mod supervised;
pub mod systemd_host;
pub mod tcp_proxy;
mod temp_dir;
pub mod tls_server;
pub mod update_stream;
pub mod wall_clock;
pub mod websocket;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use client::Client;
pub use temp_dir::TempDir;

/// Longer than any operation should take on a busy machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What a busy machine may occasionally add to a duration.
pub const SLACK: Duration = Duration::from_secs(5);

/// A running agent, killed on drop.
pub struct Agent {
    child: Child,
    /// Just before the process was started.
    pub started: Instant,
    pub address: SocketAddr,
    log: Arc<(Mutex<Vec<String>>, Condvar)>,
    _state_dir: TempDir,
}

/// The agent's program, isolated from the settings and variables in the environment of the test run, and with a free heartbeat
/// port. `HM_TEST_AGENT` selects another binary, such as the shipped one for `tests/bench`.
pub fn hm_agent() -> Command {
    let program = std::env::var_os("HM_TEST_AGENT");
    let mut command = Command::new(program.unwrap_or(env!("CARGO_BIN_EXE_hm-agent").into()));
    for name in ["HB_URL", "HB_HOST", "HB_PORT", "APP_ID"] {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HM_AGENT_") || name == "JOURNAL_STREAM" {
            command.env_remove(name);
        }
    }
    command.env("HM_AGENT_HEARTBEAT_LISTEN", "127.0.0.1:0");
    command
}

impl Agent {
    /// Starts the agent with `-s` settings on free loopback ports.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, &[])
    }

    /// Starts the agent with settings and further arguments.
    pub fn start_with(settings: &[&str], arguments: &[&str]) -> Self {
        let mut command = hm_agent();
        command.args(arguments).args(["-s", "usage.listen=127.0.0.1:0"]);
        for setting in settings {
            command.args(["-s", setting]);
        }
        Self::spawn(command)
    }

    /// Starts a command that runs the agent, possibly through other programs. Unless `-s` overrides them, it has a free
    /// heartbeat port and its own state directory.
    pub fn spawn(mut command: Command) -> Self {
        let (state_dir, started) = (TempDir::new("state"), Instant::now());
        let mut child = command
            .env("HM_AGENT_HEARTBEAT_LISTEN", "127.0.0.1:0")
            .env("HM_AGENT_STATE_DIR", &state_dir.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let (lines, stderr) = (log.clone(), BufReader::new(child.stderr.take().unwrap()));
        std::thread::spawn(move || {
            for line in stderr.lines() {
                lines.0.lock().unwrap().push(line.unwrap());
                lines.1.notify_all();
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut agent = Self { child, started, address, log, _state_dir: state_dir };
        let line = agent.wait_log("usage listening on ");
        agent.address = line.rsplit(' ').next().unwrap().parse().unwrap();
        agent
    }

    /// The address of the heartbeat port.
    pub fn heartbeat(&self) -> SocketAddr {
        let line = self.wait_log("heartbeat listening on ");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }

    /// Number of log lines that contain `text`.
    pub fn count_log(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.contains(text)).count()
    }

    /// Waits for a log line that contains `text`.
    pub fn wait_log(&self, text: &str) -> String {
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let lines = self.log.0.lock().unwrap();
        let (lines, _) = self
            .log
            .1
            .wait_timeout_while(lines, TEST_TIMEOUT, |lines| find(lines).is_none())
            .unwrap();
        find(&lines).unwrap_or_else(|| panic!("no line {text:?} in {lines:#?}"))
    }

    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits until the process exits. Returns its status and the time that took.
    pub fn wait(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        let status = wait_until("exit of the agent", || self.child.try_wait().unwrap());
        (status, start.elapsed())
    }

    /// Sends SIGTERM and asserts exit code 0 soon after. The exact limit of two seconds is tested in `lifecycle.rs`.
    pub fn stop(mut self) -> Vec<String> {
        self.signal("-TERM");
        let (status, took) = self.wait();
        assert_eq!(status.code(), Some(0), "{:#?}", self.log());
        assert!(took < Duration::from_secs(2) + SLACK, "took {took:?}");
        self.log()
    }

    /// A number in `/proc/PID/status`, e.g. VmRSS in kB.
    pub fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The fields of `/proc/PID/stat` after the name.
    fn stat(&self) -> Vec<String> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit(") ").next().unwrap().split(' ').map(str::to_owned).collect()
    }

    /// The process state; `T`: stopped.
    pub fn state(&self) -> String {
        self.stat().swap_remove(0)
    }

    /// CPU time since the start.
    pub fn cpu_seconds(&self) -> f64 {
        let fields = self.stat();
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        (ticks(11) + ticks(12)) / 100.0
    }

    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// The number of descriptors once it no longer changes.
    pub fn descriptors_at_rest(&self) -> usize {
        wait_until("a constant number of descriptors", || {
            let count = || {
                std::thread::park_timeout(Duration::from_millis(100));
                self.descriptors()
            };
            let first = count();
            (0..3).all(|_| count() == first).then_some(first)
        })
    }

    /// Sends raw bytes and returns everything that is received until the agent closes the connection.
    pub fn raw(&self, request: &[u8]) -> String {
        let mut socket = self.socket();
        socket.write_all(request).unwrap();
        let mut answer = Vec::new();
        // A reset after the response is accepted too.
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends GET with header lines. Returns the status and the whole response.
    pub fn http(&self, target: &str, headers: &str) -> (u16, String) {
        let mut head = format!("GET {target} HTTP/1.1\r\n{headers}");
        for default in ["Host: a", "Connection: close"] {
            let name = default.split(' ').next().unwrap();
            if !headers.contains(name) {
                head.push_str(default);
                head.push_str("\r\n");
            }
        }
        let answer = self.raw(format!("{head}\r\n").as_bytes());
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no response: {answer:?}")), answer)
    }

    /// The status that a page is answered with, or None if the agent cannot serve one more connection and closes it.
    pub fn http_status(&self, target: &str) -> Option<u16> {
        let mut socket = self.socket();
        let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut response = Vec::new();
        // A connection that is closed ends with an error or without an error, and before or after the request is written.
        let _ =
            socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_end(&mut response));
        String::from_utf8_lossy(&response).split(' ').nth(1)?.parse().ok()
    }

    pub fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        socket
    }

    pub fn connect(&self) -> Client {
        Client(websocket::connect(self.address, "/usage"))
    }

    /// Connects, subscribes, and reads the confirmation, system_info and the first update.
    pub fn subscribe(&self) -> Client {
        let mut client = self.connect();
        client.send_text("subscribe:usage");
        assert_eq!(client.json()["status"], "subscribed");
        assert_eq!(client.json()["type"], "system_info");
        assert_eq!(client.json()["type"], "usage_update");
        client
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port that stays free while no process listens on it: it is outside the kernel's ephemeral range, and other test
/// processes start at other numbers.
pub fn reserve_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + (std::process::id() % 22) as u16 * 1_000;
    // Not by binding it: a child that another thread has forked keeps a copy of the socket until its exec.
    let is_free = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_err();
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 1_000);
    ports.find(is_free).unwrap()
}

/// The loopback address with a [`reserve_port`].
pub fn reserve_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], reserve_port()))
}

/// Listens at `address`, from which a server of this process may just have gone: a child that another thread has forked keeps a
/// copy of that server's socket until its exec.
pub fn listen(address: SocketAddr) -> TcpListener {
    wait_until(&format!("{address} to become free"), || match TcpListener::bind(address) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        listener => Some(listener.unwrap()),
    })
}

/// Polls until `found` returns a value, at most [`TEST_TIMEOUT`].
pub fn wait_until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "timeout waiting for {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Waits for `time`.
pub fn sleep_for(time: Duration) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        // It may return early because of an earlier unpark of this thread.
        std::thread::park_timeout(left);
    }
}

/// Measures until a value is below `limit`, at most five times. A busy machine makes some measurements slower and none faster;
/// a fault of the agent makes each of them slower.
pub fn assert_best_of_five<T: PartialOrd + std::fmt::Debug>(
    limit: T,
    mut measure: impl FnMut() -> T,
) {
    let mut measured = Vec::new();
    while measured.len() < 5 {
        let value = measure();
        if value < limit {
            return;
        }
        measured.push(value);
    }
    panic!("{measured:?}: never less than {limit:?}");
}
