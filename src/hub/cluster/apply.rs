//! Applies to this hub what was read in the database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::hub::Hub;
use crate::hub::cluster::database::changes::{Changes, InstanceRow, StateRow, StoredLink};
use crate::hub::cluster::leases::{LEASE, LeaseChanges};
use crate::hub::cluster::peer::Peer;
use crate::hub::core::messages::unix_ms;
use crate::hub::core::monitor;
use crate::hub::event_loop::mailbox::LoopMessage;
use crate::hub::nodes::shared::{InstanceId, Release, RowAction};
use crate::util::sync::lock;

/// Logs which hubs have appeared, returned and gone.
pub(super) fn log_changes(
    known: &HashMap<InstanceId, Arc<Peer>>,
    instances: &[InstanceRow],
    changes: &LeaseChanges,
) {
    for row in instances.iter().filter(|row| !known.contains_key(&row.id)) {
        log::info!("cluster: hub {} shares the database", row.name);
    }
    let name = |instance| known.get(instance).map_or("unknown", |peer| &peer.row.name);
    for instance in &changes.returned {
        log::info!("cluster: hub {} counts in the database again", name(instance));
    }
    for instance in &changes.silent {
        let (name, seconds) = (name(instance), LEASE.as_secs());
        log::warn!(
            "cluster: no count of hub {name} in the database for {seconds} s; its nodes are lost"
        );
    }
    for instance in &changes.stopped {
        log::warn!("cluster: hub {} has stopped; its nodes are lost", name(instance));
    }
}

/// After a time of which removals may be missing: forgets the nodes that do not exist any more.
pub(super) fn forget_missing(hub: &Hub, changes: &Changes) {
    let stored: HashSet<&str> = changes.nodes.iter().map(|(node_id, _)| &**node_id).collect();
    let missing = lock(&hub.nodes).missing_in(&stored);
    missing.iter().for_each(|node_id| hub.forget(node_id));
}

/// `links` are all that the database has.
pub(super) fn confirm_published(hub: &Hub, this_hub: InstanceId, links: &[StoredLink]) {
    let key = |link: &StoredLink| (link.node_id.clone(), link.protocol, link.epoch);
    let own = links.iter().filter(|link| link.instance == Some(this_hub));
    let named: HashSet<_> = own.map(key).collect();
    lock(&hub.nodes).confirm_published(|node_id, protocol, epoch| {
        named.contains(&(node_id.into(), protocol, epoch))
    });
}

/// Ends connections whose nodes have connected to other hubs. Returns those that the database names and that do not exist.
pub(super) fn end_links(hub: &Hub, actions: Vec<RowAction>) -> Vec<Release> {
    let mut releases = Vec::new();
    for action in actions {
        match action {
            RowAction::Nothing => {}
            RowAction::End(link) => {
                let why = "the node has connected to another hub";
                hub.send(link.event_loop, LoopMessage::End { link: link.number, why });
            }
            RowAction::Release(release) => releases.push(release),
        }
    }
    releases
}

pub(super) fn states(hub: &Hub, states: Vec<StateRow>) {
    let now = Instant::now();
    let (time, mut metrics) = (SystemTime::now(), Vec::new());
    hub.update_nodes(|nodes| {
        for StateRow { node_id, instance, state } in states {
            if nodes.apply_shared_state(now, unix_ms(time), &node_id, instance, state)
                && let Some((_, info)) = nodes.info(&node_id)
                && let Some(new) = &info.metrics
            {
                metrics.push(new.to_json(&node_id));
            }
        }
    });
    if !metrics.is_empty() {
        let update: Arc<str> = monitor::metrics_update(&metrics, time).into();
        hub.send_to_all(|| LoopMessage::Broadcast(update.clone()));
    }
}
