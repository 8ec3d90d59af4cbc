//! Client of Core: registers this node, sends heartbeats with metrics, and runs commands in supervised processes.

pub mod client;
pub mod command;
pub mod command_log;
pub mod command_queue;
pub mod messages;
pub mod session;
