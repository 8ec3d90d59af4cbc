//! Processes: a program that lives in memory only, and ends that cannot be missed.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::time::Duration;

use crate::sys::check;

/// A file without a name that can be run through `/proc/self/fd`; closed when a program is started.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    // Kernels from 6.3 on want to be told that it will be run, and older ones refuse to be told.
    const MFD_EXEC: libc::c_uint = 0x10;
    let create = |flags| {
        // SAFETY: the name is a C string; a descriptor that comes back is ours alone.
        check(unsafe { libc::memfd_create(name.as_ptr(), flags) })
    };
    let fd = create(libc::MFD_CLOEXEC | MFD_EXEC).or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => create(libc::MFD_CLOEXEC),
        _ => Err(error),
    })?;
    // SAFETY: `fd` is open and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// What the kernel calls this machine; `None`: nothing.
pub fn host_name() -> Option<String> {
    let mut name = [0u8; 256];
    // SAFETY: no more is written than there is said to be room for, which leaves a zero at the end.
    check(unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) }).ok()?;
    let name = CStr::from_bytes_until_nul(&name).ok()?.to_string_lossy();
    let name = name.trim_ascii();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Lets the kernel take back the memory of constant data that is not needed again soon; it is read from
/// the program's file if it is.
pub fn release_pages(constant: &'static [u8]) {
    let page = super::page_size_bytes() as usize;
    let start = constant.as_ptr() as usize;
    // Whole pages only: its neighbours are somebody else's.
    let (first, end) = (start.next_multiple_of(page), (start + constant.len()) / page * page);
    if first < end {
        let at = std::ptr::without_provenance_mut(first);
        // SAFETY: the range lies inside a constant, whose pages nobody has ever written to; dropping them
        // loses nothing. Should it fail, memory stays as it was.
        unsafe { libc::madvise(at, end - first, libc::MADV_DONTNEED) };
    }
}

/// Lets the kernel take back the memory of this program's own code and constants. It reads what is needed again from the
/// file; what was needed for starting only is most of it.
pub fn release_program() {
    extern "C" fn release(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        _: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the C library hands over valid information, whose program headers are as many as it says.
        let (base, headers) = unsafe {
            let info = &*info;
            (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
        };
        let page = super::page_size_bytes();
        // What can be written has been: by the program, or by whoever relocated it.
        let constant = |header: &&libc::Elf64_Phdr| {
            header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0
        };
        for header in headers.iter().filter(constant) {
            let start = (base + header.p_vaddr).next_multiple_of(page);
            let end = (base + header.p_vaddr + header.p_filesz) / page * page;
            if start < end {
                let at = std::ptr::without_provenance_mut(start as usize);
                // SAFETY: the range lies inside a segment that cannot be written, so it holds what the file holds.
                unsafe { libc::madvise(at, (end - start) as usize, libc::MADV_DONTNEED) };
            }
        }
        1 // the first one is the program itself
    }
    // SAFETY: the function has the signature that is asked for and needs no data.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
}

/// Has every open descriptor but the standard three end at this process: what whoever started it left open is not for
/// the programs that it starts.
pub fn keep_descriptors() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<libc::c_int> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > libc::STDERR_FILENO) {
        // SAFETY: it takes no pointers; one that is closed meanwhile is an error that changes nothing.
        unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// The clock that never jumps, as the kernel tells it to everybody: clock_gettime(2).
pub fn monotonic() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: there is room for the time. This clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Names this thread; that of the main one is what ps shows.
pub fn name_thread(name: &CStr) {
    // SAFETY: the name is a C string; the kernel copies it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// From now on this process is killed when the thread that started it ends, and at once if that has
/// happened already.
pub fn die_with_parent(parent: u32) {
    // SAFETY: neither call takes pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if u32::try_from(libc::getppid()) != Ok(parent) {
            libc::_exit(0);
        }
    }
}

/// From now on what is written to standard output goes to standard error.
pub fn stdout_to_stderr() -> io::Result<()> {
    // SAFETY: it takes no pointers; both descriptors are this process' standard ones, which nobody owns.
    check(unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) }).map(drop)
}

/// Ends this process without asking anybody: no destructor of a library can keep it.
pub fn end_now(code: i32) -> ! {
    // SAFETY: it takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// Kills a process group that a child of ours leads, with everybody in it. The child must not have been
/// waited for yet, so that its number is still its own.
pub fn kill_group(leader: u32) {
    if let Ok(leader) = libc::pid_t::try_from(leader)
        && leader > 1
    {
        // SAFETY: it takes no pointers.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// Sends a signal to a child of ours that has not been waited for yet.
pub fn signal(child: u32, signal: i32) {
    if let Ok(child) = libc::pid_t::try_from(child)
        && child > 1
    {
        // SAFETY: it takes no pointers.
        unsafe { libc::kill(child, signal) };
    }
}
