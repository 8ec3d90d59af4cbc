//! The status that a node has sent, or that its reports tell.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::hm::messages::MachineInfo;
use crate::hub::hm::session::HmReport;
use crate::hub::nodes::info::ReceivedStatus;
use crate::hub::nodes::node::Node;
use crate::hub_extension::messages;
use crate::hub_extension::status::NodeStatus;
use crate::model::gpu::{Gpu, Gpus, Values};

/// A change of a mean by less does not make a node a changed one: the values of a busy fleet change with every snapshot.
const MIN_CHANGE_PERCENT: u8 = 5;
/// A longer project of a report is cut off.
const MAX_PROJECT_BYTES: usize = 256;
/// A client without the node's credential is shown for this long after its last attempt.
const DUPLICATE_SHOWN_FOR: Duration = Duration::from_secs(3600);

impl Node {
    /// What a report over hm tells of the node. It describes one of its GPUs.
    pub(super) fn set_reported(&mut self, report: &HmReport, revision: &mut u64) {
        let MachineInfo { project, gpu_name, utilization_gpu, memory_total, memory_used, .. } =
            &*report.info;
        let mut project = project.clone();
        messages::cut(&mut project, MAX_PROJECT_BYTES);
        if self.info.project.as_deref() != Some(&project) {
            Arc::make_mut(&mut self.info).project = Some(project.into());
            self.touch(revision);
        }
        let bytes = |value: i64| u64::try_from(value).ok();
        let values = Values {
            utilization_percent: u32::try_from(*utilization_gpu).ok(),
            memory_used_bytes: bytes(*memory_used),
            memory_total_bytes: bytes(*memory_total),
            ..Values::default()
        };
        let gpu = Gpu { name: gpu_name.clone(), values, ..Gpu::default() };
        // A client without a GPU reports an empty name.
        let each = if gpu_name.is_empty() { Vec::new() } else { vec![gpu] };
        let status = NodeStatus::new(&Gpus { nvidia: None, each }, Vec::new(), 0);
        let received = ReceivedStatus { status, at: report.sent, ..ReceivedStatus::default() };
        self.set_status(received, revision);
    }

    pub(super) fn expire_refused_duplicate(&mut self, now: Instant, revision: &mut u64) {
        if self.refused_duplicate.is_some_and(|(at, _)| now >= at + DUPLICATE_SHOWN_FOR) {
            self.refused_duplicate = None;
            self.touch(revision);
        }
    }

    pub(super) fn status_bytes(&self) -> usize {
        self.info.status.as_ref().map_or(0, |status| status.size())
    }

    pub(super) fn set_status(&mut self, received: ReceivedStatus, revision: &mut u64) {
        let status = &received.status;
        let percents = [status.gpu_utilization_percent, status.gpu_memory_used_percent];
        let is_visible_change = self.info.status.as_ref().is_none_or(|known| {
            known.status.gpus != status.gpus
                || known.status.problems != status.problems
                || known.status.xids_last_24h != status.xids_last_24h
        });
        let mut shown = self.shown_percents.iter().zip(percents);
        if is_visible_change || shown.any(|(shown, percent)| differs(*shown, percent)) {
            self.shown_percents = percents;
            self.touch(revision);
        }
        Arc::make_mut(&mut self.info).status = Some(Arc::new(received));
        self.is_status_saved = false;
    }
}

/// Whether pages must be updated.
fn differs(shown: Option<u8>, percent: Option<u8>) -> bool {
    match (shown, percent) {
        (Some(shown), Some(percent)) => shown.abs_diff(percent) >= MIN_CHANGE_PERCENT,
        (shown, percent) => shown != percent,
    }
}
