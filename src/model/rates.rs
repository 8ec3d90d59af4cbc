//! Derives percentages and rates from two samples.

use crate::model::previous::PreviousItems;
use crate::model::{Cpu, DiskRate, Memory, NetRate, RawSample, Snapshot, TrafficRate};
use crate::procfs::diskstats;
use crate::procfs::diskstats::DiskStat;
use crate::procfs::meminfo::MemInfo;
use crate::procfs::net_dev::{NetDev, Traffic};
use crate::procfs::stat::{CpuTimes, Stat};

impl Snapshot {
    /// Derives a snapshot from `raw` and the previous sample with its snapshot. Without them CPU usage is the mean since boot, and
    /// rates are absent.
    pub fn derive(previous: Option<(&RawSample, &Snapshot)>, raw: &RawSample) -> Self {
        let (previous_raw, previous_snapshot) = previous.unzip();
        let seconds = previous_raw
            .map(|previous| raw.monotonic.saturating_sub(previous.monotonic).as_secs_f64())
            .filter(|seconds| *seconds > 0.0);
        let previous_stat = previous_raw.and_then(|previous| previous.stat.as_ref());
        let previous_cpu = previous_snapshot.and_then(|previous| previous.cpu.as_ref());
        Self {
            unix_seconds: raw.unix_seconds,
            hostname: raw.hostname.clone(),
            // After a failed read there is nothing to compare with. The mean since boot would be misleading here.
            cpu: match (previous.is_some(), previous_stat) {
                (true, None) => None,
                _ => raw.stat.as_ref().map(|stat| cpu(previous_stat, previous_cpu, stat)),
            },
            memory: raw.meminfo.as_ref().map(|info| memory(info, raw.low_watermark_bytes)),
            load: raw.loadavg,
            uptime_seconds: raw.uptime_seconds,
            pressure: raw.pressure,
            disks: disk_rates(previous_raw.zip(seconds), raw),
            networks: net_rates(previous_raw.zip(seconds), raw),
            file_systems: raw.file_systems.clone(),
            temperatures: raw.devices.temperatures.clone(),
            oom_kills: raw.vmstat.and_then(|vmstat| vmstat.oom_kill),
            gpus: raw.gpus.clone(),
            heartbeats: raw.heartbeats.clone(),
            upstreams: raw.upstreams.clone(),
        }
    }
}

fn cpu(previous: Option<&Stat>, previous_cpu: Option<&Cpu>, stat: &Stat) -> Cpu {
    let boot = CpuTimes::default();
    let percent = busy_percent(previous.map_or(&boot, |previous| &previous.total), &stat.total)
        .or(previous_cpu.map(|previous| previous.percent))
        .unwrap_or_default();
    let mut times_before = PreviousItems::new(previous.map_or(&[][..], |stat| &stat.cpus[..]));
    let mut percent_before =
        PreviousItems::new(previous_cpu.map_or(&[][..], |cpu| &cpu.each_percent[..]));
    let each = |(number, times): &(u32, CpuTimes)| {
        let before = times_before.find(|(before, _)| before == number);
        let percent = busy_percent(before.map_or(&boot, |(_, times)| times), times)
            .or_else(|| percent_before.find(|(before, _)| before == number).map(|(_, p)| *p))
            .unwrap_or_default();
        (*number, percent)
    };
    Cpu { percent, each_percent: stat.cpus.iter().map(each).collect() }
}

fn disk_rates(previous: Option<(&RawSample, f64)>, raw: &RawSample) -> Vec<DiskRate> {
    let mut before =
        PreviousItems::new(previous.map_or(&[][..], |(previous, _)| &previous.diskstats[..]));
    let seconds = previous.map(|(_, seconds)| seconds);
    diskstats::whole_disks(&raw.diskstats)
        .map(|disk| disk_rate(before.find(|before| before.name == disk.name).zip(seconds), disk))
        .collect()
}

fn net_rates(previous: Option<(&RawSample, f64)>, raw: &RawSample) -> Vec<NetRate> {
    let mut before =
        PreviousItems::new(previous.map_or(&[][..], |(previous, _)| &previous.net_dev[..]));
    let seconds = previous.map(|(_, seconds)| seconds);
    let rate =
        |dev: &NetDev| net_rate(before.find(|before| before.name == dev.name).zip(seconds), dev);
    raw.net_dev.iter().map(rate).collect()
}

/// All time but idle and iowait, in percent of the time between two samples; `None` if no tick passed between them. A counter that
/// went backwards (iowait does; others when a CPU comes back online) counts as unchanged.
fn busy_percent(before: &CpuTimes, now: &CpuTimes) -> Option<f64> {
    let since = |pick: fn(&CpuTimes) -> u64| pick(now).saturating_sub(pick(before));
    // user and nice include guest time.
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
        // The kernel adds whole ticks, which may sum up to slightly more than the elapsed time.
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
    fn counts_everything_but_idle_and_iowait_as_busy() {
        let percent = busy_percent(&times(100, 100, 0, 0), &times(125, 150, 25, 25));
        assert_eq!(percent, Some(25.0), "guest is part of user, counted once");
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
    fn treats_counter_that_went_backwards_as_unchanged() {
        assert_eq!(busy_percent(&times(0, 100, 50, 0), &times(50, 150, 40, 0)), Some(50.0));
        assert_eq!(busy_percent(&times(9, 9, 9, 9), &times(9, 9, 9, 9)), None);
    }

    #[test]
    fn cpu_usage_is_absent_after_a_failed_read() {
        let stat = Stat { total: times(1, 1, 0, 0), ..Default::default() };
        let (failed, raw) = (RawSample::default(), sample_at(5, stat));
        let previous = Snapshot::derive(None, &failed);
        assert_eq!(Snapshot::derive(Some((&failed, &previous)), &raw).cpu, None);
    }

    fn sample_at(seconds: u64, stat: Stat) -> RawSample {
        RawSample {
            monotonic: Duration::from_secs(seconds),
            stat: Some(stat),
            ..Default::default()
        }
    }

    #[test]
    fn keeps_last_cpu_usage_when_no_tick_passed() {
        let stat = |user, idle| Stat {
            total: times(user, idle, 0, 0),
            cpus: vec![(3, times(user, idle, 0, 0))],
            ..Default::default()
        };
        let first = sample_at(0, stat(100, 900));
        let boot = Snapshot::derive(None, &first);
        assert_eq!(boot.cpu, Some(Cpu { percent: 10.0, each_percent: vec![(3, 10.0)] }));
        let second = sample_at(5, stat(150, 950));
        let busy = Snapshot::derive(Some((&first, &boot)), &second);
        assert_eq!(busy.cpu, Some(Cpu { percent: 50.0, each_percent: vec![(3, 50.0)] }));
        let third = sample_at(6, stat(150, 950));
        let same = Snapshot::derive(Some((&second, &busy)), &third);
        assert_eq!(same.cpu, busy.cpu);
    }

    #[test]
    fn rates_need_two_samples_and_growing_counters() {
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
    fn used_memory_is_total_less_available() {
        let info = MemInfo {
            mem_total_bytes: 32768 << 20,
            mem_available_bytes: Some((32768 - 20582) << 20),
            ..Default::default()
        };
        assert_eq!(memory(&info, None).used_bytes, Some(20582 << 20));
    }

    #[test]
    fn used_percent_matches_df() {
        let fs = FileSystem {
            mount_point: "/".into(),
            device: "/dev/vda".into(),
            fs_type: "ext4".into(),
            device_number: None,
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
