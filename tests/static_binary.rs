//! What is shipped: one static file, stripped, within its budgets, that runs where there is nothing else; and in it the
//! GPU probe, which runs with an old glibc.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use miniz_oxide::deflate::compress_to_vec_zlib;
use support::hub::Hub;
use support::supervised::Supervisor;
use support::{Agent, Scratch, at_best, wait_until};

const BUDGET_BYTES: u64 = 2_500_000;
const BUDGET_IDLE_KB: u64 = 2048;
const BUDGET_SUBSCRIBER_BYTES: u64 = 14_000;
const SUBSCRIBERS: u64 = 300;
/// Of it, a megabyte is the program's file, which the agent has in memory as well.
const BUDGET_SUPERVISOR_KB: u64 = 1536;
const BUDGET_START: Duration = Duration::from_millis(50);

/// The glibc of CentOS 7.
const BUDGET_GLIBC: (u32, u32) = (2, 17);

/// Builds it, once.
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
fn static_stripped_and_small() {
    assert!(!readelf("--program-headers", built()).contains("INTERP"), "it asks for a loader");
    assert!(!readelf("--dynamic", built()).contains("(NEEDED)"), "it asks for a library");
    let sections = readelf("--sections", built());
    assert!(sections.contains(".text") && !sections.contains(".symtab"), "{sections}");
    let size = std::fs::metadata(built()).unwrap().len();
    println!("{size} bytes");
    assert!(size <= BUDGET_BYTES, "{size} bytes");
}

/// What is run all the time is laid out together: else an idle agent has twice as much of its program in memory.
#[test]
#[ignore = "builds a release"]
fn what_it_does_all_the_time_is_in_one_place() {
    for arch in ["x86_64", "aarch64"] {
        let sections = readelf("--sections", &built_for(arch));
        let mut words = sections.split_whitespace().skip_while(|word| *word != ".text.hot");
        // Type, address, offset, size.
        let size = u64::from_str_radix(words.nth(4).expect("a section for it"), 16).unwrap();
        println!("{arch}: {size} bytes");
        assert!((100_000..600_000).contains(&size), "packaging/hot-functions must be run again");
    }
}

#[test]
#[ignore = "builds a release"]
fn it_names_nobodys_directories() {
    let bytes = std::fs::read(built()).unwrap();
    let home = std::env::var("HOME").unwrap();
    for private in [home.as_str(), env!("CARGO_MANIFEST_DIR")] {
        assert!(!contains(&bytes, private.as_bytes()), "it contains {private}");
    }
}

#[test]
#[ignore = "builds two releases"]
fn it_carries_a_probe_that_runs_with_an_old_glibc() {
    for (arch, machine) in [("x86_64", "X86-64"), ("aarch64", "AArch64")] {
        let agent = built_for(arch);
        let probe = agent.with_file_name("gpu-probe");
        let header = readelf("--file-header", &probe);
        assert!(header.contains(machine), "{header}");
        let newest = newest_glibc(&readelf("--version-info", &probe)).unwrap();
        println!("{arch}: needs glibc {newest:?}");
        assert!(newest <= BUDGET_GLIBC, "{arch}: it needs glibc {newest:?}");
        let packed = compress_to_vec_zlib(&std::fs::read(&probe).unwrap(), 10);
        assert!(contains(&std::fs::read(agent).unwrap(), &packed), "{arch}: another one");
    }
}

/// The greatest of the `GLIBC_2.17` in what readelf says.
fn newest_glibc(version_info: &str) -> Option<(u32, u32)> {
    let version = |text: &str| -> Option<(u32, u32)> {
        let mut numbers = text.split(|byte: char| !byte.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    version_info.split("GLIBC_").skip(1).filter_map(version).max()
}

#[test]
#[ignore = "builds a release; needs root"]
fn it_runs_in_a_root_with_nothing_else_in_it() {
    let root = Scratch::new("root");
    std::fs::copy(built(), root.0.join("hm-agent")).unwrap();
    let output = Command::new("chroot").arg(&root.0).args(["/hm-agent", "check"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let run = Command::new("chroot").arg(&root.0).arg("/hm-agent").output().unwrap();
    assert_eq!(run.status.code(), Some(1), "there is no /proc");
    assert!(String::from_utf8_lossy(&run.stderr).contains("read /proc/stat: no such file"));
}

#[test]
#[ignore = "builds a release"]
fn it_starts_at_once() {
    // The best of five: a busy machine adds to times and takes nothing off.
    at_best(BUDGET_START, || {
        let mut command = Command::new(built());
        command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "interval=1"]);
        let start = Instant::now();
        let agent = Agent::spawn(command);
        let took = start.elapsed();
        println!("listening after {} ms", took.as_millis());
        agent.stop();
        took
    });
}

#[test]
#[ignore = "builds a release"]
fn with_every_service_on_it_idles_in_two_megabytes() {
    let (hub, scratch) = (Hub::start(), Scratch::new("idle"));
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
    // What starting needed is given back after five seconds, and what is needed all the time comes again.
    hub.wait_reports(10);
    let idle = agent.status("VmRSS");
    println!("{idle} kB");
    assert!(idle <= BUDGET_IDLE_KB, "{idle} kB");
    agent.stop();
}

#[test]
#[ignore = "builds a release"]
fn a_subscriber_takes_little_memory() {
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
    // Each has had some updates, of which one thread or another has made or sent one.
    (0..3).for_each(|_| clients.iter_mut().for_each(|client| drop(client.json())));
    let each = (agent.status("RssAnon") - before) * 1024 / SUBSCRIBERS;
    println!("{each} bytes");
    assert!(each <= BUDGET_SUBSCRIBER_BYTES, "{each} bytes");
    agent.stop();
}

#[test]
#[ignore = "builds a release"]
fn its_supervisor_is_small() {
    let scratch = Scratch::new("supervisor");
    let mut command = Command::new(built());
    command.args(["run", "--supervise", "--log-file"]).arg(scratch.0.join("log"));
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
    let (all, own) = (kilobytes("VmRSS"), kilobytes("RssAnon"));
    println!("{all} kB, {own} kB of them its own");
    assert!(all <= BUDGET_SUPERVISOR_KB && own <= 256, "{all} kB, {own} kB of them its own");
    supervisor.stop();
}
