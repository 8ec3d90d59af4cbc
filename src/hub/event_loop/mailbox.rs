//! Messages to an event loop from other threads.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use mio::{Registry, Token, Waker};

use crate::config::Secret;
use crate::http::tls::MaybeTlsStream;
use crate::hub::access::Access;
use crate::hub::admission::Admitted;
use crate::hub::core::node_session::NodeSession;
use crate::hub::nodes::LinkId;
use crate::hub::store::Completed;
use crate::hub::store::records::NewCommand;
use crate::util::sync::lock;

/// A message to an event loop. `link` is the number of one of its links, which may have ended.
pub enum LoopMessage {
    /// A client that has completed the WebSocket handshake.
    Accepted(AcceptedSocket),
    /// Results of writes for links of this loop.
    Committed(Vec<(u64, Completed)>),
    /// Send a new command to the Core connection of its node.
    SendCommand { link: u64, command: NewCommand },
    /// Send a message of the extension to a link.
    SendBinary { link: u64, bytes: Vec<u8> },
    /// Send a text to all monitor clients. One that does not read gets the current state later instead.
    Broadcast(Arc<str>),
    /// Check whether `link` is alive for `claimant`, which wants its node.
    Probe { link: u64, claimant: LinkId },
    /// The connection that holds the node which `link` wants is alive or has ended.
    ProbeResult { link: u64, is_alive: bool },
    /// End a link of a client that may not be the node any more.
    End { link: u64, why: &'static str },
    /// End the links that the reloaded configuration does not admit.
    Recheck,
    /// Read nothing more, and answer.
    StopReading(Sender<()>),
    /// Close every link and end.
    Close,
}

pub struct AcceptedSocket {
    pub socket: MaybeTlsStream<TcpStream>,
    pub peer: SocketAddr,
    /// What the client sent after its request.
    pub buffered: Vec<u8>,
    pub access: ClientAccess,
    pub protocol: NewLink,
}

/// What let a client in.
pub struct ClientAccess {
    /// The settings that were in force.
    pub at_handshake: Arc<Access>,
    pub token: Option<Secret>,
    /// Whether no proxy has forwarded the handshake.
    pub is_local: bool,
}

/// What a client has connected as.
pub enum NewLink {
    HmNode(Admitted),
    CoreNode(NodeSession, Admitted),
    /// A monitor client with its id.
    Monitor(String),
}

pub struct Mailbox {
    messages: Mutex<Vec<LoopMessage>>,
    waker: Waker,
}

impl Mailbox {
    pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self { messages: Mutex::default(), waker: Waker::new(registry, token)? })
    }

    pub fn send(&self, message: LoopMessage) {
        lock(&self.messages).push(message);
        // An eventfd is writable unless its counter overflows.
        if let Err(error) = self.waker.wake() {
            log::error!("wake an event loop: {error}");
        }
    }

    pub fn take(&self) -> Vec<LoopMessage> {
        std::mem::take(&mut *lock(&self.messages))
    }
}
