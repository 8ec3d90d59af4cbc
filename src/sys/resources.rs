//! Limits of this process: memory and open files.

use std::io;
use std::num::NonZero;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// Size of a memory page, in bytes.
pub fn page_size_bytes() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// Fails if `bytes` more cannot be mapped. An allocation would not tell: the allocator may have a free block.
pub fn check_mappable(bytes: usize) -> io::Result<()> {
    let Some(length) = NonZero::new(bytes) else { return Ok(()) };
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses an address that nothing else uses.
    let mapping = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE) }?;
    // SAFETY: the mapping is the one above, and there are no references into it.
    Ok(unsafe { munmap(mapping, bytes) }?)
}

/// The soft limit of open files that this process was started with, if it has raised it.
static INHERITED_DESCRIPTOR_LIMIT: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit of open files to the hard limit: every connection is a descriptor, and the usual soft limit is
/// 1024.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let _ = INHERITED_DESCRIPTOR_LIMIT.set(soft); // a second call keeps the first value
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Starts a program with the soft limit of open files that this process was started with: old programs use select(2), and
/// some close every descriptor up to the limit, one by one.
pub fn restore_descriptor_limit_in(command: &mut Command) {
    let Some(soft) = INHERITED_DESCRIPTOR_LIMIT.get().copied() else { return };
    let restore = move || {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
    };
    // SAFETY: it runs between fork and exec, allocates nothing and makes system calls only.
    unsafe { command.pre_exec(restore) };
}

/// The soft limit of this process's address space; `u64::MAX` if there is none.
pub fn address_space_limit_bytes() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_AS)?.0)
}

/// The soft limit of open files of this process.
pub fn descriptor_limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}
