//! Two hosts with a router between them, as network namespaces, and a hub in its own process on one of them. Needs root and
//! ip(8).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::hm_server::HmServer;

/// Addresses of the agent's host and the hub's host.
pub const AGENT_ADDRESS: &str = "10.77.1.2";
pub const SERVER_ADDRESS: &str = "10.77.2.2";
/// Packets to this address are dropped without an ICMP error.
pub const BLACKHOLE_ADDRESS: &str = "10.77.3.2";

/// The namespaces; deleted when it is dropped.
pub struct TwoHosts {
    pub near: String,
    router: String,
    pub far: String,
}

impl TwoHosts {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = |end: &str| format!("hm{end}-{}-{}", id.0, id.1);
        let hosts = Self { near: name("a"), router: name("r"), far: name("b") };
        let router = &hosts.router;
        all(&[format!("netns add {router}")]);
        hosts.add_host(&hosts.near, AGENT_ADDRESS, "10.77.1.1");
        hosts.add_host(&hosts.far, SERVER_ADDRESS, "10.77.2.1");
        all(&[format!("-n {router} route add blackhole {BLACKHOLE_ADDRESS}/32")]);
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        let status = hosts.on(router, "sh").args(["-c", forward]).status();
        assert!(status.unwrap().success());
        hosts
    }

    /// Adds a host with this address behind a port of the router.
    fn add_host(&self, name: &str, address: &str, gateway: &str) {
        let router = &self.router;
        let port = gateway.replace('.', "-");
        all(&[
            format!("netns add {name}"),
            format!("link add hm0 netns {name} type veth peer name {port} netns {router}"),
            format!("-n {router} addr add {gateway}/24 dev {port}"),
            format!("-n {router} link set {port} up"),
            format!("-n {name} addr add {address}/24 dev hm0"),
            format!("-n {name} link set lo up"),
            format!("-n {name} link set hm0 up"),
            format!("-n {name} route add default via {gateway}"),
        ]);
    }

    /// A command that runs on one of the hosts.
    pub fn on(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host]).arg(program);
        command
    }

    pub fn router(&self) -> &str {
        &self.router
    }

    /// Drops all packets in both directions, without an ICMP error or a reset.
    pub fn cut(&self) {
        self.route("add");
    }

    pub fn restore(&self) {
        self.route("del");
    }

    fn route(&self, what: &str) {
        let line = |address| format!("-n {} route {what} blackhole {address}/32", self.router);
        all(&[line(AGENT_ADDRESS), line(SERVER_ADDRESS)]);
    }

    /// The far host crashes with all its connections and comes back without any process. Processes that ran there lose the
    /// network.
    pub fn crash_far(&self) {
        // This deletes the router's end as well.
        all(&[format!("-n {} link del hm0", self.far), format!("netns del {}", self.far)]);
        self.add_host(&self.far, SERVER_ADDRESS, "10.77.2.1");
    }
}

impl Drop for TwoHosts {
    fn drop(&mut self) {
        for name in [&self.near, &self.far, &self.router] {
            ip(&format!("netns del {name}"));
        }
    }
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split(' ')).status().unwrap().success()
}

fn all(lines: &[String]) {
    for line in lines {
        assert!(ip(line), "ip {line}");
    }
}

/// A hub in its own process, so that it can be stopped and killed; it exits with this one.
pub struct HmServerProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Kept open: the test harness exits when its standard output is closed.
    _stdout: ChildStdout,
}

const ADDRESS: &str = "HM_TEST_HUB_ADDRESS";
const RECORD: &str = "HM_TEST_HUB_RECORD";
const DEADLINE: &str = "HM_TEST_HUB_DEADLINE";

impl HmServerProcess {
    /// Runs this test program again, and there `hm_server_process`. `command` ends with the program.
    pub fn start(mut command: Command, address: &str, deadline: Duration, record: &Path) -> Self {
        let command = command.args([
            "--exact",
            "support::netns::hm_server_process",
            "--ignored",
            "--nocapture",
        ]);
        let command = command.env(ADDRESS, address).env(RECORD, record);
        let command = command.env(DEADLINE, deadline.as_secs().to_string());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a hub");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut hub = Self { child, stdin, _stdout: stdout };
        let mut lines = BufReader::new(&mut hub._stdout).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("the hub listens")), "the hub has exited");
        hub
    }

    /// Runs the hub. Returns at once unless [`HmServerProcess::start`] has started this process.
    fn main() {
        let variable = |name| std::env::var(name).ok();
        let (Some(address), Some(record)) = (variable(ADDRESS), variable(RECORD)) else { return };
        let deadline = Duration::from_secs(variable(DEADLINE).unwrap().parse().unwrap());
        let hub = HmServer::on(address.parse().unwrap(), false, deadline);
        hub.record(File::options().append(true).create(true).open(record).unwrap());
        println!("the hub listens");
        let mut command = String::new();
        std::io::stdin().read_line(&mut command).unwrap();
        if command == "shut down\n" {
            hub.shut_down();
        }
        // The test harness would print a summary into a pipe that is not read.
        std::process::exit(0);
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn shut_down(mut self) {
        self.stdin.take().unwrap().write_all(b"shut down\n").unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
#[ignore = "the hm server of other tests"]
fn hm_server_process() {
    HmServerProcess::main();
}

impl Drop for HmServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reports that a hub has recorded, in order: timestamp and connection number.
pub fn recorded(record: &Path) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let reports = whole.lines().filter_map(|line| line.strip_prefix("2 "));
    let parse = |line: &str| {
        let (timestamp, connection) = line.split_once(' ').unwrap();
        (timestamp.parse().unwrap(), connection.parse().unwrap())
    };
    reports.map(parse).collect()
}

/// Timestamps of the reports in an agent's journal. It keeps delivered reports for a few minutes.
pub fn taken(state_dir: &Path) -> Vec<u64> {
    let journal: PathBuf = state_dir.join("hm-reports");
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let reports = whole.lines().filter_map(|line| line.get(17..)?.strip_prefix('r'));
    reports.map(|report| report.split(' ').next().unwrap().parse().unwrap()).collect()
}
