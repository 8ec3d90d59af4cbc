//! An event loop: one thread that drives the connections of many nodes. No call blocks. While the store's queue is full, no connection is
//! read or flushed and no deadline is checked, and TCP holds back the senders.

mod budgeted_socket;
mod core_links;
mod extension_links;
mod hm_links;
mod identity;
pub mod link;
pub mod mailbox;
mod sent_commands;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::hub::Hub;
use crate::hub::event_loop::link::{Ended, Link, Protocol, Received};
use crate::hub::event_loop::mailbox::{AcceptedSocket, LoopMessage, Mailbox};
use crate::hub::hm::session::{ClaimResult, Now};
use crate::hub::nodes::LinkId;
use crate::hub::store::{Completed, Write};
use crate::hub_extension::messages::is_extension;
use crate::util::logger::unix_milliseconds;

/// Interval between checks of deadlines.
const TICK: Duration = Duration::from_millis(250);
/// Interval between checks whether a full store queue has room.
const STORE_RETRY: Duration = Duration::from_millis(10);
/// Messages read from a link before other links are served.
const MESSAGES_PER_TURN: usize = 16;
/// A turn that takes longer is a stall of the loop.
const MAX_TURN: Duration = Duration::from_secs(1);
const EVENTS_PER_POLL: usize = 1024;
/// Why a link ends whose token is not valid any more.
const REVOKED: &str = "its token is not valid any more";
const MAILBOX: Token = Token(usize::MAX);

pub struct EventLoop {
    index: usize,
    poll: Poll,
    mailbox: Arc<Mailbox>,
    links: HashMap<u64, Link>,
    /// Those of monitor clients.
    monitors: Vec<u64>,
    last_number: u64,
    /// Links that may have something to read or to write.
    ready: Vec<u64>,
    /// Since when the store has had no room.
    paused_since: Option<Instant>,
    /// Whether messages are read; false while the hub stops.
    reading_enabled: bool,
    next_tick: Instant,
    /// When the next turn should begin at the latest.
    next_turn: Instant,
}

impl EventLoop {
    pub fn new(index: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox::new(poll.registry(), MAILBOX)?);
        Ok(Self {
            index,
            poll,
            mailbox,
            links: HashMap::new(),
            monitors: Vec::new(),
            last_number: 0,
            ready: Vec::new(),
            paused_since: None,
            reading_enabled: true,
            next_tick: Instant::now(),
            next_turn: Instant::now() + TICK,
        })
    }

    pub fn mailbox(&self) -> Arc<Mailbox> {
        self.mailbox.clone()
    }

    /// Runs until [`LoopMessage::Close`] has been received and every link has ended.
    pub fn run(mut self, hub: &Hub) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_POLL);
        let mut is_closing = false;
        while !is_closing || !self.links.is_empty() {
            let timeout = self.poll_timeout();
            self.add_stall(timeout);
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let tokens = events.iter().map(mio::event::Event::token);
            self.ready.extend(tokens.filter(|token| *token != MAILBOX).map(|Token(n)| n as u64));
            for message in self.mailbox.take() {
                is_closing |= matches!(message, LoopMessage::Close);
                self.on_message(hub, message);
            }
            self.update_pause(hub);
            if self.paused_since.is_none() {
                self.drive_ready(hub);
                self.check_deadlines(hub);
            }
        }
        Ok(())
    }

    /// After a stall of the loop, what the nodes have sent meanwhile is still in their sockets: the deadlines are extended.
    fn add_stall(&mut self, timeout: Duration) {
        let now = Instant::now();
        let stall = now.saturating_duration_since(self.next_turn);
        if stall > MAX_TURN {
            self.links.values_mut().for_each(|link| link.add_pause(stall));
        }
        self.next_turn = now + timeout;
    }

    fn poll_timeout(&self) -> Duration {
        match self.paused_since {
            Some(_) => STORE_RETRY,
            None if !self.ready.is_empty() => Duration::ZERO,
            None => self.next_tick.saturating_duration_since(Instant::now()),
        }
    }

    /// Stops reading while the store has no room. The pause is added to the deadlines of the nodes.
    fn update_pause(&mut self, hub: &Hub) {
        if !hub.store.has_room() {
            self.paused_since.get_or_insert_with(Instant::now);
        } else if let Some(since) = self.paused_since.take() {
            let pause = since.elapsed();
            self.links.values_mut().for_each(|link| link.add_pause(pause));
        }
    }

    fn on_message(&mut self, hub: &Hub, message: LoopMessage) {
        let now = Instant::now();
        match message {
            // While the hub stops, dropping it closes the connection.
            LoopMessage::Accepted(_) if !self.reading_enabled => {}
            LoopMessage::Accepted(accepted) => self.add(hub, accepted),
            LoopMessage::Committed(writes) => {
                for (number, completed) in writes {
                    self.on_committed(hub, number, &completed);
                }
            }
            LoopMessage::SendCommand { link, command } => self.send_command(hub, link, &command),
            LoopMessage::SendBinary { link, bytes } => {
                // The request of a connection that has ended has no answer.
                if !self.links.contains_key(&link) {
                    hub.requests.on_disconnect(self.link_id(link));
                }
                self.with_link(hub, link, |link| link.send_request(bytes, now));
            }
            LoopMessage::Broadcast(text) => self.broadcast(hub, &text),
            LoopMessage::Probe { link, claimant } if self.links.contains_key(&link) => {
                self.with_link(hub, link, |link| link.probe(claimant, now));
                self.ready.push(link);
            }
            LoopMessage::Probe { claimant, .. } => send_probe_result(hub, claimant, false),
            LoopMessage::ProbeResult { link, is_alive: true } => {
                self.finish_claim(hub, link, ClaimResult::HeldByOther);
            }
            LoopMessage::ProbeResult { link, is_alive: false } => self.claim_again(hub, link),
            LoopMessage::Recheck => self.recheck(hub),
            LoopMessage::End { link, why } => self.end(hub, link, why),
            LoopMessage::StopReading(stopped) => {
                self.reading_enabled = false;
                // The hub waits for it, or has given up.
                let _ = stopped.send(());
            }
            LoopMessage::Close => self.close_all(hub),
        }
    }

    fn on_committed(&mut self, hub: &Hub, number: u64, completed: &Completed) {
        match &completed.pending.write {
            Write::Report { request_id, .. } => {
                self.on_report_stored(hub, number, *request_id, completed.stored);
            }
            Write::Core(request) => self.on_core_stored(hub, number, request, completed),
            Write::Agent { .. }
            | Write::Command { .. }
            | Write::Status { .. }
            | Write::Credential { .. }
            | Write::HookState { .. }
            | Write::DeleteNode(_) => {}
        }
    }

    fn add(&mut self, hub: &Hub, accepted: AcceptedSocket) {
        let peer = accepted.peer;
        let (access, at_handshake) = (hub.access(), accepted.access.at_handshake.clone());
        self.last_number += 1;
        let number = self.last_number;
        let added = Link::new(accepted, now()).and_then(|mut link| {
            // The configuration may have been reloaded after the handshake.
            if !Arc::ptr_eq(&access, &at_handshake) && !link.readmit(&access) {
                return Err(io::Error::other(REVOKED));
            }
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(link.socket_mut(), Token(number as usize), interest)?;
            if let Protocol::Monitor { .. } = link.protocol {
                self.monitors.push(number);
            }
            self.links.insert(number, link);
            Ok(())
        });
        match added {
            // The client may have sent its first message with the handshake.
            Ok(()) => {
                self.ready.push(number);
                self.welcome(hub, number);
            }
            Err(error) => log::warn!("{peer}: {}", crate::util::error::reason(&error)),
        }
    }

    fn drive_ready(&mut self, hub: &Hub) {
        let mut ready = std::mem::take(&mut self.ready);
        ready.sort_unstable();
        ready.dedup();
        for number in ready {
            let now = Instant::now();
            let result = match self.links.get_mut(&number) {
                Some(link) => {
                    link.start_turn();
                    link.flush(now).and_then(|()| self.read(hub, number))
                }
                None => continue,
            };
            match result {
                Ok(()) => self.update_monitor(hub, number),
                Err(ended) => self.remove(hub, number, &ended),
            }
        }
    }

    fn read(&mut self, hub: &Hub, number: u64) -> Result<(), Ended> {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(link) = self.links.get_mut(&number).filter(|link| link.is_reading()) else {
                return Ok(());
            };
            if !self.reading_enabled {
                return Ok(());
            }
            let now = now();
            let received = link.read()?;
            let is_closing = link.is_closing();
            if !matches!(received, Received::WouldBlock) {
                for claimant in link.take_claimants() {
                    send_probe_result(hub, claimant, true);
                }
            }
            match (received, &mut link.protocol) {
                (Received::Text(_) | Received::Binary(_), _) if is_closing => {}
                (Received::WouldBlock, _) => {
                    link.note_progress(now);
                    if link.has_more() {
                        self.ready.push(number);
                    }
                    return Ok(());
                }
                (Received::Text(text), Protocol::Hm { session, .. }) => {
                    let action = session.on_message(now, text.as_bytes());
                    self.perform_hm(hub, number, action)?;
                }
                (Received::Binary(bytes), Protocol::Hm { session, .. }) if is_extension(&bytes) => {
                    session.on_ping(now);
                    self.on_extension(hub, number, &bytes);
                }
                (Received::Binary(bytes), Protocol::Hm { session, .. }) => {
                    let action = session.on_message(now, &bytes);
                    self.perform_hm(hub, number, action)?;
                }
                (Received::Text(text), _) => self.on_core_text(hub, number, &text)?,
                (Received::Binary(bytes), Protocol::CoreNode(_)) if is_extension(&bytes) => {
                    self.on_extension(hub, number, &bytes);
                }
                (Received::Binary(_), _) => {}
                (Received::Ping, protocol) => {
                    if let Protocol::Hm { session, .. } = protocol {
                        session.on_ping(now);
                    }
                    // tungstenite has queued the pong.
                    link.flush(now.instant)?;
                }
                (Received::Pong, _) => {}
            }
        }
        self.ready.push(number);
        Ok(())
    }

    fn check_deadlines(&mut self, hub: &Hub) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        let mut ended = Vec::new();
        for (number, link) in &mut self.links {
            if let Err(error) = link.check_deadlines(now) {
                ended.push((*number, error));
            }
        }
        for (number, error) in ended {
            self.remove(hub, number, &error);
        }
    }

    fn close_all(&mut self, hub: &Hub) {
        self.reading_enabled = true; // for the answers to the close frames
        let now = Instant::now();
        for number in self.links.keys().copied().collect::<Vec<_>>() {
            self.with_link(hub, number, |link| {
                link.close(CloseCode::Away, "hub is shutting down", now)
            });
            self.ready.push(number);
        }
    }

    /// Runs `work` for a link, which ends if it fails. Does nothing if the link has ended.
    fn with_link(
        &mut self,
        hub: &Hub,
        number: u64,
        work: impl FnOnce(&mut Link) -> Result<(), Ended>,
    ) {
        let Some(link) = self.links.get_mut(&number) else { return };
        if let Err(ended) = work(link) {
            self.remove(hub, number, &ended);
        }
    }

    fn remove(&mut self, hub: &Hub, number: u64, ended: &Ended) {
        let Some(mut link) = self.links.remove(&number) else { return };
        self.monitors.retain(|monitor| *monitor != number);
        link.close_notify();
        // An error is harmless: closing the socket deregisters it.
        let _ = self.poll.registry().deregister(link.socket_mut());
        let node_id = link.node_id();
        let name = node_id.map_or(String::new(), |id| format!(" (node {})", id.escape_debug()));
        log::debug!("{}{name} disconnected: {}", link.peer, ended.0);
        if let Some(node_id) = node_id {
            hub.release(node_id, self.link_id(number));
        }
        hub.requests.on_disconnect(self.link_id(number));
        if let Some(offered) = link.offered {
            hub.access().credentials.withdraw(&offered);
        }
        for claimant in link.take_claimants() {
            send_probe_result(hub, claimant, false);
        }
        if let Some(cluster) = &hub.cluster {
            cluster.give_back(link.sent_commands.into_ids());
        }
    }

    fn link_id(&self, number: u64) -> LinkId {
        LinkId { event_loop: self.index, number }
    }
}

fn send_probe_result(hub: &Hub, claimant: LinkId, is_alive: bool) {
    if let Some(cluster) = hub.cluster.as_ref().filter(|_| claimant.is_elsewhere()) {
        cluster.on_probe_result(claimant.number, is_alive);
        return;
    }
    hub.send(claimant.event_loop, LoopMessage::ProbeResult { link: claimant.number, is_alive });
}

fn now() -> Now {
    Now { instant: Instant::now(), milliseconds: unix_milliseconds() }
}
