//! Reads this machine: files below the roots of `path.*`, with [`crate::parse`] to understand them.
//!
//! The sampler's thread runs everything here but [`disks`], whose calls may hang, and [`gpu`] with [`amd`], which
//! have a thread of their own for the same reason.

pub mod amd;
pub mod disks;
pub mod files;
pub mod gpu;
pub mod machine;
pub mod mounts;
pub mod sampler;
