//! Clock, scheduler, interrupts and processes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::GpuServer;
use hm_agent::model::RawSample;
use hm_agent::model::node::Measurement;
use hm_agent::model::node::timex::{Pps, Timex};
use hm_agent::sys::FsSize;

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
    server.write("root/data/README", "Datasets\n");
    // The size of the last one cannot be read, see `statvfs`.
    server.write(
        "proc/1/mountinfo",
        "21 1 259:2 / / rw,relatime - ext4 /dev/nvme0n1p2 rw\n\
         22 21 259:5 / /data ro,relatime - xfs /dev/nvme1n1 ro\n\
         23 21 0:48 / /mnt/checkpoints rw - nfs4 storage:/checkpoints rw\n",
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

pub fn statvfs(path: &Path) -> io::Result<FsSize> {
    if path.ends_with("mnt/checkpoints") {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let is_data = path.ends_with("data");
    Ok(FsSize {
        total_bytes: if is_data { 7_681_501_126_656 } else { 982_141_468_672 },
        free_bytes: if is_data { 1_024 } else { 514_012_004_352 },
        available_bytes: if is_data { 512 } else { 464_045_490_176 },
        files: if is_data { 750_146_048 } else { 60_964_864 },
        files_free: if is_data { 749_000_001 } else { 59_600_002 },
        read_only: is_data,
    })
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
