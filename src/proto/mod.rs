//! Every message of every peer: plain data to and from text.
//!
//! No sockets and no clock. Units and names are the peers'; where they differ from the agent's own
//! (MiB for bytes, say), this is the only place that knows.

mod bytes;
pub mod core;
pub mod frame;
pub mod gzip;
pub mod heartbeat;
pub mod hm;
pub mod metrics;
pub mod monitor;
pub mod probe;
pub mod usage;
