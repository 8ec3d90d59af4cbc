use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use super::DrmCollector;
use super::fake_sysfs::{FakeSysfs, roots};
use crate::model::gpu::{Ecc, Gpu, Problem, Values};

fn addresses(gpus: &[Gpu]) -> Vec<&str> {
    gpus.iter().map(|gpu| gpu.pci_address.as_deref().unwrap()).collect()
}

#[test]
fn finds_nothing_without_drm_class() {
    assert_eq!(DrmCollector::new(&roots(Path::new("/nonexistent"))).read(), []);
}

#[test]
fn lists_amd_gpus_with_amd_driver_sorted_by_address() {
    let sysfs = FakeSysfs::new();
    sysfs.add("card10", "0000:03:00.0", "amdgpu", &[]);
    sysfs.add("card2", "0000:c3:00.0", "radeon", &[]);
    sysfs.add("card0", "0000:00:01.0/0000:e3:00.0", "amdgpu", &[]);
    sysfs.add("card3", "0000:04:00.0", "vfio-pci", &[]);
    sysfs.add("card4", "0000:05:00.0", "amdgpu", &[("vendor", "0x10de")]);
    sysfs.add("card5-DP-1", "0000:06:00.0", "amdgpu", &[]);
    sysfs.add("renderD128", "0000:07:00.0", "amdgpu", &[]);
    let gpus = sysfs.collector().read();
    assert_eq!(addresses(&gpus), ["0000:03:00.0", "0000:c3:00.0", "0000:e3:00.0"]);
    assert_eq!([gpus[0].index, gpus[1].index, gpus[2].index], [0, 1, 2]);
}

#[test]
fn notices_removal_at_once_and_new_gpu_within_a_minute() {
    let sysfs = FakeSysfs::new();
    sysfs.add("card0", "0000:03:00.0", "amdgpu", &[]);
    sysfs.add("card1", "0000:04:00.0", "amdgpu", &[]);
    let (mut amd, start) = (sysfs.collector(), Instant::now());
    let mut at = |seconds| {
        let gpus = amd.read_at(start + Duration::from_secs(seconds));
        addresses(&gpus).join(" ")
    };
    assert_eq!(at(0), "0000:03:00.0 0000:04:00.0");
    sysfs.remove("card0", "0000:03:00.0");
    assert_eq!(at(5), "0000:04:00.0");
    sysfs.add("card0", "0000:03:00.0", "amdgpu", &[]);
    assert_eq!(at(64), "0000:04:00.0");
    assert_eq!(at(65), "0000:03:00.0 0000:04:00.0");
    let driver = sysfs.device("0000:04:00.0").join("driver");
    fs::remove_file(&driver).unwrap();
    symlink("../../../bus/pci/drivers/vfio-pci", &driver).unwrap();
    assert_eq!(at(66), "0000:03:00.0", "passed through to a virtual machine");
}

#[test]
fn finds_sensors_again_after_driver_reload() {
    let sysfs = FakeSysfs::new();
    let sensor = |number: u32, celsius: u32| {
        let file = format!("hwmon/hwmon{number}/temp1_input");
        sysfs.write("0000:03:00.0", &[(&file, &format!("{celsius}000"))]);
    };
    sysfs.add("card0", "0000:03:00.0", "amdgpu", &[]);
    let mut amd = sysfs.collector();
    let mut celsius = || amd.read()[0].values.temperature_celsius;
    assert_eq!(celsius(), None, "the driver has not registered hwmon yet");
    sensor(3, 41);
    assert_eq!(celsius(), Some(41));
    fs::remove_dir_all(sysfs.device("0000:03:00.0").join("hwmon/hwmon3")).unwrap();
    sensor(12, 42);
    assert_eq!(celsius(), Some(42));
}

#[test]
fn suspended_gpu_keeps_its_identity_but_has_no_values() {
    let sysfs = FakeSysfs::new();
    let files = [("product_name", "Radeon Pro"), ("unique_id", "1f"), ("gpu_busy_percent", "3")];
    sysfs.add("card0", "0000:03:00.0", "amdgpu", &files);
    sysfs.write("0000:03:00.0", &[("hwmon/hwmon1/name", "amdgpu")]);
    let mut amd = sysfs.collector();
    assert_eq!(amd.read()[0].values.utilization_percent, Some(3));
    for status in ["suspended", "suspending"] {
        sysfs.write("0000:03:00.0", &[("power/runtime_status", status)]);
        let gpu = amd.read().remove(0);
        assert_eq!(gpu.problem, Some(Problem::Suspended));
        assert_eq!((&*gpu.name, gpu.uuid.as_deref()), ("Radeon Pro", Some("GPU-000000000000001f")));
        assert_eq!(gpu.values, Values::default());
        // The driver was reloaded meanwhile.
        fs::remove_dir_all(sysfs.device("0000:03:00.0").join("hwmon")).ok();
    }
    sysfs.write("0000:03:00.0", &[("power/runtime_status", "active")]);
    let gpu = amd.read().remove(0);
    assert_eq!((gpu.problem, gpu.values.utilization_percent), (None, Some(3)));
}

#[test]
fn name_is_from_board_then_list_then_device_id() {
    let name = |list: &str, files: &[(&str, &str)]| {
        let sysfs = FakeSysfs::new();
        let path = sysfs.0.join(list);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "744C,\tC8,\tAMD Radeon RX 7900 XTX\n").unwrap();
        sysfs.gpu(files).name
    };
    let list = "root/usr/share/libdrm/amdgpu.ids";
    assert_eq!(name(list, &[("product_name", "Radeon Pro W7900")]), "Radeon Pro W7900");
    assert_eq!(name(list, &[("product_name", "")]), "AMD Radeon RX 7900 XTX");
    assert_eq!(name(list, &[("product_name", "\u{1}\u{ff}")]), "AMD Radeon RX 7900 XTX");
    assert_eq!(name("root/opt/amdgpu/share/libdrm/amdgpu.ids", &[]), "AMD Radeon RX 7900 XTX");
    assert_eq!(name(list, &[("revision", "0x01")]), "AMD GPU 0x744c");
    assert_eq!(name(list, &[("device", "744c")]), "AMD GPU");
}

#[test]
fn missing_and_unreadable_files_have_no_value() {
    let sysfs = FakeSysfs::new();
    sysfs.write("0000:03:00.0", &[("hwmon/hwmon1/name", "amdgpu")]);
    // Reading a directory fails. A real sensor returns EBUSY or EINVAL.
    for file in
        ["gpu_busy_percent", "unique_id", "hwmon/hwmon1/power1_average", "ras/umc_err_count"]
    {
        fs::create_dir_all(sysfs.device("0000:03:00.0").join(file)).unwrap();
    }
    let gpu = sysfs.gpu(&[("hwmon/hwmon1/power1_input", "9087000")]);
    let power_alone = Values { power_watts: Some(9.087), ..Values::default() };
    assert_eq!((gpu.uuid, gpu.problem, gpu.values), (None, None, power_alone));
}

#[test]
fn implausible_values_are_absent() {
    let gpu = FakeSysfs::new().gpu(&[
        ("unique_id", "0"),
        ("mem_info_vram_total", "0"),
        ("mem_info_vram_used", "1"),
        ("gpu_busy_percent", "4294967295"),
        ("mem_busy_percent", "101"),
        ("current_link_speed", "Unknown"),
        ("current_link_width", "63"),
        ("pcie_replay_count", "-1"),
        ("ras/umc_err_count", "Query currently inaccessible"),
        ("hwmon/hwmon2/temp1_label", "edge"),
        ("hwmon/hwmon2/temp1_input", "0"),
        ("hwmon/hwmon2/temp2_label", "mem"),
        ("hwmon/hwmon2/temp2_input", "65535000"),
        ("hwmon/hwmon2/power1_average", "0"),
        ("hwmon/hwmon2/power1_input", "4294967295"),
        ("hwmon/hwmon2/power1_cap", "0"),
        ("hwmon/hwmon2/freq1_input", "655350000000"),
        ("hwmon/hwmon2/pwm1", "256"),
        ("hwmon/hwmon2/pwm1_max", "0"),
    ]);
    let expected = Values { memory_used_bytes: Some(1), ..Values::default() };
    assert_eq!((gpu.uuid, gpu.values), (None, expected));
    let used_above_total = [("mem_info_vram_total", "10"), ("mem_info_vram_used", "11")];
    let expected = Values { memory_total_bytes: Some(10), ..Values::default() };
    assert_eq!(FakeSysfs::new().gpu(&used_above_total).values, expected);
}

#[test]
fn finds_sensors_by_label_or_number() {
    let labeled = FakeSysfs::new().gpu(&[
        ("hwmon/hwmon0/temp1_label", "mem"),
        ("hwmon/hwmon0/temp1_input", "61499"),
        ("hwmon/hwmon0/temp3_label", "edge"),
        ("hwmon/hwmon0/temp3_input", "-1500"),
        ("hwmon/hwmon0/freq1_label", "mclk"),
        ("hwmon/hwmon0/freq1_input", "96000000"),
        ("hwmon/hwmon0/freq2_label", "sclk"),
        ("hwmon/hwmon0/freq2_input", "0"),
        ("hwmon/hwmon0/pwm1", "0"),
    ]);
    let expected = Values {
        temperature_celsius: Some(-1),
        memory_temperature_celsius: Some(61),
        sm_clock_mhz: Some(0),
        memory_clock_mhz: Some(96),
        fan_percent: Some(0),
        ..Values::default()
    };
    assert_eq!(labeled.values, expected);
    let unlabeled = FakeSysfs::new().gpu(&[
        ("hwmon/hwmon0/temp1_input", "27000"),
        ("hwmon/hwmon0/freq1_input", "798600000"),
        ("hwmon/hwmon0/freq2_input", "1750000000"),
        ("hwmon/hwmon0/pwm1", "255"),
        ("hwmon/hwmon0/pwm1_max", "255"),
    ]);
    let expected = Values {
        temperature_celsius: Some(27),
        sm_clock_mhz: Some(799),
        memory_clock_mhz: Some(1750),
        fan_percent: Some(100),
        ..Values::default()
    };
    assert_eq!(unlabeled.values, expected);
}

#[test]
fn reads_memory_errors_from_aca_umc() {
    let gpu = FakeSysfs::new().gpu(&[("ras/aca_umc", "ue: 0\nce: 5\nde: 1")]);
    let expected =
        Ecc { volatile_corrected: Some(5), volatile_uncorrected: Some(0), ..Ecc::default() };
    assert_eq!(gpu.values.ecc, Some(expected));
}

const GIB: u64 = 1 << 30;

/// Total and used memory, and the total of GTT, of a GPU with 0.5 GiB of VRAM and 124 GiB of GTT.
fn apu_memory(
    gpu_metrics: &[u8],
    more: &[(&str, &str)],
) -> (Option<u64>, Option<u64>, Option<u64>) {
    let sysfs = FakeSysfs::new();
    let (vram, gtt) = ((GIB / 2).to_string(), (124 * GIB).to_string());
    let files = [
        ("mem_info_vram_total", &vram[..]),
        ("mem_info_vram_used", "4096"),
        ("mem_info_gtt_total", &gtt),
        ("mem_info_gtt_used", "8192"),
    ];
    sysfs.add("card0", "0000:03:00.0", "amdgpu", &[&files[..], more].concat());
    if !gpu_metrics.is_empty() {
        fs::write(sysfs.device("0000:03:00.0").join("gpu_metrics"), gpu_metrics).unwrap();
    }
    let values = sysfs.collector().read().remove(0).values;
    assert_eq!(values.vram_total_bytes.is_some(), values.gtt_total_bytes.is_some());
    (values.memory_total_bytes, values.memory_used_bytes, values.gtt_total_bytes)
}

#[test]
fn memory_of_apu_is_vram_and_gtt() {
    let apu = (Some(124 * GIB + GIB / 2), Some(4096 + 8192), Some(124 * GIB));
    assert_eq!(apu_memory(b"", &[]), apu);
    for revision in [2, 3] {
        assert_eq!(apu_memory(&[128, 0, revision, 1], &[("mem_busy_percent", "0")]), apu);
    }
}

#[test]
fn memory_of_discrete_gpu_is_vram() {
    let discrete = (Some(GIB / 2), Some(4096), None);
    assert_eq!(apu_memory(&[120, 0, 1, 3], &[]), discrete);
    for file in
        [("mem_info_vram_vendor", "samsung"), ("mem_busy_percent", "0"), ("hwmon/hwmon2/pwm1", "0")]
    {
        assert_eq!(apu_memory(b"", &[file]), discrete, "{}", file.0);
    }
}
