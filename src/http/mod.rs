//! Inbound HTTP, shared by all ports: one accept loop per port, one thread per connection, a deadline for every wait.

pub mod auth;
mod body;
pub(crate) mod client_network;
pub mod connection;
pub mod connection_limits;
pub mod csrf;
pub(crate) mod document;
pub mod forwarded;
pub mod frame;
pub mod gzip;
pub mod listener;
pub(crate) mod memory_guard;
pub mod request;
pub mod response;
pub mod service;
pub mod stats;
pub mod stream;
pub mod tls;
pub mod websocket;
