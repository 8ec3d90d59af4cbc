//! Starting and reaping children in a process that supervises one program and its descendants.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::prctl::{self, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, geteuid, getpgid, getpgrp, setgid, setgroups, setsid, setuid};

use crate::sys::check;
use crate::sys::process::{child_pid, is_parent};
use crate::sys::signals::{block, signal_set, sigtimedwait};
use crate::sys::users::User;

/// Makes orphans among this process's descendants its children.
pub fn set_child_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Has the kernel send SIGTERM when the thread that started this process exits. Returns whether `parent` still runs.
pub fn set_parent_death_signal(parent: u32) -> bool {
    set_pdeathsig(Signal::SIGTERM).is_ok() && is_parent(parent)
}

/// Signals that ask a supervisor to stop.
const STOP_SIGNALS: [Signal; 4] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// [`STOP_SIGNALS`], and the one that reports a child's exit.
fn command_supervisor_signals() -> SigSet {
    let mut signals = signal_set(&STOP_SIGNALS);
    signals.add(Signal::SIGCHLD);
    signals
}

/// Blocks the signals that [`wait_child_or_stop`] waits for.
pub fn block_command_supervisor_signals() {
    block(&command_supervisor_signals());
}

/// Waits for a child's exit or a request to stop, at most `timeout`. Returns whether it is a request to stop.
pub fn wait_child_or_stop(timeout: Duration) -> bool {
    let received = sigtimedwait(&command_supervisor_signals(), Some(timeout));
    received.is_some_and(|(signal, _)| signal != libc::SIGCHLD)
}

/// Whether `child` has exited. Reaps exited orphans, but not `child`, so its PID is not reused.
pub fn has_exited(child: u32) -> bool {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: there is room for the information; zeroes are valid information, and waitid fills in the PID.
        let exited = unsafe {
            match libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options) {
                0 => info.assume_init().si_pid(),
                _ => return true, // no children at all
            }
        };
        match u32::try_from(exited) {
            Ok(0) | Err(_) => return false,
            Ok(exited) if exited == child => return true,
            // SAFETY: it writes no status.
            Ok(_) => unsafe { libc::waitpid(exited, std::ptr::null_mut(), libc::WNOHANG) },
        };
    }
}

/// Reaps children that have exited. Returns whether others still run.
pub fn reap_children() -> bool {
    loop {
        // SAFETY: it writes no status.
        match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
            0 => return true,
            exited if exited > 0 => {}
            _ => return false, // no children
        }
    }
}

/// Kills a process and its process group, unless that is our own.
pub fn kill_with_group(process: u32) {
    let Some(process) = child_pid(process) else { return };
    // All of them fail only for processes that have exited already.
    if let Ok(group) = getpgid(Some(process))
        && group.as_raw() > 1
        && group != getpgrp()
    {
        let _ = killpg(group, Signal::SIGKILL);
    }
    let _ = kill(process, Signal::SIGKILL);
}

/// Sends SIGTERM to the process group of a child.
pub fn terminate_process_group(leader: u32) {
    if let Some(leader) = child_pid(leader) {
        // It fails only when the group has no process left.
        let _ = killpg(leader, Signal::SIGTERM);
    }
}

/// Starts a program in a session of its own, with no signal blocked, the usual file mode mask, and as `user` with all of
/// that user's groups and, unless that is root, no capabilities. The kernel kills it when the thread that starts it exits.
pub fn run_as_user(command: &mut Command, user: &User) {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<_> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let become_user = move || {
        setsid()?;
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        if geteuid().is_root() {
            setgroups(&groups)?;
            setgid(gid)?;
            setuid(uid)?;
        }
        if !uid.is_root() {
            drop_capabilities()?;
        }
        // If the command supervisor is killed, at least its direct child exits too. Changing the user has reset this.
        set_pdeathsig(Signal::SIGKILL)?;
        reset_signal_handlers();
        Ok(SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: it runs between fork and exec, allocates nothing and makes system calls only.
    unsafe { command.pre_exec(become_user) };
}

/// Starts a program in a session of its own, without a terminal. The kernel kills it when the thread that starts it exits.
pub fn start_in_session(command: &mut Command) {
    let parent = std::process::id();
    let start = move || {
        setsid()?;
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have exited before that call.
        if !is_parent(parent) {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        }
        reset_signal_handlers();
        Ok(())
    };
    // SAFETY: it runs between fork and exec, allocates nothing and makes system calls only.
    unsafe { command.pre_exec(start) };
}

/// Restores the default actions: what the agent inherited as ignored, from nohup(1) for instance, is for the agent alone.
fn reset_signal_handlers() {
    for signal in STOP_SIGNALS.into_iter().chain([Signal::SIGCHLD]) {
        // SAFETY: the default action is a valid one.
        unsafe { libc::signal(signal as libc::c_int, libc::SIG_DFL) };
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
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0_u32; 6]; // effective, permitted and inheritable, twice
    // SAFETY: the header and the sets are initialized, of the sizes that this version has, and only read. Kernels before
    // 4.3 have no ambient capabilities; the first call then fails and there is nothing to clear.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check(libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) as libc::c_int)?;
    }
    Ok(())
}
