//! Port 8888: applications send heartbeats, and monitoring systems query whether any is overdue. Protocol, table, server,
//! hooks, state file, client.

pub mod active_clock;
pub mod client;
pub mod hooks;
pub mod monitor;
pub mod nagios;
pub mod protocol;
pub mod server;
pub mod store;
pub mod table;
