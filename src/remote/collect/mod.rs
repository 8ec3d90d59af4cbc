//! Parsers of what a remote host prints: the framing of `ssh/collect.sh`, and the kernel files and commands inside it.

pub mod df;
pub mod ip_address;
pub mod nvidia_smi;
pub mod output;
pub mod sample;
