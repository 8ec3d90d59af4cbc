//! Load generator for the ports of a hub, and for the published Core server. Each link is a node with an id of its own. Prints JSON
//! lines.

mod agent;
mod agents;
mod core_links;
mod frames;
mod idle;
mod link;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hm_agent::net::reconnecting_client::RECONNECT_BACKOFF;
use hm_agent::util::backoff::{Backoff, random_unit};
use serde_json::json;

use core_links::{CoreLink, CoreTarget};
use link::{Link, TIMEOUT, Target, read_code, report, send};

const USAGE: &str = "\
usage: hub-load HOST:PORT rate LINKS SECONDS            each link sends a report when the last one is answered
       hub-load HOST:PORT restart LINKS                 opens the links, prints a line, waits for the end of the
                                                        hub and reconnects as agents do
       hub-load HOST:PORT links LINKS SECONDS INTERVAL  each link sends a report every INTERVAL seconds; then waits
                                                        for the end of standard input
       hub-load HOST:PORT idle LINKS [CA_FILE]          opens the links from addresses of their own in 127.0.0.0/8,
                                                        with TLS if a certificate of an authority is given, prints a
                                                        line and pings until the end of standard input
       hub-load HOST:PORT core-rate LINKS SECONDS       as rate, with heartbeats over Core
       hub-load HOST:PORT core-stalled LINKS SECONDS    each link sends heartbeats over Core, without and with another
                                                        client that reads nothing
       hub-load HOST:PORT command COUNT HOST:PORT       sends commands through the Core port of one hub to a node that is
                                                        connected to that of the other one
       hub-load HOST:PORT,... agents LINKS MS [REPORTS] nodes behave as hm-agent, connect to any of the hubs, and report
                                                        every MS milliseconds on average (0: never), with a backlog of
                                                        REPORTS each. Prints a line when all are online, and for each
                                                        line of standard input when they are again, without a backlog";

/// Number of threads that open links.
const OPENERS: usize = 8;
/// Links that are not open again after this time are counted as lost.
const MAX_RECONNECT_TIME: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        [server, mode, links, ref rest @ ..] => run(server, mode, links, rest),
        _ => None,
    };
    let Some(result) = result else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hub-load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None`: the arguments are wrong.
fn run(server: &str, mode: &str, links: &str, rest: &[&str]) -> Option<io::Result<()>> {
    let number = |text: &str| text.parse::<u32>().ok();
    let links = number(links)?;
    if let ("agents", [interval, backlog @ ..]) = (mode, rest) {
        let hubs = server.split(',').map(|hub| hub.parse().ok()).collect::<Option<Vec<_>>>()?;
        let interval = Duration::from_millis(number(interval)?.into());
        let backlog = backlog.first().map_or(Some(0), |count| number(count))?;
        return Some(agents::run(agents::Options { hubs, links, interval, backlog }));
    }
    let server = server.parse().ok()?;
    let hm = Target::new(server);
    Some(match (mode, rest) {
        ("rate", [seconds]) => {
            let exchange =
                |link: &mut Link| send(link, 2, 1, &report()).and_then(|()| read_code(link));
            rate(&|number| hm.open(number), &exchange, links, number(seconds)?)
        }
        ("restart", []) => restart(&hm, links),
        ("links", [seconds, interval]) => hold(&hm, links, number(seconds)?, number(interval)?),
        ("idle", []) => idle::hold(server, links, None),
        ("idle", [authority]) => idle::hold(server, links, Some(Path::new(authority))),
        ("core-rate", [seconds]) => {
            let core = CoreTarget::new(server);
            rate(&|_| core.open(), &CoreLink::heartbeat, links, number(seconds)?)
        }
        ("command", [other]) => core_links::send_commands(server, links, other.parse().ok()?),
        ("core-stalled", [seconds]) => core_links::stall(server, links, number(seconds)?),
        _ => return None,
    })
}

fn open_all<L: Send>(
    open: &(impl Fn(u32) -> io::Result<L> + Sync),
    links: u32,
) -> io::Result<Vec<L>> {
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS as u32)
            .map(|opener| {
                let numbers = (opener..links).step_by(OPENERS);
                scope.spawn(move || numbers.map(open).collect())
            })
            .collect();
        let mut all = Vec::new();
        for opener in openers {
            let opened: io::Result<Vec<L>> =
                opener.join().map_err(|_| io::Error::other("a thread has failed"))?;
            all.extend(opened?);
        }
        Ok(all)
    })
}

/// `exchange` sends a message, waits for the answer and returns its code.
fn rate<L: Send>(
    open: &(impl Fn(u32) -> io::Result<L> + Sync),
    exchange: &(impl Fn(&mut L) -> io::Result<u64> + Sync),
    links: u32,
    seconds: u32,
) -> io::Result<()> {
    let open = open_all(open, links)?;
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let run = |mut link: L| -> io::Result<Vec<u32>> {
        let mut micros = Vec::new();
        while Instant::now() < end {
            let sent = Instant::now();
            match exchange(&mut link)? {
                0 => micros.push(sent.elapsed().as_micros() as u32),
                code => return Err(io::Error::other(format!("code {code}"))),
            }
        }
        Ok(micros)
    };
    let mut micros = std::thread::scope(|scope| {
        let threads: Vec<_> = open.into_iter().map(|link| scope.spawn(|| run(link))).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| io::Error::other("a thread has failed"))??);
        }
        Ok::<_, io::Error>(all)
    })?;
    micros.sort_unstable();
    let at = |part: usize| micros.get(micros.len() * part / 100).copied().unwrap_or_default();
    let per_second = micros.len() as f64 / f64::from(seconds);
    let line = json!({"links": links, "reports": micros.len(), "reports_per_second": per_second,
        "p50_ms": f64::from(at(50)) / 1e3, "p99_ms": f64::from(at(99)) / 1e3});
    writeln!(io::stdout(), "{line}")
}

fn hold(target: &Target, links: u32, seconds: u32, interval: u32) -> io::Result<()> {
    let started = Instant::now();
    let mut open = open_all(&|number| target.open(number), links)?;
    let opened = started.elapsed();
    for link in &open {
        link.get_ref().socket().set_nonblocking(true)?;
    }
    let (start, mut sent, mut answered) = (Instant::now(), 0u32, 0u32);
    let pause = Duration::from_secs(interval.into()) / links.max(1);
    let total = seconds * links / interval.max(1);
    for turn in 0..total {
        let due = start + pause * turn;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Some(link) = open.get_mut((turn % links) as usize) {
            answered += read_answers(link)?;
            send(link, 2, turn, &report())?;
            sent += 1;
        }
    }
    let deadline = Instant::now() + TIMEOUT;
    while answered < sent && Instant::now() < deadline {
        for link in &mut open {
            answered += read_answers(link)?;
        }
    }
    let line = json!({"links": links, "opened_s": opened.as_secs_f64(), "sent": sent, "answered": answered});
    writeln!(io::stdout(), "{line}")?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new()).map(|_| ())
}

fn restart(target: &Target, links: u32) -> io::Result<()> {
    let mut open = open_all(&|number| target.open(number), links)?;
    writeln!(io::stdout(), "{}", json!({"links": links}))?;
    // Its read fails when the hub ends.
    let first = open.first_mut().ok_or(ErrorKind::InvalidInput)?;
    first.get_ref().socket().set_read_timeout(None)?;
    while first.read().is_ok() {}
    drop(open);
    let lost = Instant::now();
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS as u32)
            .map(|opener| {
                let numbers = (opener..links).step_by(OPENERS);
                scope.spawn(move || reconnect(target, numbers))
            })
            .collect();
        // They stay open until all are.
        let open: Vec<_> = openers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let online = open.iter().flatten().map(Vec::len).sum::<usize>();
        let line =
            json!({"links": links, "online": online, "seconds": lost.elapsed().as_secs_f64()});
        writeln!(io::stdout(), "{line}")
    })
}

/// Reconnects each link after the delays of an agent.
fn reconnect(target: &Target, numbers: impl Iterator<Item = u32>) -> Vec<Link> {
    let (base, cap) = RECONNECT_BACKOFF;
    let mut backoffs = BTreeMap::new();
    let mut attempts = BinaryHeap::new();
    for number in numbers {
        let mut backoff = Backoff::new(base, cap);
        let delay = backoff.next_delay(random_unit(), Duration::ZERO);
        backoffs.insert(number, backoff);
        attempts.push(Reverse((Instant::now() + delay, number)));
    }
    let mut open_links = Vec::new();
    let deadline = Instant::now() + MAX_RECONNECT_TIME;
    while let Some(Reverse((due, number))) = attempts.pop().filter(|_| Instant::now() < deadline) {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Ok(link) = target.open(number) {
            open_links.push(link);
        } else if let Some(backoff) = backoffs.get_mut(&number) {
            let delay = backoff.next_delay(random_unit(), Duration::ZERO);
            attempts.push(Reverse((Instant::now() + delay, number)));
        }
    }
    open_links
}

/// Number of answers that have arrived.
fn read_answers(link: &mut Link) -> io::Result<u32> {
    let mut answers = 0;
    loop {
        match read_code(link) {
            Ok(0) => answers += 1,
            Ok(code) => return Err(io::Error::other(format!("code {code}"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answers),
            Err(error) => return Err(error),
        }
    }
}
