//! Sockets by protocol.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::procfs::sockstat;
use crate::sys;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let mut sockets = host.parse_net("sockstat", sockstat::parse)?;
    // Does not exist without IPv6.
    sockets.extend(host.parse_net("sockstat6", sockstat::parse).unwrap_or_default());
    for (pages, bytes) in [("TCP_mem", "TCP_mem_bytes"), ("UDP_mem", "UDP_mem_bytes")] {
        if let Some(pages) = sockets.get(pages) {
            sockets.insert(bytes, pages.saturating_mul(sys::page_size_bytes()));
        }
    }
    Some(Measurement::Sockstat(sockets))
}
