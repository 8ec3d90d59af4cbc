use super::*;

const OFFLINE_AFTER: Duration = Duration::from_secs(60);

fn link(number: u64) -> LinkId {
    LinkId { event_loop: 0, number }
}

fn report(node_id: &str) -> HmReport {
    HmReport { node_id: node_id.into(), sent: 0, adjusted: false, info: Arc::default() }
}

fn changes(nodes: &mut Nodes) -> Vec<(String, Presence)> {
    nodes.take_changes().into_iter().map(|change| (change.node_id.to_string(), change.to)).collect()
}

#[test]
fn node_is_online_then_lost_then_offline() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut nodes = Nodes::new(start, OFFLINE_AFTER, []);
    let a: Arc<str> = "a".into();
    assert_eq!(nodes.claim(at(200), &a, link(1)), Claim::Granted);
    assert_eq!(changes(&mut nodes), [("a".into(), Presence::Online)]);
    nodes.release(at(300), &a, link(1));
    assert_eq!(changes(&mut nodes), [("a".into(), Presence::Lost)]);
    nodes.expire(at(359));
    assert_eq!(changes(&mut nodes), []);
    nodes.expire(at(360));
    nodes.expire(at(361));
    assert_eq!(changes(&mut nodes), [("a".into(), Presence::Offline)]);
    assert_eq!(nodes.claim(at(400), &a, link(2)), Claim::Granted);
    assert_eq!(nodes.counts(), [1, 0, 0]);
}

#[test]
fn no_node_is_offline_within_two_minutes_of_the_start() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut nodes = Nodes::new(start, OFFLINE_AFTER, [("known".into(), NodeInfo::default())]);
    let b: Arc<str> = "b".into();
    nodes.claim(at(1), &b, link(1));
    nodes.release(at(2), &b, link(1));
    nodes.expire(at(119));
    assert_eq!(nodes.counts(), [0, 2, 0]);
    nodes.expire(at(120));
    assert_eq!(nodes.counts(), [0, 0, 2]);
}

#[test]
fn connected_node_is_held_and_not_released_by_another_link() {
    let now = Instant::now();
    let mut nodes = Nodes::new(now, OFFLINE_AFTER, []);
    let a: Arc<str> = "a".into();
    nodes.claim(now, &a, link(1));
    assert_eq!(nodes.claim(now, &a, link(2)), Claim::Held(link(1)));
    nodes.release(now, &a, link(2));
    assert_eq!(nodes.counts(), [1, 0, 0]);
    // The end of a replaced connection does not end the presence of its successor.
    nodes.release(now, &a, link(1));
    assert_eq!(nodes.claim(now, &a, link(2)), Claim::Granted);
    nodes.release(now, &a, link(1));
    assert_eq!(nodes.counts(), [1, 0, 0]);
}

#[test]
fn reports_of_ended_connections_are_forgotten() {
    let now = Instant::now();
    let mut nodes = Nodes::new(now, OFFLINE_AFTER, []);
    let a: Arc<str> = "a".into();
    nodes.claim(now, &a, link(1));
    nodes.set_report(now, &report("a"), link(1));
    assert_eq!(nodes.reports().len(), 1);
    nodes.release(now, &a, link(1));
    assert!(nodes.reports().is_empty());
    nodes.set_report(now, &report("a"), link(1));
    assert!(nodes.reports().is_empty(), "of a connection that has ended");
}

#[test]
fn node_with_both_protocols_is_online_until_the_last_connection_ends() {
    let start = Instant::now();
    let mut nodes = Nodes::new(start, OFFLINE_AFTER, []);
    let a: Arc<str> = "a".into();
    nodes.claim(start, &a, link(1));
    assert!(nodes.on_core_message(start, &a, link(2)));
    assert!(nodes.on_core_message(start, &a, link(3)));
    let address = std::net::IpAddr::from([127, 0, 0, 1]);
    assert_eq!(nodes.command_link("a"), None, "none is authenticated");
    nodes.set_peer("a", link(2), address, true);
    nodes.set_peer("a", link(3), address, true);
    assert_eq!(nodes.command_link("a"), Some(link(3)));
    for ended in [1, 3] {
        nodes.release(start, &a, link(ended));
        assert_eq!(nodes.counts(), [1, 0, 0]);
    }
    assert_eq!(nodes.command_link("a"), Some(link(2)));
    nodes.release(start, &a, link(2));
    assert_eq!(nodes.counts(), [0, 1, 0]);
    assert_eq!(changes(&mut nodes), [("a".into(), Presence::Online), ("a".into(), Presence::Lost)]);
}

#[test]
fn silent_core_connection_is_lost_and_returns_with_its_next_message() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut nodes = Nodes::new(start, OFFLINE_AFTER, []);
    let a: Arc<str> = "a".into();
    nodes.on_core_message(at(300), &a, link(1));
    nodes.expire(at(419));
    assert_eq!(nodes.counts(), [1, 0, 0]);
    nodes.expire(at(420));
    assert_eq!(nodes.counts(), [0, 1, 0]);
    nodes.expire(at(480));
    assert_eq!(nodes.counts(), [0, 0, 1]);
    nodes.on_core_message(at(481), &a, link(1));
    assert_eq!(nodes.counts(), [1, 0, 0]);
}
