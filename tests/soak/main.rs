//! Everything on, hundreds of clients that come and go, and random faults: `tests/soak/run 30m`. The agent may lose nothing, may
//! not use more over time under the same load, and must use afterwards what it used before. `HM_SEED` repeats the order of faults,
//! though not the exact moments.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod apps;
mod clients;
mod env;
mod fault_log;
mod faults;
mod resource_usage;
mod subscribers;

use std::time::Duration;

use apps::Silences;
use clients::Commands;
use env::Env;
use support::rng::Rng;

/// Seconds between two samples.
const INTERVAL: u64 = 2;
/// Seconds between two reports.
const REPORT_INTERVAL: u64 = 2;
/// The fake driver's script without a fault.
const GPUS: &str = "gpus = 2";
const TOKEN: &str = "soak-token";

#[test]
#[ignore = "needs root and minutes: tests/soak/run"]
fn loses_and_leaks_nothing_under_load_and_random_faults() {
    let seconds = std::env::var("HM_SOAK_SECONDS").map_or(60, |text| text.parse().unwrap());
    let mut rng = Rng::new();
    eprintln!("soak: HM_SEED={}", rng.seed);
    let env = Env::new();
    let (mut commands, mut silences) = (Commands::default(), Silences::new());
    // After each fault once, all buffers have their largest size.
    env.load(Duration::ZERO, true, &mut rng, &mut commands, &mut silences);
    let before = env.rest(&mut commands);
    let time = Duration::from_secs(seconds);
    let usages = env.load(time, false, &mut rng, &mut commands, &mut silences);
    let after = env.rest(&mut commands);
    resource_usage::judge_rest(&before, &after, &env.log);
    resource_usage::judge_trend(&usages, &env.log);
    apps::check_results(&silences, &env.files.0.join("overdue"), &env.log);
    commands.check_results(&env.core, &env.marks.0.join("ran"), &env.log);
    env.check_reports();
    let log = env.finish();
    for (fault, (count, time)) in log.faults() {
        println!("fault: {fault}: {count} times, {:.0} s", time.as_secs_f64());
    }
    for (what, count) in log.counts() {
        println!("{what}: {count}");
    }
    assert!(log.failures().is_empty(), "{:#?}", log.failures());
}
