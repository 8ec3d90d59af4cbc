//! Two hosts of our own with a router between them, as network namespaces, and a hub in a process of its own on one
//! of them. Wants root and ip(8).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::hub::Hub;

/// Where the agent is, and where the hub is.
pub const NEAR: &str = "10.77.1.2";
pub const FAR: &str = "10.77.2.2";
/// From here comes no answer, and no word that there is none.
pub const NOWHERE: &str = "10.77.3.2";

/// The two hosts and what is between them; they are gone when it goes out of scope.
pub struct Cable {
    pub near: String,
    router: String,
    pub far: String,
}

impl Cable {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = |end: &str| format!("hm{end}-{}-{}", id.0, id.1);
        let cable = Self { near: name("a"), router: name("r"), far: name("b") };
        let router = &cable.router;
        all(&[format!("netns add {router}")]);
        cable.host(&cable.near, NEAR, "10.77.1.1");
        cable.host(&cable.far, FAR, "10.77.2.1");
        all(&[format!("-n {router} route add blackhole {NOWHERE}/32")]);
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        let status = cable.on(router, "sh").args(["-c", forward]).status();
        assert!(status.unwrap().success());
        cable
    }

    /// A host with this address, behind that one of the router.
    fn host(&self, name: &str, address: &str, gateway: &str) {
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

    /// A command on one of the hosts.
    pub fn on(&self, host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host]).arg(program);
        command
    }

    /// What is between them.
    pub fn router(&self) -> &str {
        &self.router
    }

    /// From now on nothing gets through in either direction, and nobody is told: no answer, no reset.
    pub fn cut(&self) {
        self.route("add");
    }

    pub fn mend(&self) {
        self.route("del");
    }

    fn route(&self, what: &str) {
        let line = |address| format!("-n {} route {what} blackhole {address}/32", self.router);
        all(&[line(NEAR), line(FAR)]);
    }

    /// The far host crashes, with all that its kernel knew of connections, and is there again, with nothing on it.
    /// What ran there reaches nobody any more.
    pub fn crash_far(&self) {
        // The router's end goes with the other one.
        all(&[format!("-n {} link del hm0", self.far), format!("netns del {}", self.far)]);
        self.host(&self.far, FAR, "10.77.2.1");
    }
}

impl Drop for Cable {
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

/// A hub in a process of its own, so that it can be stopped and killed; it ends with this one.
pub struct HubProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Not read, and there: what runs tests dies of a pipe without an end.
    _stdout: ChildStdout,
}

const ADDRESS: &str = "HM_TEST_HUB_ADDRESS";
const RECORD: &str = "HM_TEST_HUB_RECORD";
const DEADLINE: &str = "HM_TEST_HUB_DEADLINE";

impl HubProcess {
    /// Runs this test program again, which must have a test `hub_process` that calls [`HubProcess::be`]. `command`
    /// is what comes before a program's name.
    pub fn start(mut command: Command, address: &str, deadline: Duration, record: &Path) -> Self {
        let command = command.args(["--exact", "hub_process", "--ignored", "--nocapture"]);
        let command = command.env(ADDRESS, address).env(RECORD, record);
        let command = command.env(DEADLINE, deadline.as_secs().to_string());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a hub");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        let mut hub = Self { child, stdin, _stdout: stdout };
        let mut lines = BufReader::new(&mut hub._stdout).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("the hub listens")), "the hub has ended");
        hub
    }

    /// The life of that process. Without what [`HubProcess::start`] sets it is none.
    pub fn be() {
        let variable = |name| std::env::var(name).ok();
        let (Some(address), Some(record)) = (variable(ADDRESS), variable(RECORD)) else { return };
        let deadline = Duration::from_secs(variable(DEADLINE).unwrap().parse().unwrap());
        let hub = Hub::on(address.parse().unwrap(), false, deadline);
        hub.record(File::options().append(true).create(true).open(record).unwrap());
        println!("the hub listens");
        let mut order = String::new();
        std::io::stdin().read_line(&mut order).unwrap();
        if order == "shut down\n" {
            hub.shut_down();
        }
        // Not by its end: what it says then, nobody reads.
        std::process::exit(0);
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it in good order.
    pub fn shut_down(mut self) {
        self.stdin.take().unwrap().write_all(b"shut down\n").unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a hub has recorded: timestamps of reports as they came, each with its connection.
pub fn recorded(record: &Path) -> Vec<(u64, u64)> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let reports = whole.lines().filter_map(|line| line.strip_prefix("2 "));
    let numbers = |line: &str| {
        let (timestamp, connection) = line.split_once(' ').unwrap();
        (timestamp.parse().unwrap(), connection.parse().unwrap())
    };
    reports.map(numbers).collect()
}

/// When reports were taken, those of the first minutes of an agent with this `state_dir`: its journal keeps also
/// what was delivered, for a while.
pub fn taken(state_dir: &Path) -> Vec<u64> {
    let journal: PathBuf = state_dir.join("hm-reports");
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let reports = whole.lines().filter_map(|line| line.get(17..)?.strip_prefix('r'));
    reports.map(|report| report.split(' ').next().unwrap().parse().unwrap()).collect()
}
