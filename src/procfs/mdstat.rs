//! `/proc/mdstat`: software RAID arrays.
//!
//! Format: `md_seq_show` and `status_resync` of the kernel's `drivers/md/md.c`. A line with the members of the array, then indented
//! lines with its size and, if it is not complete, its progress. A real array of which a disk is replaced:
//!
//! ```text
//! md127 : active raid1 nvme1n1p2[2] nvme0n1p2[0](F)
//!       1048512 blocks super 1.2 [2/1] [_U]
//!       [===>.................]  recovery = 16.0% (168320/1048512) finish=0.2min speed=56106K/sec
//! ```

use crate::procfs::{ParseError, fields, lines};
use crate::util::text::parse_decimal;

/// A host has a handful. Lines of more arrays are skipped.
const MAX_ARRAYS: usize = 256;

/// An array; `None`: the line with the value is missing or odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MdArray {
    /// Name of the block device: `md127`.
    pub device: String,
    pub state: MdState,
    /// Number of disks of the complete array; 0 if it is inactive.
    pub required_disks: Option<u64>,
    pub active_disks: Option<u64>,
    pub failed_disks: u64,
    pub spare_disks: u64,
    /// Blocks of 1024 bytes.
    pub blocks: Option<u64>,
    /// Those that are in sync.
    pub synced_blocks: Option<u64>,
}

/// What the array does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MdState {
    Active,
    Inactive,
    /// A disk is being replaced.
    Recovery,
    Resync,
    Check,
    Reshape,
    /// The array lacks too many disks, or the kernel has a new state.
    Other,
}

/// An odd line costs its array the value, and the others nothing. Returns an error if the text is not that of the file.
pub fn parse(text: &[u8]) -> Result<Vec<MdArray>, ParseError> {
    if !text.starts_with(b"Personalities :") {
        return Err(ParseError::missing("the line of personalities"));
    }
    let mut arrays: Vec<MdArray> = Vec::new();
    // Indented lines belong to an array.
    let mut within = false;
    for (_, line) in lines(text) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some(array) = arrays.last_mut().filter(|_| within) {
                add_line(array, line);
            }
            continue;
        }
        let array = parse_first_line(line).filter(|_| arrays.len() < MAX_ARRAYS);
        within = array.is_some();
        arrays.extend(array);
    }
    Ok(arrays)
}

/// `md3 : active (auto-read-only) raid6 sda1[8](F) sdd1[10](S)`; `None` for other lines.
fn parse_first_line(line: &[u8]) -> Option<MdArray> {
    let mut words = fields(line);
    let device = words.next().filter(|_| words.next() == Some(b":"))?;
    let state = match words.next()? {
        b"active" => MdState::Active,
        b"inactive" => MdState::Inactive,
        _ if device.starts_with(b"md") => MdState::Other,
        _ => return None,
    };
    let members: Vec<&[u8]> = words.filter(|word| word.contains(&b'[')).collect();
    let flagged = |flag: &[u8]| {
        let has_flag = |member: &&&[u8]| member.windows(flag.len()).any(|part| part == flag);
        members.iter().filter(has_flag).count() as u64
    };
    // Arrays without redundancy need all members and print no other number. An inactive one has no members in use.
    let disks = Some(if state == MdState::Inactive { 0 } else { members.len() as u64 });
    Some(MdArray {
        device: String::from_utf8_lossy(device).into_owned(),
        state,
        required_disks: disks,
        active_disks: disks,
        failed_disks: flagged(b"(F)"),
        spare_disks: flagged(b"(S)"),
        blocks: None,
        synced_blocks: None,
    })
}

fn add_line(array: &mut MdArray, line: &[u8]) {
    let mut words = fields(line);
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    if second == Some(b"blocks") {
        array.blocks = parse_decimal(first);
        array.synced_blocks = array.blocks;
        if let Some(disks) = words.find_map(|word| ratio(word, b'[', b']'))
            && array.state != MdState::Inactive
        {
            (array.required_disks, array.active_disks) = disks;
        }
    } else if let Some((state, is_waiting)) = fields(line).find_map(action) {
        array.state = state;
        let progress = fields(line).find_map(|word| ratio(word, b'(', b')'));
        array.synced_blocks = match progress {
            _ if is_waiting => Some(0),
            Some((synced, _)) => synced,
            None => None,
        };
    }
}

/// `recovery` of a line of progress, or `resync=DELAYED` of an array that waits for another one.
fn action(word: &[u8]) -> Option<(MdState, bool)> {
    let mut parts = word.splitn(2, |&byte| byte == b'=');
    let state = match parts.next()? {
        b"recovery" => MdState::Recovery,
        b"resync" => MdState::Resync,
        b"check" => MdState::Check,
        b"reshape" => MdState::Reshape,
        _ => return None,
    };
    Some((state, parts.next().is_some_and(|value| !value.is_empty())))
}

/// `[8/7]` or `(168320/1048512)`; a number that overflows is `None`.
fn ratio(word: &[u8], open: u8, close: u8) -> Option<(Option<u64>, Option<u64>)> {
    let inner = word.strip_prefix(&[open])?.strip_suffix(&[close])?;
    let at = inner.iter().position(|&byte| byte == b'/')?;
    let (first, second) = inner.split_at_checked(at)?;
    Some((parse_decimal(first), parse_decimal(second.get(1..)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    /// Arrays of the kernel's documentation, of mailing lists and of test machines.
    const REAL: &[u8] = b"Personalities : [linear] [multipath] [raid0] [raid1] [raid6] [raid5] [raid4] [raid10]
md3 : active raid6 sda1[8] sdh1[7] sdg1[6] sdf1[5] sde1[11] sdd1[3] sdc1[10] sdb1[9] sdd1[10](S) sdd2[11](S)
      5853468288 blocks super 1.2 level 6, 64k chunk, algorithm 2 [8/8] [UUUUUUUU]

md4 : inactive raid1 sda3[0](F) sdb3[1](S)
      4883648 blocks [2/2] [UU]

md6 : active raid1 sdb2[2](F) sdc[1](S) sda2[0]
      195310144 blocks [2/1] [U_]
      [=>...................]  recovery =  8.5% (16775552/195310144) finish=17.0min speed=259783K/sec

md7 : active raid6 sdb1[0] sde1[3] sdd1[2] sdc1[1](F)
      7813735424 blocks super 1.2 level 6, 512k chunk, algorithm 2 [4/3] [U_UU]
      bitmap: 0/30 pages [0KB], 65536KB chunk

md8 : active raid1 sdb1[1] sda1[0] sdc[2](S) sde[3](S)
      195310144 blocks [2/2] [UU]
      [=>...................]  resync =  8.5% (16775552/195310144) finish=17.0min speed=259783K/sec

md9 : active raid1 sdc2[2] sdd2[3] sdb2[1] sda2[0] sde[4](F) sdf[5](F) sdg[6](S)
      523968 blocks super 1.2 [4/4] [UUUU]
      \tresync=DELAYED

md10 : active raid0 sda1[0] sdb1[1]
      314159265 blocks 64k chunks

md11 : active (auto-read-only) raid1 sdb2[0] sdc2[1] sdc3[2](F) hda[4](S) ssdc2[3](S)
      4190208 blocks super 1.2 [2/2] [UU]
      resync=PENDING

md12 : active raid5 sdd1[3] sdc1[1] sdb1[0]
      3886394368 blocks super 1.0 level 5, 64k chunk, algorithm 2 [3/3] [UUU]
      [==>..................]  check = 11.1% (433024/3886394) finish=8.8min speed=72170K/sec
      bitmap: 1/15 pages [4KB], 65536KB chunk

md13 : broken raid0 sdb[1](F) sda[0]
      7932 blocks super external:imsm

unused devices: <none>
";

    fn array(device: &str) -> MdArray {
        parse(REAL).unwrap().into_iter().find(|each| each.device == device).unwrap()
    }

    #[test]
    fn parses_disks_of_all_kinds_of_arrays() {
        let disks = |device| {
            let MdArray { required_disks, active_disks, failed_disks, spare_disks, .. } =
                array(device);
            (required_disks.unwrap(), active_disks.unwrap(), failed_disks, spare_disks)
        };
        assert_eq!(parse(REAL).unwrap().len(), 10);
        assert_eq!(disks("md3"), (8, 8, 0, 2));
        assert_eq!(disks("md4"), (0, 0, 1, 1));
        assert_eq!(disks("md6"), (2, 1, 1, 1));
        assert_eq!(disks("md7"), (4, 3, 1, 0));
        assert_eq!(disks("md9"), (4, 4, 2, 1));
        assert_eq!(disks("md10"), (2, 2, 0, 0));
        assert_eq!(disks("md11"), (2, 2, 1, 2));
    }

    #[test]
    fn parses_state_and_progress() {
        let progress = |device| {
            let MdArray { state, blocks, synced_blocks, .. } = array(device);
            (state, blocks.unwrap(), synced_blocks.unwrap())
        };
        assert_eq!(progress("md3"), (MdState::Active, 5_853_468_288, 5_853_468_288));
        assert_eq!(progress("md4"), (MdState::Inactive, 4_883_648, 4_883_648));
        assert_eq!(progress("md6"), (MdState::Recovery, 195_310_144, 16_775_552));
        assert_eq!(progress("md7"), (MdState::Active, 7_813_735_424, 7_813_735_424));
        assert_eq!(progress("md8"), (MdState::Resync, 195_310_144, 16_775_552));
        assert_eq!(progress("md9"), (MdState::Resync, 523_968, 0));
        assert_eq!(progress("md11"), (MdState::Resync, 4_190_208, 0));
        assert_eq!(progress("md12"), (MdState::Check, 3_886_394_368, 433_024));
        assert_eq!(progress("md13"), (MdState::Other, 7932, 7932));
    }

    #[test]
    fn odd_line_costs_only_its_array_the_value() {
        let text = b"Personalities : [raid1]
md0 : active raid1 sda[0] sdb[1]
      99999999999999999999 blocks [2/99999999999999999999] [UU]
      [>....]  recovery = ?
md1 :
md2 : active raid1 sdc[0] sdd[1]
      42 blocks [2/2] [UU]
      a line of a newer kernel
";
        let arrays = parse(text).unwrap();
        let [md0, md2] = &arrays[..] else { panic!("{arrays:?}") };
        assert_eq!((md0.required_disks, md0.active_disks), (Some(2), None));
        assert_eq!((md0.state, md0.blocks, md0.synced_blocks), (MdState::Recovery, None, None));
        assert_eq!((&*md2.device, md2.blocks), ("md2", Some(42)));
    }

    #[test]
    fn no_arrays_and_malformed_text() {
        assert_eq!(parse(b"Personalities : \nunused devices: <none>\n"), Ok(Vec::new()));
        assert!(parse(b"").is_err() && parse(b"md0 : active\n").is_err());
        parse_every_prefix(REAL, parse);
        let many = format!("Personalities :\n{}", "md0 : active raid1 sda[0]\n".repeat(300));
        assert_eq!(parse(many.as_bytes()).unwrap().len(), MAX_ARRAYS);
    }
}
