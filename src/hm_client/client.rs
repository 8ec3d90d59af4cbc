//! Two threads: `hm-report` takes a report at each interval and puts it into the spool, connected or not; `hm` connects
//! and delivers.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::Level;
use tungstenite::Message;

use crate::collector::latest::LatestSample;
use crate::config::{CurrentConfig, HmConfig};
use crate::hm_client::messages::{HmResponse, RequestKind, machine_info, online, request};
use crate::hm_client::report_clock::ReportClock;
use crate::hm_client::session::{HmAction, HmEvent, HmSession};
use crate::hm_client::spool::{Spool, SpooledReport};
use crate::hub_extension::node::{NodeExtension, NodeResources};
use crate::model::Snapshot;
use crate::model::primary_gpu::Primary;
use crate::model::status::UpstreamStatus;
use crate::net::credentials::HubCredentials;
use crate::net::disconnect::DisconnectReason;
use crate::net::log_dedup::LogDedup;
use crate::net::reconnecting_client::{
    Incoming, MAX_LOGGED_CHARS, ReconnectingClient, UpstreamSession, classify, endpoint,
};
use crate::net::websocket::WebSocketClient;
use crate::sys;
use crate::sys::EventFd;
use crate::util::backoff::random_unit;
use crate::util::error::Error;
use crate::util::logger::unix_milliseconds;
use crate::util::state_io::StateIo;
use crate::util::sync::{Shutdown, lock};
use crate::util::text::escape_for_log;

pub struct HmClient {
    config: HmConfig,
    node_id: String,
    upstream: ReconnectingClient,
    spool: Mutex<Spool>,
    /// The report that was sent and not answered. The spool may drop it meanwhile to make room.
    in_flight: Mutex<Option<SpooledReport>>,
}

impl HmClient {
    /// Reads undelivered reports.
    pub fn new(
        config: HmConfig,
        node_id: String,
        state: &StateIo,
        ca_file: Option<&Path>,
        credentials: &Arc<HubCredentials>,
    ) -> Result<Self, Error> {
        let mut endpoint = endpoint("hm.url", &config.url, ca_file)?;
        endpoint.token.clone_from(&config.token);
        let secrets = config.token.iter().map(|token| token.expose().to_owned()).collect();
        let upstream = ReconnectingClient::new("hm", endpoint, "", secrets, credentials)?;
        let spool = Spool::open(state, "hm-reports");
        upstream.update_status(|status| status.backlog = spool.len() as u64);
        let (spool, in_flight) = (Mutex::new(spool), Mutex::new(None));
        Ok(Self { config, node_id, upstream, spool, in_flight })
    }

    /// What `hm-agent check` prints: the endpoint and both messages. Does not connect. The error is an invalid setting.
    pub fn describe(
        config: &HmConfig,
        node_id: &str,
        ca_file: Option<&Path>,
    ) -> Result<String, Error> {
        let endpoint = endpoint("hm.url", &config.url, ca_file)?;
        let report =
            machine_info(&config.project, &config.models, &Snapshot::default(), Primary::Index(0));
        Ok(format!(
            "# hm: connects to {}, registers with {}, reports every {} s: {report}\n",
            endpoint.describe(),
            online(node_id),
            config.report_interval.as_secs(),
        ))
    }

    /// Never blocks on disk I/O, because the sampler calls it.
    pub fn status(&self) -> UpstreamStatus {
        self.upstream.status()
    }

    /// The thread `hm-report`: enqueues a report at each `hm.report_interval`. It starts when `gpus_ready` is readable.
    pub fn run_reports(
        &self,
        config: &CurrentConfig,
        latest: &LatestSample,
        gpus_ready: &EventFd,
        shutdown: &Shutdown,
    ) {
        sys::wait_readable([shutdown.as_fd(), gpus_ready.as_fd()], None);
        let mut logged_no_gpu = false;
        let mut clock = ReportClock::default();
        let mut next = Instant::now();
        while !shutdown.is_triggered() {
            let snapshot = &latest.current().snapshot;
            if snapshot.gpus.each.is_empty() && !logged_no_gpu {
                log::info!("hm: node has no GPU; reports contain an empty name and zeros");
                logged_no_gpu = true;
            }
            let (timestamp, set_back) = clock.next(unix_milliseconds(), self.upstream.now());
            if let Some(by) = set_back {
                let seconds = by.as_secs_f64();
                log::warn!(
                    "hm: system clock was set back by {seconds:.0} s; report timestamps follow"
                );
            }
            self.enqueue(snapshot, config.get().gpu.primary, timestamp);
            let now = Instant::now();
            next += self.config.report_interval;
            if next < now {
                // Reports missed while the process was stopped are skipped.
                next = now + self.config.report_interval;
            }
            shutdown.wait(next - now);
        }
    }

    /// The thread `hm`: connects, delivers reports, and answers the requests of hm-hub.
    pub fn run(&self, resources: &dyn NodeResources, shutdown: &Shutdown) {
        let mut losses = LossLog::default();
        let context = Context { resources, shutdown };
        self.upstream.run(
            self.config.ping_interval,
            shutdown,
            |keepalive, _, credential| Connection {
                session: HmSession::new(keepalive, self.upstream.now()),
                extension: NodeExtension::new(credential),
            },
            |socket, connection, dedup| self.step(socket, connection, dedup, &mut losses, &context),
        );
    }

    fn enqueue(&self, snapshot: &Snapshot, primary: Primary, unix_milliseconds: u64) {
        let HmConfig { project, models, .. } = &self.config;
        let body = machine_info(project, models, snapshot, primary).into();
        let report = SpooledReport { unix_milliseconds, body };
        self.with_spool(|spool| spool.push(report));
        self.upstream.wake();
    }

    fn with_spool<R>(&self, change: impl FnOnce(&mut Spool) -> R) -> R {
        let mut spool = lock(&self.spool);
        let dropped = spool.dropped();
        let result = change(&mut spool);
        self.upstream.update_status(|status| status.backlog = spool.len() as u64);
        self.upstream.add_dropped(spool.dropped() - dropped);
        result
    }

    /// Removes the report in flight from the spool. `None`: the spool has dropped it already to make room.
    fn ack(&self) -> Option<SpooledReport> {
        let sent = lock(&self.in_flight).take()?;
        self.with_spool(|spool| match spool.first() == Some(&sent) {
            true => spool.pop(),
            false => None,
        })
    }

    fn step(
        &self,
        socket: &mut WebSocketClient<'_>,
        connection: &mut Connection,
        dedup: &mut LogDedup<HmEvent>,
        losses: &mut LossLog,
        context: &Context<'_>,
    ) -> Result<(), DisconnectReason> {
        let received = socket.receive()?;
        let is_idle = received.is_none();
        if let Some(message) = received {
            match classify(&message)? {
                Incoming::Text(text) => {
                    return self.handle_message(text, connection, dedup, losses);
                }
                // Requests without a pause must not delay reports and pings, so what is due follows.
                Incoming::Binary(bytes) => {
                    connection.session.on_activity(self.upstream.now());
                    if let Some(answer) = connection.extension.answer(bytes, context.resources) {
                        socket.send(Message::binary(answer))?;
                    }
                }
                Incoming::Pong => {
                    connection.session.on_pong(self.upstream.now());
                    return Ok(());
                }
                Incoming::Ignored => return Ok(()),
            }
        }
        let Connection { session, extension } = connection;
        if let Some(message) = extension.next_message(
            context.resources,
            self.upstream.credential(),
            self.upstream.now(),
        ) {
            return socket.send(Message::binary(message));
        }
        let oldest = lock(&self.spool).first().cloned();
        match session.next_action(oldest.is_some(), self.upstream.now())? {
            HmAction::Online(id) => {
                let body = online(&self.node_id);
                let now = unix_milliseconds();
                socket.send(Message::text(request(RequestKind::Online, id, now, &body)))
            }
            HmAction::Report(id) => {
                let Some(report) = oldest else { return Ok(()) };
                let timestamp = report.unix_milliseconds;
                let text = request(RequestKind::MachineInfo, id, timestamp, &report.body);
                *lock(&self.in_flight) = Some(report);
                socket.send(Message::text(text))
            }
            HmAction::Ping => socket.send(Message::Ping(Default::default())),
            HmAction::Wait(_) if !is_idle => Ok(()),
            HmAction::Wait(until) => {
                let until = extension.next_check().map_or(until, |check| check.min(until));
                self.upstream.wait(socket, until, context.shutdown);
                Ok(())
            }
        }
    }

    fn handle_message(
        &self,
        text: &str,
        connection: &mut Connection,
        dedup: &mut LogDedup<HmEvent>,
        losses: &mut LossLog,
    ) -> Result<(), DisconnectReason> {
        let response = HmResponse::parse(text).map_err(|why| {
            DisconnectReason::Protocol(format!("\"{}\": {}", escape(text), escape(&why)))
        })?;
        let now = self.upstream.now();
        let event = connection.session.on_response(&response, random_unit(), now);
        if event != HmEvent::Unsolicited {
            self.upstream.on_response();
        }
        if matches!(event, HmEvent::RetryLater(_))
            && self.upstream.credential().is_some_and(|it| !connection.extension.has_sent(&it))
        {
            // The node got it over its other connection meanwhile.
            return Err(DisconnectReason::Closed(" (reconnecting with a credential)".to_owned()));
        }
        if event == HmEvent::Online {
            let hub = response.hub;
            connection.extension.on_accepted(hub.as_ref());
            if let Some(credential) = hub.and_then(|hub| hub.credential) {
                self.upstream.keep_credential(credential.into());
            }
        }
        self.handle_event(event, dedup, losses);
        Ok(())
    }

    fn handle_event(&self, event: HmEvent, dedup: &mut LogDedup<HmEvent>, losses: &mut LossLog) {
        let should_log = dedup.should_log_event(&event);
        let warn_once = |text: String| {
            if should_log {
                self.upstream.warn(&text);
            }
        };
        match event {
            HmEvent::Online => self.on_online(should_log, losses),
            HmEvent::Delivered => {
                if losses.rejected > 1 {
                    self.upstream.warn(&format!(
                        "accepts reports again; {} were rejected and dropped",
                        losses.rejected
                    ));
                }
                losses.rejected = 0;
                dedup.reset();
                self.ack();
            }
            HmEvent::Rejected(message) => self.on_rejected(&message, should_log, losses),
            HmEvent::AlreadyOnline(message) => {
                self.upstream.set_state("connected");
                warn_once(format!(
                    "has an older connection of this node (\"{}\"); waiting until it expires",
                    escape(&message)
                ));
            }
            HmEvent::NotOnline(message) => {
                self.upstream.set_state("connected");
                warn_once(format!(
                    "node is not online any more (\"{}\"), going online again",
                    escape(&message)
                ));
            }
            HmEvent::RetryLater(message) => warn_once(format!(
                "temporarily rejects requests, retrying: \"{}\"",
                escape(&message)
            )),
            HmEvent::Unsolicited => {
                self.upstream.log(Level::Debug, "unsolicited response");
            }
        }
    }

    fn on_online(&self, should_log: bool, losses: &mut LossLog) {
        self.upstream.set_state("online");
        let (backlog, dropped) = {
            let spool = lock(&self.spool);
            (spool.len(), spool.dropped())
        };
        if should_log {
            let (url, node) = (self.upstream.redacted_url(), escape(&self.node_id));
            self.upstream.write_log(Level::Info, || {
                format!("hm: {url}: online as {node}, backlog of {backlog} reports")
            });
        }
        if dropped > losses.logged_dropped {
            let more = dropped - losses.logged_dropped;
            self.upstream.write_log(Level::Warn, || {
                format!("hm: backlog was full, dropped the {more} oldest reports")
            });
            losses.logged_dropped = dropped;
        }
    }

    fn on_rejected(&self, message: &str, should_log: bool, losses: &mut LossLog) {
        let report = self.ack();
        let lost = u64::from(report.is_some());
        self.upstream.add_dropped(lost);
        losses.rejected += lost;
        if should_log {
            let body = report.map(|report| report.body).unwrap_or_default();
            self.upstream.warn(&format!(
                "rejected a report (\"{}\"), dropped: {}",
                escape(message),
                escape(&body)
            ));
        }
    }
}

struct Connection {
    session: HmSession,
    extension: NodeExtension,
}

impl UpstreamSession for Connection {
    fn peer_sends_pongs(&self) -> bool {
        self.session.peer_sends_pongs()
    }

    fn is_stable(&self, now: Duration) -> bool {
        self.session.is_stable(now)
    }
}

struct Context<'a> {
    resources: &'a dyn NodeResources,
    shutdown: &'a Shutdown,
}

/// Lost reports that the log reports, counted across connections.
#[derive(Default)]
struct LossLog {
    /// Reports rejected since the last delivery.
    rejected: u64,
    /// Reports dropped from a full backlog that the log has reported.
    logged_dropped: u64,
}

fn escape(text: &str) -> String {
    escape_for_log(text, MAX_LOGGED_CHARS)
}
