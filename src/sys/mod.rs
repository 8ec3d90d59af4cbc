//! The only unsafe code: what the standard library has no words for. Each function is a thin,
//! safe wrapper of one system call, and says in its SAFETY line why the call is sound.
#![allow(unsafe_code)]

pub mod children;
pub mod net;
#[cfg(feature = "gpu-probe")]
pub mod nvml;
pub mod process;
pub mod service;
pub mod signals;
pub mod users;

pub use crate::sys::signals::*;

use std::ffi::{CStr, CString};
use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A counter of the kernel that threads can poll: readable from `ring` until `clear`.
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Not readable yet.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers; a descriptor it returns is ours alone.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: `fd` is open and owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Wakes everybody who polls it.
    pub fn notify(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is the eight bytes that eventfd wants. It fails only when the counter is
        // full, and then it is readable already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes it unreadable.
    pub fn reset(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is the eight bytes that eventfd fills. It fails only when there is nothing
        // to clear.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It can be read, or its other end is gone.
    Readable,
    /// It can be written, or its other end is gone.
    Writable,
    /// It is not what it was when it was last asked: proc_pid_mounts(5).
    Changed,
}

/// Waits for one of the descriptors, at most `timeout` (`None`: for ever). Says which are ready; none
/// after a timeout or an interruption.
pub fn wait<const N: usize>(
    fds: [(BorrowedFd<'_>, Until); N],
    timeout: Option<Duration>,
) -> [bool; N] {
    let events = |until| match until {
        Until::Readable => libc::POLLIN,
        Until::Writable => libc::POLLOUT,
        Until::Changed => libc::POLLPRI,
    };
    let mut polled = fds.map(|(fd, until)| libc::pollfd {
        fd: fd.as_raw_fd(),
        events: events(until),
        revents: 0,
    });
    // Rounded up: a deadline that is not reached yet must not spin.
    let milliseconds = timeout.map_or(-1, |timeout| {
        libc::c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: `polled` is an array of N initialised structures, borrowed for the call.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, milliseconds) };
    polled.map(|fd| ready > 0 && fd.revents != 0)
}

/// Waits until one of the descriptors can be read; see [`wait`].
pub fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> [bool; N] {
    wait(fds.map(|fd| (fd, Until::Readable)), timeout)
}

/// What a listening socket passes on to every connection it accepts, so that it is set once.
pub struct SocketOptions {
    /// See listen(2).
    pub backlog: i32,
    /// Kernel's send buffer, in bytes.
    pub send_buffer_bytes: i32,
    /// Idle time, interval and count of keepalive probes, in seconds.
    pub keepalive_seconds: (i32, i32, i32),
    /// How long sent data may stay unconfirmed.
    pub unconfirmed: Duration,
}

/// Sets what connections inherit. `listen` a second time only changes the backlog.
pub fn set_listener_options(listener: &TcpListener, options: &SocketOptions) -> io::Result<()> {
    let fd = listener.as_fd();
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, options.send_buffer_bytes)?;
    net::notice_loss(fd, options.keepalive_seconds, options.unconfirmed)?;
    // SAFETY: listen takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), options.backlog) }).map(drop)
}

fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let (value, length) = (&raw const value, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `value` points to an int that outlives the call, and `length` is its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.cast(), length) }).map(drop)
}

/// A file system's size in bytes, and its inodes; see statvfs(3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FsSize {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub available_bytes: u64,
    pub files: u64,
    pub files_free: u64,
    pub read_only: bool,
}

/// Asks a file system for its size. On a dead network mount this never returns.
pub fn statvfs(path: &Path) -> io::Result<FsSize> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a C string and `found` has room for the structure; both outlive the call.
    check(unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it has filled the structure.
    let found = unsafe { found.assume_init() };
    let bytes = |blocks: libc::fsblkcnt_t| blocks.saturating_mul(found.f_frsize);
    Ok(FsSize {
        total_bytes: bytes(found.f_blocks),
        free_bytes: bytes(found.f_bfree),
        available_bytes: bytes(found.f_bavail),
        files: found.f_files,
        files_free: found.f_ffree,
        read_only: found.f_flag & libc::ST_RDONLY != 0,
    })
}

/// Size of a memory page, in bytes.
pub fn page_size_bytes() -> u64 {
    // SAFETY: sysconf takes no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// The soft limit of open files that this process was started with, if it has raised it.
static DESCRIPTOR_LIMIT: OnceLock<libc::rlim_t> = OnceLock::new();

/// Lets this process open as many descriptors as it may: every connection is one, and the usual soft
/// limit is 1024.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a structure that outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    let _ = DESCRIPTOR_LIMIT.set(limit.rlim_cur); // once is all there is
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the call only reads it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

/// Has a program start with the limit of open files that this process was started with: old programs use select(2), and some
/// close whatever might be open, one by one.
pub fn lower_descriptor_limit_in(command: &mut Command) {
    let Some(soft) = DESCRIPTOR_LIMIT.get().copied() else { return };
    let lower = move || {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a structure that outlives both calls; the second one only reads it.
        unsafe {
            check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
            limit.rlim_cur = soft.min(limit.rlim_max);
            check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)).map(drop)
        }
    };
    // SAFETY: it runs between fork and exec, allocates nothing and makes system calls only.
    unsafe { command.pre_exec(lower) };
}

/// How many descriptors this process may open.
pub fn descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a structure that outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit.rlim_cur)
}

/// Starts a thread that nobody joins, with a stack of at least so many bytes.
///
/// Not `std::thread`: that maps a second stack for signals with each thread, four mappings instead of two
/// of the 65 530 a process may have, and panics when there is no room for it. Here a thread for which
/// there is no room is an error.
pub fn start_thread(
    name: &'static CStr,
    stack_bytes: usize,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<()> {
    extern "C" fn run(start: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: `start` is the pointer that `start_thread` made of a box, given to this thread alone.
        let Start { name, work } = *unsafe { Box::from_raw(start.cast::<Start>()) };
        process::name_thread(name);
        work();
        std::ptr::null_mut()
    }
    struct Start {
        name: &'static CStr,
        work: Box<dyn FnOnce() + Send>,
    }
    if cfg!(miri) {
        // It knows no threads but those.
        return std::thread::Builder::new().spawn(work).map(drop);
    }
    // These functions return the error instead of setting errno.
    let check = |error| if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) };
    let start = Box::into_raw(Box::new(Start { name, work }));
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: the attributes are initialised by the first call before the others use and destroy them;
    // `run` has the signature that pthread_create asks for and gets the pointer it expects.
    let started = unsafe {
        let attributes = attributes.as_mut_ptr();
        check(libc::pthread_attr_init(attributes)).and_then(|()| {
            let started = check(libc::pthread_attr_setstacksize(attributes, stack_bytes))
                .and_then(|()| {
                    let detached = libc::PTHREAD_CREATE_DETACHED;
                    check(libc::pthread_attr_setdetachstate(attributes, detached))
                })
                .and_then(|()| {
                    check(libc::pthread_create(thread.as_mut_ptr(), attributes, run, start.cast()))
                });
            libc::pthread_attr_destroy(attributes);
            started
        })
    };
    if started.is_err() {
        // SAFETY: no thread was started, so the box is still ours.
        drop(unsafe { Box::from_raw(start) });
    }
    started
}

/// Whether so much memory can still be had, by taking it and giving it back untouched.
pub fn check_room(bytes: usize) -> io::Result<()> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new anonymous mapping overlaps nothing.
    let mapping = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
    if mapping == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is the mapping made above, which nobody else knows.
    check(unsafe { libc::munmap(mapping, bytes) }).map(drop)
}

/// Threads that may borrow what outlives `'env`: [`crew`] does not return before the last one has ended.
pub struct Crew<'env> {
    at_work: Arc<AtWork>,
    // Invariant in 'env, as in std::thread::scope: what is borrowed must not be shortened.
    env: PhantomData<&'env mut &'env ()>,
}

/// How many of a crew have not ended yet.
#[derive(Default)]
struct AtWork {
    count: Mutex<usize>,
    changed: Condvar,
}

impl AtWork {
    fn change(&self, by: isize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add_signed(by);
        self.changed.notify_all();
    }

    fn wait_for_all(&self) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(count, |count| *count > 0));
    }
}

/// Does something for the crew when it is dropped.
struct AtEnd(Arc<AtWork>, fn(&AtWork));

impl Drop for AtEnd {
    fn drop(&mut self) {
        (self.1)(&self.0);
    }
}

/// Runs `lead` with a crew and waits for everybody whom it started.
pub fn crew<'env, R>(lead: impl FnOnce(&Crew<'env>) -> R) -> R {
    let crew = Crew { at_work: Arc::default(), env: PhantomData };
    // Dropped also when `lead` panics.
    let _wait = AtEnd(crew.at_work.clone(), AtWork::wait_for_all);
    lead(&crew)
}

impl<'env> Crew<'env> {
    /// Starts a thread. If there is no room for one, `work` is dropped and the error says why.
    pub fn start(
        &self,
        name: &'static CStr,
        stack_bytes: usize,
        work: impl FnOnce() + Send + 'env,
    ) -> io::Result<()> {
        self.at_work.change(1);
        let leave = AtEnd(self.at_work.clone(), |at_work| at_work.change(-1));
        let work: Box<dyn FnOnce() + Send + 'env> = Box::new(move || {
            // Moved in here first, so it is dropped after all that `work` has borrowed.
            let _leave = leave;
            work();
        });
        // SAFETY: only the lifetime changes. `crew` returns, and 'env can end, when every `leave` has been
        // dropped: by the thread after `work`, or with the box if no thread was started.
        let work: Box<dyn FnOnce() + Send> = unsafe { std::mem::transmute(work) };
        start_thread(name, stack_bytes, work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_readable_from_ring_to_clear() {
        let event = EventFd::new().expect("an event");
        assert_eq!(wait_readable([event.as_fd()], Some(Duration::ZERO)), [false]);
        event.notify();
        assert_eq!(wait_readable([event.as_fd()], None), [true]);
        event.reset();
        assert_eq!(wait_readable([event.as_fd()], Some(Duration::ZERO)), [false]);
    }

    #[test]
    fn the_root_file_system_has_a_size() {
        let size = statvfs(Path::new("/")).expect("statvfs of /");
        assert!(size.total_bytes > 0 && size.free_bytes >= size.available_bytes);
        assert!(statvfs(Path::new("/nonexistent")).is_err());
        assert!(statvfs(Path::new("with\0nul")).is_err());
    }

    #[test]
    fn a_crew_may_borrow_and_is_waited_for() {
        let sum = Mutex::new(0);
        crew(|crew| {
            for number in 1..=100 {
                let sum = &sum;
                crew.start(c"test", 64 << 10, move || {
                    std::thread::yield_now();
                    *sum.lock().unwrap() += number;
                })
                .expect("a thread");
            }
        });
        assert_eq!(sum.into_inner().unwrap(), 5050);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it has room for everything")]
    fn a_thread_without_room_is_an_error_and_its_work_is_dropped() {
        let held = Arc::new(());
        let work = held.clone();
        crew(|crew| {
            assert!(crew.start(c"test", 1 << 60, move || drop(work)).is_err());
        });
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
