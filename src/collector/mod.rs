//! Reads this machine: files below the roots of `path.*`, with [`crate::procfs`] to understand them.
//!
//! The sampler's thread runs everything here but what [`aside`] asks, [`sensors`] and statvfs, whose calls may hang, and
//! [`gpu`] with [`amd`], which have a thread of their own for the same reason.

pub mod blocking_worker;
pub mod cached_file;
pub mod gpu;
pub mod host_info;
pub mod latest;
pub mod mount_filter;
pub mod mounts;
pub mod process_stats;
pub mod sampler;
pub mod sampler_loop;
pub mod status;
pub mod sysfs;
