//! System calls that the standard library does not offer.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;

use nix::sys::prctl::set_name;
use nix::unistd::dup2_stdout;

/// Names this thread; the main thread's name is what ps shows.
pub fn set_thread_name(name: &CStr) {
    // It fails only for an invalid pointer.
    let _ = set_name(name);
}

/// Redirects standard output to standard error.
pub fn redirect_stdout_to_stderr() -> io::Result<()> {
    Ok(dup2_stdout(io::stderr())?)
}

/// SIGTERM has no effect.
pub fn ignore_sigterm() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) };
}

/// Exits without running destructors, in which a library could block.
pub fn exit_immediately(code: i32) -> ! {
    // SAFETY: it takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}
