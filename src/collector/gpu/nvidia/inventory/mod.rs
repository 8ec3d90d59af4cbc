//! List of GPUs: merges the probe's reply with the PCI scan and with what is known from earlier replies. Pure: no files,
//! no clock.

use std::collections::BTreeMap;

use log::Level;

use crate::collector::gpu::nvidia::pci_scan::PciEntry;
use crate::model::gpu::{Gpu, Problem, Values, Xid};
use crate::util::logger::RateLimitedLog;

/// Name of a GPU whose model is unknown.
const UNKNOWN_MODEL: &str = "NVIDIA GPU";

#[derive(Default)]
pub(super) struct GpuInventory {
    /// Identity of the GPUs, by [`key`].
    known: BTreeMap<String, Gpu>,
    /// Errors since the agent started, by [`key`] and code.
    xids: BTreeMap<String, BTreeMap<u64, Xid>>,
    /// Largest number of NVLinks that were up at once since the agent started, by [`key`].
    max_links_up: BTreeMap<String, u32>,
    /// Calls that were logged as slow, by [`key`].
    slow_calls: BTreeMap<String, Vec<String>>,
    /// Last logged problem, by [`key`].
    problems: BTreeMap<String, Option<Problem>>,
    log: RateLimitedLog,
}

/// Identifies a GPU even if its index changes.
fn key(gpu: &Gpu) -> String {
    let key = gpu.pci_address.as_ref().or(gpu.uuid.as_ref());
    key.cloned().unwrap_or_else(|| gpu.index.to_string())
}

impl GpuInventory {
    /// All GPUs, sorted by index: those in the probe's reply and those that are only on the bus. `denied` is the number of
    /// GPUs that the driver lists but denies access to. If there are any, GPUs that are only on the bus are omitted, because
    /// the driver does not report which ones it denies.
    pub(super) fn merge(
        &mut self,
        reported: Vec<Gpu>,
        denied: usize,
        bus: &[PciEntry<'_>],
    ) -> Vec<Gpu> {
        let mut gpus = reported;
        if denied == 0 {
            assign_pci_addresses(&mut gpus, bus);
        }
        let gpus = gpus.into_iter().map(|gpu| self.fill_identity(gpu, bus)).collect();
        let mut gpus = self.with_bus(gpus, denied, bus);
        for gpu in &mut gpus {
            self.count_xids(gpu);
            self.count_lost_links(gpu);
            self.log_problem_change(gpu);
            self.log_slow_calls(gpu);
        }
        self.remember(&gpus);
        gpus
    }

    /// Counts the XIDs in a partial reply.
    pub(super) fn count_partial_xids(&mut self, gpus: Vec<Gpu>) {
        for gpu in gpus {
            self.count_xids(&mut self.fill_identity(gpu, &[]));
        }
    }

    /// All GPUs known from earlier replies or the bus, with `problem`. For failures of the driver as a whole.
    pub(super) fn failed(&self, problem: Problem, message: &str, bus: &[PciEntry<'_>]) -> Vec<Gpu> {
        let mut known: Vec<Gpu> = self.known.values().cloned().collect();
        known.sort_by_key(|gpu| gpu.index);
        let mut gpus = self.with_bus(known, 0, bus);
        for gpu in &mut gpus {
            if gpu.problem != Some(Problem::Suspended) {
                gpu.problem = Some(problem);
                gpu.message = Some(message.to_owned());
            }
            gpu.xids = self.xids_of(gpu);
        }
        gpus
    }

    /// Adds the GPUs that are only on the bus.
    ///
    /// The driver renumbers its GPUs when it loses one. Therefore the index of a GPU is its position on the bus, which is
    /// the driver's order too, so that dashboards and `gpu.primary` keep referring to the same GPU.
    fn with_bus(&self, mut gpus: Vec<Gpu>, denied: usize, bus: &[PciEntry<'_>]) -> Vec<Gpu> {
        let missing = bus
            .iter()
            .filter(|entry| entry.suspended || denied == 0)
            .filter(|entry| !has_address(&gpus, &entry.gpu.address));
        let added: Vec<Gpu> = missing.map(|entry| self.only_on_bus(entry)).collect();
        gpus.extend(added);
        if !bus.is_empty() && gpus.iter().all(|gpu| gpu.pci_address.is_some()) {
            gpus.sort_by(|a, b| a.pci_address.cmp(&b.pci_address));
            for (index, gpu) in (0..).zip(&mut gpus) {
                gpu.index = index;
            }
        }
        gpus
    }

    /// Removes all GPUs. Their error counts remain.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.problems.clear();
        self.slow_calls.clear();
    }

    /// Fills in the name, UUID and PCI address that a GPU with a problem does not report.
    fn fill_identity(&self, gpu: Gpu, bus: &[PciEntry<'_>]) -> Gpu {
        let by_key = self.known.get(&key(&gpu));
        // The driver's indices are equal to ours only if there is no PCI scan.
        let by_index = || self.known.values().find(|known| known.index == gpu.index);
        let known = match gpu.name.is_empty() {
            true if gpu.pci_address.is_none() && bus.is_empty() => by_key.or_else(by_index),
            true => by_key,
            false => None,
        };
        match known {
            Some(known) => Gpu {
                name: known.name.clone(),
                uuid: known.uuid.clone(),
                pci_address: known.pci_address.clone(),
                ..gpu
            },
            None if gpu.name.is_empty() => Gpu { name: UNKNOWN_MODEL.to_owned(), ..gpu },
            None => gpu,
        }
    }

    fn only_on_bus(&self, entry: &PciEntry<'_>) -> Gpu {
        let (problem, message) = match entry.suspended {
            true => (Problem::Suspended, "suspended; measuring it would resume it"),
            false => (Problem::Lost, "on the PCI bus, but not listed by the driver"),
        };
        let gpu = Gpu {
            pci_address: Some(entry.gpu.address.clone()),
            problem: Some(problem),
            message: Some(message.to_owned()),
            ..Gpu::default()
        };
        self.fill_identity(gpu, &[])
    }

    fn count_xids(&mut self, gpu: &mut Gpu) {
        let counts = self.xids.entry(key(gpu)).or_default();
        for new in std::mem::take(&mut gpu.xids) {
            let known = counts.entry(new.code).or_insert(Xid { count: 0, ..new });
            known.count = known.count.saturating_add(new.count);
            known.last_unix_seconds = new.last_unix_seconds;
            let total = known.count;
            self.log.write(Level::Warn, || {
                format!(
                    "{} reported XID {}, {total} since the agent started",
                    describe(gpu),
                    new.code
                )
            });
        }
        gpu.xids = self.xids_of(gpu);
    }

    /// A link that has never been up is not used: the board has no bridge, or the model uses some of its links only.
    fn count_lost_links(&mut self, gpu: &mut Gpu) {
        let key = key(gpu);
        if gpu.values.mig_enabled == Some(true) {
            // MIG mode switches NVLinks off.
            self.max_links_up.remove(&key);
            return;
        }
        let Some(link) = &mut gpu.values.nvlink else { return };
        let Some(up) = link.links_up else { return };
        let max = self.max_links_up.entry(key).or_default();
        *max = up.max(*max);
        link.links_lost = max.checked_sub(up).filter(|lost| *lost > 0);
    }

    fn xids_of(&self, gpu: &Gpu) -> Vec<Xid> {
        self.xids.get(&key(gpu)).into_iter().flat_map(|counts| counts.values().copied()).collect()
    }

    /// Logs when a GPU gets a problem and when it recovers.
    fn log_problem_change(&mut self, gpu: &Gpu) {
        let previous = self.problems.insert(key(gpu), gpu.problem).flatten();
        let message = gpu.message.as_deref().unwrap_or_default();
        match (previous, gpu.problem) {
            (previous, now) if previous == now => {}
            (Some(_), None) => log::info!("{} recovered", describe(gpu)),
            (_, Some(Problem::Suspended)) => {
                log::info!("{} is suspended: {message}", describe(gpu));
            }
            (_, Some(Problem::Failed)) => log::warn!("{} failed: {message}", describe(gpu)),
            (_, Some(problem)) => {
                let problem = format!("{problem:?}").to_ascii_lowercase();
                log::warn!("{} is {problem}: {message}", describe(gpu));
            }
            (None, None) => {}
        }
    }

    /// Logs calls that have become slow.
    fn log_slow_calls(&mut self, gpu: &Gpu) {
        // A GPU that did not reply has no values.
        if gpu.values == Values::default() {
            return;
        }
        let slow = gpu.values.slow_calls.iter().flatten();
        let known = self.slow_calls.entry(key(gpu)).or_default();
        for call in slow.clone().filter(|call| !known.contains(&call.calls)) {
            let consequence = match call.interval_seconds {
                Some(interval) => format!("they are made every {interval:.0} s from now on"),
                None => "they are not made until it returns".to_owned(),
            };
            self.log.write(Level::Warn, || {
                format!(
                    "{}: the driver takes {:.2} s for calls of the group {}, {consequence}",
                    describe(gpu),
                    call.seconds,
                    call.calls
                )
            });
        }
        *known = slow.map(|call| call.calls.clone()).collect();
    }

    fn remember(&mut self, gpus: &[Gpu]) {
        let identity = |gpu: &Gpu| Gpu {
            values: Values::default(),
            problem: None,
            message: None,
            xids: Vec::new(),
            last_5_minutes: None,
            ..gpu.clone()
        };
        let now: BTreeMap<_, _> = gpus.iter().map(|gpu| (key(gpu), identity(gpu))).collect();
        for (key, removed) in &self.known {
            if !now.contains_key(key) {
                log::warn!("{} removed", describe(removed));
                self.problems.remove(key);
            }
        }
        self.known = now;
    }
}

fn has_address(gpus: &[Gpu], address: &str) -> bool {
    gpus.iter().any(|gpu| gpu.pci_address.as_deref() == Some(address))
}

/// Assigns addresses to GPUs that do not report one, because they hang or the driver returns an error: the remaining
/// addresses on the bus, in the same order.
fn assign_pci_addresses(gpus: &mut [Gpu], bus: &[PciEntry<'_>]) {
    let awake = bus.iter().filter(|entry| !entry.suspended).map(|entry| &entry.gpu.address);
    let mut free: Vec<String> =
        awake.filter(|address| !has_address(gpus, address)).rev().cloned().collect();
    for gpu in gpus.iter_mut().filter(|gpu| gpu.pci_address.is_none()) {
        gpu.pci_address = free.pop();
    }
}

/// How the log identifies a GPU.
fn describe(gpu: &Gpu) -> String {
    let address = gpu.pci_address.as_deref().unwrap_or("unknown PCI address");
    format!("GPU {} ({}, {address})", gpu.index, gpu.name)
}

#[cfg(test)]
mod tests;
