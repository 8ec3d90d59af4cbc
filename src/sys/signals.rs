//! Signals: blocked in every thread, and received by one.

use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{self, SigSet, kill};
use nix::unistd::Pid;

/// A request to this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlSignal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP: reload the configuration.
    Reload,
}

fn control_signals() -> SigSet {
    signal_set(&[signal::SIGTERM, signal::SIGINT, signal::SIGHUP])
}

/// Blocks the signals that [`wait_control_signal`] waits for, in this thread and in all that it starts from now on.
pub fn block_control_signals() {
    block(&control_signals());
}

/// Waits for the next request, at most `timeout` (`None`: without limit).
pub fn wait_control_signal(timeout: Option<Duration>) -> Option<ControlSignal> {
    match sigtimedwait(&control_signals(), timeout)?.0 {
        libc::SIGHUP => Some(ControlSignal::Reload),
        _ => Some(ControlSignal::Stop),
    }
}

/// Sends this process SIGTERM, from a thread that cannot continue.
pub fn request_stop() {
    // A process may always signal itself.
    let _ = kill(Pid::this(), signal::SIGTERM);
}

/// Lets SIGTERM and SIGINT end this process at once.
pub fn unblock_stop_signals() {
    // It fails only for an invalid operation.
    let _ = signal_set(&[signal::SIGTERM, signal::SIGINT]).thread_unblock();
}

/// Restores the default action of SIGCHLD, whatever was inherited: a process that ignores it cannot wait for children.
pub fn reset_sigchld() {
    // SAFETY: the default action is a valid one.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Starts a program with no signal blocked, as from a shell. The standard library passes on what is blocked here.
pub fn clear_signal_mask_in(command: &mut Command) {
    let clear = || Ok(SigSet::empty().thread_set_mask()?);
    // SAFETY: it runs between fork and exec and calls only what signal-safety(7) allows there.
    unsafe { command.pre_exec(clear) };
}

/// Signals that a program passes on to the one it runs, and the one that reports a child's exit.
fn forwarded_signals() -> SigSet {
    signal_set(&[
        signal::SIGTERM,
        signal::SIGINT,
        signal::SIGHUP,
        signal::SIGQUIT,
        signal::SIGUSR1,
        signal::SIGUSR2,
        signal::SIGCHLD,
    ])
}

/// Blocks the signals that [`wait_forwarded_signal`] waits for.
pub fn block_forwarded_signals() {
    block(&forwarded_signals());
}

/// Waits for the next signal and returns it if another process sent it. Signals from the kernel are not forwarded: a child
/// has exited, or the terminal has signalled the whole process group.
pub fn wait_forwarded_signal() -> Option<i32> {
    let (signal, code) = sigtimedwait(&forwarded_signals(), None)?;
    (signal != libc::SIGCHLD && code <= 0).then_some(signal)
}

/// Blocks signals in this thread.
pub(super) fn block(signals: &SigSet) {
    // It fails only for an invalid operation.
    let _ = signals.thread_block();
}

pub(super) fn signal_set(signals: &[signal::Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// Waits for a blocked signal, at most `timeout`. Returns its number and `si_code`: sigaction(2).
pub(super) fn sigtimedwait(
    signals: &SigSet,
    timeout: Option<Duration>,
) -> Option<(libc::c_int, libc::c_int)> {
    // A day at most, so that it fits whatever the width of time_t. Callers wait again.
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(86_400) as _,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
    });
    let limit = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the set and the time, if there is one, are initialized and only read; there is room for the information.
    let signal = unsafe { libc::sigtimedwait(signals.as_ref(), info.as_mut_ptr(), limit) };
    // SAFETY: zeroes are valid information too.
    let info = unsafe { info.assume_init() };
    (signal > 0).then_some((signal, info.si_code))
}
