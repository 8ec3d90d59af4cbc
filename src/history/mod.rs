//! The past of this node: the event log, and a day of the most important series.

pub mod event_log;
pub mod observer;
pub mod reboots;
pub mod series;
