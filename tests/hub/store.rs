//! What every database must do. Each test runs with SQLite and with PostgreSQL.

use std::sync::Arc;

use hm_agent::hub::core::messages::ReceivedMetrics;
use hm_agent::hub::core::node_session::{Content, CoreNodeRequest};
use hm_agent::hub::nodes::Presence;
use hm_agent::hub::nodes::info::ReceivedStatus;
use hm_agent::hub::store::records::{CommandFilter, Mean, Page};
use hm_agent::hub::store::{Stored, Write};
use hm_agent::hub_extension::messages::AgentInfo;
use serde_json::json;

use crate::support::store::{
    ALL, DAY_MS, Store, command, core, metrics, now, registration, report, result, selection,
    started,
};
use crate::support::wait_until;

const SLOT: i64 = 300_000;

macro_rules! for_each_database {
    ($($test:ident)*) => {
        mod sqlite {
            $(#[test] fn $test() { super::$test(&mut crate::support::store::open_sqlite().1); })*
        }
        mod postgres {
            $(#[test] #[ignore = "needs PostgreSQL"] fn $test() { super::$test(&mut crate::support::store::start_postgres().1); })*
        }
    };
}

for_each_database! {
    returns_reports_as_they_were_sent_newest_first
    stores_a_repeat_once
    means_are_those_of_all_reports
    largest_numbers_are_stored
    returns_metrics_as_they_were_sent
    nodes_have_what_was_stored_last
    deleted_nodes_leave_nothing
    commands_run_through_their_statuses
    registration_returns_pending_commands
    imports_once
}

fn returns_reports_as_they_were_sent_newest_first(store: &mut Store) {
    let start = now() - 10;
    store.commit([5, 1, 9].map(|ms| report("a", start + ms, ms * 10)).to_vec());
    store.commit(vec![report("b", start + 7, 0), report("a", 3, 0), report("a", -3, 0)]);
    for _ in 0..2 {
        assert_eq!(store.times("a"), [start + 9, start + 5, start + 1, 3, -3]);
        let limited = store.reader.reports(&selection("a", start + 1, start + 5, 1)).unwrap();
        assert_eq!(limited.len(), 1);
        let found = store.reader.reports(&selection("a", start + 2, start + 8, 10)).unwrap();
        let expected = json!([{
            "timestamp": start + 5, "project": "DecentralGPT", "models": [{"model": "Codestral-22B-v0.1"}],
            "gpu_name": "NVIDIA RTX A5000", "utilization_gpu": 30, "memory_total": 24_564, "memory_used": 50,
        }]);
        assert_eq!(serde_json::to_value(found).unwrap(), expected);
        assert!(store.times("nonexistent").is_empty());
        store.writer.maintain().unwrap();
    }
}

fn stores_a_repeat_once(store: &mut Store) {
    let start = now() - 10;
    store.commit(vec![report("a", start, 1), report("a", start + 1, 1), report("a", start, 2)]);
    store.commit(vec![report("a", start, 3), report("b", start, 4)]);
    store.writer.maintain().unwrap();
    store.commit(vec![report("a", start + 1, 1), report("a", 5, 1), report("a", 5, 1)]);
    assert_eq!(store.times("a"), [start + 1, start, 5]);
    assert_eq!(store.times("b"), [start]);
    let first = store.reader.reports(&selection("a", start, start, 9)).unwrap();
    assert_eq!(first[0].memory_used, 1);
}

fn means_are_those_of_all_reports(store: &mut Store) {
    let all = selection("a", i64::MIN, i64::MAX, 10);
    assert!(store.reader.means(&all).unwrap().is_empty());
    let slot = now() / SLOT - 2;
    let at = |slot: i64, offset: i64| slot * SLOT + offset;
    for (sent, memory) in [(at(slot - 2, 0), 10), (at(slot, 5), 20), (at(slot, 7), 40)] {
        store.commit(vec![report("a", sent, memory), report("b", sent, 1000)]);
    }
    store.writer.maintain().unwrap();
    store.commit(vec![report("a", at(slot, 9), 60)]);
    let mean = |slot: i64, reports, memory_used| Mean {
        timestamp: slot * SLOT,
        reports,
        utilization_gpu: 30.0,
        memory_used,
    };
    let (newer, older) = (mean(slot, 3, 40.0), mean(slot - 2, 1, 10.0));
    let mut means = |start, end| store.reader.means(&selection("a", start, end, 10)).unwrap();
    assert_eq!(means(i64::MIN, at(slot, -1)), [older]);
    assert_eq!(means(at(slot - 1, 0), i64::MAX), [newer]);
    assert_eq!(means(at(slot, 1), i64::MAX), []);
    assert_eq!(means(i64::MIN, i64::MAX).len(), 2);
}

fn largest_numbers_are_stored(store: &mut Store) {
    let start = now() - 10;
    for sent in [start, start + 1, i64::MIN, i64::MAX] {
        store.commit(vec![report("a", sent, i64::MAX), report("b", sent, i64::MIN)]);
        store.writer.maintain().unwrap();
    }
    assert_eq!(store.times("a"), [i64::MAX, start + 1, start, i64::MIN]);
    let means = store.reader.means(&selection("a", 0, now(), 10)).unwrap();
    assert_eq!(means[0].memory_used, i64::MAX as f64);
    let extreme = [f64::MAX, f64::MIN, f64::INFINITY];
    store.commit(extreme.map(|value| core("a", Content::Metrics(metrics(value)))).to_vec());
    let summary = store.reader.metric_summary("a", ALL).unwrap();
    assert_eq!((summary.count, summary.means_and_maxima[1]), (3, Some(f64::INFINITY)));
}

fn returns_metrics_as_they_were_sent(store: &mut Store) {
    let values = [45.2, 100.0, -0.07];
    let mut ids = Vec::new();
    for value in values {
        let completed = store.commit(vec![core("a", Content::Metrics(metrics(value)))]);
        ids.push(completed[0].stored);
    }
    store.commit(vec![
        core("a", Content::Heartbeat(None)),
        core("b", Content::Metrics(metrics(1.0))),
    ]);
    for _ in 0..2 {
        let page = Page { limit: 100, offset: 0 };
        let (found, total) = store.reader.metrics("a", ALL, page).unwrap();
        let newest_first: Vec<_> = found.iter().map(|found| found.metrics.clone()).collect();
        let [first, second, third] = values.map(metrics);
        assert_eq!(newest_first, [ReceivedMetrics::default(), third, second, first]);
        assert_eq!((total, found[3].id), (4, metrics_id(ids[0])));
        let page = Page { limit: 1, offset: 1 };
        let (found, total) = store.reader.metrics("a", ALL, page).unwrap();
        assert_eq!((found.len(), found[0].id, total), (1, metrics_id(ids[2]), 4));
        let counts = store.reader.metric_counts(0).unwrap();
        assert_eq!((counts.total, counts.since), (5, 5));
        assert_eq!(store.reader.metric_summary("a", ALL).unwrap().count, 4);
        assert_eq!(store.reader.metric_summary("c", ALL).unwrap().count, 0);
        store.writer.maintain().unwrap();
    }
    let later = store.commit(vec![core("a", Content::Metrics(metrics(1.0)))]);
    assert!(ids.iter().all(|id| metrics_id(*id) < metrics_id(later[0].stored)));
}

fn metrics_id(stored: Stored) -> i64 {
    match stored {
        Stored::Metrics { id } => id,
        other => panic!("{other:?}"),
    }
}

fn nodes_have_what_was_stored_last(store: &mut Store) {
    let stored = store.commit(vec![core("a", registration("old")), core("a", registration("h"))]);
    assert_eq!([stored[0].stored, stored[1].stored], [Stored::Registered, Stored::Done]);
    let again = store.commit(vec![core("a", registration("h"))]);
    assert_eq!(again[0].stored, Stored::Done);
    for value in [1.0, 2.0] {
        store.commit(vec![core("a", Content::Metrics(metrics(value)))]);
        store.writer.maintain().unwrap();
    }
    store.commit(vec![core("d", Content::Metrics(metrics(3.0)))]);
    let agent = AgentInfo { hostname: "x".into(), ..AgentInfo::default() };
    let status = |at| {
        let snapshot: Arc<[u8]> = [0, 255].as_slice().into();
        Arc::new(ReceivedStatus { snapshot, at, ..ReceivedStatus::default() })
    };
    let node_id: Arc<str> = "a".into();
    let group: Option<Arc<str>> = Some("lab".into());
    for at in [1, 2] {
        store.commit(vec![
            Write::Agent { node_id: node_id.clone(), agent: agent.clone().into(), group: None },
            Write::Status { node_id: node_id.clone(), status: status(at) },
            Write::Status { node_id: "unknown".into(), status: status(at) },
            Write::HookState { node_id: node_id.clone(), state: Presence::Offline },
            Write::Credential { node_id: node_id.clone(), digest: [7; 32], group: group.clone() },
            report("c", at, 1),
        ]);
    }
    let info = store.node("a").unwrap();
    assert_eq!(info.register.map(|register| register.hostname).as_deref(), Some("h"));
    assert_eq!(info.metrics.unwrap().metrics, metrics(2.0));
    assert_eq!((info.agent.as_deref(), info.group.as_deref()), (Some(&agent), Some("lab")));
    assert_eq!((info.status, info.hook_state), (Some(status(2)), Some(Presence::Offline)));
    assert_eq!(store.node("c").unwrap().register, None);
    assert_eq!(store.node("d").unwrap().metrics.unwrap().metrics, metrics(3.0));
    assert_eq!(store.reader.nodes().unwrap().len(), 3);
    let credentials = store.reader.credentials().unwrap();
    assert_eq!(credentials.len(), 1);
    assert_eq!((&*credentials[0].node_id, credentials[0].digest), ("a", [7; 32]));
}

fn deleted_nodes_leave_nothing(store: &mut Store) {
    let (at, delete) = (now(), || Write::DeleteNode("a".into()));
    store.commit(vec![report("a", at, 1), core("a", registration("h")), command("a", "1", 9)]);
    store.commit(vec![core("a", Content::Metrics(metrics(1.0))), report("b", at, 1)]);
    store.writer.maintain().unwrap();
    store.commit(vec![delete(), delete(), Write::DeleteNode("unknown".into())]);
    assert!(store.node("a").is_none() && store.times("a").is_empty());
    assert_eq!(store.reader.command_counts().unwrap(), (0, 0));
    assert_eq!(store.reader.metrics("a", ALL, Page { limit: 9, offset: 0 }).unwrap().1, 0);
    // In one transaction.
    store.commit(vec![report("a", at, 1), delete(), report("a", at + 1, 1)]);
    assert_eq!((store.times("a"), store.times("b")), (vec![at + 1], vec![at]));
    store.commit(vec![report("a", at + 2, 1)]);
    assert_eq!(store.times("a"), [at + 2, at + 1]);
}

fn commands_run_through_their_statuses(store: &mut Store) {
    store.commit(["ok", "bad", "late", "lost"].map(|id| command("a", id, 0)).to_vec());
    assert_eq!(store.reader.command_counts().unwrap(), (4, 4));
    // A command of another node is not changed.
    store.commit(vec![started("a", "ok"), started("b", "bad")]);
    assert_eq!((store.status("ok"), store.status("bad")), ("running".into(), "pending".into()));
    store.commit(vec![result("a", "ok", 0, "out"), result("a", "ok", 1, "again")]);
    store.commit(vec![
        result("b", "bad", 0, ""),
        result("a", "bad", 3, ""),
        result("a", "ok", 1, "again"),
        result("a", "unknown", 3, ""),
    ]);
    assert_eq!((store.status("ok"), store.status("bad")), ("success".into(), "failed".into()));
    let timed_out = wait_until("timeouts", || {
        Some(store.writer.time_out_commands().unwrap()).filter(|ids| !ids.is_empty())
    });
    assert_eq!(timed_out, ["late", "lost"]);
    assert_eq!(store.status("lost"), "timeout");
    store.commit(vec![result("a", "late", 0, "")]);
    let filter =
        CommandFilter { node_id: Some("a"), status: Some("success"), ..CommandFilter::default() };
    let (found, total) = store.reader.commands(filter, true, Page { limit: 1, offset: 1 }).unwrap();
    assert_eq!((found.len(), total), (1, 2));
    let result = found[0].result.as_ref().unwrap();
    assert_eq!(
        (&result["stdout"], &result["execution_time_ms"]),
        (&"out".into(), &i64::MAX.into())
    );
    let page = Page { limit: 9, offset: 0 };
    let (found, total) = store.reader.commands(CommandFilter::default(), false, page).unwrap();
    assert_eq!((found.len(), total, found[0].result.as_ref()), (4, 4, None));
    assert_eq!(found[0].command["command_id"], "lost");
}

fn registration_returns_pending_commands(store: &mut Store) {
    store.commit(vec![command("a", "1", 9), command("b", "2", 9), command("a", "3", 9)]);
    store.commit(vec![started("a", "1")]);
    let done = store.commit(vec![
        command("a", "4", 9),
        core("a", registration("h")),
        command("a", "5", 9),
        core("c", registration("h")),
    ]);
    let ids: Vec<_> = done[1].commands.iter().map(|command| &*command.command_id).collect();
    assert_eq!(ids, ["3", "4"]);
    assert!(done[3].commands.is_empty());
}

fn imports_once(store: &mut Store) {
    let request = |content| CoreNodeRequest { id: "1".into(), node_id: "a".into(), content };
    let old = now() - 400 * DAY_MS;
    let records = [
        (request(registration("h")), old),
        (request(Content::Metrics(metrics(1.0))), old + 1),
        (request(Content::Metrics(metrics(2.0))), now()),
    ];
    let mut import = |records: &[_]| store.writer.import_core(&mut records.iter().cloned().map(Ok));
    assert_eq!(import(&records), Ok(2));
    assert!(import(&records).unwrap_err().0.contains("has metrics already"));
    let info = store.node("a").unwrap();
    assert_eq!(info.metrics.unwrap().metrics, metrics(2.0));
    let (found, _) = store.reader.metrics("a", ALL, Page { limit: 9, offset: 1 }).unwrap();
    assert_eq!(found[0].at, old + 1);
}
