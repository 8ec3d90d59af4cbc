pub mod client;
pub mod command;
pub mod command_log;
pub mod command_supervisor;
pub mod commands;
pub mod messages;
pub mod session;
