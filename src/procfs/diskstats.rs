//! `/proc/diskstats`: I/O counters of every block device.
//!
//! Format: kernel `Documentation/admin-guide/iostats.rst`. A real line (further columns came later):
//!
//! ```text
//!  254       0 vda 30462 4386 1652106 5221 21520 11042 1053968 17338 0 10568 23110 0 0 0 0 1025 550
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// The kernel counts sectors of 512 bytes, whatever the sector size of the device.
const SECTOR_BYTES: u64 = 512;

/// A block device. Counters start at boot; in the kernel they may wrap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskStat {
    /// Name under `/dev`, any bytes.
    pub name: Vec<u8>,
    /// Major and minor.
    pub number: (u64, u64),
    pub reads: u64,
    pub reads_merged: u64,
    pub read_bytes: u64,
    /// Summed over requests.
    pub read_milliseconds: u64,
    pub writes: u64,
    pub writes_merged: u64,
    pub written_bytes: u64,
    /// Summed over requests.
    pub write_milliseconds: u64,
    /// Number of requests in flight now.
    pub in_flight: u64,
    /// Time with at least one request in flight.
    pub busy_milliseconds: u64,
    /// Busy time weighted with the number of requests in flight.
    pub weighted_milliseconds: u64,
    /// `None` before Linux 4.18.
    pub discards: Option<Discards>,
    /// Number of cache flushes, and the time spent on them in milliseconds; `None` before Linux 5.5.
    pub flushes: Option<(u64, u64)>,
}

/// Counters of discard (TRIM) requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Discards {
    pub completed: u64,
    pub merged: u64,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    pub milliseconds: u64,
}

/// Lines with fewer than eleven counters (partitions before Linux 2.6.25) are skipped.
pub fn parse(text: &[u8]) -> Result<Vec<DiskStat>, ParseError> {
    let mut disks = Vec::new();
    for (at, line) in lines(text) {
        if fields(line).count() < 14 {
            continue;
        }
        disks.push(disk(at, fields(line))?);
    }
    count_paths_at_namespaces(&mut disks);
    Ok(disks)
}

/// Older kernels count the I/O of a multipath NVMe namespace (`nvme0n1`) at its hidden paths only (`nvme0c0n1`), which are in
/// no list of disks.
fn count_paths_at_namespaces(disks: &mut [DiskStat]) {
    let paths: Vec<(Vec<u8>, DiskStat)> = disks
        .iter()
        .filter_map(|disk| Some((nvme_path_namespace(&disk.name)?, disk.clone())))
        .collect();
    for disk in disks.iter_mut().filter(|disk| disk.reads == 0 && disk.writes == 0) {
        for (namespace, path) in &paths {
            if *namespace == disk.name {
                disk.add_io(path);
            }
        }
    }
}

impl DiskStat {
    fn add_io(&mut self, other: &Self) {
        let counters = [
            (&mut self.reads, other.reads),
            (&mut self.reads_merged, other.reads_merged),
            (&mut self.read_bytes, other.read_bytes),
            (&mut self.read_milliseconds, other.read_milliseconds),
            (&mut self.writes, other.writes),
            (&mut self.writes_merged, other.writes_merged),
            (&mut self.written_bytes, other.written_bytes),
            (&mut self.write_milliseconds, other.write_milliseconds),
            (&mut self.in_flight, other.in_flight),
            (&mut self.busy_milliseconds, other.busy_milliseconds),
            (&mut self.weighted_milliseconds, other.weighted_milliseconds),
        ];
        for (sum, more) in counters {
            *sum = sum.saturating_add(more);
        }
    }
}

fn disk<'a>(at: usize, mut fields: impl Iterator<Item = &'a [u8]>) -> Result<DiskStat, ParseError> {
    let major = number(at, fields.next())?;
    let minor = number(at, fields.next())?;
    let name = fields.next().unwrap_or_default().to_vec();
    let mut next = || number(at, fields.next());
    let (reads, reads_merged, sectors_read, read_milliseconds) =
        (next()?, next()?, next()?, next()?);
    let (writes, writes_merged, sectors_written, write_milliseconds) =
        (next()?, next()?, next()?, next()?);
    let (in_flight, busy_milliseconds, weighted_milliseconds) = (next()?, next()?, next()?);
    let mut later = || fields.next().map(|field| number(at, Some(field))).transpose();
    let discards = match (later()?, later()?, later()?, later()?) {
        (Some(completed), Some(merged), Some(sectors), Some(milliseconds)) => {
            Some(Discards { completed, merged, sectors, milliseconds })
        }
        _ => None,
    };
    Ok(DiskStat {
        name,
        number: (major, minor),
        reads,
        reads_merged,
        read_bytes: sectors_read.saturating_mul(SECTOR_BYTES),
        read_milliseconds,
        writes,
        writes_merged,
        written_bytes: sectors_written.saturating_mul(SECTOR_BYTES),
        write_milliseconds,
        in_flight,
        busy_milliseconds,
        weighted_milliseconds,
        discards,
        flushes: later()?.zip(later()?),
    })
}

/// Skips RAM, loop, floppy and CD devices, partitions of a device that is listed itself (`sda1` of `sda`, `nvme0n1p2` of
/// `nvme0n1`), and paths of an NVMe namespace that is listed itself (`nvme0c1n1` of `nvme0n1`).
pub fn whole_disks(disks: &[DiskStat]) -> impl Iterator<Item = &DiskStat> {
    // Sorted, so that a machine with a thousand disks does not need a million comparisons.
    let mut names: Vec<&[u8]> = disks.iter().map(|disk| &disk.name[..]).collect();
    names.sort_unstable();
    let is_listed = move |name: &[u8]| names.binary_search(&name).is_ok();
    disks.iter().filter(move |disk| {
        let virtual_device = [&b"ram"[..], b"zram", b"loop", b"fd", b"sr"]
            .iter()
            .any(|prefix| disk.name.strip_prefix(*prefix).is_some_and(is_number));
        let is_part = parent_disk(&disk.name).is_some_and(&is_listed)
            || nvme_path_namespace(&disk.name).is_some_and(|namespace| is_listed(&namespace));
        !virtual_device && !is_part
    })
}

/// The disks whose sum is the I/O of the machine, each byte once: [`whole_disks`] without devices made of others.
pub fn physical_disks(disks: &[DiskStat]) -> impl Iterator<Item = &DiskStat> {
    whole_disks(disks).filter(|disk| !is_stacked(&disk.name))
}

/// Whether a device passes its I/O on to others, which count it too: LVM, multipath and encryption (`dm-0`), RAID (`md127`), bcache,
/// ZFS volumes (`zd0`), DRBD, PowerPath (`emcpowera`), and Veritas (`VxVM5000`, `VxDMP1`). The paths of multipath devices are disks of their own, and each
/// byte takes one of them.
pub fn is_stacked(name: &[u8]) -> bool {
    let numbered = [&b"dm-"[..], b"md", b"bcache", b"zd", b"drbd", b"VxVM", b"VxDMP"];
    let starts_with_number = |rest: &[u8]| rest.first().is_some_and(u8::is_ascii_digit);
    numbered.iter().any(|prefix| name.strip_prefix(*prefix).is_some_and(starts_with_number))
        || name.starts_with(b"md_")
        || name.starts_with(b"emcpower")
}

/// The namespace of a path: `nvme0c1n1` is controller 1 of subsystem 0, and a hidden path of `nvme0n1`.
fn nvme_path_namespace(name: &[u8]) -> Option<Vec<u8>> {
    let rest = name.strip_prefix(b"nvme")?;
    let (subsystem, rest) = rest.split_at_checked(rest.iter().position(|&byte| byte == b'c')?)?;
    let rest = rest.get(1..)?;
    let (controller, namespace) =
        rest.split_at_checked(rest.iter().position(|&byte| byte == b'n')?)?;
    let are_numbers = is_number(subsystem) && is_number(controller);
    (are_numbers && namespace.get(1..).is_some_and(is_number))
        .then(|| [b"nvme", subsystem, namespace].concat())
}

/// The name of the disk, if this is the name of a partition.
fn parent_disk(name: &[u8]) -> Option<&[u8]> {
    let mut base = name;
    while let [shorter @ .., b'0'..=b'9'] = base {
        base = shorter;
    }
    match base {
        _ if base.len() == name.len() => None,
        // If the name of the disk ends in a digit, `p` separates it from the number of the partition.
        [disk @ .., b'p'] if disk.last().is_some_and(u8::is_ascii_digit) => Some(disk),
        _ => Some(base),
    }
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b" 254       0 vda 30462 4386 1652106 5221 21520 11042 1053968 17338 1 10568 23110 0 0 0 0 1025 550
   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0
   1       0 ram0 0 0 0 0 0 0 0 0 0 0 0
";

    #[test]
    fn parses_a_real_sample() {
        let disks = parse(REAL).unwrap();
        let vda = &disks[0];
        assert_eq!((&vda.name[..], vda.reads, vda.writes), (&b"vda"[..], 30462, 21520));
        assert_eq!((vda.read_bytes, vda.written_bytes), (1652106 * 512, 1053968 * 512));
        assert_eq!((vda.in_flight, vda.busy_milliseconds), (1, 10568));
        assert_eq!((vda.read_milliseconds, vda.write_milliseconds), (5221, 17338));
        assert_eq!(vda.weighted_milliseconds, 23110);
        assert_eq!((vda.number, vda.reads_merged, vda.writes_merged), ((254, 0), 4386, 11042));
        assert_eq!((vda.discards, vda.flushes), (Some(Discards::default()), Some((1025, 550))));
        assert_eq!((disks[1].discards, disks[1].flushes), (None, None), "line of an older kernel");
    }

    #[test]
    fn skips_short_lines_of_old_kernels() {
        assert_eq!(parse(b"   8       1 sda1 35486 38030 38030 38030\n"), Ok(vec![]));
    }

    #[test]
    fn whole_disks_skips_partitions_and_virtual_devices() {
        let names = [
            "sda",
            "sda1",
            "sda12",
            "sdab",
            "nvme0n1",
            "nvme0n1p1",
            "nvme0n10",
            "xvda1",
            "dm-0",
            "md127",
            "md127p1",
            "loop3",
            "ram0",
            "zram0",
            "sr0",
            "mmcblk0",
            "mmcblk0p2",
            "mmcblk0boot0",
            "nbd1",
        ];
        let disk = |name: &&str| DiskStat { name: name.as_bytes().to_vec(), ..Default::default() };
        let disks: Vec<_> = names.iter().map(disk).collect();
        let kept: Vec<_> = whole_disks(&disks)
            .map(|disk| String::from_utf8(disk.name.to_vec()).unwrap())
            .collect();
        let expected = [
            "sda",
            "sdab",
            "nvme0n1",
            "nvme0n10",
            "xvda1",
            "dm-0",
            "md127",
            "mmcblk0",
            "mmcblk0boot0",
            "nbd1",
        ];
        assert_eq!(kept, expected);
    }

    #[test]
    fn counts_stacked_devices_and_paths_once() {
        let names = |names: &[&str], physical: bool| -> Vec<String> {
            let disk =
                |name: &&str| DiskStat { name: name.as_bytes().to_vec(), ..Default::default() };
            let disks: Vec<_> = names.iter().map(disk).collect();
            let name = |disk: &DiskStat| String::from_utf8(disk.name.clone()).unwrap();
            match physical {
                true => physical_disks(&disks).map(name).collect(),
                false => whole_disks(&disks).map(name).collect(),
            }
        };
        let stacked = [
            "sda",
            "dm-0",
            "md127",
            "md_d0",
            "bcache0",
            "zd0",
            "zd16",
            "drbd0",
            "emcpowera",
            "VxVM5000",
            "VxDMP1",
        ];
        assert_eq!(names(&stacked, true), ["sda"]);
        assert_eq!(names(&stacked, false), stacked);
        let network = ["nbd0", "rbd1", "vda", "mmcblk0", "pmem0", "mdb", "zdisk"];
        assert_eq!(names(&network, true), network);
        let paths = ["nvme0n1", "nvme0c0n1", "nvme0c12n1", "nvme0c0n2", "nvme1c1n1", "nvme0n10"];
        assert_eq!(names(&paths, false), ["nvme0n1", "nvme0c0n2", "nvme1c1n1", "nvme0n10"]);
    }

    #[test]
    fn counts_io_of_nvme_paths_at_their_namespace() {
        let line =
            |name: &str, reads: u64| format!("259 1 {name} {reads} 0 8 0 {reads} 0 8 0 0 0 0\n");
        let reads = |lines: [String; 4]| -> Vec<(String, u64, u64)> {
            let disks = parse(lines.concat().as_bytes()).unwrap();
            let name = |disk: &DiskStat| String::from_utf8(disk.name.clone()).unwrap();
            physical_disks(&disks).map(|disk| (name(disk), disk.reads, disk.read_bytes)).collect()
        };
        let paths = [line("nvme0c0n1", 3), line("nvme0c1n1", 4), line("nvme1n1", 9)];
        let [one, two, other] = paths.clone();
        let old_kernel = "259 1 nvme0n1 0 0 0 0 0 0 0 0 0 0 0\n".to_owned();
        let other_disk = ("nvme1n1".to_owned(), 9, 4096);
        assert_eq!(
            reads([old_kernel, one, two, other]),
            [("nvme0n1".to_owned(), 7, 8192), other_disk.clone()]
        );
        let [one, two, other] = paths;
        let counted = [("nvme0n1".to_owned(), 7, 4096), other_disk];
        assert_eq!(reads([line("nvme0n1", 7), one, two, other]), counted, "by the kernel");
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"8 x sda 1 2 3 4 5 6 7 8 9 10 11\n").is_err());
        assert!(parse(b"8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 many\n").is_err());
        assert!(parse(b"8 0 sda 1 2 3 4 5 6 seven 8 9 10 11\n").is_err());
        assert!(parse(b"8 0 sda 1 2 3 4 5 6 99999999999999999999 8 9 10 11\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
