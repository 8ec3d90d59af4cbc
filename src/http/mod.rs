//! What others connect to. One acceptor for every port, a thread for every connection, a deadline for
//! every wait.

pub mod connection;
pub mod connection_limits;
pub mod csrf;
pub mod forwarded;
pub mod frame;
pub mod gzip;
pub mod listener;
pub mod memory_guard;
pub mod message;
pub mod stats;
pub mod websocket;
