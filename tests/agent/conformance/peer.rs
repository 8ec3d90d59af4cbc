//! The peers under test: two ports of a running agent, and the clients of hm and Core. Each case gets a new client, because a client
//! waits before it reconnects.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use hm_agent::collector::latest::LatestSample;
use hm_agent::config::{Config, Settings, Sources};
use hm_agent::core_client::client::CoreClient;
use hm_agent::hm_client::client::HmClient;
use hm_agent::model::RawSample;
use hm_agent::net::credentials::HubCredentials;
use hm_agent::net::websocket::MAX_MESSAGE_BYTES;
use hm_agent::remote::server;
use hm_agent::sys::EventFd;
use hm_agent::telemetry::subscription;
use hm_agent::util::state_io::StateIo;
use hm_agent::util::sync::Shutdown;
use serde_json::json;

use crate::conformance::wire::{self, Wire, head};
use crate::support::TempDir;
use crate::support::hm_clients::SimulatedResources;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Usage,
    Monitor,
    Hm,
    Core,
}

pub const PEERS: [Peer; 4] = [Peer::Usage, Peer::Monitor, Peer::Hm, Peer::Core];

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "`/usage`",
            Self::Monitor => "`/monitor`",
            Self::Hm => "hm client",
            Self::Core => "Core client",
        }
    }

    pub fn is_server(self) -> bool {
        matches!(self, Self::Usage | Self::Monitor)
    }

    /// The longest message that it accepts, in bytes.
    pub fn max_message(self) -> usize {
        match self {
            Self::Usage => subscription::MAX_CLIENT_MESSAGE_BYTES,
            Self::Monitor => server::MAX_MESSAGE_BYTES,
            Self::Hm | Self::Core => MAX_MESSAGE_BYTES,
        }
    }

    /// Whether frames to it are masked.
    pub fn masked(self) -> bool {
        self.is_server()
    }

    pub fn frame(self, first: u8, payload: &[u8]) -> Vec<u8> {
        wire::frame(first, payload, self.masked())
    }

    /// A text that contains `words`, which a server answers with an error and a client ignores. Clients accept messages of their protocol
    /// only.
    pub fn text(self, words: &str) -> Vec<u8> {
        let text = match self {
            Self::Usage | Self::Monitor => return words.as_bytes().to_vec(),
            Self::Hm => json!({"id": 999_999_999, "code": 0, "message": words}),
            Self::Core => json!({"type": "chat", "id": "x", "data": {"message": words}}),
        };
        text.to_string().into_bytes()
    }

    /// The same with a length in bytes, or the shortest possible.
    pub fn text_of(self, length: usize) -> Vec<u8> {
        self.text(&"*".repeat(length.saturating_sub(self.text("").len())))
    }

    /// The text before and after the words.
    pub fn around(self) -> (Vec<u8>, Vec<u8>) {
        let text = self.text("\u{1}");
        if self.is_server() {
            return (Vec::new(), Vec::new());
        }
        let mark = br"\u0001";
        let at = text.windows(mark.len()).position(|window| window == mark).unwrap();
        (text[..at].to_vec(), text[at + mark.len()..].to_vec())
    }
}

pub struct Ports {
    pub usage: SocketAddr,
    pub monitor: SocketAddr,
}

/// Calls `exchange` with a new connection.
pub fn with<R>(peer: Peer, ports: &Ports, exchange: impl FnOnce(&mut Wire) -> R) -> R {
    match peer {
        Peer::Usage => exchange(&mut connect(ports.usage, "/usage")),
        Peer::Monitor => exchange(&mut connect(ports.monitor, "/monitor")),
        Peer::Hm | Peer::Core => with_client(peer, exchange),
    }
}

/// The example of RFC 6455 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn connect(address: SocketAddr, path: &str) -> Wire {
    let mut socket = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).unwrap();
    let (answer, rest) = head(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains(ACCEPT), "{answer}");
    // The request offers no extension.
    assert!(!answer.to_ascii_lowercase().contains("sec-websocket-extensions"), "{answer}");
    Wire::new(socket, false, rest)
}

fn with_client<R>(peer: Peer, exchange: impl FnOnce(&mut Wire) -> R) -> R {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let key = if peer == Peer::Hm { "hm.url" } else { "core.url" };
    let sources = Sources { overrides: vec![(key.to_owned(), url)], ..Default::default() };
    let config = Config::new(&Settings::load(&sources).unwrap()).unwrap();
    let (state_dir, stop) = (TempDir::new("conformance"), Shutdown::new().unwrap());
    let state = StateIo::start(&state_dir.0).unwrap();
    let (feed, complete) =
        (LatestSample::new(RawSample::default()).unwrap(), EventFd::new().unwrap());
    complete.notify();
    let node = || "node".to_owned();
    let credentials = Arc::new(HubCredentials::open(&state, "node"));
    thread::scope(|scope| {
        scope.spawn(|| match peer {
            Peer::Hm => {
                let settings = config.hm.clone().unwrap();
                let client = HmClient::new(settings, node(), &state, None, &credentials);
                client.unwrap().run(&SimulatedResources, &stop);
            }
            _ => {
                let settings = config.core.clone().unwrap();
                let client = CoreClient::new(settings, node(), None, &state, None, &credentials);
                client.unwrap().run(&feed, &SimulatedResources, &complete, &stop);
            }
        });
        let (mut socket, _) = listener.accept().unwrap();
        let (request, rest) = head(&mut socket);
        let key =
            request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        socket.write_all(answer.as_bytes()).unwrap();
        // The client's thread must end even if the exchange panics.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            exchange(&mut Wire::new(socket, true, rest))
        }));
        stop.trigger();
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
