//! Load generator for the hm port of a hub. Each link is a node with an id of its own. Prints one JSON line.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hm_agent::net::reconnecting_client::RECONNECT_BACKOFF;
use hm_agent::util::backoff::{Backoff, random_unit};
use serde_json::json;
use tungstenite::{Message, WebSocket};

const USAGE: &str = "\
usage: hub-load HOST:PORT rate LINKS SECONDS            each link sends a report when the last one is answered
       hub-load HOST:PORT restart LINKS                 opens the links, prints a line, waits for the end of the
                                                        hub and reconnects as agents do
       hub-load HOST:PORT links LINKS SECONDS INTERVAL  each link sends a report every INTERVAL seconds; then waits
                                                        for the end of standard input";

/// Number of threads that open links.
const OPENERS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(60);
/// Links that are not open again after this time are counted as lost.
const MAX_RECONNECT_TIME: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u32>().ok();
    let result = match words[..] {
        [server, "rate", links, seconds] => {
            match (server.parse(), number(links), number(seconds)) {
                (Ok(server), Some(links), Some(seconds)) => rate(server, links, seconds),
                _ => return usage(),
            }
        }
        [server, "restart", links] => match (server.parse(), number(links)) {
            (Ok(server), Some(links)) => restart(server, links),
            _ => return usage(),
        },
        [server, "links", links, seconds, interval] => {
            match (server.parse(), number(links), number(seconds), number(interval)) {
                (Ok(server), Some(links), Some(seconds), Some(interval)) => {
                    hold(server, links, seconds, interval)
                }
                _ => return usage(),
            }
        }
        _ => return usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hub-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

type Link = WebSocket<TcpStream>;

fn open(server: SocketAddr, number: u32) -> io::Result<Link> {
    let socket = TcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let url = format!("ws://{server}/websocket");
    let failed = |error: String| io::Error::other(format!("link {number}: {error}"));
    // The default buffer of 128 KiB a link would measure this program.
    let config = tungstenite::protocol::WebSocketConfig::default().read_buffer_size(512);
    let (mut link, _) = tungstenite::client::client_with_config(url, socket, Some(config))
        .map_err(|error| failed(error.to_string()))?;
    send(&mut link, 1, 0, &json!({"node_id": format!("load-{number}")}))?;
    match read_code(&mut link)? {
        0 => Ok(link),
        code => Err(failed(format!("code {code}"))),
    }
}

fn send(link: &mut Link, kind: u32, id: u32, body: &serde_json::Value) -> io::Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let milliseconds = now.unwrap_or_default().as_millis() as u64;
    let body = data_encoding::BASE64.encode(body.to_string().as_bytes());
    let request = json!({"version": 0, "timestamp": milliseconds, "id": id, "type": kind,
        "pub_key": "", "sign": "", "body": body});
    link.send(Message::text(request.to_string())).map_err(to_io)
}

fn report(number: u32) -> serde_json::Value {
    json!({"project": "DecentralGPT", "models": [{"model": "Codestral-22B-v0.1"}],
        "gpu_name": "NVIDIA RTX A5000", "utilization_gpu": number % 101, "memory_total": 24564,
        "memory_used": 20_000 + number % 4096})
}

fn read_code(link: &mut Link) -> io::Result<u64> {
    loop {
        if let Message::Text(text) = link.read().map_err(to_io)? {
            let answer: serde_json::Value = serde_json::from_str(&text)?;
            return answer["code"].as_u64().ok_or_else(|| io::Error::other(text.to_string()));
        }
    }
}

fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

fn open_all(server: SocketAddr, links: u32) -> io::Result<Vec<Link>> {
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS as u32)
            .map(|opener| {
                let numbers = (opener..links).step_by(OPENERS);
                scope.spawn(move || numbers.map(|number| open(server, number)).collect())
            })
            .collect();
        let mut all = Vec::new();
        for opener in openers {
            let opened: io::Result<Vec<Link>> =
                opener.join().map_err(|_| io::Error::other("a thread has failed"))?;
            all.extend(opened?);
        }
        Ok(all)
    })
}

fn rate(server: SocketAddr, links: u32, seconds: u32) -> io::Result<()> {
    let open = open_all(server, links)?;
    let end = Instant::now() + Duration::from_secs(seconds.into());
    let run = |mut link: Link| -> io::Result<Vec<u32>> {
        let mut micros = Vec::new();
        while Instant::now() < end {
            let sent = Instant::now();
            send(&mut link, 2, 1, &report(micros.len() as u32))?;
            match read_code(&mut link)? {
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

fn hold(server: SocketAddr, links: u32, seconds: u32, interval: u32) -> io::Result<()> {
    let started = Instant::now();
    let mut open = open_all(server, links)?;
    let opened = started.elapsed();
    for link in &open {
        link.get_ref().set_nonblocking(true)?;
    }
    let (start, mut sent, mut answered) = (Instant::now(), 0u32, 0u32);
    let pause = Duration::from_secs(interval.into()) / links.max(1);
    let total = seconds * links / interval.max(1);
    for turn in 0..total {
        let due = start + pause * turn;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if let Some(link) = open.get_mut((turn % links) as usize) {
            answered += read_answers(link)?;
            send(link, 2, turn, &report(turn))?;
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

fn restart(server: SocketAddr, links: u32) -> io::Result<()> {
    let mut open = open_all(server, links)?;
    writeln!(io::stdout(), "{}", json!({"links": links}))?;
    // Its read fails when the hub ends.
    let first = open.first_mut().ok_or(ErrorKind::InvalidInput)?;
    first.get_ref().set_read_timeout(None)?;
    while first.read().is_ok() {}
    drop(open);
    let lost = Instant::now();
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS as u32)
            .map(|opener| {
                let numbers = (opener..links).step_by(OPENERS);
                scope.spawn(move || reconnect(server, numbers))
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
fn reconnect(server: SocketAddr, numbers: impl Iterator<Item = u32>) -> Vec<Link> {
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
        if let Ok(link) = open(server, number) {
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
