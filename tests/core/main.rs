//! The uplink to Core: the conversation, what can go wrong with it, commands, and results that must arrive. One program,
//! because most of this is waiting.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod errors;
mod faults;
mod link;
mod results;

use std::time::{Duration, Instant};

use support::core_process::CoreProcess;

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(15);

fn pass(time: Duration) {
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

#[test]
#[ignore = "is the Core of other tests, in a process of its own"]
fn core_process() {
    CoreProcess::be();
}
