//! What lies between an agent and a server: it passes everything on, or nothing, or ends all connections; with TLS on the
//! agent's side where that is wanted.

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

/// What it does.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Way {
    Open,
    /// Nothing passes, and nobody is told.
    Frozen,
    /// All connections are ended, and so is every new one at once.
    Cut,
    Ended,
}

struct Shared {
    upstream: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    way: AtomicU8,
    connections: AtomicUsize,
}

/// It ends when it goes out of scope, with all its connections.
pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub fn to(upstream: SocketAddr, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (way, connections) = (AtomicU8::new(Way::Open as u8), AtomicUsize::new(0));
        let shared = Arc::new(Shared { upstream, tls, way, connections });
        let (address, context) = (listener.local_addr().unwrap(), shared.clone());
        let thread = std::thread::spawn(move || accept(&listener, &context));
        Self { address, shared, thread: Some(thread) }
    }

    pub fn is(&self, way: Way) {
        self.shared.way.store(way as u8, Ordering::Relaxed);
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is(Way::Ended);
        let thread = self.thread.take();
        thread.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl Shared {
    fn is(&self, way: Way) -> bool {
        self.way.load(Ordering::Relaxed) == way as u8
    }

    fn ends(&self) -> bool {
        self.is(Way::Cut) || self.is(Way::Ended)
    }
}

fn rest() {
    std::thread::park_timeout(Duration::from_millis(5));
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while !shared.is(Way::Ended) {
        match listener.accept() {
            Ok((socket, _)) if !shared.is(Way::Cut) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let context = shared.clone();
                threads.push(std::thread::spawn(move || join(socket, &context)));
            }
            _ => rest(),
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Until either end has ended, however.
fn join(near: TcpStream, shared: &Shared) {
    let Ok(mut far) = TcpStream::connect(shared.upstream) else { return };
    far.set_nonblocking(true).unwrap();
    near.set_nonblocking(true).unwrap();
    match &shared.tls {
        None => pass(&mut { near }, &mut far, shared),
        Some(config) => {
            let tls = ServerConnection::new(config.clone()).unwrap();
            pass(&mut StreamOwned::new(tls, near), &mut far, shared);
        }
    }
}

fn pass(near: &mut (impl Read + Write), far: &mut TcpStream, shared: &Shared) {
    let (mut there, mut back) = (Vec::new(), Vec::new());
    while !shared.ends() {
        if shared.is(Way::Frozen) {
            rest();
            continue;
        }
        let moved = [step(near, far, &mut there), step(far, near, &mut back)];
        match moved {
            [Some(false), Some(false)] => rest(),
            [Some(_), Some(_)] => {}
            _ => return,
        }
    }
}

/// Takes some from one and gives it to the other; whether there was any. `None`: one of them has ended.
fn step(from: &mut impl Read, to: &mut impl Write, unsent: &mut Vec<u8>) -> Option<bool> {
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
        Ok(sent) => sent, // of nothing, nothing
        Err(error) if blocks(&error) => 0,
        Err(_) => return None,
    };
    unsent.drain(..sent);
    match to.flush() {
        Err(error) if !blocks(&error) => None,
        _ => Some(sent > 0),
    }
}

/// A server's certificate for `localhost`, and who has signed it.
pub struct Certificate {
    /// The authority's, for `tls.ca_file`.
    pub authority: String,
    pub server: Arc<ServerConfig>,
}

impl Certificate {
    /// Valid from yesterday on for so many days.
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
