//! Collectors of a server with hundreds of CPUs. The tree is generated, because it has some ten thousand files.

use std::collections::BTreeMap;

use crate::support::TEST_TIMEOUT;
use crate::support::gpu_server::GpuServer;
use crate::support::gpu_server::kernel::statvfs;
use hm_agent::collector::sampler::Sampler;
use hm_agent::model::RawSample;
use hm_agent::model::node::Measurement;

/// Writes CPUs of two packages with two threads per core, with their frequencies, throttle counters, temperatures and cooling devices.
fn write_cpus(server: &GpuServer, count: usize) {
    let directory = "sys/devices/system/cpu";
    server.write(&format!("{directory}/online"), &format!("0-{}\n", count - 1));
    server.write(&format!("{directory}/present"), &format!("0-{}\n", count - 1));
    let (cores, per_package) = (count / 2, count / 4);
    for cpu in 0..count {
        let core = cpu % cores;
        let directory = format!("{directory}/cpu{cpu}");
        let files = [
            ("topology/physical_package_id", core / per_package),
            ("topology/core_id", core % per_package),
            ("thermal_throttle/core_throttle_count", core),
            ("thermal_throttle/package_throttle_count", core / per_package),
            ("cpufreq/scaling_cur_freq", 2_000_000 + cpu),
            ("cpufreq/scaling_min_freq", 800_000),
            ("cpufreq/scaling_max_freq", 3_800_000),
            ("cpufreq/cpuinfo_min_freq", 800_000),
            ("cpufreq/cpuinfo_max_freq", 3_800_000),
        ];
        for (file, value) in files {
            server.write(&format!("{directory}/{file}"), &format!("{value}\n"));
        }
        server.write(&format!("{directory}/cpufreq/scaling_governor"), "powersave\n");
        let available = format!("{directory}/cpufreq/scaling_available_governors");
        server.write(&available, "performance powersave\n");
        let cooling = format!("sys/class/thermal/cooling_device{cpu}");
        server.write(&format!("{cooling}/type"), "Processor\n");
        server.write(&format!("{cooling}/cur_state"), "0\n");
        server.write(&format!("{cooling}/max_state"), "3\n");
    }
    for core in 0..cores {
        let chip = format!("sys/class/hwmon/hwmon{}", 10 + core / per_package);
        let sensor = format!("{chip}/temp{}", 2 + core % per_package);
        server.write(&format!("{chip}/name"), "coretemp\n");
        server.write(&format!("{sensor}_label"), &format!("Core {core}\n"));
        for (property, value) in
            [("input", 61_000), ("max", 101_000), ("crit", 103_000), ("crit_alarm", 0)]
        {
            server.write(&format!("{sensor}_{property}"), &format!("{value}\n"));
        }
    }
}

fn collect(server: &GpuServer) -> RawSample {
    let mut sampler = Sampler::new(server.roots(), &server.collectors(), statvfs);
    sampler.collect_first(TEST_TIMEOUT).unwrap()
}

/// What the collectors measured of the CPUs, and how much they left out.
fn counts(sample: &RawSample) -> BTreeMap<&'static str, (usize, usize)> {
    let count = |measurement: &Measurement| match measurement {
        Measurement::Cpu(cpu) => vec![
            ("online", (cpu.online.len(), cpu.truncated)),
            ("cores", (cpu.core_throttles.len(), 0)),
            ("packages", (cpu.package_throttles.len(), 0)),
        ],
        Measurement::CpuFreq(cpufreq) => {
            vec![("frequencies", (cpufreq.cpus.len(), cpufreq.truncated))]
        }
        Measurement::Cooling(cooling) => {
            vec![("cooling", (cooling.devices.len(), cooling.truncated))]
        }
        Measurement::Hwmon(hwmon) => {
            let sensors =
                hwmon.chips.iter().filter(|chip| chip.name.as_deref() == Some("coretemp"));
            let alarms = sensors.flat_map(|chip| &chip.sensors).map(|sensor| sensor.values.len());
            vec![("alarms", (alarms.sum(), hwmon.truncated))]
        }
        _ => Vec::new(),
    };
    sample.measurements.iter().flat_map(|measurement| count(measurement)).collect()
}

#[test]
fn reads_all_of_224_cpus() {
    let server = GpuServer::new();
    write_cpus(&server, 224);
    server.write("proc/cpuinfo", "");
    let sample = collect(&server);
    let counts = counts(&sample);
    let expected = [
        // Three are of the server's own chip.
        ("alarms", (115, 0)),
        ("cooling", (224, 0)),
        ("cores", (112, 0)),
        ("frequencies", (224, 0)),
        ("online", (224, 0)),
        ("packages", (2, 0)),
    ];
    assert_eq!(counts, expected.into());
}

#[test]
fn counts_cpus_beyond_the_limit() {
    let server = GpuServer::new();
    for cpu in 0..1030 {
        let cpufreq = format!("sys/devices/system/cpu/cpu{cpu}/cpufreq");
        server.write(&format!("{cpufreq}/scaling_min_freq"), "800000\n");
        server.write(&format!("sys/class/thermal/cooling_device{cpu}/type"), "Processor\n");
    }
    server.write("sys/devices/system/cpu/online", "0-1029\n");
    server.write("sys/devices/system/cpu/present", "0-1029\n");
    let sample = collect(&server);
    let counts = counts(&sample);
    for kind in ["cooling", "frequencies", "online"] {
        assert_eq!(counts[kind], (1024, 6), "{kind}");
    }
}
