//! The thread `core`: registers the node, sends heartbeats and results, and submits commands.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread::Scope;
use std::time::Duration;

use log::Level;
use tungstenite::Message;

use crate::collector::latest::LatestSample;
use crate::config::{CommandPolicy, CoreConfig};
use crate::core_client::command_queue::{CommandQueue, Submitted, user_to_run_as};
use crate::core_client::messages::{
    CommandRequest, CoreMessage, Envelope, Node, command_result, command_started, heartbeat,
    register,
};
use crate::core_client::session::{CoreAction, CoreEvent, CoreSession};
use crate::hub_extension::node::{NodeExtension, NodeResources};
use crate::model::Snapshot;
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
use crate::util::logger::{unix_seconds, utc};
use crate::util::percent;
use crate::util::random::uuid;
use crate::util::state_io::StateIo;
use crate::util::sync::Shutdown;
use crate::util::text::escape_for_log;

const PING_INTERVAL: Duration = Duration::from_secs(10);

pub struct CoreClient {
    config: CoreConfig,
    node_id: String,
    os: Option<String>,
    upstream: ReconnectingClient,
    commands: CommandQueue,
}

impl CoreClient {
    /// Reads unconfirmed results of commands.
    pub fn new(
        config: CoreConfig,
        node_id: String,
        os: Option<String>,
        state: &StateIo,
        ca_file: Option<&Path>,
        credentials: &Arc<HubCredentials>,
    ) -> Result<Self, Error> {
        let token = config.token.expose();
        let query =
            format!("token={}&node_id={}", percent::encode(token), percent::encode(&node_id));
        let endpoint = endpoint("core.url", &config.url, ca_file)?;
        let secrets = vec![token.to_owned()];
        let upstream = ReconnectingClient::new("core", endpoint, &query, secrets, credentials)?;
        let enabled = config.commands != CommandPolicy::Off;
        let user = user_to_run_as(config.run_as.as_deref(), enabled)?;
        let policy = config.commands.clone();
        let commands = CommandQueue::open(policy, user, state, upstream.outbox_ready());
        Ok(Self { config, node_id, os, upstream, commands })
    }

    /// What `hm-agent check` prints: the endpoint and the messages. Does not connect. The error is an invalid setting.
    pub fn describe(
        config: &CoreConfig,
        node: &Node,
        ca_file: Option<&Path>,
    ) -> Result<String, Error> {
        let endpoint = endpoint("core.url", &config.url, ca_file)?;
        let enabled = config.commands != CommandPolicy::Off;
        let user = user_to_run_as(config.run_as.as_deref(), enabled)?;
        let envelope = Envelope { id: "…", timestamp: "…" };
        let commands = match &config.commands {
            CommandPolicy::Off => "runs no commands".to_owned(),
            CommandPolicy::Any => format!("runs any command as {}", user.name),
            CommandPolicy::Allow(prefixes) => {
                let prefixes: Vec<String> = prefixes.iter().map(|words| words.join(" ")).collect();
                let prefixes = prefixes.join("; ").escape_debug().to_string();
                format!("runs commands that begin with one of [{prefixes}] as {}", user.name)
            }
        };
        Ok(format!(
            "# core: connects to {}, registers with {}, reports every {} s: {}; {commands}\n",
            endpoint.describe(),
            register(envelope, node),
            config.heartbeat_interval.as_secs(),
            heartbeat(envelope, &node.node_id, &Snapshot::default()),
        ))
    }

    /// Never blocks on disk I/O, because the sampler calls it.
    pub fn status(&self) -> UpstreamStatus {
        UpstreamStatus { backlog: self.commands.unconfirmed(), ..self.upstream.status() }
    }

    /// The thread `core`. It connects when `gpus_ready` is readable, and returns after the last command's thread.
    pub fn run(
        &self,
        latest: &LatestSample,
        resources: &dyn NodeResources,
        gpus_ready: &EventFd,
        shutdown: &Shutdown,
    ) {
        sys::wait_readable([shutdown.as_fd(), gpus_ready.as_fd()], None);
        std::thread::scope(|scope| {
            let context = Context { latest, resources, scope, shutdown };
            self.upstream.run(
                PING_INTERVAL,
                shutdown,
                |keepalive, socket, credential| {
                    let interval = self.config.heartbeat_interval;
                    let session = CoreSession::new(keepalive, interval, self.upstream.now());
                    let ip_address =
                        socket.local_ip().map_or_else(String::new, |ip| ip.to_string());
                    Connection { session, extension: NodeExtension::new(credential), ip_address }
                },
                |socket, connection, dedup| self.step(socket, connection, dedup, &context),
            );
        });
    }

    fn step<'scope>(
        &'scope self,
        socket: &mut WebSocketClient<'_>,
        connection: &mut Connection,
        dedup: &mut LogDedup<CoreEvent>,
        context: &Context<'scope, '_>,
    ) -> Result<(), DisconnectReason> {
        let received = socket.receive()?;
        let is_idle = received.is_none();
        if let Some(message) = received {
            match classify(&message)? {
                Incoming::Text(text) => {
                    return self.handle_message(text, connection, dedup, context);
                }
                // Requests without a pause must not delay heartbeats, results and pings, so what is due follows.
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
        let Connection { session, extension, .. } = connection;
        if let Some(message) = extension.next_message(
            context.resources,
            self.upstream.credential(),
            self.upstream.now(),
        ) {
            return socket.send(Message::binary(message));
        }
        if session.is_registered()
            && let Some(started) = self.commands.take_started()
        {
            let message = |envelope: Envelope<'_>| command_started(envelope, &started.command_id);
            return send(socket, &started.request_id, message);
        }
        let now = self.upstream.now();
        let action =
            self.commands.with_log(|log| session.next_action(log.pending(), new_id, now))?;
        match action {
            CoreAction::Register(id) => {
                let snapshot = &context.latest.current().snapshot;
                let node = self.node(&connection.ip_address, snapshot);
                send(socket, &id, |envelope| register(envelope, &node))
            }
            CoreAction::Heartbeat(id) => {
                let snapshot = &context.latest.current().snapshot;
                send(socket, &id, |envelope| heartbeat(envelope, &self.node_id, snapshot))
            }
            CoreAction::SendResult(id) => self.send_result(socket, &id),
            CoreAction::Ping => socket.send(Message::Ping(Default::default())),
            CoreAction::Wait(_) if !is_idle => Ok(()),
            CoreAction::Wait(until) => {
                let until = extension.next_check().map_or(until, |check| check.min(until));
                self.upstream.wait(socket, until, context.shutdown);
                Ok(())
            }
        }
    }

    fn send_result(
        &self,
        socket: &mut WebSocketClient<'_>,
        id: &str,
    ) -> Result<(), DisconnectReason> {
        let text = self.commands.with_log(|log| {
            let result = log.result(id)?;
            let timestamp = utc(unix_seconds());
            Some(command_result(Envelope { id, timestamp: &timestamp }, &result))
        });
        text.map_or(Ok(()), |text| socket.send(Message::text(text)))
    }

    fn node(&self, ip_address: &str, snapshot: &Snapshot) -> Node {
        Node {
            node_id: self.node_id.clone(),
            hostname: snapshot.hostname.clone().unwrap_or_else(|| self.node_id.clone()),
            ip_address: ip_address.to_owned(),
            os_info: self.os.clone(),
        }
    }

    fn handle_message<'scope>(
        &'scope self,
        text: &str,
        Connection { session, extension, .. }: &mut Connection,
        dedup: &mut LogDedup<CoreEvent>,
        context: &Context<'scope, '_>,
    ) -> Result<(), DisconnectReason> {
        let mut message = match CoreMessage::parse(text) {
            Ok(message) => message,
            Err(why) => {
                // The connection stays open: the next message may be valid.
                self.upstream.warn(&format!(
                    "sent an invalid message \"{}\": {}",
                    escape(text),
                    escape(&why)
                ));
                return Ok(());
            }
        };
        let hub = match &mut message {
            CoreMessage::Registered { hub, .. } => hub.take(),
            _ => None,
        };
        let event = session.on_message(message, random_unit(), self.upstream.now());
        let event = event.map_err(|reason| match reason {
            DisconnectReason::Rejected(why) => DisconnectReason::Rejected(escape(&why)),
            reason => reason,
        })?;
        if event == CoreEvent::Registered {
            extension.on_accepted(hub.as_ref());
            if let Some(credential) = hub.and_then(|hub| hub.credential) {
                self.upstream.keep_credential(credential.into());
            }
        }
        self.handle_event(event, session, dedup, context)
    }

    fn handle_event<'scope>(
        &'scope self,
        event: CoreEvent,
        session: &mut CoreSession,
        dedup: &mut LogDedup<CoreEvent>,
        context: &Context<'scope, '_>,
    ) -> Result<(), DisconnectReason> {
        let should_log = dedup.should_log_event(&event);
        let warn_once = |text: String| {
            if should_log {
                self.upstream.warn(&text);
            }
        };
        match event {
            CoreEvent::Registered => self.on_registered(should_log),
            CoreEvent::Acknowledged => {
                self.upstream.on_response();
                dedup.reset();
            }
            CoreEvent::NotRegistered(why) => {
                warn_once(format!("rejected the registration: {}", escape(&why)));
            }
            CoreEvent::NodeNotFound(why) => {
                self.upstream.set_state("connected");
                warn_once(format!(
                    "node is not registered any more ({}), registering again",
                    escape(&why)
                ));
            }
            CoreEvent::Execute(request) => self.submit(request, new_id()?, context),
            CoreEvent::Confirmed(id) => self.on_confirmed(&id),
            CoreEvent::ResultRejected(id, why) => {
                warn_once(format!("cannot parse a result: {}", escape(&why)));
                if self.commands.with_log(|log| log.reject(&id)) {
                    session.on_result_dropped(&id);
                    self.upstream.warn("rejected a result three times, result dropped");
                    self.upstream.add_dropped(1);
                }
            }
            CoreEvent::ServerError(why) => warn_once(format!("reports an error: {}", escape(&why))),
            CoreEvent::Ignored(what) => {
                self.upstream.log(Level::Debug, &format!("ignored: {}", escape(&what)));
            }
        }
        Ok(())
    }

    fn on_registered(&self, should_log: bool) {
        self.upstream.on_response();
        self.upstream.set_state("online");
        if should_log {
            let (node, backlog) = (escape(&self.node_id), self.commands.unconfirmed());
            let text = format!("registered as {node}, backlog of {backlog} results");
            self.upstream.log(Level::Info, &text);
        }
    }

    /// The log is the record of what ran, so requests that run nothing do not use up its rate limit.
    fn submit<'scope>(
        &'scope self,
        request: CommandRequest,
        result_id: String,
        context: &Context<'scope, '_>,
    ) {
        let id = escape(&request.command_id);
        let text = escape(request.text.as_deref().unwrap_or(""));
        let Context { scope, shutdown, .. } = *context;
        match self.commands.submit(request, result_id, scope, shutdown) {
            Submitted::Accepted => {
                let user = self.commands.user_name();
                let line = || format!("requests command {id} as {user}: {text}");
                self.commands.log(Level::Info, || self.upstream.log_line(&line()));
            }
            Submitted::Duplicate => {
                let line = format!("command {id} requested again, already accepted");
                self.upstream.log(Level::Info, &line);
            }
            Submitted::Rejected(why) => {
                let why = why.trim_start_matches("hm-agent: ");
                self.upstream.warn(&format!("requests command {id}, {why}: {text}"));
            }
        }
    }

    fn on_confirmed(&self, result_id: &str) {
        self.upstream.on_response();
        let command_id = self.commands.with_log(|log| log.confirm(result_id));
        if let Some(command_id) = command_id {
            let line = format!("result of command {} confirmed", escape(&command_id));
            self.upstream.log(Level::Debug, &line);
        }
    }
}

struct Connection {
    session: CoreSession,
    extension: NodeExtension,
    /// This machine's address in the connection.
    ip_address: String,
}

impl UpstreamSession for Connection {
    fn peer_sends_pongs(&self) -> bool {
        self.session.peer_sends_pongs()
    }

    fn is_stable(&self, now: Duration) -> bool {
        self.session.is_stable(now)
    }
}

struct Context<'scope, 'env> {
    latest: &'scope LatestSample,
    resources: &'scope dyn NodeResources,
    scope: &'scope Scope<'scope, 'env>,
    shutdown: &'scope Shutdown,
}

fn send(
    socket: &mut WebSocketClient<'_>,
    id: &str,
    message: impl FnOnce(Envelope<'_>) -> String,
) -> Result<(), DisconnectReason> {
    let timestamp = utc(unix_seconds());
    socket.send(Message::text(message(Envelope { id, timestamp: &timestamp })))
}

fn new_id() -> Result<String, DisconnectReason> {
    uuid().map_err(|error| DisconnectReason::Lost(error.to_string()))
}

fn escape(text: &str) -> String {
    escape_for_log(text, MAX_LOGGED_CHARS)
}
