//! Runs the agent with its real GPU probe, a scripted NVML library (tests/fake-nvml) and a PCI bus in a temporary
//! directory.

use std::ops::{Deref, DerefMut};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use super::supervised::signal;
pub use super::update_stream::*;
use super::{Agent, TempDir, hm_agent, wait_until};

/// Library of a current driver, built once for all tests.
pub fn current_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("current", &[]))
}

/// Library of a driver from 2018.
pub fn old_library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("old", &["-DOLD_DRIVER"]))
}

/// Library that prints to stdout.
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
    // Renamed into place, because another test run may be using the library.
    let draft = directory.join(format!("draft-{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]);
    cc.arg("-Wl,-z,nodelete").args(flags).arg("-o").arg(&draft).args(files);
    assert!(cc.status().unwrap().success(), "{cc:?}");
    std::fs::rename(draft, &library).unwrap();
    library
}

/// A GPU with all values, all of them different.
pub const FULL_GPU: &str = "
gpu.0.name = NVIDIA Full \u{2122}
gpu.0.uuid = GPU-8f6d2a10-0000-4000-8000-00000000abcd
gpu.0.pci = 00010000:C1:1F.0
gpu.0.memory_total = 80000000001
gpu.0.memory_used = 30000000002
gpu.0.memory_free = 49000000003
gpu.0.memory_reserved = 600000004
gpu.0.util_gpu = 81
gpu.0.util_mem = 42
gpu.0.enc = 13
gpu.0.dec = 14
gpu.0.temp = 71
gpu.0.temp_mem = 92
gpu.0.power_mw = 287500
gpu.0.power_limit_mw = 650250
gpu.0.energy_mj = 123456789500
gpu.0.clock_sm = 1755
gpu.0.clock_mem = 2619
gpu.0.fan = 66
gpu.0.fans = 3
gpu.0.pstate = 2
gpu.0.reasons = 4164 # bits 2, 6 and 12
gpu.0.ecc_volatile_corrected = 101
gpu.0.ecc_volatile_uncorrected = 102
gpu.0.ecc_aggregate_corrected = 5000000103
gpu.0.ecc_aggregate_uncorrected = 104
gpu.0.remapped_corrected = 5
gpu.0.remapped_uncorrected = 6
gpu.0.remapped_pending = 1
gpu.0.pcie_gen = 4
gpu.0.pcie_width = 8
gpu.0.pcie_replay = 77
gpu.0.nvlinks = 12
gpu.0.nvlink_errors = 3
gpu.0.mig = 0
gpu.0.power_instant_mw = 301250
gpu.0.power_module_mw = 512500
gpu.0.thermal_margin = 0xFFFFFFFD # -3
gpu.0.recovery_action = 4
gpu.0.throttle_power_ns = 5000000001
gpu.0.throttle_thermal_ns = 2
gpu.0.throttle_sync_ns = 3
gpu.0.throttle_board_ns = 4
gpu.0.throttle_low_util_ns = 5
gpu.0.throttle_reliability_ns = 6
gpu.0.throttle_app_clocks_ns = 7
gpu.0.throttle_base_clocks_ns = 8
gpu.0.throttle_sw_thermal_ns = 9
gpu.0.throttle_hw_thermal_ns = 10
gpu.0.throttle_hw_brake_ns = 11
gpu.0.retired_sbe = 21
gpu.0.retired_dbe = 22
gpu.0.retired_pending = 1
gpu.0.banks_max = 630
gpu.0.banks_high = 5
gpu.0.banks_partial = 3
gpu.0.banks_low = 2
gpu.0.banks_none = 1
gpu.0.sram_corrected = 31
gpu.0.sram_uncorrected = 33
gpu.0.sram_threshold = 1
gpu.0.pcie_errors = 40
gpu.0.nvlink5 = 1000
gpu.0.nvlink5_ber = 0x70C
gpu.0.c2c_links = 2
gpu.0.c2c_mbps = 44712
gpu.0.c2c_errors = 17
gpu.0.gpm_metrics = 2:40.5, 21:3
gpu.0.fabric_state = 3
gpu.0.fabric_clique = 7
gpu.0.fabric_mask = 0x2499
gpu.0.fabric_summary = 2
gpu.0.persistence = 0
gpu.0.license = 1
gpu.0.platform = 1821325191344:3:12:1:2:5
cc = 1
cc_ready = 0
";

/// A scripted driver.
pub struct Driver {
    pub scratch: TempDir,
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
        let driver = Self { scratch: TempDir::new("gpu"), library };
        driver.set_script(script);
        driver
    }

    fn path(&self, name: &str) -> String {
        self.scratch.0.join(name).display().to_string()
    }

    /// Replaces the script atomically, because a running probe may read it at any time.
    pub fn set_script(&self, script: &str) {
        let script = format!("log = {}\n{script}\n", self.path("calls"));
        let draft = self.scratch.write("draft", &script);
        std::fs::rename(draft, self.path("script")).unwrap();
    }

    /// All calls so far: function, and number of the GPU or `-`.
    pub fn calls(&self) -> Vec<(String, String)> {
        let log = std::fs::read_to_string(self.path("calls")).unwrap_or_default();
        let calls = log.lines().filter_map(|line| line.split_once(' '));
        calls.map(|(function, gpu)| (function.to_owned(), gpu.to_owned())).collect()
    }

    pub fn clear_calls(&self) {
        let _ = std::fs::remove_file(self.path("calls"));
    }

    /// `hm-agent` with these arguments and an environment that selects this driver.
    pub fn hm_agent(&self, arguments: &[&str]) -> Command {
        let mut command = hm_agent();
        command.env("HM_FAKE_NVML", self.path("script")).args(arguments);
        command.env("HM_AGENT_STATE_DIR", self.path("state"));
        command
    }

    /// `hm-agent` with settings for tests, which `settings` override.
    pub fn command(&self, arguments: &[&str], settings: &[&str]) -> Command {
        let mut command = self.hm_agent(arguments);
        let library = format!("gpu.nvml_library={}", self.library.display());
        let own = ["interval=1", "gpu.timeout=5", "usage.listen=127.0.0.1:0", &library];
        for setting in own.iter().chain(settings) {
            command.args(["-s", setting]);
        }
        command
    }

    /// Starts the agent and, unless the driver hangs, waits for the first result.
    pub fn start(&self, settings: &[&str]) -> Watched {
        let agent = Agent::spawn(self.command(&[], settings));
        if !std::fs::read_to_string(self.path("script")).unwrap().contains("hang") {
            wait_first_gpu_state(&agent);
        }
        Watched::new(agent)
    }

    /// Output of `hm-agent sample --json`.
    pub fn sample(&self, settings: &[&str]) -> Value {
        let output = self.command(&["sample", "--json"], settings).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// An agent with a client subscribed to details. Each update that a test reads is checked: it must arrive on time and
/// contain the host's values, so that every test detects a driver that delays the rest.
pub struct Watched {
    pub agent: Agent,
    updates: UpdateStream,
}

impl Deref for Watched {
    type Target = UpdateStream;
    fn deref(&self) -> &UpdateStream {
        &self.updates
    }
}

impl DerefMut for Watched {
    fn deref_mut(&mut self) -> &mut UpdateStream {
        &mut self.updates
    }
}

impl Watched {
    pub fn new(agent: Agent) -> Self {
        let updates = UpdateStream::subscribe(&agent);
        Self { agent, updates }
    }

    /// Waits for the probe and returns its PID.
    pub fn probe(&self) -> u32 {
        wait_until("a probe", || self.probes().first().copied())
    }

    pub fn probes(&self) -> Vec<u32> {
        probes_of(self.agent.pid())
    }

    pub fn into_agent(self) -> Agent {
        self.agent
    }

    /// Stops the agent. Checks that it used little CPU time and that no probe is left.
    pub fn stop(self) -> Vec<String> {
        let (used, age) = (self.agent.cpu_seconds(), self.agent.started.elapsed().as_secs_f64());
        assert!(used < 0.5 + 0.2 * age, "{used} s of CPU time in {age} s");
        let probes = self.probes();
        drop(self.updates);
        let log = self.agent.stop();
        // A killed process exits asynchronously.
        wait_until("no probe", || (!probes.iter().any(|pid| is_probe(*pid))).then_some(()));
        log
    }
}

/// Programs that an agent runs, each below a supervisor, and its other children, including zombies.
pub fn programs(agent: u32) -> Vec<u32> {
    let is_supervisor = |pid: &u32| command_line(*pid).contains("\0__supervise-command\0");
    let (supervisors, others): (Vec<_>, Vec<_>) =
        children(agent).into_iter().partition(is_supervisor);
    supervisors.into_iter().flat_map(children).chain(others).collect()
}

fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Child processes, including zombies.
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

/// Probes of an agent, which may have exited: their supervisors exit after them.
pub fn probes_of(agent: u32) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let supervisor = format!("hm-agent\0__supervise-command\0{{\"agent\":{agent},");
    pids.filter(|pid| command_line(*pid).starts_with(&supervisor))
        .flat_map(children)
        .filter(|pid| is_probe(*pid))
        .collect()
}

fn is_probe(pid: u32) -> bool {
    command_line(pid).starts_with("gpu-probe\0")
}

pub fn kill(pid: u32) {
    signal(pid, "-KILL");
}

/// A PCI bus in a temporary directory, for `path.sys`.
pub struct Bus(TempDir);

impl Bus {
    /// A bus with NVIDIA GPUs at these addresses.
    pub fn new(addresses: &[&str]) -> Self {
        let bus = Self(TempDir::new("sys"));
        for address in addresses {
            let device = bus.device(address);
            std::fs::create_dir_all(device.join("power")).unwrap();
            std::fs::write(device.join("vendor"), "0x10de\n").unwrap();
            std::fs::write(device.join("class"), "0x030200\n").unwrap();
            symlink("../../../bus/pci/drivers/nvidia", device.join("driver")).unwrap();
            bus.set_power(address, "active");
        }
        bus
    }

    fn device(&self, address: &str) -> PathBuf {
        self.0.0.join("bus/pci/devices").join(address)
    }

    /// Sets the runtime status: `active` or `suspended`.
    pub fn set_power(&self, address: &str, status: &str) {
        let draft = self.0.write("draft", &format!("{status}\n"));
        std::fs::rename(draft, self.device(address).join("power/runtime_status")).unwrap();
    }

    /// The setting `path.sys`.
    pub fn setting(&self) -> String {
        format!("path.sys={}", self.0.0.display())
    }
}
