//! What the collectors of node_exporter's series measure, one file for each that has more than the content of a kernel file.

pub mod conntrack;
pub mod timex;

use crate::model::node::conntrack::Conntrack;
use crate::model::node::timex::Timex;

/// What one collector measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Measurement {
    Conntrack(Conntrack),
    Timex(Timex),
}
