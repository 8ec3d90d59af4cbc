//! Values of the firmware's table, retired pages, partitions and processes of AMD GPUs.

use std::fs;
use std::path::Path;

use super::DrmCollector;
use super::fake_sysfs::{FakeSysfs, roots};
use crate::model::gpu::{Ecc, Gpu, GpuProcess, Problem, ProcessKind, Values, Vendor};
use crate::procfs::gpu_metrics::tests::{put, table_1_3, table_1_6, table_1_7, unfilled};
use gpu_probe::amd::{Partitions, ThrottleCycles, Xgmi, XgmiLink};
use gpu_probe::nvidia::{PcieErrors, RetiredPages};

const ADDRESS: &str = "0000:03:00.0";

fn compute(pid: u32, bytes: u64) -> GpuProcess {
    GpuProcess {
        pid,
        kind: ProcessKind::Compute,
        memory_used_bytes: Some(bytes),
        ..GpuProcess::default()
    }
}

/// The eighth link of the fixture is down.
fn fixture_link(link: u32) -> XgmiLink {
    let kib = if link < 7 { 1_000_000 * (u64::from(link) + 1) } else { 0 };
    XgmiLink {
        link,
        up: if link < 6 { Some(true) } else { (link == 6).then_some(false) },
        read_bytes: Some(kib * 1024),
        written_bytes: Some(2 * kib * 1024),
    }
}

#[test]
fn reads_all_gpus_of_the_fixture() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/amd");
    let radeon = Values {
        memory_total_bytes: Some(25_753_026_560),
        memory_used_bytes: Some(3_221_225_472),
        memory_free_bytes: Some(22_531_801_088),
        utilization_percent: Some(37),
        memory_utilization_percent: Some(12),
        temperature_celsius: Some(53),
        memory_temperature_celsius: Some(68),
        power_watts: Some(68.0),
        power_limit_watts: Some(303.0),
        sm_clock_mhz: Some(1875),
        memory_clock_mhz: Some(1249),
        fan_percent: Some(30),
        pcie_generation: Some(3),
        pcie_width: Some(8),
        pcie_replays: Some(4),
        processes: Some(Vec::new()),
        ..Values::default()
    };
    let instinct = Values {
        memory_total_bytes: Some(206_141_652_992),
        memory_used_bytes: Some(154_618_822_656),
        memory_free_bytes: Some(51_522_830_336),
        utilization_percent: Some(98),
        memory_utilization_percent: Some(41),
        temperature_celsius: Some(64),
        memory_temperature_celsius: Some(57),
        power_watts: Some(612.0),
        power_limit_watts: Some(750.0),
        sm_clock_mhz: Some(2097),
        memory_clock_mhz: Some(1300),
        ecc: Some(Ecc {
            volatile_corrected: Some(23),
            volatile_uncorrected: Some(1),
            ..Ecc::default()
        }),
        pcie_generation: Some(5),
        pcie_width: Some(16),
        pcie_replays: Some(0),
        energy_joules: Some(1_245_184.0),
        retired_pages: Some(RetiredPages {
            single_bit: None,
            double_bit: Some(2),
            pending: Some(true),
            failed: Some(0),
        }),
        pcie_errors: Some(PcieErrors {
            naks_received: Some(4),
            naks_sent: Some(3),
            replay_rollovers: Some(1),
            recoveries: Some(2),
            ..PcieErrors::default()
        }),
        throttle_cycles: Some(ThrottleCycles {
            total: Some(3_600_000),
            power: Some(900_000),
            socket_thermal: Some(1200),
            memory_thermal: Some(60),
            regulator_thermal: Some(300),
            prochot: Some(0),
        }),
        xgmi: Some(Xgmi {
            link_width: Some(16),
            gigabits_per_second: Some(32),
            links: Some((0..8).map(fixture_link).collect()),
        }),
        partitions: Some(Partitions {
            count: Some(1),
            compute_mode: Some("SPX".to_owned()),
            memory_mode: Some("NPS1".to_owned()),
        }),
        processes: Some(vec![compute(7001, 137_438_953_472), compute(7002, 8_589_934_592)]),
        ..Values::default()
    };
    let gpu = |index, name: &str, address: &str, uuid: Option<&str>, values| Gpu {
        index,
        vendor: Vendor::Amd,
        name: name.to_owned(),
        uuid: uuid.map(str::to_owned),
        pci_address: Some(address.to_owned()),
        values,
        ..Gpu::default()
    };
    let radeon_id = Some("GPU-6f0c3a5b91d2e847");
    let instinct_id = Some("GPU-0d7c1e94a2b35f68");
    let expected = [
        gpu(0, "AMD Radeon RX 7900 XTX", "0000:03:00.0", radeon_id, radeon),
        Gpu {
            problem: Some(Problem::Suspended),
            message: Some("suspended; reading its sensors would resume it".to_owned()),
            ..gpu(1, "AMD Radeon RX 7700S", "0000:0a:00.0", None, Values::default())
        },
        gpu(2, "AMD Instinct MI300X OAM", "0000:c3:00.0", instinct_id, instinct),
    ];
    let mut collector = DrmCollector::new(&roots(&tree));
    assert_eq!(collector.read(), expected);
    let mut again = collector.read();
    // The firmware has counted no further cycles.
    assert_eq!(again[2].values.clock_event_reasons.take(), None);
    assert_eq!(again, expected, "read again");
}

/// A GPU with this table and no other file.
fn with_table(table: &[u8], files: &[(&str, &str)]) -> FakeSysfs {
    let sysfs = FakeSysfs::new();
    sysfs.add("card0", ADDRESS, "amdgpu", files);
    fs::write(sysfs.device(ADDRESS).join("gpu_metrics"), table).unwrap();
    sysfs
}

#[test]
fn table_fills_what_other_files_lack() {
    let values = with_table(&table_1_7(7, 2208), &[]).collector().read().remove(0).values;
    let measured = Values {
        temperature_celsius: Some(61),
        memory_temperature_celsius: Some(52),
        power_watts: Some(612.0),
        utilization_percent: Some(98),
        memory_utilization_percent: Some(41),
        sm_clock_mhz: Some(2100),
        memory_clock_mhz: Some(1300),
        pcie_replays: Some(4),
        energy_joules: Some(0x1234_5678_9abcu64 as f64 / 65536.0),
        ..Values::default()
    };
    let rest = Values {
        throttle_cycles: values.throttle_cycles,
        pcie_errors: values.pcie_errors,
        xgmi: values.xgmi.clone(),
        ..measured
    };
    assert_eq!(values, rest);
    assert_eq!(values.xgmi.unwrap().links.unwrap()[0].read_bytes, Some(1 << 50));
    let files = [("gpu_busy_percent", "7"), ("hwmon/hwmon1/temp1_input", "45000")];
    let values = with_table(&table_1_7(7, 2208), &files).collector().read().remove(0).values;
    assert_eq!((values.utilization_percent, values.temperature_celsius), (Some(7), Some(45)));
}

#[test]
fn unfilled_and_unknown_tables_have_no_values() {
    for table in [unfilled(1, 8, 3872), unfilled(1, 3, 120), unfilled(1, 10, 400), vec![0; 3]] {
        let values = with_table(&table, &[]).collector().read().remove(0).values;
        assert_eq!(Values { clock_event_reasons: None, ..values }, Values::default());
    }
    // The table of an APU has other units.
    let files = [("mem_info_vram_total", "1"), ("mem_info_gtt_total", "2")];
    let values = with_table(&unfilled(2, 3, 152), &files).collector().read().remove(0).values;
    assert_eq!((values.memory_total_bytes, values.power_watts), (Some(3), None));
}

#[test]
fn energy_of_revision_1_3_is_known_for_mi200_only() {
    let energy = |device: &str| {
        let sysfs = with_table(&table_1_3(), &[("device", device)]);
        sysfs.collector().read()[0].values.energy_joules
    };
    assert_eq!(energy("0x740f"), Some(5_000_000.0 / 65536.0));
    assert_eq!(energy("0x744c"), None);
}

#[test]
fn throttle_bits_have_the_names_of_nvml() {
    let reasons = |bits: u64| {
        let mut table = table_1_3();
        put::<8>(&mut table, 112, &[bits]);
        let sysfs = with_table(&table, &[]);
        sysfs.collector().read().remove(0).values.clock_event_reasons.map(|all| all.join(" "))
    };
    assert_eq!(reasons(0).as_deref(), Some(""));
    assert_eq!(reasons(1 << 7).as_deref(), Some("sw_power_cap"));
    assert_eq!(reasons(1 << 22).as_deref(), Some("sw_power_cap"));
    assert_eq!(reasons(1 << 36).as_deref(), Some("sw_thermal_slowdown"));
    assert_eq!(reasons(1 << 43).as_deref(), Some("sw_thermal_slowdown"));
    assert_eq!(reasons(1 << 44 | 1).as_deref(), Some("sw_power_cap hw_thermal_slowdown"));
    assert_eq!(reasons(u64::MAX), None);
}

#[test]
fn limit_whose_cycles_advanced_is_a_reason() {
    let mut table = table_1_6();
    let sysfs = with_table(&table, &[]);
    let mut collector = sysfs.collector();
    let mut reasons = |counters: [u64; 6]| {
        put::<4>(&mut table, 32, &counters);
        fs::write(sysfs.device(ADDRESS).join("gpu_metrics"), &table).unwrap();
        let reasons = collector.read().remove(0).values.clock_event_reasons;
        reasons.map(|all| all.join(" "))
    };
    assert_eq!(reasons([1000, 0, 10, 20, 30, 40]), None, "the first table");
    assert_eq!(reasons([2000, 0, 10, 20, 30, 40]).as_deref(), Some(""));
    assert_eq!(reasons([3000, 0, 500, 20, 30, 40]).as_deref(), Some("sw_power_cap"));
    assert_eq!(reasons([3000, 0, 500, 20, 30, 40]).as_deref(), Some("sw_power_cap"), "the same");
    assert_eq!(reasons([4000, 0, 500, 20, 30, 41]).as_deref(), Some("sw_thermal_slowdown"));
    assert_eq!(reasons([5000, 1, 500, 20, 30, 41]).as_deref(), Some("hw_thermal_slowdown"));
    assert_eq!(
        reasons([100, 1, 500, 20, 31, 41]).as_deref(),
        Some("hw_thermal_slowdown"),
        "wrapped"
    );
    let absent = u64::from(u32::MAX);
    assert_eq!(reasons([absent, 1, 500, 20, 31, 41]), None);
}

#[test]
fn throttle_reasons_start_anew_after_suspend() {
    let sysfs = with_table(&table_1_6(), &[]);
    let mut collector = sysfs.collector();
    collector.read();
    for status in ["suspended", "active"] {
        sysfs.write(ADDRESS, &[("power/runtime_status", status)]);
        let mut table = table_1_6();
        put::<4>(&mut table, 32, &[1, 1, 1]);
        fs::write(sysfs.device(ADDRESS).join("gpu_metrics"), &table).unwrap();
        let gpu = collector.read().remove(0);
        assert_eq!(gpu.problem.is_some(), status == "suspended");
        assert_eq!(gpu.values.clock_event_reasons, None);
    }
}

#[test]
fn counts_retired_pages() {
    let pages = |text: &str| {
        let files = [("ras/gpu_vram_bad_pages", text)];
        let sysfs = FakeSysfs::new();
        sysfs.gpu(&files).values.retired_pages
    };
    let none = RetiredPages {
        single_bit: None,
        double_bit: Some(0),
        pending: Some(false),
        failed: Some(0),
    };
    assert_eq!(pages(""), Some(none));
    let failed = RetiredPages { failed: Some(1), ..none };
    assert_eq!(pages("0x1 : 0x1000 : F"), Some(failed));
    assert_eq!(pages("Query currently inaccessible"), None);
    assert_eq!(FakeSysfs::new().gpu(&[]).values.retired_pages, None);
}

#[test]
fn partitioned_gpu_is_listed_once_with_all_its_processes() {
    let sysfs = with_table(
        &table_1_7(8, 3872),
        &[("current_compute_partition", "CPX"), ("current_memory_partition", "NPS4")],
    );
    for partition in 0..8 {
        let card = format!("card{}", partition + 1);
        sysfs.add(&card, &format!("../platform/amdgpu_xcp_{partition}"), "amdgpu_xcp", &[]);
        let node = format!("sys/class/kfd/kfd/topology/nodes/{}", partition + 1);
        sysfs.put(&format!("{node}/gpu_id"), format!("{}\n", 100 + partition));
        let location = format!("location_id {}\ndomain 0\n", 0x300 + partition);
        sysfs.put(&format!("{node}/properties"), location);
        sysfs.put(&format!("sys/class/kfd/kfd/proc/9/vram_{}", 100 + partition), "1000\n");
    }
    sysfs.put("sys/class/kfd/kfd/proc/8/vram_100", "x\n");
    let gpus = sysfs.collector().read();
    assert_eq!(gpus.len(), 1);
    assert_eq!(gpus[0].values.processes, Some(vec![compute(9, 8000)]));
    let partitions = Partitions {
        count: Some(8),
        compute_mode: Some("CPX".to_owned()),
        memory_mode: Some("NPS4".to_owned()),
    };
    assert_eq!(gpus[0].values.partitions, Some(partitions));
}
