//! What the collectors of [`crate::collector::node`] measure, one file for each that has more than the content of a kernel file.

pub mod conntrack;

use crate::model::node::conntrack::Conntrack;

/// What one collector measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Measurement {
    Conntrack(Conntrack),
}
