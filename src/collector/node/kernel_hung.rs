//! Tasks that the kernel's hung task detector found in uninterruptible sleep for more than two minutes: usually a driver or a network
//! filesystem does not answer. The file exists since Linux 6.13, if the detector is compiled in.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let count = host.number(&host.proc("sys/kernel/hung_task_detect_count"))?;
    Some(Measurement::HungTasks(count))
}
