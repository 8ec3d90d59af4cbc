//! Entries of the connection tracking table. The files do not exist unless the kernel's module nf_conntrack is loaded.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::conntrack::Conntrack;
use crate::procfs::nf_conntrack;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let entries = host.number(&host.proc("sys/net/netfilter/nf_conntrack_count"))?;
    let limit = host.number(&host.proc("sys/net/netfilter/nf_conntrack_max"));
    let stats = host.parse_net("stat/nf_conntrack", nf_conntrack::parse);
    Some(Measurement::Conntrack(Conntrack { entries, limit, stats }))
}
