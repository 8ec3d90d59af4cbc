//! Parsers of what a remote host prints: the framing of `ssh/collect.sh`, and the kernel files and commands inside it.
#![deny(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod df;
pub mod ip_address;
pub mod nvidia_smi;
pub mod output;
pub mod sample;
