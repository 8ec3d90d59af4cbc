//! Clock, scheduler, interrupts and processes.

use std::sync::Arc;

use super::GpuServer;
use hm_agent::model::RawSample;
use hm_agent::model::node::Measurement;
use hm_agent::model::node::timex::{Pps, Timex};

pub fn write(server: &GpuServer) {
    server.write("proc/pressure/irq", "full avg10=0.10 avg60=0.20 avg300=0.30 total=8494123\n");
    server.write("proc/sys/kernel/hung_task_detect_count", "42\n");
    server.write("proc/sys/kernel/random/entropy_avail", "3421\n");
    server.write("proc/sys/kernel/random/poolsize", "4096\n");
    server.write(
        "proc/interrupts",
        "           CPU0       CPU1       \n\
         \u{20} 8:          0          0 IR-IO-APIC    8-edge      rtc0\n\
         124:        300         21 IR-PCI-MSIX-0000:17:00.0   1-edge      mlx5_comp0@pci:0000:17:00.0\n\
         131:          0         77 IR-PCI-MSIX-0000:1b:00.0   0-edge      nvidia\n\
         NMI:         12         13   Non-maskable interrupts\n\
         LOC:   22321895   23271810   Local timer interrupts\n\
         ERR:          1\n\
         PIN:          0          0   Posted-interrupt notification event\n",
    );
    server.write("proc/loadavg", "12.50 9.75 6.25 3/2719 31337\n");
    server.write("proc/sys/kernel/pid_max", "4194304\n");
    server.write("proc/sys/kernel/threads-max", "16512445\n");
    for (pid, name, state) in [
        (1, "systemd", 'S'),
        (2, "kthreadd", 'S'),
        (640, "nv_queue", 'I'),
        (31337, "python ) (R", 'D'),
        (31340, "dcgm", 'S'),
    ] {
        let rest = "0 1 1 0 -1 4194560 99 0 0 0 7 9 0 0 20 0 3 0 2384670 3133440 388 0";
        server.write(&format!("proc/{pid}/stat"), &format!("{pid} ({name}) {state} {rest}\n"));
    }
    server.write(
        "proc/schedstat",
        "version 15\n\
         timestamp 15819019232\n\
         cpu0 498494191 0 3533438552 2553969831 3853684107 2465731542 2045936778163039 343796328169361 4767485306\n\
         domain0 00000000,00000003 212499247 210112015 1861015 1860405436 536440 369895 32599 210079416 25368550\n\
         cpu1 518377256 0 4155211005 2778589869 10466382 2867629021 1904686152592476 364107263788241 5145567945\n\
         domain0 00000000,00000003 217653037 215526982 1577949 1580427380 557469 393576 28538 215498444 28721913\n",
    );
}

/// The clock is that of the machine on which the test runs.
pub fn remove_clock(sample: &mut RawSample) {
    sample.collectors.retain(|collector| collector.name != "timex");
    sample.measurements.retain(|measurement| !matches!(**measurement, Measurement::Timex(_)));
}

pub fn replace_clock(sample: &mut RawSample) {
    remove_clock(sample);
    let clock = Timex {
        is_synchronized: true,
        offset_nanoseconds: -1_500,
        frequency_scaled_ppm: -1_638_400,
        max_error_microseconds: 62_500,
        estimated_error_microseconds: 41,
        status: 0x2001,
        loop_time_constant: 7,
        tick_microseconds: 10_000,
        tai_offset_seconds: 37,
        pps: Pps {
            frequency_scaled_ppm: 65_536,
            stability_scaled_ppm: 131_072,
            jitter_nanoseconds: 2_250,
            shift: 4,
            jitter_exceeded: 11,
            calibrations: 12,
            calibration_errors: 13,
            stability_exceeded: 14,
        },
    };
    sample.measurements.push(Arc::new(Measurement::Timex(clock)));
}
