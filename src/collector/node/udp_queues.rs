//! Data in the queues of UDP sockets.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::udp_queues::UdpQueuesByVersion;
use crate::procfs::net_udp::UdpQueues;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let mut queues = |name| host.parse_net_lines(name, UdpQueues::add_line);
    let queues = UdpQueuesByVersion { v4: queues("udp"), v6: queues("udp6") };
    (queues.v4.is_some() || queues.v6.is_some()).then_some(Measurement::UdpQueues(queues))
}
