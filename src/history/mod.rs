//! What happened to this node: the event log.

pub mod event_log;
pub mod observer;
pub mod reboots;
