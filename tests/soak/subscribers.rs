//! A thousand subscribers of `/usage`, who come and go: most read and say goodbye, some vanish, some never read, some have
//! the wrong token. One thread.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::fault_log::{STOPPED, Story};
use super::frames::{Frames, Heard, KEY, TEXT, contains, masked, upgrade};
use super::support::rng::Rng;
use super::{INTERVAL, TOKEN};

pub const SUBSCRIBERS: usize = 1000;
/// Who comes in one turn; more at once, and the kernel's queue would be measured.
const AT_ONCE: usize = 50;
/// A goodbye is answered within this.
const GOODBYE: Duration = Duration::from_secs(20);
/// With a longer pause between two updates, at least one was missed.
const GAP: Duration = Duration::from_secs(2 * INTERVAL + 1);
const CLOSE: u8 = 8;

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Polite,
    Vanishes,
    NeverReads,
    Stranger,
}

struct Client {
    socket: TcpStream,
    manner: Manner,
    input: Frames,
    unsent: Vec<u8>,
    upgraded: bool,
    came: Instant,
    leaves: Instant,
    /// When the last update came.
    updated: Option<Instant>,
    leaving: bool,
}

/// What became of a client after an event.
enum Fate {
    Stays,
    /// The other end has closed.
    Ended,
}

pub struct Crowd<'a> {
    server: SocketAddr,
    story: &'a Story,
    rng: Rng,
    poll: Poll,
    clients: Vec<Option<Client>>,
    free: VecDeque<usize>,
}

impl<'a> Crowd<'a> {
    pub fn new(server: SocketAddr, story: &'a Story, rng: Rng) -> Self {
        let clients = (0..SUBSCRIBERS).map(|_| None).collect();
        let (poll, free) = (Poll::new().unwrap(), (0..SUBSCRIBERS).collect());
        Self { server, story, rng, poll, clients, free }
    }

    pub fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut rushes = self.story.rushes.load(Ordering::Relaxed);
        loop {
            let over = self.story.is_over();
            if over && self.clients.iter().all(Option::is_none) {
                return;
            }
            let now = Instant::now();
            if self.story.rushes.load(Ordering::Relaxed) != rushes {
                rushes = self.story.rushes.load(Ordering::Relaxed);
                (0..SUBSCRIBERS).for_each(|at| self.remove(at));
            }
            for _ in 0..if over { 0 } else { AT_ONCE } {
                let Some(at) = self.free.pop_front() else { break };
                self.come(at, now);
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(20))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => panic!("{error}"),
                _ => {}
            }
            for event in &events {
                self.handle(event.token().0);
            }
            self.tend(over);
            let here = self.clients.iter().flatten().filter(|client| client.updated.is_some());
            self.story.subscribers.store(here.count() as u64, Ordering::Relaxed);
        }
    }

    fn come(&mut self, at: usize, now: Instant) {
        let (manner, longest) = match self.rng.below(100) {
            0..72 => (Manner::Polite, 90),
            72..87 => (Manner::Vanishes, 30),
            87..95 => (Manner::NeverReads, 90),
            _ => (Manner::Stranger, 1),
        };
        let stays = Duration::from_millis(2000 + self.rng.below(longest * 1000));
        let token = if manner == Manner::Stranger { "wrong" } else { TOKEN };
        let (query, header) = match self.rng.below(2) {
            0 => (format!("?token={token}"), String::new()),
            _ => (String::new(), format!("Authorization: Bearer {token}\r\n")),
        };
        let request = format!(
            "GET /usage{query} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{header}\r\n",
            self.server
        );
        let mut socket = TcpStream::connect(self.server).unwrap();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(at), interest).unwrap();
        self.clients[at] = Some(Client {
            socket,
            manner,
            input: Frames::default(),
            unsent: request.into_bytes(),
            upgraded: false,
            came: now,
            leaves: now + stays,
            updated: None,
            leaving: false,
        });
    }

    fn remove(&mut self, at: usize) {
        if self.clients[at].take().is_some() {
            self.free.push_back(at);
        }
    }

    fn handle(&mut self, at: usize) {
        let Some(client) = &mut self.clients[at] else { return };
        match client.turn(self.story, &mut self.rng) {
            Ok(Fate::Stays) => {}
            Ok(Fate::Ended) => self.ended(at, "it was closed"),
            Err(error) => self.ended(at, &error),
        }
    }

    /// The agent has ended it.
    fn ended(&mut self, at: usize, how: &str) {
        let Some(client) = &self.clients[at] else { return };
        match client.manner {
            Manner::Stranger if how == "401" => self.story.count("wrong tokens refused", 1),
            Manner::NeverReads => self.story.count("cut by the agent, for they never read", 1),
            _ if client.leaving => self.story.count("goodbyes answered", 1),
            _ => self.story.wrong(format!("a subscriber of {:?}: {how}", client.came.elapsed())),
        }
        self.remove(at);
    }

    /// Those whose time has come go, each in its manner.
    fn tend(&mut self, over: bool) {
        let now = Instant::now();
        for at in 0..SUBSCRIBERS {
            let Some(client) = &mut self.clients[at] else { continue };
            let pause = now - client.updated.unwrap_or(client.came);
            let reads = [Manner::Polite, Manner::Vanishes].contains(&client.manner);
            if reads && !client.leaving && pause > Duration::from_secs(60) {
                self.story.wrong(format!("no update for {pause:?}"));
                self.remove(at);
                continue;
            }
            if now < client.leaves && !over {
                continue;
            }
            match client.manner {
                // It may not have been let in yet.
                Manner::Polite if client.updated.is_some() && !client.leaving => {
                    client.unsent.extend(masked(CLOSE, &1000_u16.to_be_bytes()));
                    (client.leaving, client.leaves) = (true, now + GOODBYE);
                    self.handle(at);
                }
                Manner::Polite | Manner::Stranger if now < client.leaves + GOODBYE => {}
                Manner::Polite if client.leaving => {
                    let from = now - 2 * GOODBYE;
                    if !self.story.had(STOPPED, from, now) {
                        self.story.wrong(format!("a goodbye was not answered in {GOODBYE:?}"));
                    }
                    self.remove(at);
                }
                Manner::Polite | Manner::Stranger => self.remove(at),
                Manner::Vanishes | Manner::NeverReads => {
                    self.story.count("vanished without a word", 1);
                    self.remove(at);
                }
            }
        }
    }
}

impl Client {
    fn turn(&mut self, story: &Story, rng: &mut Rng) -> Result<Fate, String> {
        let subscribed = self.upgraded && self.unsent.is_empty();
        if self.manner != Manner::NeverReads || !subscribed {
            let mut part = [0; 8 << 10];
            loop {
                match self.socket.read(&mut part) {
                    Ok(0) => return Ok(Fate::Ended),
                    Ok(length) => self.input.push(&part[..length]),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::NotConnected => {
                        return Ok(Fate::Stays);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.to_string()),
                }
                if self.hear(story, rng)? {
                    return Ok(Fate::Ended);
                }
            }
        }
        match self.socket.write(&self.unsent) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error)
                if [ErrorKind::WouldBlock, ErrorKind::NotConnected].contains(&error.kind()) => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(Fate::Stays)
    }

    /// Whether the agent says goodbye.
    fn hear(&mut self, story: &Story, rng: &mut Rng) -> Result<bool, String> {
        if !self.upgraded {
            if self.input.rest().starts_with(b"HTTP/1.1 401 ") {
                return Err("401".to_owned());
            }
            let Some(length) = upgrade(self.input.rest())? else { return Ok(false) };
            self.input.skip(length);
            self.upgraded = true;
            // Much for those who do not read, and for some others.
            let detailed = self.manner == Manner::NeverReads || rng.below(20) == 0;
            let subscription: &[u8] =
                if detailed { b"subscribe:detail" } else { b"subscribe:usage" };
            self.unsent.extend(masked(TEXT, subscription));
        }
        while let Some(heard) = self.input.next()? {
            match heard {
                Heard::Message(text) if contains(text, b"\"usage_update\"") => {
                    let now = Instant::now();
                    if let Some(last) = self.updated.replace(now) {
                        story.count("updates", 1);
                        if now - last > GAP && !story.had(STOPPED, last, now) {
                            story.count("updates missed", 1);
                            story.wrong(format!("an update {:?} after the one before", now - last));
                        }
                    } else {
                        story.count("subscriptions", 1);
                    }
                }
                Heard::Close => return Ok(true),
                _ => {}
            }
        }
        Ok(false)
    }
}
