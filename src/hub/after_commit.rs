//! What follows the attempt to commit writes.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use serde_json::Value;

use crate::hub::cluster::Cluster;
use crate::hub::core::messages::unix_ms;
use crate::hub::core::monitor;
use crate::hub::core::node_session::Content;
use crate::hub::credentials::NodeCredentials;
use crate::hub::event_loop::mailbox::{LoopMessage, Mailbox};
use crate::hub::nodes::Nodes;
use crate::hub::nodes::info::StoredMetrics;
use crate::hub::store::{Completed, Stored, Write, WriteOrigin};
use crate::util::sync::lock;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// The parts of the hub that learn of results of writes.
pub struct AfterCommit {
    pub nodes: Arc<Mutex<Nodes>>,
    pub credentials: Arc<NodeCredentials>,
    pub mailboxes: Arc<[Arc<Mailbox>]>,
    pub cluster: Option<Arc<Cluster>>,
}

impl AfterCommit {
    /// Updates the nodes with the writes that were stored. Sends every result to the event loop of its connection, new commands to those of
    /// their nodes, and new metrics to monitor clients.
    pub fn run(&self, writes: Vec<Completed>) {
        let now = SystemTime::now();
        let (mut metrics, mut enrolled) = (Vec::new(), Vec::new());
        let (mut commands, mut unsent) = (Vec::new(), Vec::new());
        let mut guard = lock(&self.nodes);
        for completed in &writes {
            match (&completed.pending.write, completed.stored) {
                (Write::Credential { node_id, digest, .. }, Stored::Done) => {
                    let is_new = self.credentials.activate(Instant::now(), digest);
                    enrolled.extend(is_new.then(|| node_id.clone()));
                }
                (Write::Credential { digest, .. }, Stored::Failed) => {
                    self.credentials.set_unstored(digest);
                }
                (Write::Agent { node_id, .. }, Stored::Failed) => guard.set_agent_unsaved(node_id),
                (Write::Status { node_id, .. }, Stored::Failed) => {
                    guard.set_status_unsaved(node_id);
                }
                // A node that has connected meanwhile stays.
                (Write::DeleteNode(node_id), Stored::Removed { .. } | Stored::Done) => {
                    guard.set_agent_unsaved(node_id);
                }
                (Write::Command { node_id, command, is_taken: true }, stored) => {
                    match guard.command_link(node_id).filter(|_| stored != Stored::Failed) {
                        Some(link) => commands.push((link, command.clone())),
                        None => unsent.push(command.command_id.clone()),
                    }
                }
                _ => {}
            }
        }
        for completed in writes.iter().filter(|completed| completed.stored != Stored::Failed) {
            metrics.extend(apply(&mut guard, completed, now));
        }
        drop(guard);
        for node_id in enrolled {
            log::info!("node {} has a credential now", escape_for_log(&*node_id, EXCERPT_CHARS));
        }
        let mut by_loop: Vec<Vec<(u64, Completed)>> = Vec::new();
        by_loop.resize_with(self.mailboxes.len(), Vec::new);
        for completed in writes {
            if let WriteOrigin::Link(link) = completed.pending.origin
                && let Some(of_loop) = by_loop.get_mut(link.event_loop)
            {
                of_loop.push((link.number, completed));
            }
        }
        let update: Option<Arc<str>> =
            (!metrics.is_empty()).then(|| monitor::metrics_update(&metrics, now).into());
        for (mailbox, writes) in self.mailboxes.iter().zip(by_loop) {
            if !writes.is_empty() {
                mailbox.send(LoopMessage::Committed(writes));
            }
            if let Some(update) = &update {
                mailbox.send(LoopMessage::Broadcast(update.clone()));
            }
        }
        for (link, command) in commands {
            if let Some(mailbox) = self.mailboxes.get(link.event_loop) {
                mailbox.send(LoopMessage::SendCommand { link: link.number, command });
            }
        }
        if let Some(cluster) = &self.cluster {
            cluster.give_back(unsent);
        }
    }
}

/// Applies a write to the nodes. Returns new metrics as an object of the REST API.
fn apply(nodes: &mut Nodes, completed: &Completed, now: SystemTime) -> Option<Value> {
    let at = unix_ms(now);
    match (&completed.pending.write, &completed.pending.origin) {
        (Write::Report { report, .. }, WriteOrigin::Link(link)) => {
            nodes.set_report(Instant::now(), report, *link);
            nodes.update_info(&report.node_id, |info| info.note_first(at));
            None
        }
        (Write::Core(request), _) => {
            let metrics = match &request.content {
                Content::Register(register) => {
                    nodes.update_info(&request.node_id, |info| info.register(register, at));
                    return None;
                }
                Content::Heartbeat(metrics) => metrics.clone().unwrap_or_default(),
                Content::Metrics(metrics) => metrics.clone(),
                Content::CommandStarted(_) | Content::CommandResult(_) => return None,
            };
            let Stored::Metrics { id } = completed.stored else { return None };
            let metrics = StoredMetrics { id, at, metrics };
            let json = metrics.to_json(&request.node_id);
            let is_heartbeat = matches!(request.content, Content::Heartbeat(_));
            nodes.update_info(&request.node_id, |info| info.add_metrics(metrics, is_heartbeat));
            Some(json)
        }
        (
            Write::Report { .. }
            | Write::Command { .. }
            | Write::Agent { .. }
            | Write::Status { .. }
            | Write::Credential { .. }
            | Write::HookState { .. }
            | Write::DeleteNode(_),
            _,
        ) => None,
    }
}
