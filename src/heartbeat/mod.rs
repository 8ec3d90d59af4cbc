pub mod client;
pub mod hooks;
pub mod monitor;
pub mod nagios;
pub mod protocol;
pub mod server;
pub mod store;
pub mod table;
