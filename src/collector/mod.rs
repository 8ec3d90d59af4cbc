//! Reads this host: files below the roots of `path.*`, parsed by [`crate::procfs`]. The sampler's thread runs everything but the
//! calls that may block indefinitely: [`sysfs`] and statvfs run on [`blocking_worker`], GPUs in [`gpu`] on a thread of their own.

pub mod blocking_worker;
pub mod disabled;
pub mod file_reader;
pub mod gpu;
pub mod host_files;
pub mod host_info;
pub mod kmsg;
pub mod latest;
pub mod mount_filter;
pub mod mounts;
pub mod node;
pub mod process_stats;
pub mod sampler;
pub mod sampler_loop;
mod status;
pub mod sysfs;
