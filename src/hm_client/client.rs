//! The link to hm: one thread takes a report at its time and puts it into the spool, whatever the link does; the
//! other one connects, delivers, and never gives up.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use tungstenite::Message;

use crate::collector::latest::LatestSample;
use crate::config::Hm as Settings;
use crate::hm_client::messages::{Answer, Kind, machine_info, online, request};
use crate::hm_client::report_clock::MonotonicTimestamps;
use crate::hm_client::session::{Conversation, Step, Verdict};
use crate::hm_client::spool::{Report, Spool};
use crate::model::Snapshot;
use crate::model::primary_gpu::Primary;
use crate::model::status::UpstreamStatus;
use crate::net::reconnect::DisconnectReason;
use crate::net::reconnecting_client;
use crate::net::reconnecting_client::{Heard, ReconnectingClient, chance};
use crate::net::websocket::Socket;
use crate::sys;
use crate::sys::EventFd;
use crate::util::error::Error;
use crate::util::logger::unix_milliseconds;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

type Said = crate::net::log_dedup::Said<Verdict>;

/// The link to a hub.
pub struct Link {
    settings: Settings,
    node_id: String,
    primary: Primary,
    uplink: ReconnectingClient,
    /// Held while the journal is written, so by the link's own two threads alone.
    spool: Mutex<Spool>,
    /// The report that is under way. The spool may drop it meanwhile, to make room for newer ones.
    sent: Mutex<Option<Report>>,
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
        let route = reconnecting_client::route("hm.url", &settings.url, "", ca_file)?;
        let uplink =
            ReconnectingClient::new("hm", route, reconnecting_client::secrets(&settings.url))?;
        let spool = Spool::open(state_dir, "hm-reports");
        uplink.note(|status| status.backlog = spool.len() as u64);
        let (spool, sent) = (Mutex::new(spool), Mutex::new(None));
        Ok(Self { settings, node_id, primary, uplink, spool, sent })
    }

    /// What would be sent where, for `hm-agent check`: the route and the two messages, without connecting. The
    /// error is a setting that is wrong.
    pub fn rehearse(
        settings: &Settings,
        node_id: &str,
        ca_file: Option<&Path>,
    ) -> Result<String, Error> {
        let route = reconnecting_client::route("hm.url", &settings.url, "", ca_file)?;
        let report = machine_info(
            &settings.project,
            &settings.models,
            &Snapshot::default(),
            Primary::Index(0),
        );
        Ok(format!(
            "# hm: to {} would be sent {}, and every {} s what is known of the GPU, as {report}\n",
            reconnecting_client::shown(&route),
            online(node_id),
            settings.report_interval.as_secs(),
        ))
    }

    /// How it stands. Waits for no disk: the sampler asks.
    pub fn status(&self) -> UpstreamStatus {
        self.uplink.status()
    }

    /// Changes the spool, and notes what is in it then.
    fn with_spool<R>(&self, then: impl FnOnce(&mut Spool) -> R) -> R {
        let mut spool = lock(&self.spool);
        let dropped = spool.dropped();
        let result = then(&mut spool);
        self.uplink.note(|status| {
            status.backlog = spool.len() as u64;
            status.dropped += spool.dropped() - dropped;
        });
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
    pub fn report(&self, feed: &LatestSample, complete: &EventFd, stop: &Shutdown) {
        sys::wait_readable([stop.as_fd(), complete.as_fd()], None);
        let mut said = false;
        let mut stamps = MonotonicTimestamps::default();
        let mut next = Instant::now();
        while !stop.is_triggered() {
            let snapshot = &feed.current().snapshot;
            if snapshot.gpus.each.is_empty() && !said {
                log::info!("hm: this node has no GPU; reports have an empty name and zeros");
            }
            said |= snapshot.gpus.each.is_empty();
            let (unix_milliseconds, set_back) = stamps.next(unix_milliseconds(), self.uplink.now());
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
        self.uplink.wake();
    }

    /// The life of the thread that delivers them.
    pub fn deliver(&self, stop: &Shutdown) {
        let begin = |keepalive, _: &Socket<'_>| Conversation::new(keepalive, self.uplink.now());
        self.uplink.keep(self.settings.ping_interval, stop, begin, |socket, conversation, said| {
            self.turn(socket, conversation, said, stop)
        });
    }

    /// One thing: a message that came, a message to send, or a wait for either.
    fn turn(
        &self,
        socket: &mut Socket<'_>,
        conversation: &mut Conversation,
        said: &mut Said,
        stop: &Shutdown,
    ) -> Result<(), DisconnectReason> {
        if let Some(message) = socket.receive()? {
            return match reconnecting_client::sort(&message)? {
                Heard::Text(text) => self.hear(text, conversation, said),
                Heard::Pong => {
                    conversation.pong(self.uplink.now());
                    Ok(())
                }
                Heard::Nothing => Ok(()),
            };
        }
        let oldest = lock(&self.spool).first().cloned();
        match conversation.next(oldest.is_some(), self.uplink.now())? {
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
                self.uplink.wait(socket, until, stop);
                Ok(())
            }
        }
    }

    fn hear(
        &self,
        text: &str,
        conversation: &mut Conversation,
        said: &mut Said,
    ) -> Result<(), DisconnectReason> {
        let answer = Answer::parse(text)
            .map_err(|why| DisconnectReason::Protocol(format!("\"{}\": {why}", quoted(text))))?;
        let verdict = conversation.answered(&answer, chance(), self.uplink.now());
        if verdict != Verdict::Stray {
            self.uplink.note_answer();
        }
        self.obey(verdict, said);
        Ok(())
    }

    fn obey(&self, verdict: Verdict, said: &mut Said) {
        let is_new = said.is_new(&verdict);
        let limited = |text: String| self.uplink.warn(&text);
        match verdict {
            Verdict::Online => {
                self.uplink.set_state("online");
                let (backlog, dropped) = {
                    let spool = lock(&self.spool);
                    (spool.len(), spool.dropped())
                };
                if is_new {
                    let (shown, node) = (self.uplink.shown(), quoted(&self.node_id));
                    log::info!("hm: {shown}: online as {node}, {backlog} reports wait");
                }
                if dropped > said.dropped {
                    let more = dropped - said.dropped;
                    log::warn!("hm: {more} reports, the oldest, were dropped for want of room");
                    said.dropped = dropped;
                }
            }
            Verdict::AlreadyOnline(message) if is_new => limited(format!(
                "holds an older connection of this node (\"{}\"); waiting for it to expire",
                quoted(&message)
            )),
            Verdict::Delivered => {
                if said.refused > 1 {
                    limited(format!(
                        "takes reports again; {} were refused and dropped",
                        said.refused
                    ));
                }
                said.over();
                self.finish();
            }
            Verdict::Refused(message) => {
                let report = self.finish();
                let lost = u64::from(report.is_some());
                self.uplink.note(|status| status.dropped += lost);
                said.refused += lost;
                if is_new {
                    let body = report.map(|report| report.body).unwrap_or_default();
                    limited(format!(
                        "refuses a report (\"{}\"), which is dropped: {}",
                        quoted(&message),
                        quoted(&body)
                    ));
                }
            }
            Verdict::Later(message) if is_new => {
                limited(format!("asks for later: \"{}\"", quoted(&message)));
            }
            Verdict::AlreadyOnline(_) | Verdict::Later(_) => {}
            Verdict::Stray => {
                log::debug!("hm: {}: an answer to nothing that was asked", self.uplink.shown());
            }
        }
    }
}

fn quoted(text: &str) -> String {
    escape_for_log(text, EXCERPT_CHARS)
}
