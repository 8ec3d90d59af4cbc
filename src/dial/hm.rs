//! The link to hm: one thread takes a report at its time and puts it into the spool, whatever the link does; the
//! other one connects, delivers, and never gives up.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use log::Level;
use tungstenite::Message;

use super::address::{Address, Proxy};
use super::socket::{Route, Socket};
use super::spool::{Report, Spool};
use super::tls;
use crate::config::Hm as Settings;
use crate::error::Error;
use crate::feed::Feed;
use crate::limits;
use crate::link::hm::{Conversation, Step, Verdict};
use crate::link::said::Said;
use crate::link::stamps::Stamps;
use crate::link::{Backoff, Keepalive, LinkStatus, Outage};
use crate::logger::{PeerLog, unix_milliseconds, unix_seconds};
use crate::parse::quote;
use crate::proto::hm::{Answer, Kind, machine_info, online, request};
use crate::proto::usage::Primary;
use crate::snapshot::Snapshot;
use crate::sync::{Stop, lock};
use crate::sys::{self, Event};

/// The link to a hub.
pub struct Link {
    settings: Settings,
    node_id: String,
    primary: Primary,
    route: Route,
    /// Held while the journal is written, so by the link's own two threads alone.
    spool: Mutex<Spool>,
    /// The report that is under way. The spool may drop it meanwhile, to make room for newer ones.
    sent: Mutex<Option<Report>>,
    status: Mutex<LinkStatus>,
    /// Rings when a report was put into the spool.
    news: Event,
    /// The clock of the state machines.
    started: Instant,
    log: PeerLog,
}

impl Link {
    /// A link to where the settings say. What was not delivered before goes on to be.
    pub fn new(
        settings: Settings,
        node_id: String,
        primary: Primary,
        state_dir: &Path,
        ca_file: Option<&Path>,
    ) -> Result<Self, Error> {
        let route = route(&settings, ca_file)?;
        let spool = Spool::open(state_dir, "hm-reports");
        let status = LinkStatus {
            name: "hm".to_owned(),
            state: "connecting".to_owned(),
            since_unix_seconds: unix_seconds(),
            last_answer_unix_seconds: None,
            backlog: spool.len() as u64,
            dropped: 0,
            last_outage: None,
        };
        Ok(Self {
            settings,
            node_id,
            primary,
            route,
            spool: Mutex::new(spool),
            sent: Mutex::new(None),
            status: Mutex::new(status),
            news: Event::new().map_err(|error| Error::system("create an event", error))?,
            started: Instant::now(),
            log: PeerLog::new(),
        })
    }

    /// What would be sent where, for `hm-agent check`: the route and the two messages, without connecting. The
    /// error is a setting that is wrong.
    pub fn rehearse(
        settings: &Settings,
        node_id: &str,
        ca_file: Option<&Path>,
    ) -> Result<String, Error> {
        let route = route(settings, ca_file)?;
        let through =
            route.proxy.map(|proxy| format!(" through the proxy {}:{}", proxy.host, proxy.port));
        let report = machine_info(
            &settings.project,
            &settings.models,
            &Snapshot::default(),
            Primary::Index(0),
        );
        Ok(format!(
            "# hm: to {}{} would be sent {}, and every {} s what is known of the GPU, as {report}\n",
            route.address.shown(),
            through.unwrap_or_default(),
            online(node_id),
            settings.report_interval.as_secs(),
        ))
    }

    /// How it stands. Waits for no disk: the sampler asks.
    pub fn status(&self) -> LinkStatus {
        lock(&self.status).clone()
    }

    /// Changes the spool, and notes what is in it then.
    fn with_spool<R>(&self, then: impl FnOnce(&mut Spool) -> R) -> R {
        let mut spool = lock(&self.spool);
        let dropped = spool.dropped();
        let result = then(&mut spool);
        let mut status = lock(&self.status);
        status.backlog = spool.len() as u64;
        status.dropped += spool.dropped() - dropped;
        result
    }

    /// The report under way is done with. `None`: it was dropped already, for want of room.
    fn finish(&self) -> Option<Report> {
        let sent = lock(&self.sent).take()?;
        self.with_spool(|spool| match spool.first() == Some(&sent) {
            true => spool.pop(),
            false => None,
        })
    }

    /// The life of the thread that takes reports, one every `hm.report_interval` from the first complete
    /// sample on.
    pub fn report(&self, feed: &Feed, complete: &Event, stop: &Stop) {
        sys::wait_readable([stop.as_fd(), complete.as_fd()], None);
        let mut said = false;
        let mut stamps = Stamps::default();
        let mut next = Instant::now();
        while !stop.is_rung() {
            let snapshot = &feed.current().snapshot;
            if snapshot.gpus.each.is_empty() && !said {
                log::info!("hm: this node has no GPU; reports have an empty name and zeros");
            }
            said |= snapshot.gpus.each.is_empty();
            let (unix_milliseconds, set_back) = stamps.next(unix_milliseconds(), self.now());
            if let Some(by) = set_back {
                log::warn!(
                    "hm: the clock was set back by {:.0} s, and so are reports",
                    by.as_secs_f64()
                );
            }
            self.put(snapshot, unix_milliseconds);
            let now = Instant::now();
            next += self.settings.report_interval;
            if next < now {
                next = now + self.settings.report_interval; // reports that were slept through are not made up
            }
            stop.wait(next - now);
        }
    }

    fn put(&self, snapshot: &Snapshot, unix_milliseconds: u64) {
        let Settings { project, models, .. } = &self.settings;
        let body = machine_info(project, models, snapshot, self.primary).into();
        let report = Report { unix_milliseconds, body };
        self.with_spool(|spool| spool.push(report));
        self.news.ring();
    }

    /// The life of the thread that delivers them.
    pub fn deliver(&self, stop: &Stop) {
        let mut backoff = Backoff::new(limits::RECONNECT.0, limits::RECONNECT.1);
        let mut said = Said::default();
        let mut pongs = false;
        while !stop.is_rung() {
            self.set_state("connecting");
            let outage = match Socket::connect(&self.route, stop) {
                Ok(socket) => self.converse(socket, &mut pongs, &mut backoff, &mut said, stop),
                Err(outage) => outage,
            };
            if stop.is_rung() {
                return;
            }
            let wait = backoff.next(chance(), outage.floor());
            if said.is_news(&outage) {
                let seconds = wait.as_secs_f64();
                log::warn!("hm: {} {outage}; next try in {seconds:.0} s", self.shown());
            }
            lock(&self.status).last_outage = Some(outage.to_string());
            // The next connection must prove anew that pings are answered: the hub may be another one.
            pongs &= !matches!(outage, Outage::NoPong(_));
            self.set_state("waiting");
            stop.wait(wait);
        }
    }

    /// Talks until the connection ends, and says why it did.
    fn converse(
        &self,
        mut socket: Socket<'_>,
        pongs: &mut bool,
        backoff: &mut Backoff,
        said: &mut Said,
        stop: &Stop,
    ) -> Outage {
        self.set_state("connected");
        let every = self.settings.ping_interval;
        let keepalive = Keepalive::new(every, limits::PONG, *pongs, self.now());
        let mut conversation = Conversation::new(keepalive, self.now());
        loop {
            if stop.is_rung() {
                socket.close();
                return Outage::Closed(String::new());
            }
            match self.turn(&mut socket, &mut conversation, said, stop) {
                Ok(()) => {}
                Err(outage) => return outage,
            }
            *pongs = conversation.has_pongs();
            if conversation.is_stable(self.now()) {
                backoff.reset();
                said.over();
            }
        }
    }

    /// One thing: a message that came, a message to send, or a wait for either.
    fn turn(
        &self,
        socket: &mut Socket<'_>,
        conversation: &mut Conversation,
        said: &mut Said,
        stop: &Stop,
    ) -> Result<(), Outage> {
        self.news.clear();
        if let Some(message) = socket.receive()? {
            return self.hear(&message, conversation, said);
        }
        let oldest = lock(&self.spool).first().cloned();
        match conversation.next(oldest.is_some(), self.now())? {
            Step::Online(id) => {
                let body = online(&self.node_id);
                let now = unix_milliseconds();
                socket.send(Message::text(request(Kind::Online, id, now, &body)))
            }
            Step::Report(id) => {
                let Some(report) = oldest else { return Ok(()) };
                *lock(&self.sent) = Some(report.clone());
                let (at, body) = (report.unix_milliseconds, report.body);
                socket.send(Message::text(request(Kind::MachineInfo, id, at, &body)))
            }
            Step::Ping => socket.send(Message::Ping(Default::default())),
            Step::Wait(until) => {
                let wait = until.saturating_sub(self.now());
                let events = [socket.as_fd(), self.news.as_fd(), stop.as_fd()];
                sys::wait_readable(events, Some(wait));
                Ok(())
            }
        }
    }

    fn hear(
        &self,
        message: &Message,
        conversation: &mut Conversation,
        said: &mut Said,
    ) -> Result<(), Outage> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Pong(_) => {
                conversation.pong(self.now());
                return Ok(());
            }
            Message::Close(frame) => {
                let why = frame.as_ref().map(|frame| {
                    format!(" ({}: {})", u16::from(frame.code), quote(frame.reason.as_bytes()))
                });
                return Err(Outage::Closed(why.unwrap_or_default()));
            }
            Message::Ping(_) | Message::Binary(_) | Message::Frame(_) => return Ok(()),
        };
        let answer = Answer::parse(text)
            .map_err(|why| Outage::Protocol(format!("\"{}\": {why}", quote(text.as_bytes()))))?;
        let verdict = conversation.answered(&answer, chance(), self.now());
        if verdict != Verdict::Stray {
            lock(&self.status).last_answer_unix_seconds = Some(unix_seconds());
        }
        self.obey(verdict, said);
        Ok(())
    }

    fn obey(&self, verdict: Verdict, said: &mut Said) {
        let shown = self.shown();
        let is_new = said.is_new(&verdict);
        let limited = |text: String| self.log.write(Level::Warn, || text);
        match verdict {
            Verdict::Online => {
                self.set_state("online");
                let (backlog, dropped) = {
                    let spool = lock(&self.spool);
                    (spool.len(), spool.dropped())
                };
                if is_new {
                    let node = quoted(&self.node_id);
                    log::info!("hm: {shown}: online as {node}, {backlog} reports wait");
                }
                if dropped > said.dropped {
                    let more = dropped - said.dropped;
                    log::warn!("hm: {more} reports, the oldest, were dropped for want of room");
                    said.dropped = dropped;
                }
            }
            Verdict::AlreadyOnline(message) if is_new => limited(format!(
                "hm: {shown} holds an older connection of this node (\"{}\"); waiting for it to expire",
                quoted(&message)
            )),
            Verdict::Delivered => {
                if said.refused > 1 {
                    limited(format!(
                        "hm: {shown} takes reports again; {} were refused and dropped",
                        said.refused
                    ));
                }
                said.over();
                self.finish();
            }
            Verdict::Refused(message) => {
                let report = self.finish();
                let lost = u64::from(report.is_some());
                lock(&self.status).dropped += lost;
                said.refused += lost;
                if is_new {
                    let body = report.map(|report| report.body).unwrap_or_default();
                    limited(format!(
                        "hm: {shown} refuses a report (\"{}\"), which is dropped: {}",
                        quoted(&message),
                        quoted(&body)
                    ));
                }
            }
            Verdict::Later(message) if is_new => {
                limited(format!("hm: {shown} asks for later: \"{}\"", quoted(&message)));
            }
            Verdict::AlreadyOnline(_) | Verdict::Later(_) => {}
            Verdict::Stray => log::debug!("hm: {shown}: an answer to nothing that was asked"),
        }
    }

    fn set_state(&self, state: &str) {
        let mut status = lock(&self.status);
        if status.state != state {
            (status.state, status.since_unix_seconds) = (state.to_owned(), unix_seconds());
        }
    }

    fn shown(&self) -> String {
        self.route.address.shown()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The way to the hub.
fn route(settings: &Settings, ca_file: Option<&Path>) -> Result<Route, Error> {
    let wrong = |why: String| Error::Setting { origin: "hm.url".to_owned(), why };
    let address = Address::parse(&settings.url).map_err(wrong)?;
    let proxy = Proxy::for_address(&address, |name| std::env::var(name).ok()).map_err(wrong)?;
    let tls = match address.secure {
        true => Some(tls::config(ca_file).map_err(wrong)?),
        false => None,
    };
    Ok(Route { address, proxy, tls })
}

fn quoted(text: &str) -> String {
    quote(text.as_bytes())
}

/// A number from 0 to 1 that no two agents share: the standard library seeds its hashers with one of the
/// system's.
fn chance() -> f64 {
    let number = RandomState::new().build_hasher().finish();
    (number >> 11) as f64 / (1u64 << 53) as f64
}
