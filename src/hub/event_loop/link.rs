//! One WebSocket connection on an event loop. No call blocks.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use tungstenite::error::CapacityError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Error, Message as Frame, WebSocket};

use crate::config::Secret;
use crate::http::tls::MaybeTlsStream;
use crate::hub::admission::Admitted;
use crate::hub::core::node_session::NodeSession;
use crate::hub::credentials::Digest;
use crate::hub::event_loop::budgeted_socket::BudgetedSocket;
use crate::hub::event_loop::mailbox::{AcceptedSocket, NewLink};
use crate::hub::event_loop::sent_commands::SentCommands;
use crate::hub::hm::session::{HmNodeSession, Now};
use crate::hub::nodes::LinkId;
use crate::hub_extension::messages::is_extension;

/// A longer message ends the connection. The longest known reports list models, with names of some hundred bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// The same for a Core node that has registered: the result of a command has up to 1 MB each of stdout and stderr, of which a byte may become
/// six.
const MAX_RESULT_BYTES: usize = 16 << 20;
/// The same while a request to the node waits for its answer. The longest ones, of machines with hundreds of disks, have half a megabyte
/// without compression.
const MAX_RESPONSE_BYTES: usize = 4 << 20;
/// Messages of a node that wait for the store. With as many, the node is not read: it must not fill the store's queue, where others wait.
const MAX_UNSTORED: usize = 256;
/// A monitor client gets all nodes in one message.
const MAX_MONITOR_BUFFER_BYTES: usize = 256 << 20;
/// Buffer for what arrives. Requests are 300 to 500 bytes.
const READ_BUFFER_BYTES: usize = 1 << 10;
/// Output that waits for the peer to read; with more, the connection ends. Nothing is read from an hm node while output waits, and a Core
/// node that does not read gets no acknowledgements of heartbeats and metrics.
const MAX_WRITE_BUFFER_BYTES: usize = 4 << 20;
/// A peer that does not read for this long is disconnected, unless it is a Core node.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// After a close frame, the peer has this long to answer.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection whose node another connection claims must answer a ping within this.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

pub struct Link {
    pub peer: SocketAddr,
    pub protocol: Protocol,
    /// What the client has sent to be let in.
    pub(super) token: Option<Secret>,
    /// Whether no proxy has forwarded the handshake.
    pub(super) is_local: bool,
    /// What the client may become; of a monitor client: nothing.
    pub admitted: Admitted,
    /// Whether a Core client may be the node that it has named.
    pub is_accepted: bool,
    /// The credential that was offered on this connection.
    pub offered: Option<Digest>,
    socket: WebSocket<MaybeTlsStream<BudgetedSocket>>,
    pub(super) sent_commands: SentCommands,
    /// Messages that were read and wait for the store.
    unstored: usize,
    /// Requests that the node has not answered.
    unanswered: usize,
    /// The longest message if there are none of these.
    max_message_bytes: usize,
    /// Connections that wait to learn whether this one is alive, and until when.
    claimants: Vec<LinkId>,
    probe_deadline: Option<Instant>,
    /// Since when output waits.
    blocked_since: Option<Instant>,
    /// A close frame was sent; the connection ends then at the latest.
    close_deadline: Option<Instant>,
}

pub enum Protocol {
    Hm {
        session: HmNodeSession,
    },
    CoreNode(NodeSession),
    Monitor {
        client_id: String,
        /// It has missed a message while it did not read.
        is_outdated: bool,
    },
}

/// What was received.
pub enum Received {
    Text(String),
    Binary(Vec<u8>),
    Ping,
    Pong,
    /// Nothing more now.
    WouldBlock,
}

/// Why a link ends.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended(pub String);

impl Link {
    pub fn new(accepted: AcceptedSocket, now: Now) -> io::Result<Self> {
        let AcceptedSocket { socket, peer, buffered, access, protocol } = accepted;
        let is_core_node = matches!(protocol, NewLink::CoreNode(..));
        let mut max_output = MAX_WRITE_BUFFER_BYTES;
        let (protocol, admitted) = match protocol {
            NewLink::HmNode(admitted) => {
                (Protocol::Hm { session: HmNodeSession::new(now) }, admitted)
            }
            NewLink::CoreNode(session, admitted) => (Protocol::CoreNode(session), admitted),
            NewLink::Monitor(client_id) => {
                max_output = MAX_MONITOR_BUFFER_BYTES;
                (Protocol::Monitor { client_id, is_outdated: false }, Admitted::default())
            }
        };
        Ok(Self {
            peer,
            protocol,
            token: access.token,
            is_local: access.is_local,
            admitted,
            is_accepted: false,
            offered: None,
            socket: open(socket, buffered, is_core_node, max_output)?,
            sent_commands: SentCommands::default(),
            unstored: 0,
            unanswered: 0,
            max_message_bytes: MAX_MESSAGE_BYTES,
            claimants: Vec::new(),
            probe_deadline: None,
            blocked_since: None,
            close_deadline: None,
        })
    }

    pub fn socket_mut(&mut self) -> &mut TcpStream {
        self.socket.get_mut().socket_mut().socket_mut()
    }

    /// The node whose connection this is.
    pub fn node_id(&self) -> Option<&Arc<str>> {
        match &self.protocol {
            Protocol::Hm { session, .. } => session.node_id(),
            Protocol::CoreNode(session) => session.node_id().filter(|_| self.is_accepted),
            Protocol::Monitor { .. } => None,
        }
    }

    /// A node is not read while much of it waits for the store, an hm node neither while output or a claim is pending.
    pub fn is_reading(&self) -> bool {
        match &self.protocol {
            Protocol::Hm { session, .. } => {
                !self.is_blocked() && !session.is_claiming() && self.unstored < MAX_UNSTORED
            }
            Protocol::CoreNode(_) => self.unstored < MAX_UNSTORED,
            Protocol::Monitor { .. } => true,
        }
    }

    pub fn start_turn(&mut self) {
        self.socket.get_mut().socket_mut().start_turn();
    }

    /// Whether a turn has ended before everything was read.
    pub fn has_more(&self) -> bool {
        self.socket.get_ref().socket().is_spent()
    }

    /// A message of the node was given to the store.
    pub fn on_queued(&mut self) {
        self.unstored += 1;
    }

    /// The store has committed a message of the node, or failed to.
    pub fn on_stored(&mut self) {
        self.unstored = self.unstored.saturating_sub(1);
    }

    /// Permits the results of commands, which are longer than everything else.
    pub fn permit_results(&mut self) {
        self.max_message_bytes = MAX_RESULT_BYTES;
        self.socket.set_config(|config| config.max_frame_size = Some(MAX_RESULT_BYTES));
        self.update_limit();
    }

    /// Permits a long message while the answer to a request may arrive; it is in frames of the usual length.
    fn update_limit(&mut self) {
        let while_waiting = if self.unanswered > 0 { MAX_RESPONSE_BYTES } else { 0 };
        let limit = self.max_message_bytes.max(while_waiting);
        self.socket.set_config(|config| config.max_message_size = Some(limit));
    }

    /// Sends a request of the extension.
    pub fn send_request(&mut self, bytes: Vec<u8>, now: Instant) -> Result<(), Ended> {
        self.unanswered += 1;
        self.update_limit();
        let result = self.socket.send(Frame::binary(bytes));
        self.after_write(result, now)
    }

    /// The node has answered a request.
    pub fn on_response(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.update_limit();
    }

    /// A node that sends a long answer over a slow network cannot send a ping meanwhile.
    pub fn note_progress(&mut self, now: Now) {
        let has_read = self.socket.get_ref().socket().has_read();
        if let Protocol::Hm { session, .. } = &mut self.protocol
            && has_read
            && self.unanswered > 0
        {
            session.on_ping(now);
        }
    }

    /// Whether a close frame was sent. What the peer sends before it answers does not count.
    pub fn is_closing(&self) -> bool {
        self.close_deadline.is_some()
    }

    /// Whether output waits for the peer to read.
    pub fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    pub fn read(&mut self) -> Result<Received, Ended> {
        loop {
            match self.socket.read() {
                Ok(Frame::Text(text)) => {
                    self.check_length(text.len())?;
                    return Ok(Received::Text(text.as_str().to_owned()));
                }
                Ok(Frame::Binary(bytes)) => {
                    if !is_extension(&bytes) {
                        self.check_length(bytes.len())?;
                    }
                    return Ok(Received::Binary(bytes.to_vec()));
                }
                Ok(Frame::Ping(_)) => return Ok(Received::Ping),
                Ok(Frame::Pong(_)) => return Ok(Received::Pong),
                // tungstenite answers the close frame with the next read.
                Ok(Frame::Close(_) | Frame::Frame(_)) => {}
                Err(error) if is_would_block(&error) => return Ok(Received::WouldBlock),
                Err(error) => return Err(Ended(describe(&error))),
            }
        }
    }

    /// Only the answer to a request may be longer while one waits.
    fn check_length(&self, length: usize) -> Result<(), Ended> {
        match length > self.max_message_bytes {
            true => Err(Ended(too_long(length, self.max_message_bytes))),
            false => Ok(()),
        }
    }

    pub fn send(&mut self, text: &str, now: Instant) -> Result<(), Ended> {
        let result = self.socket.send(Frame::text(text));
        self.after_write(result, now)
    }

    /// Writes what waits.
    pub fn flush(&mut self, now: Instant) -> Result<(), Ended> {
        let result = self.socket.flush();
        self.after_write(result, now)
    }

    fn after_write(&mut self, result: Result<(), Error>, now: Instant) -> Result<(), Ended> {
        match result {
            Ok(()) => self.blocked_since = None,
            Err(error) if is_would_block(&error) => {
                self.blocked_since.get_or_insert(now);
            }
            Err(error) => return Err(Ended(describe(&error))),
        }
        Ok(())
    }

    /// Pings the node for a connection that claims it.
    pub fn probe(&mut self, claimant: LinkId, now: Instant) -> Result<(), Ended> {
        self.claimants.push(claimant);
        if self.probe_deadline.is_some() {
            return Ok(());
        }
        self.probe_deadline = Some(now + PROBE_TIMEOUT);
        let result = self.socket.send(Frame::Ping(Vec::new().into()));
        self.after_write(result, now)
    }

    /// Ends a probe. Returns the connections that wait for its result.
    pub fn take_claimants(&mut self) -> Vec<LinkId> {
        self.probe_deadline = None;
        std::mem::take(&mut self.claimants)
    }

    /// Sends a close frame. The link ends when the peer has answered it.
    pub fn close(
        &mut self,
        code: CloseCode,
        reason: &'static str,
        now: Instant,
    ) -> Result<(), Ended> {
        self.close_deadline = Some(now + CLOSE_TIMEOUT);
        let result = self.socket.close(Some(CloseFrame { code, reason: reason.into() }));
        let result = result.and_then(|()| self.socket.flush());
        self.after_write(result, now)
    }

    /// Ends TLS. The socket is closed next, so what it does not take at once is lost.
    pub fn close_notify(&mut self) {
        let _ = self.socket.get_mut().close_notify();
    }

    /// Ends the connection if a deadline has passed. A Core node has only that of the close, because the published agent never reconnects.
    pub fn check_deadlines(&mut self, now: Instant) -> Result<(), Ended> {
        let is_over = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        if is_over(self.close_deadline) {
            return Err(Ended("closed".to_owned()));
        }
        if self.close_deadline.is_some() || matches!(self.protocol, Protocol::CoreNode(_)) {
            return Ok(());
        }
        if is_over(self.probe_deadline) {
            return Err(Ended("no pong within 2 s, replaced by another connection".to_owned()));
        }
        if is_over(self.blocked_since.map(|since| since + WRITE_TIMEOUT)) {
            return Err(Ended("write timeout (30 s)".to_owned()));
        }
        match &self.protocol {
            Protocol::Hm { session, .. } if is_over(Some(session.deadline())) => {
                self.close(CloseCode::Policy, "no message or ping within 30 s", now)
            }
            _ => Ok(()),
        }
    }

    /// Extends the deadlines of the peer by a time in which the hub did not read.
    pub fn add_pause(&mut self, pause: Duration) {
        if let Protocol::Hm { session, .. } = &mut self.protocol {
            session.add_pause(pause);
        }
        self.probe_deadline = self.probe_deadline.map(|deadline| deadline + pause);
    }
}

fn open(
    socket: MaybeTlsStream<StdTcpStream>,
    buffered: Vec<u8>,
    is_core_node: bool,
    max_output: usize,
) -> io::Result<WebSocket<MaybeTlsStream<BudgetedSocket>>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(max_output)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let socket = socket.try_map(|socket| BudgetedSocket::open(socket, is_core_node))?;
    Ok(WebSocket::from_partially_read(socket, buffered, Role::Server, Some(config)))
}

fn is_would_block(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == ErrorKind::WouldBlock)
}

fn too_long(size: usize, max: usize) -> String {
    format!("a message of {size} bytes exceeds {max}")
}

fn describe(error: &Error) -> String {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "closed".to_owned(),
        Error::Io(error) => crate::util::error::reason(error),
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            too_long(*size, *max_size)
        }
        other => other.to_string(),
    }
}
