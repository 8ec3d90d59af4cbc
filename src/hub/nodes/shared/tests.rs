use std::time::Duration;

use super::*;
use crate::hub::core::messages::ReceivedMetrics;
use crate::hub::nodes::info::StoredMetrics;
use crate::hub::nodes::{Claim, RequestLink};

const OTHER: InstanceId = 7;

fn link(number: u64) -> LinkId {
    LinkId { event_loop: 0, number }
}

fn row(protocol: LinkProtocol, owner: Option<LinkOwner>, epoch: i64) -> LinkRow {
    LinkRow { node_id: "a".into(), protocol, owner, epoch }
}

struct Fixture {
    nodes: Nodes,
    now: Instant,
    node_id: Arc<str>,
}

impl Fixture {
    fn new() -> Self {
        let now = Instant::now();
        Self { nodes: Nodes::new(now, Duration::from_secs(60), []), now, node_id: "a".into() }
    }

    /// Publishes what is not published, with this epoch; returns the connections.
    fn publish(&mut self, epoch: i64) -> Vec<LinkId> {
        let publications = self.nodes.unpublished(self.now, 10);
        for publication in &publications {
            self.nodes.set_published(publication, epoch);
        }
        publications.iter().map(|publication| publication.link).collect()
    }

    fn apply(&mut self, protocol: LinkProtocol, owner: Option<LinkOwner>, epoch: i64) -> RowAction {
        self.nodes.apply_link_row(self.now, &row(protocol, owner, epoch))
    }

    fn presence(&self) -> Presence {
        self.nodes.info("a").unwrap().0
    }

    fn release(&mut self, epoch: i64, protocol: LinkProtocol) -> RowAction {
        let _ = &self.nodes;
        RowAction::Release(Release { node_id: "a".into(), protocol, epoch })
    }
}

const THIS: Option<LinkOwner> = Some(LinkOwner::ThisHub);
const ELSEWHERE: Option<LinkOwner> = Some(LinkOwner::Other(OTHER));

#[test]
fn connection_is_published_once_and_released_after_its_end() {
    let mut fixture = Fixture::new();
    fixture.nodes.claim(fixture.now, &fixture.node_id, link(1));
    assert_eq!(fixture.publish(3), [link(1)]);
    assert_eq!(fixture.publish(4), []);
    assert_eq!(fixture.apply(LinkProtocol::Hm, THIS, 3), RowAction::Nothing);
    assert_eq!(fixture.nodes.unreleased(fixture.now, 10), []);
    fixture.nodes.release(fixture.now, &fixture.node_id, link(1));
    let releases = fixture.nodes.unreleased(fixture.now, 10);
    assert_eq!(releases.len(), 1);
    assert_eq!(releases[0].epoch, 3);
    fixture.nodes.set_released(&releases[0]);
    assert_eq!(fixture.nodes.unreleased(fixture.now, 10), []);
    // A new connection has a new epoch, because commands are sent again on it.
    fixture.nodes.claim(fixture.now, &fixture.node_id, link(2));
    assert_eq!(fixture.publish(4), [link(2)]);
}

#[test]
fn hm_connection_ends_when_another_hub_takes_over() {
    let mut fixture = Fixture::new();
    fixture.nodes.claim(fixture.now, &fixture.node_id, link(1));
    fixture.publish(3);
    assert_eq!(fixture.apply(LinkProtocol::Hm, ELSEWHERE, 2), RowAction::Nothing, "older");
    assert_eq!(fixture.apply(LinkProtocol::Hm, ELSEWHERE, 4), RowAction::End(link(1)));
    assert_eq!(fixture.publish(5), [], "the end is on its way");
    fixture.nodes.release(fixture.now, &fixture.node_id, link(1));
    assert_eq!(fixture.presence(), Presence::Online);
    assert_eq!(fixture.nodes.unreleased(fixture.now, 10), [], "the other hub's");
    let claim = fixture.nodes.claim(fixture.now, &fixture.node_id, link(2));
    assert_eq!(claim, Claim::HeldElsewhere(OTHER));
    assert_eq!(fixture.nodes.request_link(fixture.now, "a"), RequestLink::Elsewhere(OTHER));
    assert_eq!(fixture.apply(LinkProtocol::Hm, None, 5), RowAction::Nothing);
    assert_eq!(fixture.presence(), Presence::Lost);
    let claim = fixture.nodes.claim(fixture.now, &fixture.node_id, link(2));
    assert_eq!((claim, fixture.presence()), (Claim::Granted, Presence::Online));
}

#[test]
fn core_connection_stays_when_another_hub_has_a_newer_one() {
    let mut fixture = Fixture::new();
    fixture.nodes.on_core_message(fixture.now, &fixture.node_id, link(1));
    assert_eq!(fixture.publish(1), [link(1)]);
    assert_eq!(fixture.apply(LinkProtocol::Core, ELSEWHERE, 2), RowAction::Nothing);
    assert_eq!(fixture.publish(3), [], "the newer one stays the owner");
    fixture.nodes.on_core_message(fixture.now, &fixture.node_id, link(2));
    assert_eq!(fixture.publish(3), [link(2)], "a still newer one");
    assert_eq!(fixture.apply(LinkProtocol::Core, ELSEWHERE, 4), RowAction::Nothing);
    assert_eq!(fixture.apply(LinkProtocol::Core, None, 5), RowAction::Nothing);
    assert_eq!(fixture.presence(), Presence::Online);
    assert_eq!(fixture.publish(6), [link(2)], "the other hub's connection has ended");
}

#[test]
fn row_without_a_connection_is_released() {
    let mut fixture = Fixture::new();
    let released = fixture.release(9, LinkProtocol::Hm);
    assert_eq!(fixture.apply(LinkProtocol::Hm, THIS, 9), released);
    // A publication whose result was lost: the connection is published again.
    fixture.nodes.claim(fixture.now, &fixture.node_id, link(1));
    fixture.publish(3);
    let released = fixture.release(4, LinkProtocol::Hm);
    assert_eq!(fixture.apply(LinkProtocol::Hm, THIS, 4), released);
    assert_eq!(fixture.publish(5), [link(1)]);
}

#[test]
fn nodes_of_a_dead_hub_are_lost_unless_they_are_connected_here() {
    let mut fixture = Fixture::new();
    fixture.apply(LinkProtocol::Hm, ELSEWHERE, 1);
    fixture.apply(LinkProtocol::Core, Some(LinkOwner::Other(8)), 1);
    assert_eq!(fixture.presence(), Presence::Online);
    fixture.nodes.end_instance(fixture.now, OTHER);
    assert_eq!(fixture.presence(), Presence::Online, "over Core, at a third hub");
    fixture.nodes.end_instance(fixture.now, 8);
    assert_eq!(fixture.presence(), Presence::Lost);
    assert_eq!(fixture.nodes.answering_remote_owner("a"), None);
}

#[test]
fn what_the_database_has_lost_is_published_again() {
    let mut fixture = Fixture::new();
    fixture.nodes.claim(fixture.now, &fixture.node_id, link(1));
    fixture.publish(3);
    fixture.nodes.confirm_published(|node_id, protocol, epoch| {
        (node_id, protocol, epoch) == ("a", LinkProtocol::Hm, 3)
    });
    assert_eq!(fixture.publish(4), []);
    fixture.nodes.confirm_published(|_, _, _| false);
    assert_eq!(fixture.publish(4), [link(1)]);
}

#[test]
fn state_is_shared_after_a_change_and_yields_to_a_connection_of_this_hub() {
    const TIME: i64 = 1_718_000_000_000;
    let (mut owner, mut other) = (Fixture::new(), Fixture::new());
    owner.nodes.claim(owner.now, &owner.node_id, link(1));
    let unshared = |fixture: &mut Fixture| fixture.nodes.unshared_states(fixture.now, TIME, 10);
    assert_eq!(unshared(&mut owner), [], "not published yet");
    owner.publish(1);
    owner.nodes.set_peer("a", link(1), "192.0.2.7".parse().unwrap(), true);
    let states = unshared(&mut owner);
    assert_eq!(states.len(), 1);
    assert_eq!(unshared(&mut owner), []);
    owner.nodes.set_unshared(&states);
    assert_eq!(unshared(&mut owner), states);
    let text = serde_json::to_string(&states[0].state).unwrap();
    let state: SharedState = serde_json::from_str(&text).unwrap();
    assert_eq!(state, states[0].state);
    other.apply(LinkProtocol::Hm, ELSEWHERE, 1);
    other.nodes.apply_shared_state(other.now, TIME, &other.node_id, OTHER, state.clone());
    let shown = |fixture: &Fixture| fixture.nodes.fleet(0).nodes[0].address;
    assert_eq!(shown(&other), state.address);
    other.nodes.on_core_message(other.now, &other.node_id, link(2));
    other.nodes.set_peer("a", link(2), "192.0.2.8".parse().unwrap(), true);
    other.nodes.apply_shared_state(other.now, TIME, &other.node_id, OTHER, state);
    assert_eq!(shown(&other), Some("192.0.2.8".parse().unwrap()));
}

#[test]
fn commands_are_refused_only_if_the_owner_refuses_them() {
    let mut fixture = Fixture::new();
    fixture.apply(LinkProtocol::Core, ELSEWHERE, 1);
    assert!(!fixture.nodes.is_refused_commands("a"), "not known yet");
    for (gets_commands, is_refused) in [(false, true), (true, false)] {
        let state = SharedState { gets_commands, ..SharedState::default() };
        fixture.nodes.apply_shared_state(fixture.now, 0, &fixture.node_id, OTHER, state);
        assert_eq!(fixture.nodes.is_refused_commands("a"), is_refused);
    }
}

#[test]
fn metrics_are_those_of_the_hub_with_the_core_connection() {
    let mut fixture = Fixture::new();
    let metrics = |id| Some(StoredMetrics { id, at: 5, metrics: ReceivedMetrics::default() });
    let shown = |fixture: &Fixture| {
        let info = fixture.nodes.info("a").unwrap().1;
        (info.metrics.as_ref().map(|metrics| metrics.id), info.last_heartbeat)
    };
    fixture.nodes.claim(fixture.now, &fixture.node_id, link(1));
    fixture.apply(LinkProtocol::Core, ELSEWHERE, 1);
    let apply = |fixture: &mut Fixture, instance, id| {
        let state = SharedState {
            metrics: metrics(id),
            last_heartbeat: Some(id),
            ..SharedState::default()
        };
        fixture.nodes.apply_shared_state(fixture.now, 0, &fixture.node_id, instance, state)
    };
    assert!(apply(&mut fixture, OTHER, 7), "though the hm connection is to this hub");
    assert_eq!(shown(&fixture), (Some(7), Some(7)));
    assert!(!apply(&mut fixture, OTHER, 7));
    assert!(!apply(&mut fixture, 8, 9), "of a hub without its Core connection");
    assert_eq!(shown(&fixture), (Some(7), Some(7)));
    assert_eq!(fixture.nodes.answering_remote_owner("a"), None, "this hub answers");
}
