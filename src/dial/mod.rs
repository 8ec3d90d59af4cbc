//! What the agent connects to.

pub mod heartbeat;
