//! What the main thread knows of a GPU and its worker thread.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use gpu_probe::gpu::{Gpu, Problem, Values, Xid};

use crate::extras::ExtrasRequest;
use crate::worker::{self, Target};

/// Main thread's view of a GPU and its worker thread.
pub struct Slot {
    pub target: Target,
    requests: Sender<u64>,
    /// The worker has not replied to the last request.
    pub busy: bool,
    /// When the last request was sent.
    requested_at: Instant,
    /// Reply in this round; the inner `None` means that access is denied.
    pub reply: Option<Option<Gpu>>,
    /// Reply to an earlier round that arrived after it.
    late_reply: Option<Gpu>,
    /// Last reply.
    last: Option<Gpu>,
    /// The worker has replied at least once.
    pub has_replied: bool,
    /// XIDs that are not reported yet.
    pub xids: Vec<u64>,
}

/// A GPU that does not reply within this time hangs. Less than the agent's timeout, so that the report arrives in time.
pub fn hang_timeout(timeout: Duration) -> Duration {
    timeout * 4 / 5
}

impl Slot {
    pub fn new(target: Target, requests: Sender<u64>) -> Self {
        Self {
            target,
            requests,
            busy: false,
            requested_at: Instant::now(),
            reply: None,
            late_reply: None,
            last: None,
            has_replied: false,
            xids: Vec::new(),
        }
    }

    /// Sends a request unless the worker is busy. Returns whether it was sent.
    pub fn request(&mut self, round: u64) -> bool {
        let is_sent = !self.busy && self.requests.send(round).is_ok();
        if is_sent {
            (self.busy, self.requested_at) = (true, Instant::now());
        }
        is_sent
    }

    pub fn on_reply(&mut self, gpu: Option<Gpu>, is_current: bool, timeout: Duration) {
        (self.busy, self.has_replied) = (false, true);
        self.last.clone_from(&gpu);
        if is_current {
            self.reply = Some(gpu);
        } else {
            // Used if it is not too old and no newer reply arrives in time.
            let is_recent = self.requested_at.elapsed() < timeout;
            self.late_reply = gpu.filter(|_| is_recent);
        }
    }

    /// What is needed to read the extras; `None` if the GPU has not replied in this round, or has no values.
    pub fn extras_request(&self, slot: usize) -> Option<ExtrasRequest> {
        let values = &self.reply.as_ref()?.as_ref()?.values;
        if *values == Values::default() {
            return None;
        }
        let instances = (values.mig_enabled == Some(true)).then(|| {
            let instances = values.mig_instances.iter().flatten();
            let mut ids: Vec<u32> = instances.filter_map(|each| each.gpu_instance).collect();
            // Compute instances share GPU instances.
            ids.sort_unstable();
            ids.dedup();
            ids
        });
        Some(ExtrasRequest {
            slot,
            target: self.target.clone(),
            instances,
            utilization_percent: values.utilization_percent,
        })
    }

    /// The GPU with its new XIDs; `None` if access is denied. Without a reply for most of `timeout` it is reported as hung;
    /// before that it has no values, or those of a late reply.
    pub fn report(&mut self, now: u64, timeout: Duration) -> Option<Gpu> {
        // A late reply is used once only, so that a GPU that hangs afterwards does not keep old values.
        let mut gpu = match (self.reply.take(), self.late_reply.take()) {
            (Some(gpu), _) => gpu?,
            (None, Some(late)) => late,
            (None, None) => {
                let last = self.last.clone().unwrap_or_else(|| worker::unidentified(&self.target));
                let hangs = self.requested_at.elapsed() >= hang_timeout(timeout);
                Gpu {
                    values: Values::default(),
                    problem: hangs.then_some(Problem::Hung),
                    message: hangs.then(|| "the driver does not reply".to_owned()),
                    ..last
                }
            }
        };
        gpu.xids = count_xids(&std::mem::take(&mut self.xids), now);
        Some(gpu)
    }
}

/// Counts the XIDs by code.
fn count_xids(codes: &[u64], now: u64) -> Vec<Xid> {
    let mut counts = BTreeMap::new();
    for code in codes {
        *counts.entry(*code).or_default() += 1;
    }
    counts.into_iter().map(|(code, count)| Xid { code, count, last_unix_seconds: now }).collect()
}
