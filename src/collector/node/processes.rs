//! Number of processes, by state, and of threads.

use std::collections::BTreeMap;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::processes::Processes;
use crate::procfs::{loadavg, pid_stat};
use crate::util::text::parse_decimal;

/// A file for each process is read, which takes some 10 µs. A GPU server has a few thousand.
const MAX_PROCESSES: usize = 20_000;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let load = host.parse(&host.proc("loadavg"), loadavg::parse);
    let max_threads = host.number(&host.proc("sys/kernel/threads-max"));
    let max_pids = host.number(&host.proc("sys/kernel/pid_max"));
    let pids = visible_pids(host);
    let states = match &pids {
        Some(pids) if pids.len() <= MAX_PROCESSES => states(host, pids),
        _ => BTreeMap::new(),
    };
    Some(Measurement::Processes(Processes {
        threads: load.map(|load| load.threads),
        max_threads,
        max_pids,
        pids: pids.map(|pids| pids.len() as u64),
        states: states.into_iter().collect(),
    }))
}

/// `None` if `/proc` is mounted with `hidepid`, so that only the agent's own processes would be counted.
fn visible_pids(host: &mut HostFiles) -> Option<Vec<String>> {
    state(host, "1")?;
    let mut pids = host.names(&host.proc(""), "");
    pids.retain(|name| parse_decimal(name.as_bytes()).is_some());
    Some(pids)
}

fn states(host: &mut HostFiles, pids: &[String]) -> BTreeMap<char, u64> {
    let mut states = BTreeMap::new();
    // Those of a process that has exited meanwhile cannot be read.
    for state in pids.iter().filter_map(|pid| state(host, pid)) {
        *states.entry(state).or_default() += 1;
    }
    states
}

fn state(host: &mut HostFiles, pid: &str) -> Option<char> {
    let path = host.proc(pid).join("stat");
    Some(host.read(&path, pid_stat::parse).ok()?.state.into())
}
