//! Kills everything that a program has started. The supervisor is its subreaper: when there is no child left, nothing is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::procfs::pid_stat;
use crate::sys::children::{self, Signal};
use crate::util::supervisor::KILL_TIMEOUT;

/// How long the processes may keep this one at a raised priority by starting others.
const MAX_PRIORITY_TIME: Duration = Duration::from_secs(5);

/// Kills all descendants of this process and reaps them. Returns false if some are left that were killed and do not exit.
///
/// Processes that start others as fast as they are killed are stopped first: a stopped process starts nothing, and it still
/// counts in the limits that bound the others.
pub(super) fn kill() -> bool {
    if !children::reap_children() {
        return true;
    }
    children::raise_priority();
    let mut killed = BTreeSet::new();
    let end_of_priority = Instant::now() + MAX_PRIORITY_TIME;
    let mut deadline = Instant::now() + KILL_TIMEOUT;
    while children::reap_children() {
        let mut stopped = BTreeSet::new();
        while signal_all(Signal::SIGSTOP, &mut stopped) && Instant::now() < end_of_priority {}
        if signal_all(Signal::SIGKILL, &mut killed) {
            deadline = Instant::now() + KILL_TIMEOUT;
        } else {
            // None is left that could start another one: the killed ones need the processor to exit.
            children::reset_priority();
            if Instant::now() >= deadline {
                return false;
            }
        }
        if Instant::now() >= end_of_priority {
            children::reset_priority();
        }
        // Not until the next exit: each one would cost a search for processes.
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// Sends a signal to every descendant that is found. Returns whether there are some that are not in `signalled` yet.
fn signal_all(signal: Signal, signalled: &mut BTreeSet<u32>) -> bool {
    let own = std::process::id();
    let mut family = BTreeSet::from([own]);
    let mut others = BTreeMap::new();
    let mut found_new = false;
    let mut send = |process, family: &mut BTreeSet<u32>| {
        // At once, because the process may have started another one and exited a moment later.
        children::signal_process(process, signal);
        family.insert(process);
        found_new |= signalled.insert(process);
    };
    for process in processes() {
        match parent_pid(process) {
            Some(parent) if family.contains(&parent) => send(process, &mut family),
            Some(parent) => drop(others.insert(process, parent)),
            None => {}
        }
    }
    // Numbers are reused, so a child may have been found before its parent.
    while let Some(process) = first_child(&others, &family) {
        others.remove(&process);
        send(process, &mut family);
    }
    found_new
}

fn first_child(others: &BTreeMap<u32, u32>, family: &BTreeSet<u32>) -> Option<u32> {
    others.iter().find(|(_, parent)| family.contains(parent)).map(|(process, _)| *process)
}

/// The children of a process, zombies included.
pub(super) fn children_of(parent: u32) -> impl Iterator<Item = u32> {
    processes().filter(move |process| parent_pid(*process) == Some(parent))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn parent_pid(process: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    Some(pid_stat::parse(&stat).ok()?.parent_pid)
}
