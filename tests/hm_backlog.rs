//! What a link costs: memory and processor time of an agent that reports, and of one with as many undelivered
//! reports as it keeps. `tests/soak reports` runs the same for an hour.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use hm_agent::hm_client::spool::{Report, Spool};
use hm_agent::limits;
use support::hub::Hub;
use support::{Agent, Scratch};

fn agent(hub: &str, state: &Scratch) -> Agent {
    let state = format!("state_dir={}", state.0.display());
    let settings = ["node_id=n1", "hm.report_interval=1", "interval=1", "gpu.source=none"];
    Agent::start(&[&[hub, &state], &settings[..]].concat())
}

/// How long these tests look; `HM_SOAK_SECONDS` in `tests/soak reports`.
fn soak() -> Option<Duration> {
    let seconds = std::env::var("HM_SOAK_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap()))
}

fn wait(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < patience, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A spool with as many reports as it keeps, taken at 1 ms, 2 ms, … Each is as long as a real one.
fn fill(state: &Scratch) {
    let body = r#"{"project":"DecentralGPT","models":[{"model":"Codestral-22B-v0.1"}],"gpu_name":"NVIDIA RTX A5000","utilization_gpu":30,"memory_total":24564,"memory_used":22128}"#;
    let mut spool = Spool::open(&state.0, "hm-reports");
    for number in 1..=limits::BACKLOG_REPORTS as u64 {
        spool.push(Report { unix_milliseconds: number, body: body.into() });
    }
    assert_eq!((spool.len(), spool.dropped()), (limits::BACKLOG_REPORTS, 0));
}

#[test]
#[ignore = "half a minute; nine in tests/soak reports"]
fn a_full_backlog_goes_in_order_and_at_a_bounded_pace_and_costs_no_more_than_its_memory() {
    let (idle, state) = (Scratch::new("backlog"), Scratch::new("backlog"));
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("hm.url=ws://{address}/");
    let empty = agent(&url, &idle);
    fill(&state);
    let start = Instant::now();
    let agent = agent(&url, &state);
    println!("an agent with a full backlog listens after {:.0?}", start.elapsed());
    // Newer reports come, and the oldest go.
    let full = agent.wait_log("10000 reports wait; from now on the oldest go");
    assert!(full.contains(" warn "), "{full}");
    std::thread::park_timeout(Duration::from_secs(5));
    let (without, with) = (memory_kb(&empty), memory_kb(&agent));
    println!("memory: {without} kB without a backlog, {with} kB with a full one");
    assert!(with < without + (8 << 10), "{without} kB without, {with} kB with");
    drop(empty);

    let hub = Hub::on(address, false, Duration::from_secs(30));
    wait("the first report", limits::RECONNECT.1 * 2, || !hub.reports().is_empty());
    let said = agent.wait_log("reports, the oldest, were dropped for want of room");
    let dropped: u64 =
        said.split("hm: ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let first = hub.reports()[0];
    // Between that line and the first report, one more may have gone.
    assert!(dropped >= 3 && (dropped + 1..=dropped + 2).contains(&first), "{first}: {said}");

    let (start, cpu) = (Instant::now(), agent.cpu_seconds());
    let before = hub.reports().len();
    match soak() {
        None => std::thread::park_timeout(Duration::from_secs(15)),
        Some(_) => wait("all of them", Duration::from_secs(1800), || {
            hub.reports().len() >= limits::BACKLOG_REPORTS
        }),
    }
    let (reports, took) = (hub.reports(), start.elapsed());
    let (sent, cpu) = (reports.len() - before, agent.cpu_seconds() - cpu);
    let (pace, each) = (sent as f64 / took.as_secs_f64(), 1e6 * cpu / sent as f64);
    let after = memory_kb(&agent);
    println!(
        "{sent} reports in {took:.1?}: {pace:.1} a second, {each:.0} µs each; then {after} kB"
    );
    // One every 50 ms and its answer; a second must not have more, whatever the machine.
    assert!((4.0..=1.05 / limits::REPORT_PAUSE.as_secs_f64()).contains(&pace), "{pace} a second");
    assert!(reports.windows(2).all(|pair| pair[0] < pair[1]), "not in order");
    let old: Vec<u64> =
        reports.into_iter().take_while(|at| *at <= limits::BACKLOG_REPORTS as u64).collect();
    assert!(old.iter().copied().eq(first..first + old.len() as u64), "some are missing");
    assert!(after <= with + 512, "{with} kB before, {after} kB after");
    assert!(cpu < 0.3 * took.as_secs_f64(), "{cpu} s of {took:?}");
    let log = agent.stop();
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((said("from now on the oldest go"), said("for want of room")), (1, 1), "{log:#?}");
}

/// A report a second, with a hub that is there and away in turn.
#[test]
#[ignore = "a minute; an hour in tests/soak reports"]
fn memory_and_processor_time_are_flat() {
    let whole = soak().unwrap_or(Duration::from_secs(60));
    let state = Scratch::new("flat");
    let mut hub = Some(Hub::start());
    let address = hub.as_ref().unwrap().address;
    let agent = agent(&hub.as_ref().unwrap().setting(), &state);
    // What is there from the start is there: buffers, the first connection, the first outage.
    let mut samples: Vec<(u64, f64, usize)> = Vec::new();
    let start = Instant::now();
    // Ten minutes each in an hour.
    let turns = (whole.as_secs() as u32 / 600).max(3);
    for turn in 1..=turns {
        // Away for the last third of each turn but the last one.
        let end = whole * turn / turns;
        if turn < turns {
            pass_until(start, end - whole / turns / 3);
            hub.take().map(Hub::stop);
        }
        pass_until(start, end);
        if hub.is_none() {
            hub = Some(Hub::on(address, false, Duration::from_secs(30)));
        }
        let hub = hub.as_ref().unwrap();
        let patience = limits::RECONNECT.1 + end;
        wait("what was missed", patience, || hub.connections() > 0 && backlog(&agent) <= 1);
        samples.push((memory_kb(&agent), agent.cpu_seconds(), agent.descriptors()));
        let (memory, cpu, descriptors) = samples[samples.len() - 1];
        let at = start.elapsed();
        println!(
            "{at:>8.1?}: {memory} kB, {cpu:.2} s of processor time, {descriptors} descriptors"
        );
    }
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    assert!(last.0 <= first.0 + 256, "{samples:?}");
    // Whoever asked for the backlog may still be closing.
    assert!(last.2 <= first.2 + 2, "{samples:?}");
    let (cpu, took) = (last.1 - first.1, start.elapsed() - whole / turns);
    println!("{:.2} % of a processor", 100.0 * cpu / took.as_secs_f64());
    assert!(cpu < 0.1 * took.as_secs_f64(), "{samples:?}");
    agent.stop();
}

fn pass_until(start: Instant, end: Duration) {
    while let Some(left) = end.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// What is its own: resident, but no pages of the program's file, of which more are touched with time.
fn memory_kb(agent: &Agent) -> u64 {
    agent.status("RssAnon")
}

/// Reports that wait, as the agent shows it.
fn backlog(agent: &Agent) -> u64 {
    let mut client = agent.connect();
    client.say("subscribe:detail");
    std::thread::park_timeout(Duration::from_millis(200));
    loop {
        let update = client.json();
        if let Some(link) = update["links"].get(0) {
            return link["backlog"].as_u64().unwrap();
        }
    }
}
