//! The release binary: static, stripped, within its budgets, runs in an empty root, and contains a GPU probe that runs with an
//! old glibc.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::support::hm_server::HmServer;
use crate::support::supervised::Supervisor;
use crate::support::{Agent, TempDir, assert_best_of_five, reserve_address, wait_until};
use flate2::Compression;
use flate2::write::ZlibEncoder;

const BUDGET_BYTES: u64 = 6_000_000;
/// Resident, and the private part of it.
const BUDGET_RESIDENT_KB: (u64, u64) = (6144, 1024);
const BUDGET_SUBSCRIBER_BYTES: u64 = 20_000;
const SUBSCRIBERS: u64 = 300;
/// Private memory; the rest is the program's file, which it shares with the agent.
const BUDGET_SUPERVISOR_PRIVATE_KB: u64 = 256;
const BUDGET_START: Duration = Duration::from_millis(50);

/// The glibc of CentOS 7.
const BUDGET_GLIBC: (u32, u32) = (2, 17);

/// Builds the binary for this machine, once.
fn built() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| built_for(std::env::consts::ARCH))
}

fn built_for(arch: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/build-static");
    let output = Command::new(script).arg(arch).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn readelf(option: &str, file: &Path) -> String {
    let output = Command::new("readelf").arg(option).arg(file).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
#[ignore = "builds a release"]
fn binary_is_static_stripped_and_within_size_budget() {
    assert!(!readelf("--program-headers", built()).contains("INTERP"), "it needs a loader");
    assert!(!readelf("--dynamic", built()).contains("(NEEDED)"), "it needs a library");
    let sections = readelf("--sections", built());
    assert!(sections.contains(".text") && !sections.contains(".symtab"), "{sections}");
    let size = std::fs::metadata(built()).unwrap().len();
    println!("{size} bytes");
    assert!(size <= BUDGET_BYTES, "{size} bytes");
}

#[test]
#[ignore = "builds a release"]
fn binary_contains_no_paths_of_build_machine() {
    let bytes = std::fs::read(built()).unwrap();
    let home = std::env::var("HOME").unwrap();
    for private in [home.as_str(), env!("CARGO_MANIFEST_DIR")] {
        let length = private.len();
        // The file net/tls/roots.rs is not in /root.
        let is_path = |part: &[u8]| {
            part.starts_with(private.as_bytes()) && !part[length].is_ascii_alphanumeric()
        };
        assert!(!bytes.windows(length + 1).any(is_path), "it contains {private}");
    }
}

#[test]
#[ignore = "builds a release"]
fn embedded_probe_needs_glibc_2_17_at_most() {
    assert_probe_needs_old_glibc(std::env::consts::ARCH);
}

#[test]
#[ignore = "builds a release for another processor; part of tests/packages"]
fn embedded_probe_for_aarch64_needs_glibc_2_17_at_most() {
    assert_probe_needs_old_glibc("aarch64");
}

fn assert_probe_needs_old_glibc(arch: &str) {
    let machine = if arch == "x86_64" { "X86-64" } else { "AArch64" };
    let agent = built_for(arch);
    let probe = agent.with_file_name("gpu-probe");
    let header = readelf("--file-header", &probe);
    assert!(header.contains(machine), "{header}");
    let newest = newest_glibc(&readelf("--version-info", &probe)).unwrap();
    println!("{arch}: needs glibc {newest:?}");
    assert!(newest <= BUDGET_GLIBC, "{arch}: it needs glibc {newest:?}");
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&std::fs::read(&probe).unwrap()).unwrap();
    let compressed = encoder.finish().unwrap();
    let binary = std::fs::read(agent).unwrap();
    assert!(contains(&binary, &compressed), "{arch}: the embedded probe is another one");
}

/// The highest version among the `GLIBC_2.17` in readelf's output.
fn newest_glibc(version_info: &str) -> Option<(u32, u32)> {
    let version = |text: &str| -> Option<(u32, u32)> {
        let mut numbers = text.split(|byte: char| !byte.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    version_info.split("GLIBC_").skip(1).filter_map(version).max()
}

#[test]
#[ignore = "builds a release; needs root"]
fn runs_in_root_without_any_other_file() {
    let root = TempDir::new("root");
    std::fs::copy(built(), root.0.join("hm-agent")).unwrap();
    let output = Command::new("chroot").arg(&root.0).args(["/hm-agent", "check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Command::new("chroot").arg(&root.0).arg("/hm-agent").output().unwrap();
    assert_eq!(run.status.code(), Some(1), "there is no /proc");
    assert!(String::from_utf8_lossy(&run.stderr).contains("read /proc/stat: no such file"));
}

#[test]
#[ignore = "builds a release"]
fn listens_within_50_ms() {
    // The best of five: load of the machine only makes it slower.
    assert_best_of_five(BUDGET_START, || {
        let mut command = Command::new(built());
        command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
        let start = Instant::now();
        let agent = Agent::spawn(command);
        let duration = start.elapsed();
        println!("listening after {} ms", duration.as_millis());
        agent.stop();
        duration
    });
}

#[test]
#[ignore = "builds a release"]
fn resident_memory_is_within_budget_with_all_services() {
    let (hub, scratch) = (HmServer::start(), TempDir::new("idle"));
    let mut command = Command::new(built());
    for setting in [
        "usage.listen=127.0.0.1:0",
        "interval=1",
        "hm.report_interval=1",
        "core.url=wss://127.0.0.1:1/",
        &hub.setting(),
        &format!("state_dir={}", scratch.0.display()),
    ] {
        command.args(["-s", setting]);
    }
    let agent = Agent::spawn(command);
    hub.wait_reports(10);
    for _ in 0..50 {
        assert_eq!(agent.http("/metrics", "Connection: close\r\n").0, 200);
    }
    let (resident, private) = (agent.status("VmRSS"), agent.status("RssAnon"));
    println!("{resident} kB, {private} kB of them private");
    assert!(resident <= BUDGET_RESIDENT_KB.0, "{resident} kB");
    assert!(private <= BUDGET_RESIDENT_KB.1, "{private} kB");
    agent.stop();
}

#[test]
#[ignore = "builds a release"]
fn subscriber_memory_is_within_budget() {
    let mut command = Command::new(built());
    for setting in [
        "usage.listen=127.0.0.1:0",
        "interval=1",
        "usage.max_connections_per_ip=0",
        "heartbeat.enabled=false",
    ] {
        command.args(["-s", setting]);
    }
    let agent = Agent::spawn(command);
    let mut clients: Vec<_> = (0..20).map(|_| agent.subscribe()).collect();
    let before = agent.status("RssAnon");
    clients.extend((0..SUBSCRIBERS).map(|_| agent.subscribe()));
    // Each connection's thread has sent some updates.
    (0..3).for_each(|_| clients.iter_mut().for_each(|client| drop(client.json())));
    let each = (agent.status("RssAnon") - before) * 1024 / SUBSCRIBERS;
    println!("{each} bytes");
    assert!(each <= BUDGET_SUBSCRIBER_BYTES, "{each} bytes");
    agent.stop();
}

#[test]
#[ignore = "builds a release"]
fn supervisor_memory_is_within_budget() {
    let scratch = TempDir::new("supervisor");
    let mut command = Command::new(built());
    command.args(["run", "--supervise"]);
    let address = reserve_address();
    command.args(["-s", &format!("usage.listen={address}"), "-s", "heartbeat.enabled=false"]);
    command.args(["-s", &format!("state_dir={}", scratch.0.display())]);
    let child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let supervisor = Supervisor { pid: child.id(), child: Some(child) };
    wait_until("an agent", || std::net::TcpStream::connect(address).ok());
    let kilobytes = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{}/status", supervisor.pid)).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let (resident, private) = (kilobytes("VmRSS"), kilobytes("RssAnon"));
    println!("{resident} kB, {private} kB of them private");
    assert!(private <= BUDGET_SUPERVISOR_PRIVATE_KB, "{private} kB");
    supervisor.stop();
}
