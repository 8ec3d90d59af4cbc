//! Everything on, a thousand subscribers coming and going, faults at random, for as long as anybody wants: `tests/soak 30m`.
//! When the load is gone, the agent holds what it held before; meanwhile it has grown with nothing but its load; and nothing
//! was lost. What comes of it is a report. `HM_SEED` of a report gives the same faults again, though not the same moments.
#![allow(clippy::unwrap_used)]

#[path = "../load/frames.rs"]
mod frames;
#[path = "../support/mod.rs"]
mod support;

mod applications;
mod clients;
mod env;
mod fault_log;
mod faults;
mod report;
mod resource_usage;
mod subscribers;

use std::time::Duration;

use applications::Told;
use clients::Commands;
use env::{Scene, TOKEN};
use fault_log::Story;
use resource_usage::{Sample, quarters, spread};
use support::rng::Rng;

/// Seconds between two samples.
const INTERVAL: u64 = 2;
/// Seconds between two reports.
const REPORT_INTERVAL: u64 = 2;
/// Two healthy GPUs.
const GPUS: &str = "gpus = 2";

/// What there may be at rest that was not there before: musl gives memory back by whole pages, and what is left lies on some
/// that were full.
const KEPT_KB: u64 = 1024;
/// So much more, and a twentieth, may the last quarter have under the same load as the second: who happens to be there differs.
const GROWN_KB: f64 = 1024.0;

#[test]
#[ignore = "needs root, minutes and a machine of its own: tests/soak"]
fn everything_on_and_faults_at_random() {
    let seconds = std::env::var("HM_SOAK_SECONDS").map_or(60, |text| text.parse().unwrap());
    let mut rng = Rng::new();
    eprintln!("soak: HM_SEED={}", rng.seed);
    let scene = Scene::new();
    let (mut commands, mut told) = (Commands::default(), Told::new());
    // Once with every fault: after that all buffers are as large as they get.
    let warm_up = scene.load(Duration::ZERO, true, &mut rng, &mut commands, &mut told);
    let before = scene.rest(&mut commands);
    let time = Duration::from_secs(seconds);
    let loaded = scene.load(time, false, &mut rng, &mut commands, &mut told);
    let after = scene.rest(&mut commands);
    judge_rest(&before, &after, &scene.story);
    judge_trend(&loaded, &scene.story);
    applications::judge(&told, &scene.files.0.join("overdue"), &scene.story);
    commands.judge(&scene.core, &scene.marks.0.join("ran"), &scene.story);
    scene.judge_reports();
    let story = scene.end();
    let whole = report::Report { seed: rng.seed, time, story: &story };
    let text =
        whole.text(&[("at rest before", before), ("at rest after", after)], &warm_up, &loaded);
    println!("{text}");
    if let Ok(path) = std::env::var("HM_SOAK_REPORT") {
        std::fs::write(path, text).unwrap();
    }
    assert!(story.wrongs().is_empty(), "{:#?}", story.wrongs());
}

fn judge_rest(before: &Sample, after: &Sample, story: &Story) {
    let held = |sample: &Sample| (sample.threads, sample.descriptors, sample.children);
    if held(before) != held(after) {
        story.wrong(format!(
            "threads, descriptors, children: {:?}, {:?}",
            held(before),
            held(after)
        ));
    }
    if after.own_kb > before.own_kb + KEPT_KB {
        story.wrong(format!("memory at rest: {} KB, then {} KB", before.own_kb, after.own_kb));
    }
}

/// The second quarter and the last, while all subscribers were there.
fn judge_trend(samples: &[Sample], story: &Story) {
    let full = |quarter: &Vec<Sample>| {
        let near =
            |sample: &&Sample| sample.subscribers as usize > subscribers::SUBSCRIBERS * 8 / 10;
        quarter.iter().filter(near).copied().collect::<Vec<_>>()
    };
    let quarters = quarters(samples);
    let (early, late) = (full(&quarters[1]), full(&quarters[3]));
    if early.len() < 5 || late.len() < 5 {
        story.wrong(format!("too few samples to compare: {}, {}", early.len(), late.len()));
        return;
    }
    for (name, value) in resource_usage::COLUMNS {
        let middle = |samples: &[Sample]| spread(samples.iter().map(value).collect())[1];
        let (early, late) = (middle(&early), middle(&late));
        let more = match name {
            "of its own (KB)" => GROWN_KB,
            "threads" | "descriptors" | "mappings" => 50.0,
            _ => continue,
        };
        if late > early * 1.05 + more {
            story.wrong(format!("{name}: {early} in the second quarter, {late} in the last"));
        }
    }
}
