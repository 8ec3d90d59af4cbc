//! The hm protocol: requests, responses, and the state of a connection.

pub mod messages;
pub mod metrics;
pub mod server;
pub mod session;
