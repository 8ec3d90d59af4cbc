//! Client of hm, the central health monitor: reports the GPU's use, and keeps undelivered reports on disk.

pub mod client;
pub mod messages;
pub mod report_clock;
pub mod session;
pub mod spool;
