//! The link to Core: registers this node, sends its heartbeats, and answers for the commands that Core asks for. One
//! thread keeps the link; each command that runs has another.

use std::os::fd::AsFd;
use std::path::Path;

use log::Level;
use tungstenite::Message;

use crate::collector::latest::LatestSample;
use crate::config::{CommandPolicy, Core as Settings};
use crate::core_client::commands;
use crate::core_client::commands::Commands;
use crate::core_client::messages::{
    Envelope, Incoming, Node, command_result, command_started, heartbeat, register, uuid_v4,
};
use crate::core_client::session::{Conversation, Step, Verdict};
use crate::limits;
use crate::model::Snapshot;
use crate::model::status::UpstreamStatus;
use crate::net::reconnect::DisconnectReason;
use crate::net::reconnecting_client;
use crate::net::reconnecting_client::{Heard, ReconnectingClient, chance, quoted};
use crate::net::websocket::Socket;
use crate::sys;
use crate::sys::{Crew, EventFd};
use crate::util::error::Error;
use crate::util::logger::{unix_seconds, utc};
use crate::util::percent::encode;
use crate::util::sync::Shutdown;

type Said = crate::net::log_dedup::Said<Verdict>;

/// The link to Core.
pub struct Link {
    settings: Settings,
    node_id: String,
    os: Option<String>,
    uplink: ReconnectingClient,
    commands: Commands,
}

impl Link {
    /// A link to where the settings say. Results of commands that Core has not confirmed go on to be sent.
    pub fn new(
        settings: Settings,
        node_id: String,
        os: Option<String>,
        state_dir: &Path,
        ca_file: Option<&Path>,
    ) -> Result<Self, Error> {
        let query =
            format!("token={}&node_id={}", encode(settings.token.expose()), encode(&node_id));
        let route = reconnecting_client::route("core.url", &settings.url, &query, ca_file)?;
        let mut secrets = reconnecting_client::secrets(&settings.url);
        secrets.push(settings.token.clone());
        let uplink = ReconnectingClient::new("core", route, secrets)?;
        let on = settings.commands != CommandPolicy::Off;
        let user = commands::user(settings.run_as.as_deref(), on)?;
        let commands = Commands::open(settings.commands.clone(), user, state_dir);
        let link = Self { settings, node_id, os, uplink, commands };
        link.changed();
        Ok(link)
    }

    /// What would be sent where, for `hm-agent check`: the route and the messages, without connecting. The error is a
    /// setting that is wrong.
    pub fn rehearse(
        settings: &Settings,
        node: &Node,
        ca_file: Option<&Path>,
    ) -> Result<String, Error> {
        let route = reconnecting_client::route("core.url", &settings.url, "", ca_file)?;
        let on = settings.commands != CommandPolicy::Off;
        let user = commands::user(settings.run_as.as_deref(), on)?;
        let stamp = Envelope { id: "…", timestamp: "…" };
        let commands = match &settings.commands {
            CommandPolicy::Off => "no commands are run".to_owned(),
            CommandPolicy::Any => format!("any command is run as {}", user.name),
            CommandPolicy::Allow(prefixes) => {
                let prefixes: Vec<String> = prefixes.iter().map(|words| words.join(" ")).collect();
                let prefixes = prefixes.join("; ").escape_debug().to_string();
                format!("commands that begin with one of [{prefixes}] are run as {}", user.name)
            }
        };
        Ok(format!(
            "# core: to {} would be sent {}, and every {} s {}; {commands}\n",
            reconnecting_client::shown(&route),
            register(stamp, node),
            settings.heartbeat_interval.as_secs(),
            heartbeat(stamp, &node.node_id, &Snapshot::default()),
        ))
    }

    /// How it stands. Waits for no disk: the sampler asks.
    pub fn status(&self) -> UpstreamStatus {
        self.uplink.status()
    }

    /// The life of its thread, from the first complete sample on.
    pub fn keep(&self, feed: &LatestSample, complete: &EventFd, stop: &Shutdown) {
        sys::wait_readable([stop.as_fd(), complete.as_fd()], None);
        sys::crew(|crew| {
            let begin = |keepalive, socket: &Socket<'_>| {
                let every = self.settings.heartbeat_interval;
                let talk = Conversation::new(keepalive, every, self.uplink.now());
                let ip_address = socket.local_ip().map_or_else(String::new, |ip| ip.to_string());
                Connection { talk, ip_address }
            };
            self.uplink.keep(limits::CORE_PING, stop, begin, |socket, connection, said| {
                let context = Context { feed, crew, stop };
                self.turn(socket, connection, said, &context)
            });
        });
    }

    /// One thing: a message that came, a message to send, or a wait for either.
    fn turn<'env>(
        &'env self,
        socket: &mut Socket<'_>,
        connection: &mut Connection,
        said: &mut Said,
        context: &Context<'_, 'env>,
    ) -> Result<(), DisconnectReason> {
        if let Some(message) = socket.receive()? {
            return match reconnecting_client::sort(&message)? {
                Heard::Text(text) => self.hear(text, &mut connection.talk, said, context),
                Heard::Pong => {
                    connection.talk.pong(self.uplink.now());
                    Ok(())
                }
                Heard::Nothing => Ok(()),
            };
        }
        if connection.talk.is_registered()
            && let Some((message_id, command_id)) = self.commands.take_begun()
        {
            return send(socket, &message_id, |envelope| command_started(envelope, &command_id));
        }
        let now = self.uplink.now();
        let step = self
            .commands
            .with_ledger(|ledger| connection.talk.next(ledger.waiting(), uuid, now))?;
        match step {
            Step::Register(id) => {
                let node = self.node(connection, &context.feed.current().snapshot);
                send(socket, &id, |envelope| register(envelope, &node))
            }
            Step::Heartbeat(id) => {
                let snapshot = &context.feed.current().snapshot;
                send(socket, &id, |envelope| heartbeat(envelope, &self.node_id, snapshot))
            }
            Step::Result(id) => {
                let text = self.commands.with_ledger(|ledger| {
                    let result = ledger.result(&id)?;
                    let timestamp = utc(unix_seconds());
                    Some(command_result(Envelope { id: &id, timestamp: &timestamp }, &result))
                });
                text.map_or(Ok(()), |text| socket.send(Message::text(text)))
            }
            Step::Ping => socket.send(Message::Ping(Default::default())),
            Step::Wait(until) => {
                self.uplink.wait(socket, until, context.stop);
                Ok(())
            }
        }
    }

    fn node(&self, connection: &Connection, snapshot: &Snapshot) -> Node {
        Node {
            node_id: self.node_id.clone(),
            hostname: snapshot.hostname.clone().unwrap_or_else(|| self.node_id.clone()),
            ip_address: connection.ip_address.clone(),
            os_info: self.os.clone(),
        }
    }

    fn hear<'env>(
        &'env self,
        text: &str,
        talk: &mut Conversation,
        said: &mut Said,
        context: &Context<'_, 'env>,
    ) -> Result<(), DisconnectReason> {
        let message = match Incoming::parse(text) {
            Ok(message) => message,
            Err(why) => {
                // Not the end of the connection: the next one may be better.
                self.uplink
                    .warn(&format!("says \"{}\", which is not understood: {why}", quoted(text)));
                return Ok(());
            }
        };
        let verdict =
            talk.heard(message, chance(), self.uplink.now()).map_err(|outage| match outage {
                DisconnectReason::Refused(why) => DisconnectReason::Refused(quoted(&why)),
                outage => outage,
            })?;
        let is_new = said.is_new(&verdict);
        let limited = |what: String| {
            if is_new {
                self.uplink.warn(&what);
            }
        };
        match verdict {
            Verdict::Registered => {
                self.uplink.note_answer();
                self.uplink.set_state("online");
                if is_new {
                    let backlog = self.commands.with_ledger(|ledger| ledger.waiting().count());
                    let node = quoted(&self.node_id);
                    let what = format!("registered as {node}, {backlog} results wait");
                    self.uplink.say(Level::Info, &what);
                }
            }
            Verdict::Acknowledged => {
                self.uplink.note_answer();
                said.over();
            }
            Verdict::NotRegistered(why) => {
                limited(format!("does not register this node: {}", quoted(&why)));
            }
            Verdict::Forgotten(why) => {
                self.uplink.set_state("connected");
                limited(format!("does not know this node any more: {}", quoted(&why)));
            }
            Verdict::Execute(order) => {
                // Not as other lines about Core, of which some are left out when there are many.
                let say = |level, what: &str| {
                    let what = self.uplink.without_secret(what);
                    log::log!(level, "core: {} {what}", self.uplink.shown());
                };
                let changed = || self.changed();
                self.commands.order(order, say, uuid(), context.crew, context.stop, changed);
            }
            Verdict::Confirmed(id) => self.confirmed(&id),
            Verdict::Unreadable(id, why) => {
                limited(format!("cannot read a result: {}", quoted(&why)));
                if self.commands.with_ledger(|ledger| ledger.unreadable(&id)) {
                    self.uplink.warn("could not read a result again and again, which is dropped");
                    self.uplink.note(|status| status.dropped += 1);
                    self.changed();
                }
            }
            Verdict::AcceptError(why) => limited(format!("has a trouble: {}", quoted(&why))),
            Verdict::Ignored(what) => {
                let what = self.uplink.without_secret(&quoted(&what));
                log::debug!("core: {}: {what}", self.uplink.shown());
            }
        }
        Ok(())
    }

    fn confirmed(&self, message_id: &str) {
        self.uplink.note_answer();
        let command_id = self.commands.with_ledger(|ledger| ledger.confirm(message_id));
        if let Some(command_id) = command_id {
            log::debug!("core: the result of command {} has arrived", quoted(&command_id));
        }
        self.changed();
    }

    /// There is something new to tell Core, or no more.
    fn changed(&self) {
        let waiting = self.commands.with_ledger(|ledger| ledger.waiting().count() as u64);
        self.uplink.note(|status| status.backlog = waiting);
        self.uplink.wake();
    }
}

/// What one connection has.
struct Connection {
    talk: Conversation,
    /// Of this machine, towards Core.
    ip_address: String,
}

impl crate::net::reconnect::Conversation for Connection {
    fn has_pongs(&self) -> bool {
        self.talk.has_pongs()
    }

    fn is_stable(&self, now: std::time::Duration) -> bool {
        self.talk.is_stable(now)
    }
}

/// What the agent has for it.
struct Context<'a, 'env> {
    feed: &'env LatestSample,
    crew: &'a Crew<'env>,
    stop: &'env Shutdown,
}

fn send(
    socket: &mut Socket<'_>,
    id: &str,
    message: impl FnOnce(Envelope<'_>) -> String,
) -> Result<(), DisconnectReason> {
    let timestamp = utc(unix_seconds());
    socket.send(Message::text(message(Envelope { id, timestamp: &timestamp })))
}

fn uuid() -> String {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut random = [0; 16];
    // Where the system has no random numbers, ids need only differ.
    if SystemRandom::new().fill(&mut random).is_err() {
        random[..8].copy_from_slice(&chance().to_bits().to_ne_bytes());
        random[8..].copy_from_slice(&chance().to_bits().to_ne_bytes());
    }
    uuid_v4(random)
}
