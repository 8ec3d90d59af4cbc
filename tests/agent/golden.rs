//! Compares the messages for captured machines with `tests/golden`. After an intended change run `UPDATE_GOLDEN=1 cargo test --test
//! golden` and review the difference.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::golden::compare;
use crate::support::{TEST_TIMEOUT, TempDir};
use hm_agent::collector::host_info;
use hm_agent::collector::sampler::Sampler;
use hm_agent::config::{CollectorsConfig, HealthConfig, Roots};
use hm_agent::health::Health;
use hm_agent::model::event::{Event, EventCounts};
use hm_agent::model::primary_gpu::Primary;
use hm_agent::model::{RawSample, Snapshot};
use hm_agent::sys::FsSize;
use hm_agent::telemetry::messages::{system_info, usage_update};
use hm_agent::util::state_io::StateIo;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn roots(tree: &str) -> Roots {
    let tree = tests().join("fixtures").join(tree);
    Roots { proc: tree.join("proc"), sys: tree.join("sys"), root: tree.join("root") }
}

/// Collects a sample of a captured machine whose filesystems are half full: a capture contains no sizes.
fn collect(tree: &str, monotonic_seconds: u64) -> RawSample {
    let gib = 1 << 30;
    let size = FsSize {
        total_bytes: 100 * gib,
        free_bytes: 50 * gib,
        available_bytes: 45 * gib,
        files: 1000,
        files_free: 900,
        read_only: false,
    };
    let mut sample = Sampler::new(roots(tree), &CollectorsConfig::default(), move |_| Ok(size))
        .collect_first(TEST_TIMEOUT)
        .unwrap();
    sample.monotonic = Duration::from_secs(monotonic_seconds);
    sample.unix_seconds = 1_795_216_252 + monotonic_seconds;
    sample
}

/// All messages of a machine that was captured twice, `seconds` apart.
fn messages(name: &str, seconds: u64) -> String {
    let (a, b) = (format!("{name}/a"), format!("{name}/b"));
    let host = host_info::read(&roots(&a));
    let (first, second) = (collect(&a, 0), collect(&b, seconds));
    let boot = Snapshot::derive(None, &first);
    let now = Snapshot::derive(Some((&first, &boot)), &second);
    let primary = Primary::Index(0);
    let lines = [
        system_info(&host, &now, false, now.unix_seconds),
        usage_update(&boot, primary, false),
        usage_update(&now, primary, false),
        usage_update(&now, primary, true),
    ];
    lines.join("\n") + "\n"
}

#[test]
fn messages_of_x86_server_match() {
    compare("x86.jsonl", &messages("x86", 5));
}

#[test]
fn messages_of_arm_machine_match() {
    compare("arm.jsonl", &messages("arm", 5));
}

#[test]
fn messages_of_board_without_disks_match() {
    let snapshot = Snapshot::derive(None, &collect("raspi", 0));
    let host = host_info::read(&roots("raspi"));
    compare("raspi.jsonl", &(usage_update(&snapshot, Primary::Index(0), true) + "\n"));
    assert_eq!(host.cpu_model, "ARM Cortex-A53");
    // Without a name in cpuinfo, the device tree names the board.
    let without_cpuinfo = Roots { proc: "/nonexistent".into(), ..roots("raspi") };
    assert_eq!(host_info::read(&without_cpuinfo).cpu_model, "Raspberry Pi 3 Model B");
}

/// CentOS 7 and older have no MemAvailable, no pressure and no oom_kill. Derived from the x86 capture by removing those, because no
/// such kernel was available.
#[test]
fn omits_values_that_old_kernels_do_not_have() {
    let old = std::env::temp_dir().join(format!("hm-agent-old-kernel-{}", std::process::id()));
    std::fs::create_dir_all(old.join("proc")).unwrap();
    let modern = roots("x86/a");
    let copy_without = |file: &str, line: &str| {
        let text = std::fs::read_to_string(modern.proc.join(file)).unwrap();
        let kept: Vec<&str> = text.lines().filter(|each| !each.starts_with(line)).collect();
        assert!(kept.len() < text.lines().count());
        std::fs::write(old.join("proc").join(file), kept.join("\n") + "\n").unwrap();
    };
    copy_without("meminfo", "MemAvailable");
    copy_without("vmstat", "oom_kill");
    for file in ["stat", "zoneinfo", "loadavg", "uptime"] {
        std::fs::copy(modern.proc.join(file), old.join("proc").join(file)).unwrap();
    }
    let roots = Roots { proc: old.join("proc"), sys: old.join("sys"), root: old.clone() };
    let sample = Sampler::new(roots.clone(), &CollectorsConfig::default(), |_| unreachable!())
        .collect_first(TEST_TIMEOUT)
        .unwrap();
    let host = host_info::read(&roots);
    std::fs::remove_dir_all(&old).unwrap();

    let snapshot = Snapshot::derive(None, &sample);
    let modern = Snapshot::derive(None, &collect("x86/a", 0));
    let used = |snapshot: &Snapshot| snapshot.memory.unwrap().used_bytes.unwrap() as f64;
    let total = modern.memory.unwrap().total_bytes as f64;
    assert!((used(&snapshot) - used(&modern)).abs() < 0.01 * total, "{}", used(&snapshot));
    let detail = usage_update(&snapshot, Primary::Index(0), true);
    assert!(detail.contains(r#""pressure":{},"disks":[],"networks":[]"#), "{detail}");
    assert!(!detail.contains("oom_kills"));
    assert_eq!(host.cpu_model, "unknown");
}

#[test]
fn captured_machines_are_healthy() {
    let dir = TempDir::new("healthy");
    for tree in ["x86/b", "arm/b", "raspi"] {
        let health = Health::open(&StateIo::start(&dir.0.join(tree)).unwrap());
        let check = |now| {
            let (sample, counts) = (collect(tree, 0), EventCounts::default());
            let none = |_| std::iter::empty::<Event>();
            health.check(&sample, counts, none, &HealthConfig::default(), now).findings
        };
        // Also what is wrong for an hour only.
        for now in [1_795_216_252, 1_795_216_252 + 3_599, 1_795_216_252 + 4_000] {
            assert_eq!(check(now), [], "{tree}");
        }
    }
}
