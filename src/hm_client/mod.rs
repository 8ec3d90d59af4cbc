pub mod client;
pub mod messages;
pub mod report_clock;
pub mod session;
pub mod spool;
