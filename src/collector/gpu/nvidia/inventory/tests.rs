use super::*;
use crate::collector::gpu::nvidia::pci::PciGpu;
use crate::model::gpu::NvLink;

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

fn summary(gpus: &[Gpu]) -> Vec<(u32, &str, Option<Problem>)> {
    gpus.iter()
        .map(|gpu| (gpu.index, gpu.pci_address.as_deref().unwrap_or_default(), gpu.problem))
        .collect()
}

#[test]
fn lost_gpu_keeps_its_index_and_name() {
    let bus = on_bus(&["0000:10:00.0", "0000:20:00.0", "0000:30:00.0"]);
    let mut inventory = GpuInventory::default();
    let all = ["0000:10:00.0", "0000:20:00.0", "0000:30:00.0"];
    let reported = (0..).zip(all).map(|(index, address)| gpu(index, address)).collect();
    assert!(inventory.merge(reported, 0, &awake(&bus)).iter().all(|gpu| gpu.problem.is_none()));
    // The driver has renumbered its GPUs.
    let reported = vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:30:00.0")];
    let gpus = inventory.merge(reported, 0, &awake(&bus));
    assert_eq!(
        summary(&gpus),
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
fn nvlink_is_lost_only_if_it_was_up() {
    let mut inventory = GpuInventory::default();
    let mut lost = |up: u32, down: u32, mig: bool| {
        let mut gpu = gpu(0, "0000:10:00.0");
        gpu.values.mig_enabled = Some(mig);
        let link = NvLink { links_up: Some(up), links_down: Some(down), ..NvLink::default() };
        gpu.values.nvlink = Some(link);
        let gpus = inventory.merge(vec![gpu], 0, &[]);
        gpus[0].values.nvlink.unwrap().links_lost
    };
    assert_eq!(lost(0, 12, false), None, "no bridge");
    assert_eq!(lost(12, 6, false), None, "12 of 18 are used");
    assert_eq!(lost(11, 7, false), Some(1));
    assert_eq!(lost(12, 6, false), None, "it is up again");
    assert_eq!(lost(0, 18, true), None, "MIG mode");
    assert_eq!(lost(0, 18, false), None, "a link comes up after MIG mode ends");
}

#[test]
fn lists_gpu_lost_before_the_agent_started() {
    let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
    let gpus = GpuInventory::default().merge(vec![gpu(0, "0000:20:00.0")], 0, &awake(&bus));
    assert_eq!(gpus[0].name, UNKNOWN_MODEL);
    assert_eq!((gpus[0].index, gpus[0].problem), (0, Some(Problem::Lost)));
    assert_eq!((gpus[1].index, gpus[1].problem), (1, None));
}

#[test]
fn uses_the_drivers_list_if_there_is_no_pci_scan() {
    let mut inventory = GpuInventory::default();
    let gpus = inventory.merge(vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:20:00.0")], 0, &[]);
    assert_eq!(gpus.len(), 2);
    let gpus = inventory.merge(vec![gpu(0, "0000:20:00.0")], 0, &[]);
    assert_eq!(summary(&gpus), [(0, "0000:20:00.0", None)]);
}

#[test]
fn identifies_gpu_that_reports_only_its_index() {
    let mut inventory = GpuInventory::default();
    inventory.merge(vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:20:00.0")], 0, &[]);
    let hung = Gpu { index: 1, problem: Some(Problem::Hung), ..Gpu::default() };
    let gpus = inventory.merge(vec![gpu(0, "0000:10:00.0"), hung], 0, &[]);
    assert_eq!(gpus[1].name, "model of 0000:20:00.0");
    assert_eq!(summary(&gpus)[1], (1, "0000:20:00.0", Some(Problem::Hung)));
}

#[test]
fn gpu_without_identity_gets_the_remaining_pci_address() {
    let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
    for broken in 0..2 {
        let mut inventory = GpuInventory::default();
        let working = 1 - broken;
        let address = bus[working as usize].address.as_str();
        for problem in [Problem::Lost, Problem::Hung, Problem::Failed] {
            let unidentified = Gpu { index: broken, problem: Some(problem), ..Gpu::default() };
            let mut reported = vec![gpu(working, address), unidentified];
            reported.sort_by_key(|gpu| gpu.index);
            let gpus = inventory.merge(reported, 0, &awake(&bus));
            assert_eq!(gpus.len(), 2);
            let (working, broken) = (&gpus[working as usize], &gpus[broken as usize]);
            assert_eq!((working.pci_address.as_deref(), working.problem), (Some(address), None));
            assert_eq!((broken.name.as_str(), broken.problem), (UNKNOWN_MODEL, Some(problem)));
        }
    }
}

#[test]
fn inaccessible_gpus_are_not_reported_as_lost() {
    let bus = on_bus(&["0000:10:00.0", "0000:20:00.0", "0000:30:00.0"]);
    let gpus = GpuInventory::default().merge(vec![gpu(0, "0000:20:00.0")], 2, &awake(&bus));
    assert_eq!(summary(&gpus), [(0, "0000:20:00.0", None)]);
}

#[test]
fn counts_errors_by_code_across_probe_restarts() {
    let xid = |code, count, at| Xid { code, count, last_unix_seconds: at };
    let mut inventory = GpuInventory::default();
    let with = |xids: Vec<Xid>| vec![Gpu { xids, ..gpu(0, "0000:10:00.0") }];
    inventory.merge(with(vec![xid(31, 2, 100)]), 0, &[]);
    inventory.merge(with(vec![]), 0, &[]);
    let gpus = inventory.merge(with(vec![xid(79, 1, 200), xid(31, 1, 200)]), 0, &[]);
    assert_eq!(gpus[0].xids, [xid(31, 3, 200), xid(79, 1, 200)]);
    let failed = inventory.failed(Problem::Hung, "no reply", &[]);
    assert_eq!(failed[0].xids, [xid(31, 3, 200), xid(79, 1, 200)]);
    assert_eq!(failed[0].problem, Some(Problem::Hung));
    assert_eq!(failed[0].values, Values::default());
    inventory.clear();
    assert_eq!(inventory.failed(Problem::Hung, "", &[]), []);
    let gpus = inventory.merge(with(vec![xid(79, 1, 300)]), 0, &[]);
    assert_eq!(gpus[0].xids, [xid(31, 3, 200), xid(79, 2, 300)]);
}

#[test]
fn lists_gpus_of_the_bus_if_the_driver_never_replied() {
    let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
    let mut entries = awake(&bus);
    entries[1].suspended = true;
    let gpus = GpuInventory::default().failed(Problem::Failed, "no driver", &entries);
    assert_eq!(
        summary(&gpus),
        [(0, "0000:10:00.0", Some(Problem::Failed)), (1, "0000:20:00.0", Some(Problem::Suspended))]
    );
}

#[test]
fn counts_errors_of_partial_replies() {
    let mut inventory = GpuInventory::default();
    inventory.merge(vec![gpu(0, "0000:10:00.0")], 0, &[]);
    let xids = vec![Xid { code: 79, count: 1, last_unix_seconds: 5 }];
    inventory.count_partial_xids(vec![Gpu { xids: xids.clone(), ..Gpu::default() }]);
    assert_eq!(inventory.failed(Problem::Hung, "", &[])[0].xids, xids);
}

#[test]
fn suspended_gpu_keeps_its_index_and_name() {
    let bus = on_bus(&["0000:10:00.0", "0000:20:00.0"]);
    let mut inventory = GpuInventory::default();
    let mut entries = awake(&bus);
    inventory.merge(vec![gpu(0, "0000:10:00.0"), gpu(1, "0000:20:00.0")], 0, &entries);
    entries[0].suspended = true;
    let gpus = inventory.merge(vec![gpu(1, "0000:20:00.0")], 0, &entries);
    assert_eq!(
        summary(&gpus),
        [(0, "0000:10:00.0", Some(Problem::Suspended)), (1, "0000:20:00.0", None)]
    );
    assert_eq!(gpus[0].name, "model of 0000:10:00.0");
}
