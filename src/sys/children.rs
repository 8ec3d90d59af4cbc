//! Starting and reaping children in a process that supervises one program and its descendants.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use nix::sys::prctl::{self, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, kill, killpg};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, geteuid, getresgid, getresuid, setgid, setgroups, setsid, setuid};

pub use nix::sys::signal::Signal;

use crate::sys::process::{child_pid, exit_immediately, is_parent};
use crate::sys::signals::{block, signal_set, sigtimedwait};
use crate::sys::users::User;
use crate::sys::{check, inherited};

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

/// Waits for a child's exit or a request to stop, at most `timeout` (`None`: without limit). Returns whether it is a request to stop.
pub fn wait_child_or_stop(timeout: Option<Duration>) -> bool {
    let received = sigtimedwait(&command_supervisor_signals(), timeout);
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

/// Reaps a child if it has exited. Returns whether it has, or is no child of this process.
pub fn reap(child: u32) -> bool {
    let Some(child) = child_pid(child) else { return true };
    // SAFETY: it writes no status.
    unsafe { libc::waitpid(child.as_raw(), std::ptr::null_mut(), libc::WNOHANG) != 0 }
}

/// Sends a signal to a process whose PID was just read from /proc.
pub fn signal_process(process: u32, signal: Signal) {
    if let Some(process) = child_pid(process) {
        // It fails only for a process that has exited, and for one that has become another user: sudo(8) signals those.
        let _ = kill(process, signal);
    }
}

/// Sends SIGTERM to the process group of a child.
pub fn terminate_process_group(leader: u32) {
    if let Some(leader) = child_pid(leader) {
        // It fails only when the group has no process left.
        let _ = killpg(leader, Signal::SIGTERM);
    }
}

/// Gives this process the lowest real-time priority, so that it runs before every process of a normal priority; where it may not have
/// that, the best nice value. This one is not enough: with autogroups (sched(7)) it counts within a session only, and every session
/// gets an equal share.
pub fn raise_priority() {
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters are numbers, and only read. A system call, because musl's function of that name always fails. Both
    // calls fail for an unprivileged process, which then keeps its priority.
    unsafe {
        let mut parameters: libc::sched_param = std::mem::zeroed();
        parameters.sched_priority = 1;
        if libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) != 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, -20);
        }
    }
}

/// Gives up real-time priority.
pub fn reset_priority() {
    // Every process may lower its priority.
    let _ = inherited::reset_scheduling();
}

/// Starts a program in a session of its own, without a terminal, with no signal blocked or ignored. The kernel kills it when
/// the thread that starts it exits. With `user`, it runs as that user with all of that user's groups and, unless that is root,
/// no capabilities, and it inherits no file mode mask, priority, protection from the OOM killer or session keyring.
pub fn isolate(command: &mut Command, user: Option<&User>) {
    let parent = std::process::id();
    let user = user.map(Credentials::of);
    let isolate = move || {
        setsid()?;
        if let Some(user) = &user {
            umask(Mode::S_IWGRP | Mode::S_IWOTH);
            inherited::join_new_session_keyring()?;
            inherited::reset_scheduling()?;
            inherited::reset_oom_protection()?;
            user.assume()?;
        }
        // If the supervisor is killed, at least its direct child exits too. Changing the user has reset this.
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have exited before that call.
        if !is_parent(parent) {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        }
        reset_signal_handlers();
        Ok(SigSet::empty().thread_set_mask()?)
    };
    // SAFETY: it runs between fork and exec, allocates nothing and makes system calls only.
    unsafe { command.pre_exec(isolate) };
}

/// Starts a program in a control group, whose open `cgroup.procs` this is: cgroups(7).
pub fn enter_control_group_in(command: &mut Command, members: &impl AsRawFd) {
    let members = members.as_raw_fd();
    let enter = move || {
        // Outside the group it runs as well, and its descendants are found one by one.
        // SAFETY: the byte is valid and only read.
        unsafe { libc::write(members, c"0".as_ptr().cast(), 1) };
        Ok(())
    };
    // SAFETY: it runs between fork and exec, allocates nothing and makes system calls only.
    unsafe { command.pre_exec(enter) };
}

/// What a process of a user may do.
pub(super) struct Credentials {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Credentials {
    pub(super) fn of(user: &User) -> Self {
        Self {
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.groups.iter().copied().map(Gid::from_raw).collect(),
        }
    }

    /// Fails unless this process has become the user completely. A process that is not root can only remain what it is.
    pub(super) fn assume(&self) -> io::Result<()> {
        if geteuid().is_root() {
            setgroups(&self.groups)?;
            setgid(self.gid)?;
            setuid(self.uid)?;
            let gids = getresgid()?;
            refuse_unless([gids.real, gids.effective, gids.saved] == [self.gid; 3])?;
        }
        let uids = getresuid()?;
        refuse_unless([uids.real, uids.effective, uids.saved] == [self.uid; 3])?;
        if !self.uid.is_root() {
            drop_capabilities()?;
        }
        Ok(())
    }
}

fn refuse_unless(is_as_requested: bool) -> io::Result<()> {
    if is_as_requested { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// Ends this process as `status` says a child has ended: with the same exit code, or by the same signal.
pub fn exit_like(status: ExitStatus) -> ! {
    if let Some(signal) = status.signal() {
        // Without another core dump, and with the default action even if the signal was ignored or blocked here.
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        // SAFETY: the default action is a valid one.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // All other signals are blocked: a pending request to stop would end this process first, by another signal.
        let mut all_others = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initializes the set. nix' set has no real-time signals.
        unsafe {
            libc::sigfillset(all_others.as_mut_ptr());
            libc::sigdelset(all_others.as_mut_ptr(), signal);
            libc::sigprocmask(libc::SIG_SETMASK, all_others.as_ptr(), std::ptr::null_mut());
            libc::raise(signal);
        }
        // The signal's default action does not end a process.
        exit_immediately(128 + signal);
    }
    exit_immediately(status.code().unwrap_or(1))
}

/// Restores the default actions: what the agent inherited as ignored, from nohup(1) for instance, is for the agent alone.
pub fn reset_signal_handlers() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action is a valid one. It fails for SIGKILL, SIGSTOP and the C library's own signals.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Programs that this thread, and threads that it starts from now on, run do not inherit `CAP_SYSLOG`, which the agent has to read
/// the kernel log. The agent itself keeps it.
pub fn lower_ambient_syslog_capability() {
    /// In linux/capability.h.
    const CAP_SYSLOG: libc::c_ulong = 34;
    // It fails on kernels before 4.3, which have no ambient capabilities.
    // SAFETY: an argument of prctl(2) that is a number.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER, CAP_SYSLOG, 0, 0) };
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
    // SAFETY: it takes no pointers.
    let cleared = check(unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    });
    match cleared {
        // Kernels before 4.3 have no ambient capabilities.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        cleared => drop(cleared?),
    }
    // SAFETY: the header and the sets are initialized, of the sizes that this version has, and only read.
    unsafe {
        check(libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) as libc::c_int)?
    };
    Ok(())
}
