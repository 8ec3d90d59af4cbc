//! What the collectors of node_exporter's series measure, one file for each that has more than the content of a kernel file.

pub mod conntrack;
pub mod entropy;
pub mod interrupts;
pub mod processes;
pub mod timex;

use crate::model::node::conntrack::Conntrack;
use crate::model::node::entropy::Entropy;
use crate::model::node::interrupts::Interrupts;
use crate::model::node::processes::Processes;
use crate::model::node::timex::Timex;
use crate::procfs::schedstat::CpuSchedStat;

/// What one collector measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Measurement {
    Conntrack(Conntrack),
    Entropy(Entropy),
    /// Number of tasks found hung since boot.
    HungTasks(u64),
    Interrupts(Interrupts),
    Processes(Processes),
    SchedStat(Vec<CpuSchedStat>),
    Timex(Timex),
}
