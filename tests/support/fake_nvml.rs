//! The agent with its real GPU probe and a driver's library that does what a script says (tests/fake-nvml), a PCI
//! bus of files, and what can be seen of the probe's processes.

use std::ops::{Deref, DerefMut};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::Message;

use super::{Agent, PATIENCE, Scratch, hm_agent, wait_until};

/// Two updates of an agent with `interval=1` are never further apart, whatever a driver does.
pub const LARGEST_GAP: Duration = Duration::from_millis(1500);

/// The library of today's driver, built once for all tests.
pub fn current_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("current", &[]))
}

/// The library of a driver of 2018.
pub fn old_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("old", &["-DOLD_DRIVER"]))
}

/// A library that prints to standard output.
pub fn chatty_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("chatty", &["-DCHATTY"]))
}

fn build(variant: &str, flags: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-nvml");
    let files = std::fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ext| ext == "c")).collect();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fake-nvml").join(variant);
    std::fs::create_dir_all(&directory).unwrap();
    let library = directory.join("libnvidia-ml.so.1");
    // Another run of the tests may have it in use.
    let draft = directory.join(format!("draft-{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    cc.arg("-Wl,-z,nodelete").args(flags).arg("-o").arg(&draft).args(files);
    assert!(cc.status().unwrap().success(), "{cc:?}");
    std::fs::rename(draft, &library).unwrap();
    library
}

/// A driver that does what its script says.
pub struct Driver {
    pub scratch: Scratch,
    library: &'static Path,
}

impl Driver {
    pub fn new(script: &str) -> Self {
        Self::of(current_library(), script)
    }

    pub fn old(script: &str) -> Self {
        Self::of(old_library(), script)
    }

    pub fn of(library: &'static Path, script: &str) -> Self {
        let driver = Self { scratch: Scratch::new("gpu"), library };
        driver.becomes(script);
        driver
    }

    fn path(&self, name: &str) -> String {
        self.scratch.0.join(name).display().to_string()
    }

    /// The script, in one step, as a running probe reads it at any time.
    pub fn becomes(&self, script: &str) {
        let script = format!("log = {}\n{script}\n", self.path("calls"));
        let draft = self.scratch.write("draft", &script);
        std::fs::rename(draft, self.path("script")).unwrap();
    }

    /// Every call so far: its function, and the GPU's number, `-` without one.
    pub fn calls(&self) -> Vec<(String, String)> {
        let log = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let calls = log.lines().filter_map(|line| line.split_once(' '));
        calls.map(|(function, gpu)| (function.to_owned(), gpu.to_owned())).collect()
    }

    pub fn forget_calls(&self) {
        let _ = std::fs::remove_file(self.path("calls"));
    }

    /// `hm-agent` with these arguments, which finds this driver in its environment.
    pub fn hm_agent(&self, arguments: &[&str]) -> Command {
        let mut command = hm_agent();
        command.env("HM_FAKE_NVML", self.path("script")).args(arguments);
        command.env("HM_AGENT_STATE_DIR", self.path("state"));
        command
    }

    /// `hm-agent`, its settings and then `settings`, which go before them.
    pub fn command(&self, arguments: &[&str], settings: &[&str]) -> Command {
        let mut command = self.hm_agent(arguments);
        let library = format!("gpu.nvml_library={}", self.library.display());
        let own = ["interval=1", "gpu.timeout=2", "usage.listen=127.0.0.1:0", &library];
        for setting in own.iter().chain(settings) {
            command.args(["-s", setting]);
        }
        command
    }

    pub fn start(&self, settings: &[&str]) -> Watched {
        Watched::new(Agent::spawn(self.command(&[], settings)))
    }

    /// `hm-agent sample --json`: both messages.
    pub fn sample(&self, settings: &[&str]) -> Value {
        let output = self.command(&["sample", "--json"], settings).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// An agent with a subscriber to everything. Each update that is looked at must have been on time and have what is
/// not the GPUs', so that no test can miss a driver that holds up the rest.
pub struct Watched {
    pub agent: Agent,
    updates: Updates,
    since: Instant,
}

impl Deref for Watched {
    type Target = Updates;
    fn deref(&self) -> &Updates {
        &self.updates
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut Updates {
        &mut self.updates
    }
}

impl Watched {
    pub fn new(agent: Agent) -> Self {
        let updates = Updates::of(&agent);
        Self { agent, updates, since: Instant::now() }
    }

    /// The probe's process, once there is one.
    pub fn probe(&self) -> u32 {
        wait_until("a probe", || self.probes().first().copied())
    }

    pub fn probes(&self) -> Vec<u32> {
        probes_of(self.agent.pid())
    }

    pub fn into_agent(self) -> Agent {
        self.agent
    }

    /// Stops the agent. It has not spun, and nothing of the probe is left.
    pub fn stop(self) -> Vec<String> {
        let (used, since) = (self.agent.cpu_seconds(), self.since.elapsed().as_secs_f64());
        assert!(used < 0.5 + 0.1 * since, "{used} s of processor time in {since} s");
        let pid = self.agent.pid();
        drop(self.updates);
        let log = self.agent.stop();
        assert_eq!(probes_of(pid), Vec::<u32>::new(), "{log:#?}");
        log
    }
}

/// What a subscriber gets, read by a thread that is always there to read.
pub struct Updates {
    /// The `system_info` that came first.
    pub info: Value,
    received: Receiver<(Instant, Value)>,
    last: Option<Instant>,
    socket: std::net::TcpStream,
    reader: Option<JoinHandle<()>>,
}

impl Updates {
    pub fn of(agent: &Agent) -> Self {
        let mut client = agent.connect();
        client.say("subscribe:detail");
        assert_eq!(client.json()["status"], "subscribed");
        let info = client.json();
        assert_eq!(info["type"], "system_info");
        let socket = client.0.get_ref().try_clone().unwrap();
        let (sender, received) = channel();
        let reader = std::thread::spawn(move || {
            while let Ok(Message::Text(text)) = client.0.read() {
                let update = serde_json::from_str(&text).unwrap();
                if sender.send((Instant::now(), update)).is_err() {
                    return;
                }
            }
        });
        Self { info, received, last: None, socket, reader: Some(reader) }
    }

    /// The next update, which may have come a while ago.
    pub fn update(&mut self) -> Value {
        let received = self.received.recv_timeout(PATIENCE).unwrap();
        self.look_at(received)
    }

    /// Those that have come.
    pub fn seen(&mut self) -> Vec<Value> {
        let seen: Vec<_> = self.received.try_iter().collect();
        seen.into_iter().map(|received| self.look_at(received)).collect()
    }

    fn look_at(&mut self, (at, update): (Instant, Value)) -> Value {
        if let Some(last) = self.last.replace(at) {
            let gap = at - last;
            assert!(gap < LARGEST_GAP, "an update came {gap:?} after the one before");
        }
        for key in ["cpu_percent", "ram_percent", "ram_total_mb", "uptime_seconds", "load"] {
            assert!(!update[key].is_null(), "no {key} in {update:#}");
        }
        update
    }

    /// The update that is to come: those that have come are let go, each looked at.
    pub fn next_update(&mut self) -> Value {
        let now = Instant::now();
        loop {
            let update = self.update();
            if self.last > Some(now) {
                return update;
            }
        }
    }

    /// The first update to come in which something is found.
    pub fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let update = self.next_update();
            if let Some(found) = found(&update) {
                return found;
            }
            let late = Instant::now() > deadline;
            assert!(
                !late,
                "waited too long for {what}; {:#} {:#}",
                update["nvidia"], update["gpus"]
            );
        }
    }

    /// The first update to come in which the driver is in this state.
    pub fn until_state(&mut self, state: &str) -> Value {
        self.until(state, |update| (self::state(update) == state).then(|| update.clone()))
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.reader.take().unwrap().join().unwrap();
    }
}

/// The state of NVIDIA's driver in an update; `absent` without one.
pub fn state(update: &Value) -> &str {
    update["nvidia"]["state"].as_str().unwrap_or("absent")
}

/// What is wrong with the driver.
pub fn message(update: &Value) -> &str {
    update["nvidia"]["message"].as_str().unwrap_or_default()
}

/// The problem of each GPU, or `fine`.
pub fn problems(update: &Value) -> Vec<&str> {
    let gpus = update["gpus"].as_array().unwrap();
    gpus.iter().map(|gpu| gpu["problem"].as_str().unwrap_or("fine")).collect()
}

/// An object's keys, sorted.
pub fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// What a GPU has besides values.
pub const IDENTITY: [&str; 8] =
    ["index", "message", "name", "pci_address", "problem", "uuid", "vendor", "xids"];

/// The keys of a GPU's values.
pub fn values(gpu: &Value) -> Vec<&str> {
    keys(gpu).into_iter().filter(|key| !IDENTITY.contains(key)).collect()
}

/// That nothing is said of what a GPU measures.
pub fn assert_no_values(update: &Value) {
    for key in ["gpu_percent", "gpu_mem_used_mb", "gpu_mem_total_mb"] {
        assert!(update[key].is_null(), "{key} in {update:#}");
    }
    for gpu in update["gpus"].as_array().unwrap() {
        assert_eq!(values(gpu), [""; 0], "{gpu:#}");
    }
}

/// Processes whose parent this one is or was, zombies too.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

/// Probes of an agent, which may be gone itself.
pub fn probes_of(agent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let wanted = format!("gpu-probe\0--parent\0{agent}\0");
    pids.filter(|pid| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.starts_with(wanted.as_bytes())
    })
    .collect()
}

pub fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

/// A PCI bus of files: what `path.sys` may name.
pub struct Bus(Scratch);

impl Bus {
    /// With NVIDIA's GPUs at these addresses.
    pub fn new(addresses: &[&str]) -> Self {
        let bus = Self(Scratch::new("sys"));
        for address in addresses {
            let device = bus.device(address);
            std::fs::create_dir_all(device.join("power")).unwrap();
            std::fs::write(device.join("vendor"), "0x10de\n").unwrap();
            std::fs::write(device.join("class"), "0x030200\n").unwrap();
            symlink("../../../bus/pci/drivers/nvidia", device.join("driver")).unwrap();
            bus.power(address, "active");
        }
        bus
    }

    fn device(&self, address: &str) -> PathBuf {
        self.0.0.join("bus/pci/devices").join(address)
    }

    /// `active` or `suspended`.
    pub fn power(&self, address: &str, status: &str) {
        let draft = self.0.write("draft", &format!("{status}\n"));
        std::fs::rename(draft, self.device(address).join("power/runtime_status")).unwrap();
    }

    /// The setting.
    pub fn setting(&self) -> String {
        format!("path.sys={}", self.0.0.display())
    }
}
