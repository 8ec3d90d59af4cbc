//! Connections of hm nodes on an event loop.

use std::time::Instant;

use crate::hub::Hub;
use crate::hub::event_loop::link::{Ended, Protocol};
use crate::hub::event_loop::mailbox::LoopMessage;
use crate::hub::event_loop::{EventLoop, now};
use crate::hub::hm::session::{ClaimResult, HmNodeAction, HmNodeSession};
use crate::hub::nodes::Claim;
use crate::hub::store::{QueuedWrite, Stored, Write, WriteOrigin};

impl EventLoop {
    pub(super) fn perform_hm(
        &mut self,
        hub: &Hub,
        number: u64,
        action: HmNodeAction,
    ) -> Result<(), Ended> {
        let id = self.link_id(number);
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        match action {
            HmNodeAction::Send(text) => return link.send(&text, Instant::now()),
            HmNodeAction::Store { id: request_id, report } => {
                link.on_queued();
                let write = Write::Report { report, request_id };
                hub.store.add(QueuedWrite { write, origin: WriteOrigin::Link(id) });
            }
            HmNodeAction::Claim(node_id) => {
                let claim = match hub.check_identity(&node_id, link) {
                    Ok(()) => hub.claim(&node_id, id, link),
                    Err(_) => Claim::Refused,
                };
                match claim {
                    Claim::Granted => self.finish_claim(hub, number, ClaimResult::Granted),
                    Claim::Refused => self.finish_claim(hub, number, ClaimResult::Refused),
                    Claim::HeldElsewhere(owner) => match &hub.cluster {
                        Some(cluster) => cluster.claim(id, &node_id, owner),
                        None => self.finish_claim(hub, number, ClaimResult::HeldByOther),
                    },
                    Claim::Held(holder) => {
                        let message = LoopMessage::Probe { link: holder.number, claimant: id };
                        hub.send(holder.event_loop, message);
                    }
                }
            }
        }
        Ok(())
    }

    /// The connection that held the node has ended. If a third one has it by now, that one keeps it.
    pub(super) fn claim_again(&mut self, hub: &Hub, number: u64) {
        let Some(link) = self.links.get(&number) else { return };
        let Protocol::Hm { session } = &link.protocol else { return };
        let Some(node_id) = session.claimed().cloned() else { return };
        // The token may be another node's since the first attempt.
        let is_admitted = hub.check_identity(&node_id, link).is_ok();
        let claim = is_admitted.then(|| hub.claim(&node_id, self.link_id(number), link));
        let result = match claim {
            Some(Claim::Granted) => ClaimResult::Granted,
            Some(Claim::Held(_) | Claim::HeldElsewhere(_)) => ClaimResult::HeldByOther,
            Some(Claim::Refused) | None => ClaimResult::Refused,
        };
        self.finish_claim(hub, number, result);
    }

    pub(super) fn finish_claim(&mut self, hub: &Hub, number: u64, result: ClaimResult) {
        let now = now();
        self.with_link(hub, number, |link| {
            let claimed = match &link.protocol {
                Protocol::Hm { session } => session.claimed().cloned(),
                Protocol::CoreNode(_) | Protocol::Monitor { .. } => None,
            };
            let granted = claimed.filter(|_| result == ClaimResult::Granted);
            let info = granted.map(|node_id| hub.announcement(&node_id, link));
            let Protocol::Hm { session } = &mut link.protocol else { return Ok(()) };
            match session.on_claim_result(now, result, &info.unwrap_or_default()) {
                Some(response) => link.send(&response, now.instant),
                None => Ok(()),
            }
        });
        self.ready.push(number);
    }

    pub(super) fn on_report_stored(
        &mut self,
        hub: &Hub,
        number: u64,
        request_id: u64,
        stored: Stored,
    ) {
        let now = now();
        let response = HmNodeSession::stored_response(now, request_id, stored != Stored::Failed);
        self.with_link(hub, number, |link| {
            link.on_stored();
            link.send(&response, now.instant)
        });
        self.ready.push(number);
    }
}
