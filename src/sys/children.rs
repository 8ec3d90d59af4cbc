//! Children of a process that looks after one program and everybody whom that starts.

use std::io;
use std::mem::MaybeUninit;
use std::process::Command;
use std::time::Duration;

use crate::sys::check;
use crate::sys::signals::{clear_mask, signal_set, time_spec};
use crate::sys::users::User;

/// From now on orphans among this process' descendants become its children.
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: it takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map(drop)
}

/// From now on the end of the thread that started this process is told as SIGTERM. Whether `parent` is still there to
/// end.
pub fn hear_of_parents_end(parent: u32) -> bool {
    // SAFETY: neither call takes pointers.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        u32::try_from(libc::getppid()) == Ok(parent)
    }
}

/// Signals that ask a process which looks after a program to end it; and that of a child's end.
const HEARD: [libc::c_int; 5] =
    [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Blocks the signals that [`wait_for_child_or_end`] waits for.
pub fn block_heard_signals() {
    let wanted = signal_set(&HEARD);
    // SAFETY: the set is initialised and only read.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const wanted, std::ptr::null_mut()) };
}

/// Waits for the end of a child, or for being asked to end, `timeout` at most. Whether it was asked to end.
pub fn wait_for_child_or_end(timeout: Duration) -> bool {
    let wanted = signal_set(&HEARD);
    let timeout = time_spec(timeout);
    // SAFETY: the set and the time are initialised and only read; no information is asked for.
    let signal =
        unsafe { libc::sigtimedwait(&raw const wanted, std::ptr::null_mut(), &raw const timeout) };
    signal > 0 && signal != libc::SIGCHLD
}

/// Whether a child has ended. It is not waited for, so its number stays its own; orphans that have ended are.
pub fn has_ended(child: u32) -> bool {
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: there is room for the information; zeroes are valid information, and the field is there for what
        // waitid tells.
        let ended = unsafe {
            match libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), how) {
                0 => info.assume_init().si_pid(),
                _ => return true, // no children at all
            }
        };
        match u32::try_from(ended) {
            Ok(0) | Err(_) => return false,
            Ok(ended) if ended == child => return true,
            // SAFETY: it takes no status.
            Ok(_) => unsafe { libc::waitpid(ended, std::ptr::null_mut(), libc::WNOHANG) },
        };
    }
}

/// Waits for children that have ended. Whether there are others.
pub fn reap() -> bool {
    loop {
        // SAFETY: it takes no status.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
            0 => return true,
            ended if ended > 0 => {}
            _ => return false, // no children
        }
    }
}

/// Kills a process and the group it belongs to, unless that is our own.
pub fn kill_with_group(process: u32) {
    let Ok(process) = libc::pid_t::try_from(process) else { return };
    if process <= 1 {
        return;
    }
    // SAFETY: none of the calls takes pointers.
    unsafe {
        let group = libc::getpgid(process);
        if group > 1 && group != libc::getpgrp() {
            libc::kill(-group, libc::SIGKILL);
        }
        libc::kill(process, libc::SIGKILL);
    }
}

/// Sends a signal to the group that a child of ours leads.
pub fn signal_group(leader: u32, signal: i32) {
    if let Ok(leader) = libc::pid_t::try_from(leader)
        && leader > 1
    {
        // SAFETY: it takes no pointers.
        unsafe { libc::kill(-leader, signal) };
    }
}

/// Has a program start in a session of its own, with no signal blocked, the usual mask for new files, and as `user` with
/// all groups of that user and, unless that is root, no capability. It is killed when the thread that starts it ends.
pub fn start_as(command: &mut Command, user: &User) {
    use std::os::unix::process::CommandExt;
    let (uid, gid, groups) = (user.uid, user.gid, user.groups.clone());
    let become_user = move || {
        // SAFETY: the calls take no pointers but for the list of groups, which outlives its call.
        unsafe {
            check(libc::setsid())?;
            libc::umask(0o022);
            if libc::geteuid() == 0 {
                check(libc::setgroups(groups.len() as _, groups.as_ptr()))?;
                check(libc::setgid(gid))?;
                check(libc::setuid(uid))?;
            }
        }
        if uid != 0 {
            drop_capabilities()?;
        }
        // Should somebody end the warden, this one at least goes with it. Changing the user has reset it.
        // SAFETY: it takes no pointers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        heed_heard_signals();
        clear_mask();
        Ok(())
    };
    // SAFETY: it runs between fork and exec, allocates nothing, and calls only what is a plain system call there.
    unsafe { command.pre_exec(become_user) };
}

/// Has a program start in a session of its own, without a terminal, and be killed when the thread that starts it ends.
pub fn start_in_session(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let parent = std::process::id();
    let start = move || {
        // SAFETY: the calls take no pointers.
        unsafe {
            check(libc::setsid())?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // The parent may have ended before that was asked for.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ECHILD));
            }
        }
        heed_heard_signals();
        Ok(())
    };
    // SAFETY: it runs between fork and exec, allocates nothing, and makes system calls only.
    unsafe { command.pre_exec(start) };
}

/// What the agent was told to ignore, by nohup(1) say, is for the agent alone.
fn heed_heard_signals() {
    for signal in HEARD {
        // SAFETY: the default action is a valid one.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// capset(2) and capabilities(7).
fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const AMBIENT: libc::c_int = 47;
    const CLEAR_ALL: libc::c_ulong = 4;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0_u32; 6]; // effective, permitted and inheritable, twice
    // SAFETY: the header and the sets are initialised, of the sizes that this version has, and only read. Kernels before
    // 4.3 have no ambient capabilities, and say so.
    unsafe {
        libc::prctl(AMBIENT, CLEAR_ALL, 0, 0, 0);
        if libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
