//! Entropy of the kernel's random number generator: always 256 bits since Linux 5.18.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::entropy::Entropy;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let available_bits = host.number(&host.proc("sys/kernel/random/entropy_avail"))?;
    let pool_size_bits = host.number(&host.proc("sys/kernel/random/poolsize"));
    Some(Measurement::Entropy(Entropy { available_bits, pool_size_bits }))
}
