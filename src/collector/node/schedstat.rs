//! How long tasks ran on each CPU and waited for it. The file does not exist unless the kernel is configured with it.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::procfs::schedstat;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let mut cpus = Vec::new();
    host.parse_lines(&host.proc("schedstat"), |at, line| {
        cpus.extend(schedstat::parse_line(at, line)?);
        Ok(())
    })?;
    Some(Measurement::SchedStat(cpus))
}
