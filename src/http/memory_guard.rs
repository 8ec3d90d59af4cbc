//! Whether there is memory for another connection: in this process's address space, and in its control group, whose limit
//! the kernel keeps by killing.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::limits;
use crate::procfs::{cgroup, decimal};

/// A control group whose memory is limited. Its files stay open: they are read for each connection, and when there are no
/// descriptors left.
struct Group {
    limit: File,
    usage: File,
    stat: File,
}

/// Fails where there is no room for another connection and what those who are inside may need meanwhile.
pub fn check() -> io::Result<()> {
    static OWN: OnceLock<Option<Group>> = OnceLock::new();
    check_allocation(limits::HEADROOM_BYTES)?;
    match OWN.get_or_init(|| Group::own(Path::new("/sys/fs/cgroup"))) {
        Some(group) if !group.has_room() => {
            Err(io::Error::other("the memory of its control group is nearly used up"))
        }
        _ => Ok(()),
    }
}

/// Fails if so much memory cannot be allocated.
fn check_allocation(bytes: usize) -> io::Result<()> {
    let mut allocation = Vec::<u8>::new();
    allocation.try_reserve_exact(bytes).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
    // Without this the compiler may leave out an allocation that is not used.
    std::hint::black_box(&allocation);
    Ok(())
}

impl Group {
    /// The nearest one around this process that has a limit.
    fn own(mounted: &Path) -> Option<Self> {
        let text = std::fs::read("/proc/self/cgroup").ok()?;
        let group = cgroup::parse(&text).ok()?;
        let root = if group.unified { mounted.to_owned() } else { mounted.join("memory") };
        let inside = Path::new(OsStr::from_bytes(&group.path));
        let below = root.join(inside.strip_prefix("/").ok()?);
        // A container sees its own group as the root, under whatever name.
        below
            .ancestors()
            .take_while(|at| at.starts_with(&root))
            .find_map(|at| Self::at(at, group.unified))
    }

    fn at(directory: &Path, unified: bool) -> Option<Self> {
        let names = match unified {
            true => ["memory.max", "memory.current", "memory.stat"],
            false => ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"],
        };
        let open = |name| File::open(directory.join(name)).ok();
        let group = Self { limit: open(names[0])?, usage: open(names[1])?, stat: open(names[2])? };
        // Version 1 has no word for "none", but a number near 2^63.
        (number(&group.limit)? < 1 << 60).then_some(group)
    }

    /// True also where it cannot be told.
    fn has_room(&self) -> bool {
        let (Some(limit), Some(usage)) = (number(&self.limit), number(&self.usage)) else {
            return true;
        };
        let most = limit - limit.min(limits::GROUP_HEADROOM_BYTES.min(limit / 8));
        usage <= most || usage.saturating_sub(self.reclaimable()) <= most
    }

    /// Files that the kernel keeps count as used, and go when the memory is needed.
    fn reclaimable(&self) -> u64 {
        let mut text = [0; 8 << 10];
        let read = self.stat.read_at(&mut text, 0).unwrap_or(0);
        cgroup::parse_reclaimable(&text[..read])
    }
}

/// The number in a file; `None`: it says "max", or nothing.
fn number(file: &File) -> Option<u64> {
    let mut text = [0; 32];
    let read = file.read_at(&mut text, 0).ok()?;
    decimal(text[..read].trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_room_until_little_is_left_that_cannot_be_taken_back() {
        let directory = std::env::temp_dir().join(format!("hm-room-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
        write("memory.stat", "inactive_file 4000\nactive_file 6000\n");
        write("memory.current", "700000\n");
        write("memory.max", "max\n");
        assert!(Group::at(&directory, true).is_none() && Group::at(&directory, false).is_none());
        write("memory.max", "800000\n");
        let group = Group::at(&directory, true).unwrap();
        for (used, has_room) in [("700000", true), ("710000", true), ("710001", false), ("", true)]
        {
            write("memory.current", used);
            assert_eq!(group.has_room(), has_room, "{used}");
        }
        write("memory.max", "max");
        write("memory.current", "710001");
        assert!(group.has_room(), "it has no limit any more");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
