//! Reads this machine: files below the roots of `path.*`, with [`crate::parse`] to understand them.
//!
//! The sampler's thread runs everything here but what [`aside`] asks, [`sensors`] and statvfs, whose calls may hang, and
//! [`gpu`] with [`amd`], which have a thread of their own for the same reason.

pub mod amd;
pub mod aside;
pub mod files;
pub mod gpu;
mod ledger;
pub mod machine;
pub mod mounts;
pub mod own;
pub mod place;
pub mod room;
pub mod sampler;
pub mod sensors;
