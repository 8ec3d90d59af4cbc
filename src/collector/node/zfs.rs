//! State of ZFS pools, from `/proc/spl/kstat/zfs/<pool>/state`, a line such as `ONLINE` (OpenZFS `module/zfs/spa_stats.c`).

use crate::collector::host_files::HostFiles;
use crate::collector::node::limit;
use crate::model::node::Measurement;
use crate::model::node::zfs::{Zfs, ZfsPool};

const MAX_POOLS: usize = 64;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.proc("spl/kstat/zfs");
    let mut names = host.names(&directory, "");
    // Statistics of the module are files beside the directories of pools.
    names.retain(|name| directory.join(name).is_dir());
    let mut zfs = Zfs::default();
    limit(&mut names, MAX_POOLS, &mut zfs.truncated);
    let read = |name: String| {
        let state = host.line(&directory.join(&name).join("state"))?;
        Some(ZfsPool { name, state })
    };
    zfs.pools = names.into_iter().filter_map(read).collect();
    (!zfs.pools.is_empty()).then_some(Measurement::Zfs(zfs))
}
