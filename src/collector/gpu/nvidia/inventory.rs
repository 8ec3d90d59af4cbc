//! Which GPUs there are: what the probe says, put together with what is on the bus and what was known
//! before. No files, no clock.

use std::collections::BTreeMap;

use log::Level;

use crate::collector::gpu::nvidia::pci::PciGpu;
use crate::model::gpu::{Gpu, Problem, Values, Xid};
use crate::util::logger::RateLimitedLog;

/// What the name of a GPU is that never told its own.
const NAMELESS: &str = "NVIDIA GPU";

/// A GPU on the bus that NVIDIA's driver should know.
pub struct PciEntry<'a> {
    /// Where.
    pub gpu: &'a PciGpu,
    /// It sleeps, and was not asked.
    pub suspended: bool,
}

/// What is remembered from answer to answer.
#[derive(Default)]
pub struct GpuInventory {
    /// Who the GPUs are, by [`key`].
    known: BTreeMap<String, Gpu>,
    /// Errors since the agent started, by GPU and code.
    xids: BTreeMap<String, BTreeMap<u64, Xid>>,
    /// Problems that the log has named.
    problems: BTreeMap<String, Option<Problem>>,
    log: RateLimitedLog,
}

/// What stays the same about a GPU when its index does not.
fn key(gpu: &Gpu) -> String {
    let key = gpu.pci_address.as_ref().or(gpu.uuid.as_ref());
    key.cloned().unwrap_or_else(|| gpu.index.to_string())
}

impl GpuInventory {
    /// All GPUs, by index: those of the probe's answer, and those that only the bus shows. Those that the
    /// driver lists and does not let us see, `denied` of them, are none of ours; which they are it does not say.
    pub fn complete(
        &mut self,
        answered: Vec<Gpu>,
        denied: usize,
        bus: &[PciEntry<'_>],
    ) -> Vec<Gpu> {
        let mut gpus = answered;
        if denied == 0 {
            give_addresses(&mut gpus, bus);
        }
        let gpus = gpus.into_iter().map(|gpu| self.recognise(gpu, bus)).collect();
        let mut gpus = self.with_bus(gpus, denied, bus);
        for gpu in &mut gpus {
            self.count_xids(gpu);
            self.note_problem(gpu);
        }
        self.forget_all_but(&gpus);
        gpus
    }

    /// Counts the errors of GPUs whose values are still to come, or never will.
    pub fn count_errors(&mut self, gpus: Vec<Gpu>) {
        for gpu in gpus {
            self.count_xids(&mut self.recognise(gpu, &[]));
        }
    }

    /// The GPUs as they were known and as the bus shows them, when the driver as a whole has failed.
    pub fn failed(&self, problem: Problem, message: &str, bus: &[PciEntry<'_>]) -> Vec<Gpu> {
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

    /// Adds what only the bus shows.
    ///
    /// The driver closes the gap when it has lost a GPU, so a GPU's index is its place on the bus, which is
    /// the driver's own order: dashboards and `gpu.primary` go on to mean the same GPU.
    fn with_bus(&self, mut gpus: Vec<Gpu>, denied: usize, bus: &[PciEntry<'_>]) -> Vec<Gpu> {
        let wanted = |on: &&PciEntry<'_>| on.suspended || denied == 0;
        let unseen = bus.iter().filter(wanted).filter(|on| !is_among(&gpus, &on.gpu.address));
        let added: Vec<Gpu> = unseen.map(|on| self.only_on_bus(on)).collect();
        gpus.extend(added);
        if !bus.is_empty() && gpus.iter().all(|gpu| gpu.pci_address.is_some()) {
            gpus.sort_by(|a, b| a.pci_address.cmp(&b.pci_address));
            for (index, gpu) in (0..).zip(&mut gpus) {
                gpu.index = index;
            }
        }
        gpus
    }

    /// Nobody is known any more; their errors stay counted.
    pub fn forget(&mut self) {
        self.known.clear();
        self.problems.clear();
    }

    /// Fills in what a GPU in trouble does not say of itself.
    fn recognise(&self, gpu: Gpu, bus: &[PciEntry<'_>]) -> Gpu {
        let by_key = self.known.get(&key(&gpu));
        // Indices of the driver are ours only where there is no bus to go by.
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
            None if gpu.name.is_empty() => Gpu { name: NAMELESS.to_owned(), ..gpu },
            None => gpu,
        }
    }

    fn only_on_bus(&self, on: &PciEntry<'_>) -> Gpu {
        let (problem, message) = match on.suspended {
            true => (Problem::Suspended, "it sleeps, and is not woken to be measured"),
            false => (Problem::Lost, "it is on the PCI bus, and the driver does not list it"),
        };
        let gpu = Gpu {
            pci_address: Some(on.gpu.address.clone()),
            problem: Some(problem),
            message: Some(message.to_owned()),
            ..Gpu::default()
        };
        self.recognise(gpu, &[])
    }

    fn count_xids(&mut self, gpu: &mut Gpu) {
        let counts = self.xids.entry(key(gpu)).or_default();
        for new in std::mem::take(&mut gpu.xids) {
            let known = counts.entry(new.code).or_insert(Xid { count: 0, ..new });
            known.count = known.count.saturating_add(new.count);
            known.last_unix_seconds = new.last_unix_seconds;
            let total = known.count;
            self.log.write(Level::Warn, || {
                format!("{} reported XID {}, {total} since the agent started", who(gpu), new.code)
            });
        }
        gpu.xids = self.xids_of(gpu);
    }

    fn xids_of(&self, gpu: &Gpu) -> Vec<Xid> {
        self.xids.get(&key(gpu)).into_iter().flat_map(|counts| counts.values().copied()).collect()
    }

    /// Says in the log when a GPU gets into trouble, and when it is out of it.
    fn note_problem(&mut self, gpu: &Gpu) {
        let before = self.problems.insert(key(gpu), gpu.problem).flatten();
        let message = gpu.message.as_deref().unwrap_or_default();
        match (before, gpu.problem) {
            (before, now) if before == now => {}
            (Some(_), None) => log::info!("{} has values again", who(gpu)),
            (_, Some(Problem::Suspended)) => log::info!("{} is suspended: {message}", who(gpu)),
            (_, Some(problem)) => {
                let problem = format!("{problem:?}").to_ascii_lowercase();
                log::warn!("{} is {problem}: {message}", who(gpu));
            }
            (None, None) => {}
        }
    }

    fn forget_all_but(&mut self, gpus: &[Gpu]) {
        let identity = |gpu: &Gpu| Gpu {
            values: Values::default(),
            problem: None,
            message: None,
            xids: Vec::new(),
            ..gpu.clone()
        };
        let now: BTreeMap<_, _> = gpus.iter().map(|gpu| (key(gpu), identity(gpu))).collect();
        for (key, gone) in &self.known {
            if !now.contains_key(key) {
                log::warn!("{} is not there any more", who(gone));
                self.problems.remove(key);
            }
        }
        self.known = now;
    }
}

fn is_among(gpus: &[Gpu], address: &str) -> bool {
    gpus.iter().any(|gpu| gpu.pci_address.as_deref() == Some(address))
}

/// GPUs that the driver refuses to speak of, or that hang, do not say where they are: they are those of the
/// bus that nobody else is, in the same order.
fn give_addresses(gpus: &mut [Gpu], bus: &[PciEntry<'_>]) {
    let awake = bus.iter().filter(|on| !on.suspended).map(|on| &on.gpu.address);
    let mut free: Vec<String> =
        awake.filter(|address| !is_among(gpus, address)).rev().cloned().collect();
    for gpu in gpus.iter_mut().filter(|gpu| gpu.pci_address.is_none()) {
        gpu.pci_address = free.pop();
    }
}

/// A GPU's name in the log.
fn who(gpu: &Gpu) -> String {
    let place = gpu.pci_address.as_deref().unwrap_or("no address");
    format!("GPU {} ({}, {place})", gpu.index, gpu.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, address: &str) -> Gpu {
        Gpu {
            index,
            name: format!("model of {address}"),
            uuid: Some(format!("GPU-{address}")),
            pci_address: Some(address.to_owned()),
            ..Gpu::default()
        }
    }

    fn on_bus(addresses: &[&str]) -> Vec<PciGpu> {
        addresses.iter().map(|address| PciGpu::for_tests(address)).collect()
    }

    fn awake(bus: &[PciGpu]) -> Vec<PciEntry<'_>> {
        bus.iter().map(|gpu| PciEntry { gpu, suspended: false }).collect()
    }

    fn places(gpus: &[Gpu]) -> Vec<(u32, &str, Option<Problem>)> {
        gpus.iter()
            .map(|gpu| (gpu.index, gpu.pci_address.as_deref().unwrap_or_default(), gpu.problem))
            .collect()
    }

    #[test]
    fn a_gpu_that_the_driver_dropped_keeps_its_index_and_name() {
        let bus = on_bus(&["0000:10:00.0", "0000:20:00.0", "0000:30:00.0"]);
        let mut roster = GpuInventory::default();
        let all = ["0000:10:00.0", "0000:20:00.0", "0000:30:00.0"];
        let answer = (0..).zip(all).map(|(index, address)| gpu(index, address)).collect();
        assert!(roster.complete(answer, 0, &awake(&bus)).iter().all(|gpu| gpu.problem.is_none()));
        // The driver has closed the gap.
        let answer = vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:30:00.0")];
        let gpus = roster.complete(answer, 0, &awake(&bus));
        assert_eq!(
            places(&gpus),
            [
                (0, "0000:10:00.0", None),
                (1, "0000:20:00.0", Some(Problem::Lost)),
                (2, "0000:30:00.0", None)
            ]
        );
        assert_eq!(gpus[1].name, "model of 0000:20:00.0");
        assert_eq!(gpus[1].uuid.as_deref(), Some("GPU-0000:20:00.0"));
    }

    #[test]
    fn one_that_was_lost_before_we_came_is_there_too() {
        let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
        let gpus = GpuInventory::default().complete(vec![gpu(0, "0000:20:00.0")], 0, &awake(&bus));
        assert_eq!(gpus[0].name, NAMELESS);
        assert_eq!((gpus[0].index, gpus[0].problem), (0, Some(Problem::Lost)));
        assert_eq!((gpus[1].index, gpus[1].problem), (1, None));
    }

    #[test]
    fn without_a_bus_the_drivers_list_is_all_there_is() {
        let mut roster = GpuInventory::default();
        let gpus = roster.complete(vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:20:00.0")], 0, &[]);
        assert_eq!(gpus.len(), 2);
        let gpus = roster.complete(vec![gpu(0, "0000:20:00.0")], 0, &[]);
        assert_eq!(places(&gpus), [(0, "0000:20:00.0", None)]);
    }

    #[test]
    fn a_gpu_that_tells_only_its_index_is_recognised() {
        let mut roster = GpuInventory::default();
        roster.complete(vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:20:00.0")], 0, &[]);
        let mute = Gpu { index: 1, problem: Some(Problem::Hung), ..Gpu::default() };
        let gpus = roster.complete(vec![gpu(0, "0000:10:00.0"), mute], 0, &[]);
        assert_eq!(gpus[1].name, "model of 0000:20:00.0");
        assert_eq!(places(&gpus)[1], (1, "0000:20:00.0", Some(Problem::Hung)));
    }

    #[test]
    fn a_gpu_that_was_dead_before_we_came_is_there_once_and_moves_nobody() {
        let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
        for dead in 0..2 {
            let mut roster = GpuInventory::default();
            let alive = 1 - dead;
            let address = bus[alive as usize].address.as_str();
            for problem in [Problem::Lost, Problem::Hung, Problem::Failed] {
                let mute = Gpu { index: dead, problem: Some(problem), ..Gpu::default() };
                let mut answer = vec![gpu(alive, address), mute];
                answer.sort_by_key(|gpu| gpu.index);
                let gpus = roster.complete(answer, 0, &awake(&bus));
                assert_eq!(gpus.len(), 2);
                let (alive, dead) = (&gpus[alive as usize], &gpus[dead as usize]);
                assert_eq!((alive.pci_address.as_deref(), alive.problem), (Some(address), None));
                assert_eq!((dead.name.as_str(), dead.problem), (NAMELESS, Some(problem)));
            }
        }
    }

    #[test]
    fn gpus_that_are_not_ours_to_see_are_not_lost() {
        let bus = on_bus(&["0000:10:00.0", "0000:20:00.0", "0000:30:00.0"]);
        let gpus = GpuInventory::default().complete(vec![gpu(0, "0000:20:00.0")], 2, &awake(&bus));
        assert_eq!(places(&gpus), [(0, "0000:20:00.0", None)]);
    }

    #[test]
    fn errors_are_counted_by_code_and_outlive_the_probe() {
        let xid = |code, count, at| Xid { code, count, last_unix_seconds: at };
        let mut roster = GpuInventory::default();
        let with = |xids: Vec<Xid>| vec![Gpu { xids, ..gpu(0, "0000:10:00.0") }];
        roster.complete(with(vec![xid(31, 2, 100)]), 0, &[]);
        roster.complete(with(vec![]), 0, &[]);
        let gpus = roster.complete(with(vec![xid(79, 1, 200), xid(31, 1, 200)]), 0, &[]);
        assert_eq!(gpus[0].xids, [xid(31, 3, 200), xid(79, 1, 200)]);
        let failed = roster.failed(Problem::Hung, "it hangs", &[]);
        assert_eq!(failed[0].xids, [xid(31, 3, 200), xid(79, 1, 200)]);
        assert_eq!(failed[0].problem, Some(Problem::Hung));
        assert_eq!(failed[0].values, Values::default());
        roster.forget();
        assert_eq!(roster.failed(Problem::Hung, "", &[]), []);
        let gpus = roster.complete(with(vec![xid(79, 1, 300)]), 0, &[]);
        assert_eq!(gpus[0].xids, [xid(31, 3, 200), xid(79, 2, 300)]);
    }

    #[test]
    fn a_driver_that_never_answered_has_the_gpus_of_the_bus() {
        let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
        let mut on = awake(&bus);
        on[1].suspended = true;
        let gpus = GpuInventory::default().failed(Problem::Failed, "no driver", &on);
        assert_eq!(
            places(&gpus),
            [
                (0, "0000:10:00.0", Some(Problem::Failed)),
                (1, "0000:20:00.0", Some(Problem::Suspended))
            ]
        );
    }

    #[test]
    fn errors_count_though_no_values_come() {
        let mut roster = GpuInventory::default();
        roster.complete(vec![gpu(0, "0000:10:00.0")], 0, &[]);
        let xids = vec![Xid { code: 79, count: 1, last_unix_seconds: 5 }];
        roster.count_errors(vec![Gpu { xids: xids.clone(), ..Gpu::default() }]);
        assert_eq!(roster.failed(Problem::Hung, "", &[])[0].xids, xids);
    }

    #[test]
    fn a_sleeping_gpu_is_named_and_counted() {
        let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
        let mut roster = GpuInventory::default();
        let mut on: Vec<_> = awake(&bus);
        roster.complete(vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:20:00.0")], 0, &on);
        on[0].suspended = true;
        let gpus = roster.complete(vec![gpu(1, "0000:20:00.0")], 0, &on);
        assert_eq!(
            places(&gpus),
            [(0, "0000:10:00.0", Some(Problem::Suspended)), (1, "0000:20:00.0", None)]
        );
        assert_eq!(gpus[0].name, "model of 0000:10:00.0");
    }
}
