//! Signals: blocked in every thread, and waited for by one.

use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// What a signal asks of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: stop.
    Stop,
    /// SIGHUP: read the settings again.
    Reload,
}

/// Blocks the signals that [`wait_signal`] waits for, in this thread and in all it starts from now on.
pub fn block_signals() {
    let wanted = signal_set(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
    // SAFETY: the set is initialised and only read.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const wanted, std::ptr::null_mut()) };
}

/// Waits for the next signal that asks something of this process, `timeout` at most (`None`: for ever). They must be
/// blocked.
pub fn wait_signal(timeout: Option<Duration>) -> Option<Signal> {
    let wanted = signal_set(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]);
    let timeout = timeout.map(time_spec);
    let limit = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the set and the time, if there is one, are initialised and only read; no information is asked for.
    match unsafe { libc::sigtimedwait(&raw const wanted, std::ptr::null_mut(), limit) } {
        libc::SIGHUP => Some(Signal::Reload),
        libc::SIGTERM | libc::SIGINT => Some(Signal::Stop),
        _ => None,
    }
}

/// Does what `kill -TERM` of this process would do, for threads that cannot go on.
pub fn ask_to_stop() {
    // SAFETY: neither call takes pointers.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}

/// From now on SIGTERM and SIGINT end this process at once.
pub fn unblock_stop_signals() {
    let stop = signal_set(&[libc::SIGTERM, libc::SIGINT]);
    // SAFETY: the set is initialised and only read.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const stop, std::ptr::null_mut()) };
}

/// No more than a day, which is longer than anybody waits for a signal at a time.
pub(super) fn time_spec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().min(86_400) as _,
        tv_nsec: libc::c_long::from(time.subsec_nanos().cast_signed()),
    }
}

pub(super) fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; the numbers are those of existing signals.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// Those that a program which runs another one passes on, and that of a child's end.
const PASSED: [libc::c_int; 7] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCHLD,
];

/// Has the ends of children told and kept until they are asked for, whatever was inherited: who ignores
/// SIGCHLD cannot wait for anybody.
pub fn heed_children() {
    // SAFETY: the default action is a valid one.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Has a program start with no signal blocked, as it would from a shell. The standard library passes on what
/// is blocked here.
pub fn unblock_in(command: &mut Command) {
    let unblock = || {
        clear_mask();
        Ok(())
    };
    // SAFETY: it runs between fork and exec and calls only what signal-safety(7) allows there.
    unsafe { command.pre_exec(unblock) };
}

pub(super) fn clear_mask() {
    let none = signal_set(&[]);
    // SAFETY: the set is initialised and only read.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// Blocks the signals that [`wait_passed_signal`] waits for.
pub fn block_passed_signals() {
    let wanted = signal_set(&PASSED);
    // SAFETY: the set is initialised and only read.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const wanted, std::ptr::null_mut()) };
}

/// Waits for the next signal and returns it if another process sent it. One that the kernel sent is none to
/// pass on: a child has ended, or the terminal told the whole process group.
pub fn wait_passed_signal() -> Option<i32> {
    let wanted = signal_set(&PASSED);
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the set is initialised, and there is room for the information; both outlive the call.
    let signal = unsafe { libc::sigwaitinfo(&raw const wanted, info.as_mut_ptr()) };
    // SAFETY: zeroes are valid information too.
    let info = unsafe { info.assume_init() };
    (signal > 0 && signal != libc::SIGCHLD && info.si_code <= 0).then_some(signal)
}
