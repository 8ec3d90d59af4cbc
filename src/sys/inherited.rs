//! What a program inherits besides descriptors and variables: the session keyring, scheduling, protection from the OOM killer.
//! These functions allocate nothing, so they can run between fork and exec.

use std::io;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::write;

use crate::sys::check;

/// Leaves the inherited session keyring for a new, empty one: session-keyring(7). That of root, for instance, may hold keys of
/// filesystems.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let no_name = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name it takes no pointers.
    let joined = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, no_name) as libc::c_int
    });
    match joined {
        // Kernels without keyrings, and system-call filters of service managers and containers, which programs inherit: then
        // no program can use a key.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        joined => joined.map(drop),
    }
}

/// Gives up real-time scheduling, for the processor and for disks, and a priority above the usual one.
pub fn reset_scheduling() -> io::Result<()> {
    const IOPRIO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_SHIFT: i64 = 13;
    const IOPRIO_CLASS_RT: i64 = 1;
    // SAFETY: the parameters are numbers, and only read; the other calls take no pointers. System calls, because musl's
    // functions of that name always fail.
    unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        let policy = libc::syscall(libc::SYS_sched_getscheduler, 0) as libc::c_int;
        let is_usual = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE]
            .contains(&(policy & !libc::SCHED_RESET_ON_FORK));
        if !is_usual {
            let set = libc::SYS_sched_setscheduler;
            check(libc::syscall(set, 0, libc::SCHED_OTHER, &raw const parameters) as libc::c_int)?;
        }
        // The kernel returns 20 minus the priority: getpriority(2).
        if libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, 0) > 20 {
            check(libc::setpriority(libc::PRIO_PROCESS, 0, 0))?;
        }
        let io = libc::syscall(libc::SYS_ioprio_get, IOPRIO_PROCESS, 0);
        if io >> IOPRIO_CLASS_SHIFT == IOPRIO_CLASS_RT {
            check(libc::syscall(libc::SYS_ioprio_set, IOPRIO_PROCESS, 0, 0) as libc::c_int)?;
        }
    }
    Ok(())
}

/// Lets the OOM killer choose this process as it would any other: proc_pid_oom_score_adj(5).
pub fn reset_oom_protection() -> io::Result<()> {
    let path = c"/proc/self/oom_score_adj";
    let file = open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut value = [0; 1];
    nix::unistd::read(&file, &mut value)?;
    if value == *b"-" {
        write(&file, b"0\n")?;
    }
    Ok(())
}
