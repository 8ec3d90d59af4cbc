//! The WebSocket layer against RFC 6455, case by case, by raw sockets: the two ports as a client finds them, and the two
//! links as a server does. Sections are those of the Autobahn test suite (1 to 7, 9, 10); the cases are written from the RFC.
//!
//! `HM_CONFORMANCE_TABLE=docs/conformance.md cargo test --test conformance` writes the table.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cases;
mod judge;
mod peer;
mod utf8;
mod wire;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::{Case, all};
use judge::judge;
use peer::{PEERS, Peer, Ports};
use support::monitor::Monitor;

/// What is not as somebody may expect, and why that is so.
const DEVIATIONS: &[(&str, &str)] = &[
    (
        "1.4.1",
        "RFC 6455 5.2 has whoever sends a frame write its length in the shortest form, and does not say what the other end does \
         about another one. tungstenite reads it.",
    ),
    (
        "7.9.1",
        "1014 (bad gateway) got its meaning from IANA after the RFC, for which it is reserved. tungstenite keeps to the RFC.",
    ),
];

/// Several at a time: most of this is waiting for the other end.
const AT_ONCE: usize = 6;

type Results = BTreeMap<(usize, usize), Result<String, String>>;

#[test]
fn every_case_ends_as_it_should() {
    let monitor = Monitor::start(&["interval=3600"]);
    let ports = Ports { usage: monitor.agent.address, monitor: monitor.address() };
    let cases = all();
    let results = run(&cases, &ports);
    monitor.stop();
    let table = table(&cases, &results);
    println!("{table}");
    if let Some(path) = std::env::var_os("HM_CONFORMANCE_TABLE") {
        std::fs::write(path, document(&cases, &results, &table)).unwrap();
    }
    let failures: Vec<String> = results
        .iter()
        .filter_map(|((case, peer), result)| {
            let why = result.as_ref().err()?;
            Some(format!("{} with {}: {why}", cases[*case].id, PEERS[*peer].name()))
        })
        .collect();
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
}

fn run(cases: &[Case], ports: &Ports) -> Results {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Results::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let (case, peer) = (number / PEERS.len(), number % PEERS.len());
                    let Some(one) = cases.get(case) else { return };
                    let Some(talk) = (one.talk)(PEERS[peer]) else { continue };
                    let result =
                        peer::with(PEERS[peer], ports, |wire| judge(wire, PEERS[peer], &talk));
                    results.lock().unwrap().insert((case, peer), result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// Markdown: a line a case, a column a peer.
fn table(cases: &[Case], results: &Results) -> String {
    let names = PEERS.map(Peer::name).join(" | ");
    let mut table =
        format!("| case | what is sent | {names} |\n| --- | --- | --- | --- | --- | --- |\n");
    for (at, case) in cases.iter().enumerate() {
        let cells = (0..PEERS.len()).map(|peer| match results.get(&(at, peer)) {
            None => "–".to_owned(),
            Some(Ok(how)) => how.clone(),
            Some(Err(why)) => format!("**fails**: {why}"),
        });
        let deviates = DEVIATIONS.iter().any(|(id, _)| *id == case.id);
        let mark = if deviates { " ¹" } else { "" };
        let cells: Vec<String> = cells.collect();
        table += &format!("| {}{mark} | {} | {} |\n", case.id, case.what, cells.join(" | "));
    }
    table
}

fn document(cases: &[Case], results: &Results, table: &str) -> String {
    let failed = results.values().filter(|result| result.is_err()).count();
    let date = hm_agent::util::logger::utc(hm_agent::util::logger::unix_seconds());
    let date = date.split('T').next().unwrap();
    let reasons: Vec<String> =
        DEVIATIONS.iter().map(|(id, why)| format!("¹ {id}: {why}\n")).collect();
    format!(
        "# WebSocket conformance\n\n\
         Written by `HM_CONFORMANCE_TABLE=docs/conformance.md cargo test --test conformance`, which `tests/run` runs without the\n\
         table. Sections are those of the Autobahn test suite, which needs Python 2; the cases are written from RFC 6455, and sent\n\
         by raw sockets: to the two ports masked, as a client does, to the two links as a server does. Nobody here echoes:\n\
         that a message was understood is seen in its answer, or in that the connection goes on and answers a ping.\n\n\
         {date}, {}: {} cases, {} conversations, {failed} of which fail.\n\n\
         | in the table | means |\n| --- | --- |\n\
         | open | everything was taken (texts and pings answered), and the connection goes on |\n\
         | 1002, … | the connection is closed with this code, and nothing is said after it |\n\
         | closed with 1000, … | a close frame is answered with one of this code (or of none), then the connection ends |\n\
         | – | the case says nothing about this one |\n\n\
         {table}\n{}\n",
        std::env::consts::ARCH,
        cases.len(),
        results.len(),
        reasons.join("\n")
    )
}
