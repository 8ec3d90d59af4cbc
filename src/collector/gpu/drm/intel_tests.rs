//! Trees follow the kernel's documentation and source, because none was captured: no machine has such a GPU.

use std::fs;
use std::time::{Duration, Instant};

use super::DrmCollector;
use super::fake_sysfs::FakeSysfs;
use crate::model::gpu::{Gpu, Problem, Values, Vendor};

const FLEX: [(&str, &str); 3] = [("vendor", "0x8086"), ("device", "0x56c0"), ("revision", "0x05")];
const B580: [(&str, &str); 3] = [("vendor", "0x8086"), ("device", "0xe20b"), ("revision", "0x00")];

/// A Data Center GPU Flex 170 with the driver i915 of Linux 6.12.
fn flex_170() -> FakeSysfs {
    let sysfs = FakeSysfs::new();
    sysfs.add("card0", "0000:03:00.0", "i915", &FLEX);
    sysfs.write(
        "0000:03:00.0",
        &[
            ("hwmon/hwmon3/name", "i915_gt0"),
            ("hwmon/hwmon3/energy1_input", "77"),
            ("hwmon/hwmon4/name", "i915"),
            ("hwmon/hwmon4/energy1_input", "12345000000"),
            ("hwmon/hwmon4/power1_max", "150000000"),
            ("hwmon/hwmon4/power1_rated_max", "160000000"),
            ("hwmon/hwmon4/power1_crit", "300000000"),
            ("hwmon/hwmon4/temp1_input", "47000"),
            ("hwmon/hwmon4/in0_input", "735"),
        ],
    );
    for (file, text) in [
        ("gt_act_freq_mhz", "2050"),
        ("gt_cur_freq_mhz", "2100"),
        ("gt/gt0/rps_act_freq_mhz", "2050"),
        ("gt/gt0/throttle_reason_status", "1"),
        ("gt/gt0/throttle_reason_pl1", "1"),
        ("gt/gt0/throttle_reason_pl2", "0"),
        ("gt/gt0/throttle_reason_pl4", "1"),
        ("gt/gt0/throttle_reason_thermal", "0"),
        ("gt/gt0/throttle_reason_prochot", "0"),
        ("gt/gt0/throttle_reason_ratl", "1"),
        ("gt/gt0/throttle_reason_vr_thermalert", "0"),
        ("gt/gt0/throttle_reason_vr_tdc", "0"),
    ] {
        sysfs.put(&format!("sys/class/drm/card0/{file}"), format!("{text}\n"));
    }
    sysfs
}

/// An Arc B580 with the driver xe of Linux 6.16.
fn b580() -> FakeSysfs {
    let sysfs = FakeSysfs::new();
    sysfs.add("card1", "0000:04:00.0", "xe", &B580);
    sysfs.write(
        "0000:04:00.0",
        &[
            ("hwmon/hwmon5/name", "xe"),
            ("hwmon/hwmon5/energy1_label", "card"),
            ("hwmon/hwmon5/energy1_input", "0"),
            ("hwmon/hwmon5/energy2_label", "pkg"),
            ("hwmon/hwmon5/energy2_input", "5000000"),
            ("hwmon/hwmon5/power1_max", "0"),
            ("hwmon/hwmon5/power2_max", "190000000"),
            ("hwmon/hwmon5/temp2_label", "pkg"),
            ("hwmon/hwmon5/temp2_input", "51499"),
            ("hwmon/hwmon5/temp3_label", "vram"),
            ("hwmon/hwmon5/temp3_input", "58000"),
            ("hwmon/hwmon5/fan1_input", "1100"),
            ("tile0/gt0/freq0/act_freq", "2850"),
            ("tile0/gt0/freq0/cur_freq", "2900"),
            ("tile0/gt0/freq0/throttle/status", "0"),
            ("tile0/gt0/freq0/throttle/reason_pl1", "1"),
            ("tile0/gt0/freq0/throttle/reason_thermal", "0"),
            ("tile0/gt1/freq0/act_freq", "0"),
            ("tile0/gt1/freq0/throttle/status", "1"),
            ("tile0/gt1/freq0/throttle/reason_prochot", "1"),
            ("tile0/gt1/freq0/throttle/reason_soc_thermal", "1"),
            ("tile0/gt1/freq0/throttle/reason_vr_tdc", "0"),
        ],
    );
    sysfs
}

fn read_twice(
    sysfs: &FakeSysfs,
    address: &str,
    energy_file: &str,
    microjoules: &str,
) -> (Gpu, Gpu) {
    let (mut collector, start) = (sysfs.collector(), Instant::now());
    let first = collector.read_at(start).remove(0);
    sysfs.write(address, &[(energy_file, microjoules)]);
    (first, collector.read_at(start + Duration::from_secs(5)).remove(0))
}

#[test]
fn reads_values_of_i915() {
    let sysfs = flex_170();
    let list = "8086  Intel Corporation\n\t56c0  DG2 [Data Center GPU Flex 170]\n";
    sysfs.put("root/usr/share/misc/pci.ids", list);
    // 600 J in 5 s.
    let (first, second) =
        read_twice(&sysfs, "0000:03:00.0", "hwmon/hwmon4/energy1_input", "12945000000");
    let values = Values {
        temperature_celsius: Some(47),
        power_limit_watts: Some(150.0),
        energy_joules: Some(12_345.0),
        sm_clock_mhz: Some(2050),
        clock_event_reasons: Some(vec!["sw_power_cap".into(), "sw_thermal_slowdown".into()]),
        ..Values::default()
    };
    let expected = Gpu {
        vendor: Vendor::Intel,
        name: "Intel Data Center GPU Flex 170".into(),
        pci_address: Some("0000:03:00.0".into()),
        values: values.clone(),
        ..Gpu::default()
    };
    assert_eq!(first, expected);
    let values = Values { energy_joules: Some(12_945.0), power_watts: Some(120.0), ..values };
    assert_eq!(second.values, values);
}

#[test]
fn reads_values_of_xe() {
    let sysfs = b580();
    let (first, second) =
        read_twice(&sysfs, "0000:04:00.0", "hwmon/hwmon5/energy2_input", "305000000");
    let values = Values {
        temperature_celsius: Some(51),
        memory_temperature_celsius: Some(58),
        power_limit_watts: Some(190.0),
        energy_joules: Some(5.0),
        sm_clock_mhz: Some(2850),
        clock_event_reasons: Some(vec!["hw_thermal_slowdown".into(), "sw_thermal_slowdown".into()]),
        ..Values::default()
    };
    assert_eq!((&*first.name, &first.values), ("Intel GPU 0xe20b", &values));
    let values = Values { energy_joules: Some(305.0), power_watts: Some(60.0), ..values };
    assert_eq!(second.values, values);
}

#[test]
fn missing_and_implausible_values_are_absent() {
    let sysfs = FakeSysfs::new();
    sysfs.add("card0", "0000:03:00.0", "xe", &FLEX);
    let mut collector = sysfs.collector();
    let before_linux_6_2 = collector.read().remove(0);
    assert_eq!((before_linux_6_2.problem, before_linux_6_2.values), (None, Values::default()));
    sysfs.write(
        "0000:03:00.0",
        &[
            ("hwmon/hwmon0/name", "xe"),
            ("hwmon/hwmon0/energy1_input", "0"),
            ("hwmon/hwmon0/power1_max", "4294967295000000"),
            ("hwmon/hwmon0/temp1_input", "0"),
            ("hwmon/hwmon0/temp2_input", "x"),
            ("tile0/gt0/freq0/act_freq", "65535"),
            ("tile0/gt0/freq0/throttle/status", "?"),
        ],
    );
    assert_eq!(collector.read()[0].values, Values::default());
}

#[test]
fn finds_sensors_that_the_driver_registers_later() {
    let sysfs = FakeSysfs::new();
    sysfs.add("card0", "0000:03:00.0", "xe", &B580);
    let mut collector = sysfs.collector();
    assert_eq!(collector.read()[0].values, Values::default());
    let files = [("hwmon/hwmon0/name", "xe"), ("tile0/gt0/freq0/act_freq", "400")];
    sysfs.write("0000:03:00.0", &files);
    assert_eq!(collector.read()[0].values.sm_clock_mhz, Some(400));
}

#[test]
fn power_needs_a_counter_that_advances_over_some_time() {
    let sysfs = flex_170();
    let (mut collector, start) = (sysfs.collector(), Instant::now());
    let mut watts = |microjoules: &str, milliseconds| {
        sysfs.write("0000:03:00.0", &[("hwmon/hwmon4/energy1_input", microjoules)]);
        let at = start + Duration::from_millis(milliseconds);
        collector.read_at(at)[0].values.power_watts
    };
    assert_eq!(watts("1000000", 0), None);
    assert_eq!(watts("9000000", 10), None, "too soon");
    assert_eq!(watts("101000000", 1000), Some(100.0));
    assert_eq!(watts("900000000", 1010), Some(100.0), "too soon again");
    assert_eq!(watts("101000000", 2000), None, "no GPU draws 0 W");
    assert_eq!(watts("5000000", 3000), None, "reset by the driver");
    assert_eq!(watts("15000000", 4000), Some(10.0));
}

#[test]
fn follows_amd_gpus_and_leaves_out_processors() {
    let sysfs = flex_170();
    sysfs.add("card1", "0000:c3:00.0", "amdgpu", &[]);
    sysfs.add("card2", "0000:00:02.0", "i915", &FLEX);
    sysfs.add("card3", "0000:0a:00.0", "vfio-pci", &FLEX);
    sysfs.add("card4", "0000:0b:00.0", "nouveau", &[("vendor", "0x10de")]);
    let gpus = sysfs.collector().read();
    let found: Vec<_> = gpus.iter().map(|gpu| (gpu.index, gpu.vendor)).collect();
    assert_eq!(found, [(0, Vendor::Amd), (1, Vendor::Intel)]);
}

#[test]
fn suspended_gpu_is_not_read() {
    let sysfs = b580();
    sysfs.write("0000:04:00.0", &[("power/runtime_status", "suspended")]);
    let gpu = sysfs.collector().read().remove(0);
    assert_eq!((gpu.problem, gpu.values), (Some(Problem::Suspended), Values::default()));
}

#[test]
fn finds_sensors_again_after_driver_reload() {
    let sysfs = flex_170();
    let mut collector: DrmCollector = sysfs.collector();
    assert_eq!(collector.read()[0].values.temperature_celsius, Some(47));
    fs::remove_dir_all(sysfs.device("0000:03:00.0").join("hwmon")).unwrap();
    let files = [("hwmon/hwmon9/name", "i915"), ("hwmon/hwmon9/temp1_input", "48000")];
    sysfs.write("0000:03:00.0", &files);
    assert_eq!(collector.read()[0].values.temperature_celsius, Some(48));
}
