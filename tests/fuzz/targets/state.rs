//! The files in `state_dir` as a crash, a full disk or somebody else left them: the table of heartbeats, the reports for
//! hm, the commands of Core. What is understood is within bounds; what is written of it is read again as it was.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use hm_agent::core_client::command_log::{Accepted, Ledger};
use hm_agent::heartbeat::monitor::HeartbeatMonitor;
use hm_agent::heartbeat::table::{HeartbeatTable, Saved};
use hm_agent::hm_client::spool::{Report, Spool};
use hm_agent_fuzz::program::{Program, text};
use libfuzzer_sys::fuzz_target;

static DIRECTORY: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("hm-fuzz-state-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    directory
});

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    match which {
        b'w' => table(rest),
        b's' => spool(rest),
        b'l' => ledger(rest),
        _ => {}
    }
});

fn table(bytes: &[u8]) {
    if let Ok(saved) = serde_json::from_slice::<Saved>(bytes) {
        const NOW: Duration = Duration::from_secs(100 * 86_400);
        let mut watch = HeartbeatTable::restore(100, saved, NOW);
        assert!(watch.count(NOW) <= 100);
        watch.take_transitions();
        let saved = watch.save(NOW);
        let mut again = HeartbeatTable::restore(100, saved.clone(), NOW);
        assert_eq!(again.save(NOW), saved);
        watch.advance(NOW + Duration::from_secs(86_400));
        watch.take_transitions();
    }
    fs::write(DIRECTORY.join("heartbeat.json"), bytes).expect("a file");
    let watchdog = HeartbeatMonitor::open(&DIRECTORY).expect("a table");
    watchdog.statuses();
}

/// Lines with a checksum, which the fuzzer would not find; those that begin with `#` go as they are.
fn lines(bytes: &[u8]) -> Vec<u8> {
    let mut program = Program(bytes);
    let mut all = Vec::new();
    while let Some(line) = program.line() {
        match line.strip_prefix(b"#") {
            Some(line) => all.extend(line),
            None => {
                // As in dial/journal.rs: FNV-1a.
                let sum = line.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
                    (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                });
                all.extend(format!("{sum:016x} ").as_bytes());
                all.extend(line);
            }
        }
        all.push(b'\n');
    }
    all
}

fn spool(bytes: &[u8]) {
    fs::write(DIRECTORY.join("reports"), lines(bytes)).expect("a file");
    let open = || Spool::open(&DIRECTORY, "reports");
    let all = |mut spool: Spool| {
        let mut all = Vec::new();
        while let Some(report) = spool.pop() {
            all.push(report);
        }
        all
    };
    let mut spool = open();
    let length = spool.len();
    let report = Report { unix_milliseconds: 7, body: text(bytes).replace('\n', " ").into() };
    spool.push(report.clone());
    let reports = all(open());
    assert_eq!((reports.len(), reports.last()), (length + 1, Some(&report)));
    assert!(open().is_empty(), "what was taken comes back");
}

fn ledger(bytes: &[u8]) {
    fs::write(DIRECTORY.join("core-commands"), lines(bytes)).expect("a file");
    let told = |ledger: &Ledger| {
        let waiting = ledger.waiting().map(|id| {
            assert!(ledger.result(id).is_some(), "who waits has a result");
            id.to_owned()
        });
        let mut all: Vec<_> = waiting.collect();
        // Those of one command are as good as each other, and one that stands there twice is one.
        all.sort();
        all.dedup();
        all
    };
    let open = || Ledger::open(Path::new(&*DIRECTORY));
    let first = told(&open());
    let mut ledger = open();
    assert_eq!(told(&ledger), first, "what was written is read otherwise");
    for id in &first {
        while ledger.confirm(id).is_some() {}
    }
    assert!(told(&ledger).is_empty());
    drop(ledger);
    let mut ledger = open();
    assert!(told(&ledger).is_empty(), "what was confirmed comes back");
    // Ids of messages are the agent's own, and have no spaces.
    ledger.accept("a fresh one", "of-this-id".to_owned());
    drop(ledger);
    let mut ledger = open();
    assert_ne!(ledger.accept("a fresh one", "once-more".to_owned()), Accepted::New, "run twice");
}
