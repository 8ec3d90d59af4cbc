//! Counters of the NFS client. Their file does not exist unless its module is loaded.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::procfs::nfs;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    host.parse_net("rpc/nfs", nfs::parse).map(Measurement::Nfs)
}
