//! Processors, clock sources, and the names of the machine.

use super::GpuServer;

pub fn write(server: &GpuServer) {
    cpus(server);
    cpuinfo(server);
    clock_sources(server);
    names(server);
}

/// Two packages of two CPUs; the last CPU is offline.
fn cpus(server: &GpuServer) {
    let directory = "sys/devices/system/cpu";
    server.write(&format!("{directory}/online"), "0-2\n");
    server.write(&format!("{directory}/offline"), "3\n");
    server.write(&format!("{directory}/present"), "0-3\n");
    server.write(&format!("{directory}/isolated"), "2\n");
    for cpu in 0..4 {
        let files = [
            ("topology/physical_package_id", (cpu / 2).to_string()),
            // Both CPUs of the first package are threads of one core.
            ("topology/core_id", (cpu / 2 * cpu).to_string()),
            ("thermal_throttle/core_throttle_count", (10 + cpu).to_string()),
            ("thermal_throttle/package_throttle_count", (20 + cpu / 2).to_string()),
        ];
        for (file, text) in files.iter().filter(|_| cpu < 3) {
            server.write(&format!("{directory}/cpu{cpu}/{file}"), &format!("{text}\n"));
        }
        let frequencies = [
            ("scaling_cur_freq", format!("{}", 2_000_001 + cpu)),
            ("scaling_min_freq", format!("{}", 800_000 + cpu)),
            ("scaling_max_freq", format!("{}", 3_800_000 + cpu)),
            ("cpuinfo_min_freq", format!("{}", 500_000 + cpu)),
            ("cpuinfo_max_freq", format!("{}", 4_000_000 + cpu)),
            ("scaling_governor", "performance".to_owned()),
            ("scaling_available_governors", "performance powersave ".to_owned()),
        ];
        for (file, text) in frequencies {
            server.write(&format!("{directory}/cpu{cpu}/cpufreq/{file}"), &format!("{text}\n"));
        }
    }
    server.write(&format!("{directory}/cpu2/cpufreq/scaling_max_freq"), "<unsupported>\n");
}

/// Of the CPUs that are online; the last one has no frequency.
fn cpuinfo(server: &GpuServer) {
    let block = |cpu: u32| {
        let package = cpu / 2;
        let mhz =
            if cpu == 2 { String::new() } else { format!("cpu MHz\t\t: {}.981\n", 1699 + cpu) };
        format!(
            "processor\t: {cpu}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n\
             model name\t: Intel(R) Xeon(R) Platinum 8480C\nstepping\t: 8\nmicrocode\t: 0x2b000603\n{mhz}\
             cache size\t: 107520 KB\nphysical id\t: {package}\ncore id\t\t: {cpu}\n\n"
        )
    };
    server.write("proc/cpuinfo", &(0..3).map(block).collect::<String>());
}

fn clock_sources(server: &GpuServer) {
    let directory = "sys/devices/system/clocksource/clocksource0";
    server.write(&format!("{directory}/available_clocksource"), "tsc hpet acpi_pm \n");
    server.write(&format!("{directory}/current_clocksource"), "hpet\n");
}

fn names(server: &GpuServer) {
    let files = [
        ("bios_date", "07/18/2026"),
        ("bios_vendor", "American Megatrends International, LLC."),
        ("bios_version", "1.2.3"),
        ("board_name", "DGXH100"),
        ("board_vendor", "NVIDIA"),
        ("chassis_asset_tag", ""),
        ("chassis_type", "23"),
        ("product_name", "DGX \"H100\""),
        ("sys_vendor", "NVIDIA Corporation"),
    ];
    for (file, text) in files {
        server.write(&format!("sys/class/dmi/id/{file}"), &format!("{text}\n"));
    }
}
