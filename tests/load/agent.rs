//! A node that behaves as hm-agent: its session, pace and delays, without a thread of its own.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use hm_agent::hm_client::messages::{HmResponse, RequestKind, online, request};
use hm_agent::hm_client::session::{HmAction, HmEvent, HmSession};
use hm_agent::net::disconnect::DisconnectReason;
use hm_agent::net::endpoint::HANDSHAKE_TIMEOUT;
use hm_agent::net::keepalive::Keepalive;
use hm_agent::net::reconnecting_client::{PONG_TIMEOUT, RECONNECT_BACKOFF, UpstreamSession};
use hm_agent::util::backoff::{Backoff, random_unit};
use hm_agent::util::logger::unix_milliseconds;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::frames::{Frames, Incoming, KEY, PONG, TEXT, masked, upgrade};
use crate::link::{random_below, report};

/// The default of hm.ping_interval.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING: u8 = 9;

/// Times are on the clock of all agents.
pub struct Agent {
    node_id: String,
    link: Option<Link>,
    backoff: Backoff,
    /// When [`Agent::step`] must be called next.
    pub due: Duration,
    reports: VecDeque<Report>,
    pub record: Record,
}

/// A report that was not delivered yet.
pub struct Report {
    pub unix_milliseconds: u64,
    pub at: Duration,
}

/// What has happened since the last figures.
#[derive(Default)]
pub struct Record {
    /// When the first link ended that was online, and the number of such ends.
    pub ended: Option<Duration>,
    pub ends: u32,
    /// When the node was last accepted.
    pub online: Option<Duration>,
    /// Codes of the answers that refused the node.
    pub refusals: Vec<u32>,
    /// Attempts that have ended before the node was accepted, with the hub and the reason.
    pub failures: Vec<(SocketAddr, &'static str)>,
    /// Times from a report to its answer in microseconds.
    pub answered: Vec<u32>,
    /// Reports that were answered with another code than 0.
    pub rejected: u32,
}

impl Record {
    fn end(&mut self, now: Duration) {
        self.ended.get_or_insert(now);
        self.ends += 1;
    }
}

struct Link {
    socket: TcpStream,
    hub: usize,
    /// Other hubs to try in this attempt.
    untried: usize,
    is_upgraded: bool,
    is_online: bool,
    input: Frames,
    output: Vec<u8>,
    session: HmSession,
}

/// What all agents share.
pub struct Context<'a> {
    pub hubs: &'a [SocketAddr],
    pub registry: &'a Registry,
    /// Of this agent.
    pub token: Token,
    pub now: Duration,
}

impl Agent {
    /// Connects at `due`.
    pub fn new(node_id: String, due: Duration) -> Self {
        let backoff = Backoff::new(RECONNECT_BACKOFF.0, RECONNECT_BACKOFF.1);
        Self {
            node_id,
            link: None,
            backoff,
            due,
            reports: VecDeque::new(),
            record: Record::default(),
        }
    }

    pub fn is_online(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_online)
    }

    pub fn add_report(&mut self, report: Report) {
        self.reports.push_back(report);
    }

    pub fn undelivered(&self) -> usize {
        self.reports.len()
    }

    /// Handles an event of the socket.
    pub fn on_ready(&mut self, context: &Context<'_>) {
        let Some(link) = &mut self.link else { return };
        let result = match link.receive() {
            Ok(()) => self.handle_input(context.now),
            Err(error) => self.handle_input(context.now).and(Err(reason(&error))),
        };
        match result {
            Ok(()) => self.step(context),
            Err(reason) => self.disconnect(context, &reason),
        }
    }

    /// Does what is due.
    pub fn step(&mut self, context: &Context<'_>) {
        if self.link.is_none() {
            if context.now >= self.due {
                let first = random_below(context.hubs.len() as u32) as usize;
                self.connect(context, first, context.hubs.len() - 1);
            }
            return;
        }
        if let Err(reason) = self.try_step(context.now) {
            self.disconnect(context, &reason);
        }
    }

    fn try_step(&mut self, now: Duration) -> Result<(), DisconnectReason> {
        let Some(link) = &mut self.link else { return Ok(()) };
        while link.is_upgraded {
            match link.session.next_action(!self.reports.is_empty(), now)? {
                HmAction::Online(id) => {
                    let body = online(&self.node_id);
                    link.send(&request(RequestKind::Online, id, unix_milliseconds(), &body));
                }
                HmAction::Report(id) => {
                    let Some(first) = self.reports.front() else { break };
                    let body = report().to_string();
                    let time = first.unix_milliseconds;
                    link.send(&request(RequestKind::MachineInfo, id, time, &body));
                }
                HmAction::Ping => link.output.extend(masked(PING, &[])),
                HmAction::Wait(until) => {
                    self.due = until;
                    break;
                }
            }
        }
        if !link.is_upgraded && now >= self.due {
            return Err(DisconnectReason::Timeout("handshake"));
        }
        link.flush().map_err(|error| reason(&error))
    }

    /// Connects to this hub; if it does not accept, to the next: a balancer would.
    fn connect(&mut self, context: &Context<'_>, hub: usize, untried: usize) {
        let connected = TcpStream::connect(context.hubs[hub]).and_then(|mut socket| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            context.registry.register(&mut socket, context.token, interest)?;
            Ok(socket)
        });
        let socket = match connected {
            Ok(socket) => socket,
            Err(_) if untried > 0 => {
                return self.connect(context, (hub + 1) % context.hubs.len(), untried - 1);
            }
            Err(error) => {
                let reason = DisconnectReason::Unreachable(error.to_string());
                self.record.failures.push((context.hubs[hub], reason.label()));
                return self.back_off(context.now, &reason);
            }
        };
        let request = format!(
            "GET /websocket HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
            context.hubs[hub]
        );
        let keepalive = Keepalive::new(PING_INTERVAL, PONG_TIMEOUT, false, context.now);
        self.due = context.now + HANDSHAKE_TIMEOUT;
        self.link = Some(Link {
            socket,
            hub,
            untried,
            is_upgraded: false,
            is_online: false,
            input: Frames::default(),
            output: request.into_bytes(),
            session: HmSession::new(keepalive, context.now),
        });
    }

    fn disconnect(&mut self, context: &Context<'_>, reason: &DisconnectReason) {
        let Some(link) = self.link.take() else { return };
        if matches!(reason, DisconnectReason::Unreachable(_)) && link.untried > 0 {
            let next = (link.hub + 1) % context.hubs.len();
            return self.connect(context, next, link.untried - 1);
        }
        if link.session.is_stable(context.now) {
            self.backoff.reset();
        }
        match link.is_online {
            true => self.record.end(context.now),
            false => self.record.failures.push((context.hubs[link.hub], reason.label())),
        }
        self.back_off(context.now, reason);
    }

    fn back_off(&mut self, now: Duration, reason: &DisconnectReason) {
        self.due = now + self.backoff.next_delay(random_unit(), reason.min_retry_delay());
    }

    fn handle_input(&mut self, now: Duration) -> Result<(), DisconnectReason> {
        let Some(link) = &mut self.link else { return Ok(()) };
        if !link.is_upgraded {
            match upgrade(link.input.rest()) {
                Ok(Some(length)) => link.input.skip(length),
                Ok(None) => return Ok(()),
                Err(_) => return Err(http_status(link.input.rest())),
            }
            link.is_upgraded = true;
        }
        let protocol = |why: &str| DisconnectReason::Protocol(why.to_owned());
        while let Some(incoming) = link.input.next().map_err(protocol)? {
            match incoming {
                Incoming::Message(text) => {
                    let text = std::str::from_utf8(text).map_err(|_| protocol("not UTF-8"))?;
                    let response = HmResponse::parse(text).map_err(|why| protocol(&why))?;
                    let event = link.session.on_response(&response, random_unit(), now);
                    on_event(&event, response.code, now, link, &mut self.reports, &mut self.record);
                }
                Incoming::Ping(payload) => link.output.extend(masked(PONG, payload)),
                Incoming::Pong => link.session.on_pong(now),
                Incoming::Close => return Err(DisconnectReason::Closed(String::new())),
                Incoming::Compressed => return Err(protocol("compressed without an offer")),
            }
        }
        Ok(())
    }
}

fn on_event(
    event: &HmEvent,
    code: u32,
    now: Duration,
    link: &mut Link,
    reports: &mut VecDeque<Report>,
    record: &mut Record,
) {
    match event {
        HmEvent::Online => {
            link.is_online = true;
            record.online = Some(now);
        }
        HmEvent::Delivered => {
            let first = reports.pop_front();
            let micros = first.map(|report| now.saturating_sub(report.at).as_micros());
            record.answered.extend(micros.and_then(|micros| u32::try_from(micros).ok()));
        }
        HmEvent::Unsolicited => {}
        HmEvent::Rejected(_) => {
            reports.pop_front();
            record.rejected += 1;
        }
        HmEvent::RetryLater(_) | HmEvent::AlreadyOnline(_) | HmEvent::NotOnline(_)
            if link.is_online =>
        {
            record.rejected += 1;
            if !matches!(event, HmEvent::RetryLater(_)) {
                link.is_online = false;
                record.end(now);
            }
        }
        HmEvent::RetryLater(_) | HmEvent::AlreadyOnline(_) | HmEvent::NotOnline(_) => {
            record.refusals.push(code);
        }
    }
}

impl Link {
    fn send(&mut self, text: &str) {
        self.output.extend(masked(TEXT, text.as_bytes()));
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.socket.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if is_not_now(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads all that is available.
    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4 << 10];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.push(&buffer[..count]),
                Err(error) if is_not_now(&error) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Before the connection is established, a socket is not connected.
fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

fn reason(error: &io::Error) -> DisconnectReason {
    match error.kind() {
        ErrorKind::ConnectionRefused => DisconnectReason::Unreachable(error.to_string()),
        _ => DisconnectReason::Lost(error.to_string()),
    }
}

/// Of a response that is no upgrade.
fn http_status(head: &[u8]) -> DisconnectReason {
    let head = String::from_utf8_lossy(head);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let retry_after = lines.find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
    let seconds = retry_after.and_then(|(_, seconds)| seconds.parse().ok());
    DisconnectReason::Http(status.unwrap_or(0), seconds.map(Duration::from_secs), String::new())
}
