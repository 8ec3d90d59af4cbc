//! From two readings to a snapshot: percentages and rates.

use crate::model::previous::PreviousItems;
use crate::model::{Cpu, DiskRate, Memory, NetRate, RawSample, Snapshot, TrafficRate};
use crate::procfs::diskstats;
use crate::procfs::diskstats::DiskStat;
use crate::procfs::meminfo::MemInfo;
use crate::procfs::net_dev::{NetDev, Traffic};
use crate::procfs::stat::{CpuTimes, Stat};

impl Snapshot {
    /// What `now` means, compared with the reading and the snapshot before it. Without them, use of the
    /// processors is the mean since boot and rates are absent.
    pub fn derive(before: Option<(&RawSample, &Snapshot)>, now: &RawSample) -> Self {
        let (earlier, known) = before.unzip();
        let seconds = earlier
            .map(|earlier| now.monotonic.saturating_sub(earlier.monotonic).as_secs_f64())
            .filter(|seconds| *seconds > 0.0);
        let earlier_stat = earlier.and_then(|earlier| earlier.stat.as_ref());
        let known_cpu = known.and_then(|known| known.cpu.as_ref());
        let mut disks =
            PreviousItems::of(earlier.map_or(&[][..], |earlier| &earlier.diskstats[..]));
        let mut networks =
            PreviousItems::of(earlier.map_or(&[][..], |earlier| &earlier.net_dev[..]));
        Self {
            unix_seconds: now.unix_seconds,
            hostname: now.hostname.clone(),
            // After a look that failed there is nothing to compare with: absent, for once.
            cpu: match (before.is_some(), earlier_stat) {
                (true, None) => None,
                _ => now.stat.as_ref().map(|stat| cpu(earlier_stat, known_cpu, stat)),
            },
            memory: now.meminfo.as_ref().map(|info| memory(info, now.low_watermark_bytes)),
            load: now.loadavg,
            uptime_seconds: now.uptime_seconds,
            pressure: now.pressure,
            disks: diskstats::whole_disks(&now.diskstats)
                .map(|disk| {
                    let earlier = disks.find(|earlier| earlier.name == disk.name);
                    disk_rate(earlier.zip(seconds), disk)
                })
                .collect(),
            networks: now
                .net_dev
                .iter()
                .map(|device| {
                    let earlier = networks.find(|earlier| earlier.name == device.name);
                    net_rate(earlier.zip(seconds), device)
                })
                .collect(),
            file_systems: now.file_systems.clone(),
            temperatures: now.devices.temperatures.clone(),
            oom_kills: now.vmstat.and_then(|vmstat| vmstat.oom_kill),
            gpus: now.gpus.clone(),
            heartbeats: now.heartbeats.clone(),
            links: now.links.clone(),
        }
    }
}

fn cpu(earlier: Option<&Stat>, known: Option<&Cpu>, now: &Stat) -> Cpu {
    let boot = CpuTimes::default();
    let percent = busy_percent(earlier.map_or(&boot, |earlier| &earlier.total), &now.total)
        .or(known.map(|known| known.percent))
        .unwrap_or_default();
    let mut earlier = PreviousItems::of(earlier.map_or(&[][..], |earlier| &earlier.cpus[..]));
    let mut known = PreviousItems::of(known.map_or(&[][..], |known| &known.each_percent[..]));
    let each = |(cpu, times): &(u32, CpuTimes)| {
        let before = earlier.find(|(number, _)| number == cpu).map_or(&boot, |(_, times)| times);
        let percent = busy_percent(before, times)
            .or_else(|| known.find(|(number, _)| number == cpu).map(|(_, percent)| *percent))
            .unwrap_or_default();
        (*cpu, percent)
    };
    Cpu { percent, each_percent: now.cpus.iter().map(each).collect() }
}

/// Everything but idle and iowait, in percent of all time between two readings; `None` when no tick
/// passed between them. A counter that went backwards (iowait does; others when a processor comes back)
/// stood still.
fn busy_percent(before: &CpuTimes, now: &CpuTimes) -> Option<f64> {
    let since = |pick: fn(&CpuTimes) -> u64| pick(now).saturating_sub(pick(before));
    // Guest time is part of user and nice already.
    let busy = since(|times| times.user)
        .saturating_add(since(|times| times.nice))
        .saturating_add(since(|times| times.system))
        .saturating_add(since(|times| times.irq))
        .saturating_add(since(|times| times.softirq))
        .saturating_add(since(|times| times.steal));
    let idle = since(|times| times.idle).saturating_add(since(|times| times.iowait));
    let total = busy.saturating_add(idle);
    (total > 0).then(|| 100.0 * busy as f64 / total as f64)
}

fn memory(info: &MemInfo, low_watermark_bytes: Option<u64>) -> Memory {
    let available = info.available_bytes(low_watermark_bytes);
    let swap = info.swap_total_bytes.zip(info.swap_free_bytes);
    Memory {
        total_bytes: info.mem_total_bytes,
        used_bytes: available.map(|available| info.mem_total_bytes.saturating_sub(available)),
        swap_total_bytes: info.swap_total_bytes,
        swap_used_bytes: swap.map(|(total, free)| total.saturating_sub(free)),
    }
}

fn disk_rate(earlier: Option<(&DiskStat, f64)>, now: &DiskStat) -> DiskRate {
    let rate = |pick: fn(&DiskStat) -> u64| {
        earlier.and_then(|(earlier, seconds)| per_second(pick(earlier), pick(now), seconds))
    };
    DiskRate {
        name: String::from_utf8_lossy(&now.name).into_owned(),
        read_bytes_per_second: rate(|disk| disk.read_bytes),
        written_bytes_per_second: rate(|disk| disk.written_bytes),
        reads_per_second: rate(|disk| disk.reads),
        writes_per_second: rate(|disk| disk.writes),
        // The kernel adds to it in ticks, which can make a little more than the time that passed.
        busy_percent: rate(|disk| disk.busy_milliseconds).map(|busy| (busy / 10.0).min(100.0)),
    }
}

fn net_rate(earlier: Option<(&NetDev, f64)>, now: &NetDev) -> NetRate {
    let rates = |pick: fn(&NetDev) -> &Traffic| {
        let (earlier, seconds) = earlier?;
        let (earlier, now) = (pick(earlier), pick(now));
        Some(TrafficRate {
            bytes_per_second: per_second(earlier.bytes, now.bytes, seconds)?,
            packets_per_second: per_second(earlier.packets, now.packets, seconds)?,
            errors_per_second: per_second(earlier.errors, now.errors, seconds)?,
            drops_per_second: per_second(earlier.drops, now.drops, seconds)?,
        })
    };
    NetRate {
        name: String::from_utf8_lossy(&now.name).into_owned(),
        receive: rates(|device| &device.receive),
        transmit: rates(|device| &device.transmit),
    }
}

fn per_second(earlier: u64, now: u64, seconds: f64) -> Option<f64> {
    now.checked_sub(earlier).map(|moved| moved as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FileSystem;
    use std::time::Duration;

    fn times(user: u64, idle: u64, iowait: u64, guest: u64) -> CpuTimes {
        CpuTimes { user, idle, iowait, guest, ..Default::default() }
    }

    #[test]
    fn busy_is_everything_but_idle_and_iowait() {
        let percent = busy_percent(&times(100, 100, 0, 0), &times(125, 150, 25, 25));
        assert_eq!(percent, Some(25.0), "guest is part of user and counted once");
        let all = CpuTimes {
            user: 1,
            nice: 1,
            system: 1,
            irq: 1,
            softirq: 1,
            steal: 1,
            idle: 2,
            iowait: 2,
            ..Default::default()
        };
        assert_eq!(busy_percent(&CpuTimes::default(), &all), Some(60.0));
    }

    #[test]
    fn a_counter_that_went_backwards_stood_still() {
        assert_eq!(busy_percent(&times(0, 100, 50, 0), &times(50, 150, 40, 0)), Some(50.0));
        assert_eq!(busy_percent(&times(9, 9, 9, 9), &times(9, 9, 9, 9)), None);
    }

    #[test]
    fn after_a_look_that_failed_use_is_absent_not_the_mean_since_boot() {
        let stat = Stat { total: times(1, 1, 0, 0), ..Default::default() };
        let (failed, now) = (RawSample::default(), reading(5, stat));
        let before = Snapshot::derive(None, &failed);
        assert_eq!(Snapshot::derive(Some((&failed, &before)), &now).cpu, None);
    }

    fn reading(at: u64, stat: Stat) -> RawSample {
        RawSample { monotonic: Duration::from_secs(at), stat: Some(stat), ..Default::default() }
    }

    #[test]
    fn the_first_look_is_the_mean_since_boot_and_no_tick_keeps_the_last_value() {
        let stat = |user, idle| Stat {
            total: times(user, idle, 0, 0),
            cpus: vec![(3, times(user, idle, 0, 0))],
            ..Default::default()
        };
        let first = reading(0, stat(100, 900));
        let boot = Snapshot::derive(None, &first);
        assert_eq!(boot.cpu, Some(Cpu { percent: 10.0, each_percent: vec![(3, 10.0)] }));
        let second = reading(5, stat(150, 950));
        let busy = Snapshot::derive(Some((&first, &boot)), &second);
        assert_eq!(busy.cpu, Some(Cpu { percent: 50.0, each_percent: vec![(3, 50.0)] }));
        let third = reading(6, stat(150, 950));
        let same = Snapshot::derive(Some((&second, &busy)), &third);
        assert_eq!(same.cpu, busy.cpu);
    }

    #[test]
    fn rates_need_two_readings_and_a_counter_that_grew() {
        let disk = |read_bytes, busy_milliseconds| DiskStat {
            name: b"vda".to_vec(),
            read_bytes,
            busy_milliseconds,
            ..Default::default()
        };
        let at = |seconds, disk| RawSample {
            monotonic: Duration::from_secs(seconds),
            diskstats: vec![disk],
            ..Default::default()
        };
        let (one, two, replaced) =
            (at(10, disk(0, 0)), at(14, disk(4096, 4004)), at(18, disk(7, 7)));
        let first = Snapshot::derive(None, &one);
        assert_eq!(first.disks[0].read_bytes_per_second, None);
        let second = Snapshot::derive(Some((&one, &first)), &two);
        assert_eq!(second.disks[0].read_bytes_per_second, Some(1024.0));
        assert_eq!(second.disks[0].busy_percent, Some(100.0));
        let third = Snapshot::derive(Some((&two, &second)), &replaced);
        assert_eq!(third.disks[0].read_bytes_per_second, None);
    }

    #[test]
    fn used_memory_is_what_the_document_computes() {
        let info = MemInfo {
            mem_total_bytes: 32768 << 20,
            mem_available_bytes: Some((32768 - 20582) << 20),
            ..Default::default()
        };
        assert_eq!(memory(&info, None).used_bytes, Some(20582 << 20));
    }

    #[test]
    fn used_percent_is_that_of_df() {
        let fs = FileSystem {
            mount_point: "/".into(),
            device: "/dev/vda".into(),
            fs_type: "ext4".into(),
            read_only: false,
            total_bytes: 1000,
            free_bytes: 600,
            available_bytes: 400,
            files: 10,
            files_free: 9,
        };
        assert_eq!((fs.used_bytes(), fs.used_percent()), (400, Some(50.0)));
        let empty = FileSystem { total_bytes: 0, free_bytes: 0, available_bytes: 0, ..fs };
        assert_eq!(empty.used_percent(), None);
    }
}
