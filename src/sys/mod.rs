//! System calls that the standard library does not offer. The only module with unsafe code.
//!
//! Most calls go through nix, whose wrappers are safe. What stays unsafe here, and why:
//!
//! - `CommandExt::pre_exec`: its closures run between fork and exec, where only async-signal-safe calls are allowed.
//! - signal(2), fork(2), `_exit`(2), mmap(2): nix either marks them unsafe too or does not wrap them.
//! - sigtimedwait(2), capset(2), keyctl(2), close_range(2), sched_setscheduler(2), ioprio_set(2), setpriority(2) and the
//!   ambient capabilities of prctl(2): nix does not wrap them.
//! - waitid(2) and waitpid(2): nix returns `EINVAL` for a child that a real-time signal killed.
//! - fcntl(2) with `F_SETFD` on inherited descriptors: this process has no owner for them from which nix could borrow.
//! - syslog(2), as klogctl(3): nix does not wrap it.
//! - getgrouplist(3): nix fails on musl for a user of more than 32 groups.
//! - clock_adjtime(2) and adjtimex(2): nix does not wrap them.
//! - localtime_r(3): nix does not wrap it.
//! - getaddrinfo(3): nix does not wrap it, and the standard library asks for both address families at once.
#![allow(unsafe_code)]

pub mod children;
mod clock;
mod fs;
pub mod inherited;
pub mod kernel_log;
pub mod net;
pub mod netlink;
mod poll;
pub mod process;
pub mod resolver;
mod resources;
pub mod service;
mod signals;
mod time;
pub mod users;

pub use crate::sys::clock::clock_state;
pub use crate::sys::fs::{FsSize, statvfs};
pub use crate::sys::poll::{EventFd, Interest, set_nonblocking, wait, wait_readable};
pub use crate::sys::resources::{
    address_space_limit_bytes, check_mappable, descriptor_limit, page_size_bytes,
    raise_descriptor_limit, restore_descriptor_limit_in,
};
pub use crate::sys::signals::{
    ControlSignal, block_control_signals, block_forwarded_signals, clear_signal_mask_in,
    request_stop, reset_sigchld, unblock_stop_signals, wait_control_signal, wait_forwarded_signal,
};
pub use crate::sys::time::time_zone;

use std::io;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
