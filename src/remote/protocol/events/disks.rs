//! `disk`: usage of filesystems, and throughput of disks.

use serde_json::{Map, Value};

use crate::model::previous::PreviousItems;
use crate::procfs::diskstats::{self, DiskStat};
use crate::procfs::mountinfo::Mount;
use crate::remote::collect::df::DfEntry;
use crate::remote::collect::sample::{RemoteInventory, RemoteSample};
use crate::remote::protocol::events::fields::Fields;

/// Bytes since boot, and rates since the previous sample.
#[derive(Default)]
struct DiskDelta {
    /// Read and written since boot.
    bytes: [f64; 2],
    /// Bytes read and written, reads and writes, per second. `None` without a previous sample, or if a counter has
    /// decreased.
    rates: Option<[f64; 4]>,
}

impl DiskDelta {
    fn new(previous: Option<(&DiskStat, f64)>, now: &DiskStat) -> Self {
        let rates = previous.and_then(|(previous, seconds)| {
            let rate = |pick: fn(&DiskStat) -> u64| {
                Some(pick(now).checked_sub(pick(previous))? as f64 / seconds)
            };
            let bytes = (rate(|disk| disk.read_bytes)?, rate(|disk| disk.written_bytes)?);
            Some([bytes.0, bytes.1, rate(|disk| disk.reads)?, rate(|disk| disk.writes)?])
        });
        Self { bytes: [now.read_bytes as f64, now.written_bytes as f64], rates }
    }

    fn add(&mut self, other: &Self) {
        for (sum, bytes) in self.bytes.iter_mut().zip(other.bytes) {
            *sum += bytes;
        }
        if let Some(rates) = other.rates {
            let sums = self.rates.get_or_insert_default();
            sums.iter_mut().zip(rates).for_each(|(sum, rate)| *sum += rate);
        }
    }

    fn put_into(&self, fields: &mut Fields) {
        let [read, write] = self.bytes;
        let rate = |at: usize| self.rates.map(|rates| rates[at]);
        fields
            .size("read", Some(read))
            .size("write", Some(write))
            .size("read_rate", rate(0))
            .size("write_rate", rate(1))
            .number("read_iops", rate(2))
            .number("write_iops", rate(3));
    }
}

/// Adds the totals of all disks.
pub(super) fn totals(
    previous: &RemoteSample,
    now: &RemoteSample,
    seconds: f64,
    fields: &mut Fields,
) {
    let mut total = DiskDelta::default();
    let mut before = PreviousItems::new(&previous.diskstats);
    for disk in diskstats::physical_disks(&now.diskstats) {
        total.add(&delta(&mut before, disk, seconds));
    }
    total.put_into(fields);
}

fn delta(before: &mut PreviousItems<DiskStat>, disk: &DiskStat, seconds: f64) -> DiskDelta {
    let before = before.find(|before| before.name == disk.name);
    DiskDelta::new(before.map(|before| (before, seconds)), disk)
}

/// Whole disks, and devices with a filesystem, by name.
pub(super) fn each(
    inventory: &RemoteInventory,
    previous: &RemoteSample,
    now: &RemoteSample,
    seconds: f64,
) -> Value {
    let mut map = Map::new();
    let mut before = PreviousItems::new(&previous.diskstats);
    for disk in diskstats::whole_disks(&now.diskstats) {
        let name = String::from_utf8_lossy(&disk.name).into_owned();
        let mut fields = Fields::default();
        fields.put("dev_name", Some(name.as_str().into()));
        delta(&mut before, disk, seconds).put_into(&mut fields);
        map.insert(name, fields.finish());
    }
    let mut seen: Vec<&[u8]> = Vec::new();
    for filesystem in &inventory.filesystems {
        // A device that is mounted several times is listed with its first mount point.
        if seen.contains(&&filesystem.device[..]) {
            continue;
        }
        seen.push(&filesystem.device);
        let device = &filesystem.device;
        let device = device.strip_prefix(b"/dev/").unwrap_or(device);
        let name = String::from_utf8_lossy(device).into_owned();
        let fields = filesystem_fields(inventory, &mut before, now, seconds, &name, filesystem);
        map.insert(name, fields);
    }
    Value::Object(map)
}

fn filesystem_fields(
    inventory: &RemoteInventory,
    before: &mut PreviousItems<DiskStat>,
    now: &RemoteSample,
    seconds: f64,
    name: &str,
    filesystem: &DfEntry,
) -> Value {
    let mounts = &inventory.mounts;
    let mount = mounts.iter().rev().find(|mount| mount.mount_point == filesystem.mount_point);
    let text = |bytes: &[u8]| Some(Value::from(String::from_utf8_lossy(bytes)));
    let total = filesystem.total_bytes as f64;
    let mut fields = Fields::default();
    fields
        .put("dev_name", Some(name.into()))
        .put("mount", text(&filesystem.mount_point))
        .put("file_system", mount.and_then(|mount| text(&mount.fs_type)))
        .size("total", Some(total));
    for (part, bytes) in
        [("free", filesystem.available_bytes as f64), ("used", filesystem.used_bytes as f64)]
    {
        fields.size(part, Some(bytes));
        fields.share_of(&format!("{part}_rate"), Some(bytes), Some(total));
    }
    // Devices of LVM have other names in /proc/diskstats, but the same numbers.
    let disks = &now.diskstats;
    let by_number = || disks.iter().find(|disk| Some(disk.number) == mount.and_then(device_number));
    let disk = disks.iter().find(|disk| *disk.name == *name.as_bytes()).or_else(by_number);
    if let Some(disk) = disk {
        delta(before, disk, seconds).put_into(&mut fields);
    }
    fields.finish()
}

/// Major and minor number.
fn device_number(mount: &Mount) -> Option<(u64, u64)> {
    let (major, minor) = std::str::from_utf8(&mount.device_number).ok()?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::mountinfo;
    use crate::remote::collect::df;
    use serde_json::json;

    fn sample(sda: [u64; 4], sda1: [u64; 4]) -> RemoteSample {
        let line = |name: &str, [reads, read, writes, written]: [u64; 4]| {
            format!("{name} {reads} 0 {read} 0 {writes} 0 {written} 0 0 0 0\n")
        };
        let text = line("8 0 sda", sda) + &line("8 1 sda1", sda1) + &line("254 3 dm-3", sda1);
        let diskstats = diskstats::parse(text.as_bytes()).unwrap();
        RemoteSample { diskstats, ..RemoteSample::default() }
    }

    #[test]
    fn totals_count_whole_disks_only() {
        let sizes = "/dev/sda1 1000 250 700 27% /\n/dev/sda1 1000 250 700 27% /again\noverlay 10 5 5 50% /x\n/dev/mapper/vg-home 10 5 5 50% /home\n";
        let mounts = b"27 1 8:1 / / rw - ext4 /dev/sda1 rw\n28 1 254:3 / /home rw - xfs /dev/mapper/vg-home rw\n";
        let inventory = RemoteInventory {
            filesystems: df::parse(sizes.as_bytes()),
            mounts: mountinfo::parse(mounts).unwrap(),
            ..RemoteInventory::default()
        };
        let (one, two) = (sample([0; 4], [0; 4]), sample([10, 20, 30, 4096], [1, 2, 3, 4]));
        let map = each(&inventory, &one, &two, 2.0);
        let names: Vec<&String> = map.as_object().unwrap().keys().collect();
        assert_eq!(names, ["dm-3", "mapper/vg-home", "overlay", "sda", "sda1"]);
        assert_eq!(
            (&map["mapper/vg-home"]["read_iops"], &map["overlay"]["read"]),
            (&json!(0.5), &Value::Null)
        );
        let expected = json!({
            "dev_name": "sda1", "mount": "/", "file_system": "ext4", "total": 1000.0, "total_unit": "KB",
            "free": 700.0, "free_unit": "KB", "free_rate": 0.7, "used": 250.0, "used_unit": "KB", "used_rate": 0.25,
            "read": 1.0, "read_unit": "KB", "write": 2.0, "write_unit": "KB",
            "read_rate": 512.0, "read_rate_unit": "B", "write_rate": 1.0, "write_rate_unit": "KB",
            "read_iops": 0.5, "write_iops": 1.5,
        });
        assert_eq!(map["sda1"], expected);
        assert_eq!((&map["sda"]["mount"], &map["sda"]["read_iops"]), (&Value::Null, &json!(5.0)));
        let mut fields = Fields::default();
        totals(&one, &two, 2.0, &mut fields);
        let totals = fields.finish();
        assert_eq!(
            (&totals["write"], &totals["write_unit"]),
            (&json!(2.0), &json!("MB")),
            "sda only"
        );
    }
}
