//! A TCP proxy between an agent and a server that can stall or end all connections, optionally with TLS on the agent's side.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hm_agent::util::logger::{unix_seconds, utc};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum ProxyMode {
    Forward,
    /// Keeps connections open and forwards nothing.
    Frozen,
    /// Ends all connections and accepts none.
    Cut,
    Stopped,
}

/// A [`ProxyMode`] that can be changed while connections are open.
pub struct CurrentMode(AtomicU8);

struct Shared {
    upstream: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    mode: CurrentMode,
    connections: AtomicUsize,
}

/// Stops when dropped.
pub struct TcpProxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl TcpProxy {
    pub fn to(upstream: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (mode, connections) = (CurrentMode::new(), AtomicUsize::new(0));
        let shared = Arc::new(Shared { upstream, tls, mode, connections });
        let (address, context) = (listener.local_addr().unwrap(), shared.clone());
        let thread = std::thread::spawn(move || accept(&listener, &context));
        Self { address, shared, thread: Some(thread) }
    }

    pub fn set_mode(&self, mode: ProxyMode) {
        self.shared.mode.set(mode);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.set_mode(ProxyMode::Stopped);
        let thread = self.thread.take();
        thread.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl CurrentMode {
    pub fn new() -> Self {
        Self(AtomicU8::new(ProxyMode::Forward as u8))
    }

    pub fn set(&self, mode: ProxyMode) {
        self.0.store(mode as u8, Ordering::Relaxed);
    }

    pub fn is(&self, mode: ProxyMode) -> bool {
        self.0.load(Ordering::Relaxed) == mode as u8
    }

    fn ends_connections(&self) -> bool {
        self.is(ProxyMode::Cut) || self.is(ProxyMode::Stopped)
    }
}

pub fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while !shared.mode.is(ProxyMode::Stopped) {
        match listener.accept() {
            Ok((socket, _)) if !shared.mode.is(ProxyMode::Cut) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let context = shared.clone();
                threads.push(std::thread::spawn(move || forward_connection(socket, &context)));
            }
            _ => pause(),
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Forwards until either end closes.
fn forward_connection(near: TcpStream, shared: &Shared) {
    let Ok(mut far) = TcpStream::connect(shared.upstream) else { return };
    far.set_nonblocking(true).unwrap();
    near.set_nonblocking(true).unwrap();
    match &shared.tls {
        None => forward(&mut { near }, &mut far, &shared.mode),
        Some(config) => {
            let tls = ServerConnection::new(config.clone()).unwrap();
            forward(&mut StreamOwned::new(tls, near), &mut far, &shared.mode);
        }
    }
}

/// Forwards between two sockets that do not block until either end closes, or the mode ends it.
pub fn forward(near: &mut (impl Read + Write), far: &mut TcpStream, mode: &CurrentMode) {
    let (mut to_far, mut to_near) = (Vec::new(), Vec::new());
    while !mode.ends_connections() {
        if mode.is(ProxyMode::Frozen) {
            pause();
            continue;
        }
        let moved = [copy_some(near, far, &mut to_far), copy_some(far, near, &mut to_near)];
        match moved {
            [Some(false), Some(false)] => pause(),
            [Some(_), Some(_)] => {}
            _ => return,
        }
    }
}

/// Copies available data; returns whether there was any. `None`: one end has closed.
fn copy_some(from: &mut impl Read, to: &mut impl Write, unsent: &mut Vec<u8>) -> Option<bool> {
    let blocks = |error: &std::io::Error| {
        [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind())
    };
    if unsent.is_empty() {
        let mut part = [0; 16 << 10];
        match from.read(&mut part) {
            Ok(0) => return None,
            Ok(length) => unsent.extend_from_slice(&part[..length]),
            Err(error) if blocks(&error) => {}
            Err(_) => return None,
        }
    }
    let sent = match to.write(unsent) {
        Ok(sent) => sent,
        Err(error) if blocks(&error) => 0,
        Err(_) => return None,
    };
    unsent.drain(..sent);
    match to.flush() {
        Err(error) if !blocks(&error) => None,
        _ => Some(sent > 0),
    }
}

/// A server's certificate for `localhost`, and its authority.
pub struct Certificate {
    /// The authority's certificate, for `tls.ca_file`.
    pub authority: String,
    pub server: Arc<ServerConfig>,
}

impl Certificate {
    /// Valid from yesterday until in `days` days.
    pub fn for_days(days: u64) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        const DAY: u64 = 86_400;
        let (year, month, day) = date(unix_seconds() - DAY);
        params.not_before = date_time_ymd(year, month, day);
        let (year, month, day) = date(unix_seconds() + days * DAY);
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self { authority: authority.pem(), server: Arc::new(config) }
    }
}

/// Year, month and day.
fn date(unix_seconds: u64) -> (i32, u8, u8) {
    let text = utc(unix_seconds);
    let part = |range: std::ops::Range<usize>| text[range].parse::<u16>().unwrap();
    (part(0..4).into(), part(5..7) as u8, part(8..10) as u8)
}
