//! The Core client: protocol, faults, commands, and delivery of results.

mod commands;
mod errors;
mod faults;
mod limits;
mod link;
mod results;

use std::time::{Duration, Instant};

/// Tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(15);

fn sleep_for(time: Duration) {
    let start = Instant::now();
    while let Some(left) = time.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}
