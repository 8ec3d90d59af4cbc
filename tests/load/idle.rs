//! Holds links that send nothing but pings.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use hm_agent::util::backoff::random_unit;
use serde_json::json;
use tungstenite::Message;

use crate::OPENERS;
use crate::link::{Link, TIMEOUT, Target, to_io};

/// The hub ends a link that is silent for 30 s. The time between two pings is random.
const MIN_PING_INTERVAL: Duration = Duration::from_secs(22);
const MAX_PING_INTERVAL: Duration = Duration::from_secs(27);
/// A ping is at most so late.
const TICK: Duration = Duration::from_millis(10);

/// Prints a line when all links are open and holds them until the end of standard input. Then prints another line.
pub fn hold(server: SocketAddr, links: u32, authority: Option<&Path>) -> io::Result<()> {
    let target = &Target::with_own_addresses(server, authority)?;
    let (started, stop) = (Instant::now(), &AtomicBool::new(false));
    let (sender, opened) = mpsc::channel();
    std::thread::scope(|scope| {
        let holders: Vec<_> = (0..OPENERS as u32)
            .map(|opener| {
                let (numbers, sender) = ((opener..links).step_by(OPENERS), sender.clone());
                scope.spawn(move || Holder::new(target).run(numbers, sender, stop))
            })
            .collect();
        drop(sender);
        // A thread that fails sends nothing.
        if opened.iter().count() == OPENERS {
            print(&json!({"links": links, "opened_s": started.elapsed().as_secs_f64()}))?;
            io::stdin().read_to_end(&mut Vec::new())?;
        }
        stop.store(true, Ordering::Relaxed);
        let (mut pings, mut pongs) = (0, 0);
        for holder in holders {
            let counts = holder.join().map_err(|_| io::Error::other("a thread has failed"))??;
            pings += counts.0;
            pongs += counts.1;
        }
        print(&json!({"links": links, "pings": pings, "pongs": pongs}))
    })
}

fn print(line: &serde_json::Value) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")?;
    io::stdout().flush()
}

/// The links of one thread.
struct Holder<'a> {
    target: &'a Target,
    links: Vec<Link>,
    /// When each link sends its next ping.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    pings: u64,
    pongs: u64,
}

impl<'a> Holder<'a> {
    fn new(target: &'a Target) -> Self {
        Self { target, links: Vec::new(), due: BinaryHeap::new(), pings: 0, pongs: 0 }
    }

    /// Returns the numbers of pings and pongs.
    fn run(
        mut self,
        numbers: impl Iterator<Item = u32>,
        opened: Sender<()>,
        stop: &AtomicBool,
    ) -> io::Result<(u64, u64)> {
        for number in numbers {
            let link = self.target.open(number)?;
            link.get_ref().socket().set_nonblocking(true)?;
            let delay = MAX_PING_INTERVAL.mul_f64(random_unit());
            self.due.push(Reverse((Instant::now() + delay, self.links.len())));
            self.links.push(link);
            self.send_due_pings()?;
        }
        let _ = opened.send(()); // the receiver outlives this thread
        drop(opened);
        while !stop.load(Ordering::Relaxed) {
            self.send_due_pings()?;
            std::thread::sleep(TICK);
        }
        let deadline = Instant::now() + TIMEOUT;
        while self.pongs < self.pings && Instant::now() < deadline {
            for link in &mut self.links {
                self.pongs += read_pongs(link)?;
            }
        }
        Ok((self.pings, self.pongs))
    }

    fn send_due_pings(&mut self) -> io::Result<()> {
        let now = Instant::now();
        while let Some(&Reverse((due, index))) = self.due.peek()
            && due <= now
        {
            self.due.pop();
            if let Some(link) = self.links.get_mut(index) {
                self.pongs += read_pongs(link)?;
                link.send(Message::Ping(Vec::new().into())).map_err(to_io)?;
                self.pings += 1;
            }
            let random = (MAX_PING_INTERVAL - MIN_PING_INTERVAL).mul_f64(random_unit());
            self.due.push(Reverse((Instant::now() + MIN_PING_INTERVAL + random, index)));
        }
        Ok(())
    }
}

/// Number of pongs that have arrived.
fn read_pongs(link: &mut Link) -> io::Result<u64> {
    let mut pongs = 0;
    loop {
        match link.read().map_err(to_io) {
            Ok(Message::Pong(_)) => pongs += 1,
            Ok(other) => return Err(io::Error::other(format!("unexpected message {other}"))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(pongs),
            Err(error) => return Err(error),
        }
    }
}
