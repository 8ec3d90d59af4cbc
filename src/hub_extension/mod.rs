//! The extension of the hm and Core protocols with which a node answers requests that arrive at hm-hub: `docs/hm-extension.md`.

pub mod messages;
pub mod node;
