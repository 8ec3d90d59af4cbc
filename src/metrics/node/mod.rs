//! Series of the collectors of [`crate::collector::node`], under node_exporter's names, one file each.

mod conntrack;
mod entropy;
mod interrupts;
mod kernel_hung;
mod processes;
mod schedstat;
mod timex;

use crate::metrics::Truncation;
use crate::metrics::encoder::Encoder;
use crate::model::node::Measurement;

pub(super) fn encode(
    encoder: &mut Encoder,
    measurement: &Measurement,
    truncation: &mut Truncation,
) {
    match measurement {
        Measurement::Conntrack(conntrack) => conntrack::encode(encoder, conntrack),
        Measurement::Entropy(entropy) => entropy::encode(encoder, entropy),
        Measurement::HungTasks(tasks) => kernel_hung::encode(encoder, *tasks),
        Measurement::Interrupts(interrupts) => {
            interrupts::encode(encoder, interrupts, truncation);
        }
        Measurement::Processes(processes) => processes::encode(encoder, processes),
        Measurement::SchedStat(cpus) => schedstat::encode(encoder, cpus, truncation),
        Measurement::Timex(clock) => timex::encode(encoder, clock),
    }
}
