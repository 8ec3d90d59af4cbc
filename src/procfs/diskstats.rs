//! `/proc/diskstats`: what every block device has done since boot.
//!
//! Format: kernel `Documentation/admin-guide/iostats.rst`. A real line (further columns came later):
//!
//! ```text
//!  254       0 vda 30462 4386 1652106 5221 21520 11042 1053968 17338 0 10568 23110 0 0 0 0 1025 550
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// The kernel counts in sectors of 512 bytes, whatever the device's own sectors are.
const SECTOR_BYTES: u64 = 512;

/// One block device. Counters are since boot; the kernel's may wrap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskStat {
    /// Name under `/dev`, any bytes.
    pub name: Vec<u8>,
    /// Its number, major and minor.
    pub number: (u64, u64),
    /// Reads completed.
    pub reads: u64,
    /// Reads that were joined with others.
    pub reads_merged: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Time spent reading, summed over requests, in milliseconds.
    pub read_milliseconds: u64,
    /// Writes completed.
    pub writes: u64,
    /// Writes that were joined with others.
    pub writes_merged: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Time spent writing, summed over requests, in milliseconds.
    pub write_milliseconds: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// Time in which at least one request was in flight, in milliseconds.
    pub busy_milliseconds: u64,
    /// `busy` weighted with the requests in flight, in milliseconds.
    pub weighted_milliseconds: u64,
    /// Space given back; kernels before 4.18 do not count it.
    pub discards: Option<Discards>,
    /// Flushes of the device's own cache, and the time spent on them in milliseconds; kernels before 5.5 do not
    /// count them.
    pub flushes: Option<(u64, u64)>,
}

/// Space that was given back to a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // as for reads and writes
pub struct Discards {
    pub completed: u64,
    pub merged: u64,
    /// Of 512 bytes.
    pub sectors: u64,
    pub milliseconds: u64,
}

/// Parses `/proc/diskstats`. Lines shorter than eleven counters (partitions before 2.6.25) are left out.
pub fn parse(text: &[u8]) -> Result<Vec<DiskStat>, ParseError> {
    let mut disks = Vec::new();
    for (at, line) in lines(text) {
        if fields(line).count() < 14 {
            continue;
        }
        disks.push(disk(at, fields(line))?);
    }
    Ok(disks)
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

/// Keeps the devices a person calls a disk: no memory or loop device, and no partition of a device
/// that is listed itself (`sda1` beside `sda`, `nvme0n1p2` beside `nvme0n1`).
pub fn whole_disks(disks: &[DiskStat]) -> impl Iterator<Item = &DiskStat> {
    // In order, so that a machine of a thousand disks costs no million comparisons.
    let mut names: Vec<&[u8]> = disks.iter().map(|disk| &disk.name[..]).collect();
    names.sort_unstable();
    let is_listed = move |name: &[u8]| names.binary_search(&name).is_ok();
    disks.iter().filter(move |disk| {
        let virtual_device = [&b"ram"[..], b"zram", b"loop", b"fd", b"sr"]
            .iter()
            .any(|prefix| disk.name.strip_prefix(*prefix).is_some_and(is_number));
        !virtual_device && !whose_partition(&disk.name).is_some_and(&is_listed)
    })
}

/// The disk whose partition this would be.
fn whose_partition(name: &[u8]) -> Option<&[u8]> {
    let mut base = name;
    while let [shorter @ .., b'0'..=b'9'] = base {
        base = shorter;
    }
    match base {
        _ if base.len() == name.len() => None,
        // The name of a disk that ends in a digit is told from the partition's number by this letter.
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
    use crate::procfs::testing::survives_every_cut;

    const REAL: &[u8] = b" 254       0 vda 30462 4386 1652106 5221 21520 11042 1053968 17338 1 10568 23110 0 0 0 0 1025 550
   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0
   1       0 ram0 0 0 0 0 0 0 0 0 0 0 0
";

    #[test]
    fn a_real_sample() {
        let disks = parse(REAL).unwrap();
        let vda = &disks[0];
        assert_eq!((&vda.name[..], vda.reads, vda.writes), (&b"vda"[..], 30462, 21520));
        assert_eq!((vda.read_bytes, vda.written_bytes), (1652106 * 512, 1053968 * 512));
        assert_eq!((vda.in_flight, vda.busy_milliseconds), (1, 10568));
        assert_eq!((vda.read_milliseconds, vda.write_milliseconds), (5221, 17338));
        assert_eq!(vda.weighted_milliseconds, 23110);
        assert_eq!((vda.number, vda.reads_merged, vda.writes_merged), ((254, 0), 4386, 11042));
        assert_eq!((vda.discards, vda.flushes), (Some(Discards::default()), Some((1025, 550))));
        assert_eq!((disks[1].discards, disks[1].flushes), (None, None), "an older kernel's line");
    }

    #[test]
    fn partitions_before_2_6_25_are_left_out() {
        assert_eq!(parse(b"   8       1 sda1 35486 38030 38030 38030\n"), Ok(vec![]));
    }

    #[test]
    fn partitions_and_memory_devices_are_no_disks() {
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
    fn refuses_what_it_does_not_understand() {
        assert!(parse(b"8 x sda 1 2 3 4 5 6 7 8 9 10 11\n").is_err());
        assert!(parse(b"8 0 sda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 many\n").is_err());
        assert!(parse(b"8 0 sda 1 2 3 4 5 6 seven 8 9 10 11\n").is_err());
        assert!(parse(b"8 0 sda 1 2 3 4 5 6 99999999999999999999 8 9 10 11\n").is_err());
        survives_every_cut(REAL, parse);
    }
}
