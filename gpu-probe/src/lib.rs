//! What the GPU probe and the agent share: the types that describe GPUs, and the protocol in which the probe sends them.

pub mod amd;
pub mod gpu;
pub mod nvidia;
pub mod protocol;
