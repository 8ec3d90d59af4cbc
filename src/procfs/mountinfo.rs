//! `/proc/self/mountinfo`: the mount table.
//!
//! Format: kernel `Documentation/filesystems/proc.rst` 3.5. A real line:
//!
//! ```text
//! 27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
//! ```

use crate::procfs::{ParseError, fields, lines};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `major:minor`, the same for all mounts of a filesystem.
    pub device_number: Vec<u8>,
    /// Directory within the filesystem; `/` unless this is a bind mount or subvolume.
    pub root: Vec<u8>,
    /// Any bytes.
    pub mount_point: Vec<u8>,
    /// E.g. `ext4`.
    pub fs_type: Vec<u8>,
    /// E.g. `/dev/vda` or `server:/export`.
    pub source: Vec<u8>,
    /// The root of the filesystem or of a btrfs subvolume, not a directory or file within.
    pub is_whole: bool,
    /// This mount, or the filesystem as a whole.
    pub read_only: bool,
    /// Only this mount may be read-only, not the filesystem, so that statvfs is no evidence. Not part of the file; the parser sets
    /// it to false.
    pub ro_mount_only: bool,
}

pub fn parse(text: &[u8]) -> Result<Vec<Mount>, ParseError> {
    let mut mounts = Vec::new();
    for (at, line) in lines(text) {
        mounts.extend(parse_line(at, line)?);
    }
    Ok(mounts)
}

/// Parses one line. The table of a host with thousands of containers has megabytes. `None` if the line is empty.
pub fn parse_line(at: usize, line: &[u8]) -> Result<Option<Mount>, ParseError> {
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    mount(line).map(Some).ok_or_else(|| ParseError::new(at, "a mount", line))
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = fields(line).skip(2);
    let device_number = fields.next()?;
    let root = fields.next()?;
    let mount_point = fields.next()?;
    let options = fields.next()?;
    // Any number of optional fields, terminated by a hyphen.
    fields.find(|field| *field == b"-")?;
    let fs_type = fields.next()?;
    // An empty source leaves one field fewer; the options are always last.
    let rest: Vec<&[u8]> = fields.collect();
    let (super_options, source) = rest.split_last()?;
    // ext4 does not set "ro", nor statvfs's flag, after an error since Linux 6.12, and "emergency_ro" since 6.15.
    let means_read_only = |option: &[u8]| option == b"ro" || option == b"emergency_ro";
    let is_read_only = |options: &[u8]| options.split(|&byte| byte == b',').any(means_read_only);
    let mut super_parts = super_options.split(|&byte| byte == b',');
    let subvolume = super_parts.find_map(|option| option.strip_prefix(b"subvol="));
    Some(Mount {
        device_number: device_number.to_vec(),
        root: unescape(root),
        is_whole: root == b"/" || subvolume == Some(root),
        mount_point: unescape(mount_point),
        fs_type: fs_type.to_vec(),
        source: source.first().map(|source| unescape(source)).unwrap_or_default(),
        read_only: is_read_only(options) || is_read_only(super_options),
        ro_mount_only: false,
    })
}

/// The kernel escapes space, tab, newline and backslash as `\040`, `\011`, `\012`, `\134`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail.split_at_checked(3)) {
            (b'\\', Some((digits, after))) if octal(digits).is_some() => {
                out.extend(octal(digits));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0u8, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 7)?;
        sum.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 35 98:0 /mnt1 /mnt2 ro,noatime master:1 propagate_from:2 - ext3 /dev/root rw,errors=continue
40 27 0:50 / /mnt/with\\040space\\011tab rw shared:7 - nfs4 nas:/a\\134b rw,vers=4.2
";

    #[test]
    fn parses_a_real_sample() {
        let mounts = parse(REAL).unwrap();
        assert_eq!(mounts.len(), 4);
        assert_eq!((&mounts[1].fs_type[..], mounts[1].read_only), (&b"ext4"[..], false));
        assert_eq!((&mounts[2].root[..], mounts[2].read_only), (&b"/mnt1"[..], true));
        assert_eq!(mounts[2].source, b"/dev/root");
        assert_eq!(mounts[3].mount_point, b"/mnt/with space\ttab");
        assert_eq!(mounts[3].source, b"nas:/a\\b");
    }

    #[test]
    fn filesystem_that_stopped_writing_after_an_error_is_read_only() {
        let line = b"29 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw,emergency_ro,errors=remount-ro\n";
        assert!(parse(line).unwrap()[0].read_only);
    }

    #[test]
    fn tells_subvolumes_from_bind_mounts() {
        let is_whole = |root: &str, options: &str| {
            let line = format!("29 1 0:25 {root} / rw - btrfs /dev/a rw,space_cache,{options}\n");
            parse(line.as_bytes()).unwrap()[0].is_whole
        };
        assert!(is_whole("/", "subvolid=5,subvol=/") && is_whole("/@", "subvolid=256,subvol=/@"));
        assert!(is_whole("/", "discard") && !is_whole("/srv", "discard"));
        assert!(!is_whole("/@/srv", "subvolid=256,subvol=/@"));
    }

    #[test]
    fn parses_line_with_empty_source() {
        let mounts = parse(b"27 1 0:30 / /x rw - tmpfs  rw\n").unwrap();
        assert_eq!((&mounts[0].source[..], &mounts[0].fs_type[..]), (&b""[..], &b"tmpfs"[..]));
    }

    #[test]
    fn keeps_invalid_escapes() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"a\\999b"), b"a\\999b");
        assert_eq!(unescape(b"a\\777b"), b"a\\777b", "overflows a byte");
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"27 1 254:0 / / rw,relatime ext4 /dev/vda rw\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
