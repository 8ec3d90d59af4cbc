//! The extension of the hm and Core protocols with which a node sends its status to hm-hub, and answers requests that arrive there:
//! `docs/hm-extension.md`.

pub mod messages;
pub mod node;
pub mod status;
