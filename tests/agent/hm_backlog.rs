//! Memory and CPU time of an agent that reports, without and with a full backlog. `tests/soak/run reports` runs the same for an
//! hour.

use std::time::{Duration, Instant};

use crate::support::hm_server::HmServer;
use crate::support::{Agent, TempDir, reserve_address};
use hm_agent::hm_client::session::REPORT_PAUSE;
use hm_agent::hm_client::spool::{MAX_BACKLOG_REPORTS, Spool, SpooledReport};
use hm_agent::net::reconnecting_client::RECONNECT_BACKOFF;
use hm_agent::util::state_io::{DISK_TIMEOUT, StateIo};

fn agent(hub: &str, state: &TempDir) -> Agent {
    let state = format!("state_dir={}", state.0.display());
    let settings = ["node_id=n1", "hm.report_interval=1", "interval=1", "gpu.source=none"];
    Agent::start(&[&[hub, &state], &settings[..]].concat())
}

/// Duration of the soak; `HM_SOAK_SECONDS` is set by `tests/soak/run reports`.
fn soak() -> Option<Duration> {
    let seconds = std::env::var("HM_SOAK_SECONDS").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap()))
}

fn wait(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < timeout, "timeout waiting for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A full spool with the timestamps 1, 2, … Each report is as long as a real one.
fn fill(state: &TempDir) {
    let body = r#"{"project":"DecentralGPT","models":[{"model":"Codestral-22B-v0.1"}],"gpu_name":"NVIDIA RTX A5000","utilization_gpu":30,"memory_total":24564,"memory_used":22128}"#;
    let writer = StateIo::start(&state.0).unwrap();
    let mut spool = Spool::open(&writer, "hm-reports");
    for number in 1..=MAX_BACKLOG_REPORTS as u64 {
        spool.push(SpooledReport { unix_milliseconds: number, body: body.into() });
    }
    assert_eq!((spool.len(), spool.dropped()), (MAX_BACKLOG_REPORTS, 0));
    assert!(writer.flush(DISK_TIMEOUT));
}

#[test]
#[ignore = "half a minute; nine in tests/soak/run reports"]
fn delivers_full_backlog_in_order_at_bounded_pace() {
    let (idle, state) = (TempDir::new("backlog"), TempDir::new("backlog"));
    let address = reserve_address();
    let url = format!("hm.url=ws://{address}/");
    let empty = agent(&url, &idle);
    fill(&state);
    let start = Instant::now();
    let agent = agent(&url, &state);
    println!("listening after {:.0?} with a full backlog", start.elapsed());
    let full = agent.wait_log("backlog full (10000 reports), dropping the oldest");
    assert!(full.contains(" warn "), "{full}");
    std::thread::park_timeout(Duration::from_secs(5));
    let (without, with) = (memory_kb(&empty), memory_kb(&agent));
    println!("memory: {without} kB without a backlog, {with} kB with a full one");
    assert!(with < without + (8 << 10), "{without} kB without, {with} kB with");
    drop(empty);

    let hub = HmServer::on(address, false, Duration::from_secs(30));
    wait("the first report", RECONNECT_BACKOFF.1 * 2, || !hub.reports().is_empty());
    let line = agent.wait_log("backlog was full, dropped the ");
    let count = line.split("dropped the ").nth(1).unwrap().split(' ').next();
    let dropped: u64 = count.unwrap().parse().unwrap();
    let first = hub.reports()[0];
    // One more may have been dropped between that line and the first report.
    assert!(dropped >= 3 && (dropped + 1..=dropped + 2).contains(&first), "{first}: {line}");

    let (start, cpu) = (Instant::now(), agent.cpu_seconds());
    let before = hub.reports().len();
    match soak() {
        None => std::thread::park_timeout(Duration::from_secs(15)),
        Some(_) => wait("all of them", Duration::from_secs(1800), || {
            hub.reports().len() >= MAX_BACKLOG_REPORTS
        }),
    }
    let (reports, took) = (hub.reports(), start.elapsed());
    let (sent, cpu) = (reports.len() - before, agent.cpu_seconds() - cpu);
    let (pace, each) = (sent as f64 / took.as_secs_f64(), 1e6 * cpu / sent as f64);
    let after = memory_kb(&agent);
    println!(
        "{sent} reports in {took:.1?}: {pace:.1} a second, {each:.0} µs each; then {after} kB"
    );
    // One every 50 ms plus the response.
    assert!((4.0..=1.05 / REPORT_PAUSE.as_secs_f64()).contains(&pace), "{pace} a second");
    assert!(reports.windows(2).all(|pair| pair[0] < pair[1]), "not in order");
    let old: Vec<u64> =
        reports.into_iter().take_while(|at| *at <= MAX_BACKLOG_REPORTS as u64).collect();
    assert!(old.iter().copied().eq(first..first + old.len() as u64), "some are missing");
    assert!(after <= with + 512, "{with} kB before, {after} kB after");
    assert!(cpu < 0.3 * took.as_secs_f64(), "{cpu} s of {took:?}");
    let log = agent.stop();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("backlog full"), count("backlog was full")), (1, 1), "{log:#?}");
}

/// A report a second, to a server that stops and returns repeatedly.
#[test]
#[ignore = "a minute; an hour in tests/soak/run reports"]
fn memory_and_cpu_time_stay_constant() {
    let whole = soak().unwrap_or(Duration::from_secs(60));
    let state = TempDir::new("flat");
    let mut hub = Some(HmServer::start());
    let address = hub.as_ref().unwrap().address;
    let agent = agent(&hub.as_ref().unwrap().setting(), &state);
    // The first round allocates buffers, connects and disconnects once.
    let mut samples: Vec<(u64, f64, usize)> = Vec::new();
    let start = Instant::now();
    // Ten minutes each in an hour.
    let rounds = (whole.as_secs() as u32 / 600).max(3);
    for round in 1..=rounds {
        // The server is down for the last third of each round but the last.
        let end = whole * round / rounds;
        if round < rounds {
            pass_until(start, end - whole / rounds / 3);
            hub.take().map(HmServer::stop);
        }
        pass_until(start, end);
        if hub.is_none() {
            hub = Some(HmServer::on(address, false, Duration::from_secs(30)));
        }
        let hub = hub.as_ref().unwrap();
        let timeout = RECONNECT_BACKOFF.1 + end;
        wait("the backlog", timeout, || hub.connections() > 0 && backlog(&agent) <= 1);
        samples.push((memory_kb(&agent), agent.cpu_seconds(), agent.descriptors()));
        let (memory, cpu, descriptors) = samples[samples.len() - 1];
        let at = start.elapsed();
        println!("{at:>8.1?}: {memory} kB, {cpu:.2} s of CPU time, {descriptors} descriptors");
    }
    let (first, last) = (samples[0], samples[samples.len() - 1]);
    assert!(last.0 <= first.0 + 256, "{samples:?}");
    // The connections of `backlog` may still be closing.
    assert!(last.2 <= first.2 + 2, "{samples:?}");
    let (cpu, took) = (last.1 - first.1, start.elapsed() - whole / rounds);
    println!("{:.2} % of a CPU", 100.0 * cpu / took.as_secs_f64());
    assert!(cpu < 0.1 * took.as_secs_f64(), "{samples:?}");
    agent.stop();
}

fn pass_until(start: Instant, end: Duration) {
    while let Some(left) = end.checked_sub(start.elapsed()) {
        std::thread::park_timeout(left);
    }
}

/// Without pages of the program's file, of which more become resident with time.
fn memory_kb(agent: &Agent) -> u64 {
    agent.status("RssAnon")
}

/// Undelivered reports, from `/usage`.
fn backlog(agent: &Agent) -> u64 {
    let mut client = agent.connect();
    client.send_text("subscribe:detail");
    std::thread::park_timeout(Duration::from_millis(200));
    loop {
        let update = client.json();
        if let Some(upstream) = update["links"].get(0) {
            return upstream["backlog"].as_u64().unwrap();
        }
    }
}
