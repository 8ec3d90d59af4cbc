//! Reads this machine: files below the roots of `path.*`, with [`crate::parse`] to understand them.
//!
//! The sampler's thread runs everything here but [`disks`], whose calls may hang.

pub mod disks;
pub mod files;
pub mod machine;
pub mod mounts;
pub mod sampler;
