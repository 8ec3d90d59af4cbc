//! The Core protocol: messages, connections of nodes and of monitor clients, and the REST API.

pub mod answers;
pub mod messages;
pub mod monitor;
pub mod node_session;
mod reports;
pub mod rest;
pub mod rest_actions;
pub mod server;
