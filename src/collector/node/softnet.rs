//! Packets that each CPU received.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::procfs::softnet_stat;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    host.parse_net("softnet_stat", softnet_stat::parse).map(Measurement::Softnet)
}
