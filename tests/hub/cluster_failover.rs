//! Two hubs whose database fails over to a replica.

use std::sync::atomic::AtomicI64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::support::cluster::Member;
use crate::support::hub::http;
use crate::support::postgres::Postgres;
use crate::support::{sleep_for, wait_until};

/// A server, and its replica that has all commits.
fn pair() -> [Postgres; 2] {
    let primary = Postgres::start();
    let replica = primary.replica();
    primary.wait_for_replica();
    [primary, replica]
}

fn url([first, second]: &[Postgres; 2]) -> String {
    format!("postgres://hub@{},{}/hub", first.address, second.address)
}

/// `fail` ends the first server's service. The second one is promoted when the hubs have noticed it.
fn fails_over(fail: fn(&mut Postgres)) {
    let mut servers = pair();
    let [one, two] = ["one", "two"].map(|name| Member::start(name, &url(&servers), &[]));
    let (mut a, mut b) = (one.hub().node(), two.hub().node());
    assert_eq!((a.online("a"), b.online("b")), (0, 0));
    let states = |member: &Member| [member.state_of("a"), member.state_of("b")];
    for member in [&one, &two] {
        wait_until("both nodes", || (states(member) == ["online"; 2]).then_some(()));
    }
    // The failure comes while reports are committed.
    let stored = AtomicI64::new(0);
    let (first, acknowledged) = std::thread::scope(|scope| {
        let reports = scope.spawn(|| {
            let is_refused = |at: &i64| {
                let code = a.report(*at);
                stored.fetch_max(if code == 0 { *at } else { 0 }, Relaxed);
                code != 0
            };
            let last = (1..).find(is_refused).unwrap();
            (last, (1..last).collect::<Vec<i64>>())
        });
        wait_until("a report", || (stored.load(Relaxed) > 0).then_some(()));
        sleep_for(Duration::from_millis(500));
        fail(&mut servers[0]);
        reports.join().unwrap()
    });
    assert_eq!(b.report(1), 4, "the replica can only be read");
    assert_eq!([states(&one), states(&two)], [["online"; 2], ["online"; 2]]);
    let ready = |member: &Member| http(member.hub().web, "GET", "/-/ready", "", "");
    assert!(ready(&one).starts_with("HTTP/1.1 503 "), "{}", ready(&one));
    servers[1].promote();
    // On the same connections.
    wait_until("the first hub", || (a.report(first) == 0).then_some(()));
    wait_until("the second hub", || (b.report(1) == 0).then_some(()));
    assert_eq!(servers[1].stored("a"), [acknowledged, vec![first]].concat());
    assert_eq!(servers[1].stored("b"), [1]);
    wait_until("the hubs to recover", || {
        [&one, &two].iter().all(|it| ready(it).starts_with("HTTP/1.1 200 ")).then_some(())
    });
    // They still learn of each other's nodes.
    let mut c = one.hub().node();
    assert_eq!(c.online("c"), 0);
    wait_until("the second hub to show c", || (two.state_of("c") == "online").then_some(()));
    assert_eq!([states(&one), states(&two)], [["online"; 2], ["online"; 2]]);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn promoted_replica_takes_over_from_a_killed_server() {
    fails_over(Postgres::kill);
}

#[test]
#[ignore = "needs PostgreSQL"]
fn promoted_replica_takes_over_from_a_server_that_hangs() {
    fails_over(|postgres| postgres.signal("-STOP"));
}
