//! What others connect to. One acceptor for every port, a thread for every connection, a deadline for
//! every wait.

pub mod browsers;
pub mod client_address;
pub mod counters;
pub mod documents;
pub mod exchange;
pub mod fan;
pub mod heartbeat;
pub mod http;
pub mod listener;
pub mod monitor;
pub mod pages;
pub mod permits;
pub mod telemetry;
pub mod usage;
pub mod websocket;
