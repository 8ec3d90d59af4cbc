//! Connections to the hm port of a hub.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hm_agent::util::backoff::random_unit;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

pub const TIMEOUT: Duration = Duration::from_secs(60);

/// Where links are opened to, and how.
pub struct Target {
    pub server: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    /// A source address has too few ports for all links: each gets an address of its own in 127.0.0.0/8.
    own_addresses: bool,
    ids: RandomState,
}

impl Target {
    pub fn new(server: SocketAddr) -> Self {
        Self { server, tls: None, own_addresses: false, ids: RandomState::new() }
    }

    /// With `authority`, a file with its certificate, the links have TLS.
    pub fn with_own_addresses(server: SocketAddr, authority: Option<&Path>) -> io::Result<Self> {
        let tls = authority.map(tls_config).transpose()?;
        Ok(Self { tls, own_addresses: true, ..Self::new(server) })
    }

    /// Opens the link of a node and waits until the node is online.
    pub fn open(&self, number: u32) -> io::Result<Link> {
        let failed = |error: String| io::Error::other(format!("link {number}: {error}"));
        let socket = self.connect(number).map_err(|error| failed(error.to_string()))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let stream = self.stream(socket).map_err(|error| failed(error.to_string()))?;
        let url = format!("ws://{}/websocket", self.server);
        let (mut link, _) = tungstenite::client::client_with_config(url, stream, Some(config()))
            .map_err(|error| failed(error.to_string()))?;
        send(&mut link, 1, 0, &json!({"node_id": self.node_id(number)}))?;
        match read_code(&mut link)? {
            0 => Ok(link),
            code => Err(failed(format!("code {code}"))),
        }
    }

    fn connect(&self, number: u32) -> io::Result<TcpStream> {
        match self.server {
            SocketAddr::V4(server) if self.own_addresses => {
                connect_from(source(number), SockaddrIn::from(server))
            }
            server => TcpStream::connect(server),
        }
    }

    fn stream(&self, socket: TcpStream) -> io::Result<Stream> {
        let Some(config) = &self.tls else { return Ok(Stream::Plain(socket)) };
        let connection = ClientConnection::new(config.clone(), self.server.ip().into())
            .map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(connection, socket))))
    }

    /// Random, and the same when the node reconnects.
    fn node_id(&self, number: u32) -> String {
        format!("{:016x}", self.ids.hash_one(number))
    }
}

/// Starts at 127.64.0.0.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() + number)
}

fn connect_from(source: Ipv4Addr, server: SockaddrIn) -> io::Result<TcpStream> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
    connect(fd.as_raw_fd(), &server)?;
    Ok(TcpStream::from(fd))
}

fn tls_config(authority: &Path) -> io::Result<Arc<ClientConfig>> {
    let certificate = CertificateDer::from_pem_file(authority).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// The default buffer of 128 KiB a link would measure this program.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(512)
}

pub type Link = WebSocket<Stream>;

pub enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

pub fn send(link: &mut Link, kind: u32, id: u32, body: &Value) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let milliseconds = now.unwrap_or_default().as_millis() as u64;
    let body = data_encoding::BASE64.encode(body.to_string().as_bytes());
    let request = json!({"version": 0, "timestamp": milliseconds, "id": id, "type": kind,
        "pub_key": "", "sign": "", "body": body});
    link.send(Message::text(request.to_string())).map_err(to_io)
}

/// A report with random values: regular ones would compress well.
pub fn report() -> Value {
    json!({"project": "DecentralGPT", "models": [{"model": "Codestral-22B-v0.1"}],
        "gpu_name": "NVIDIA RTX A5000", "utilization_gpu": random_below(101), "memory_total": 24564,
        "memory_used": random_below(24565)})
}

pub fn random_below(end: u32) -> u32 {
    (random_unit() * f64::from(end)) as u32
}

pub fn read_code(link: &mut Link) -> io::Result<u64> {
    loop {
        if let Message::Text(text) = link.read().map_err(to_io)? {
            let answer: Value = serde_json::from_str(&text)?;
            return answer["code"].as_u64().ok_or_else(|| io::Error::other(text.to_string()));
        }
    }
}

pub fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
