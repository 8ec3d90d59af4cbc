//! The accept loop of a port: applies connection limits and starts a thread for each connection.
//!
//! Errors do not end it: a connection that failed before it was accepted is ignored; when the process is out of descriptors,
//! memory or threads, the loop pauses and tries again. A rejected connection costs no thread.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::Scope;
use std::time::Duration;

use log::Level;

use crate::http::client_network::{ClientNetwork, CountedClient};
use crate::http::connection_limits::{ConnectionLimiter, ConnectionPermit};
use crate::http::memory_guard::{ThreadSlot, check_headroom};
use crate::http::response::ErrorResponse;
use crate::http::stats::{ListenerStats, OpenGuard};
use crate::http::stream::{HandshakeError, ServerStream};
use crate::http::tls::TlsAcceptor;
use crate::sys;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::{Error, reason};
use crate::util::liveness::Liveness;
use crate::util::logger::RateLimitedLog;
use crate::util::sync::Shutdown;
use crate::util::thread::spawn_scoped;

/// Stack of a connection thread. Only pages that are touched use memory: two for most connections. The size is at least twice
/// what the deepest path, a scrape, needs without optimization.
const CONNECTION_STACK_BYTES: usize = 128 << 10;

/// After running out of descriptors or memory, accepting pauses for this long. If one descriptor becomes free at a time, a
/// queue of a hundred clients that have already left is drained in two seconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Kernel send buffer of a connection. A client that stops reading is noticed when it is full, and thousands of such clients
/// must not pin megabytes each. The largest message is written in parts.
const SEND_BUFFER_BYTES: usize = 32 << 10;

/// A listening port.
pub struct Listener {
    name: &'static str,
    listener: TcpListener,
    /// `None`: connections have no TLS.
    tls: Option<Arc<TlsAcceptor>>,
    limiter: ConnectionLimiter,
    stats: Arc<ListenerStats>,
    liveness: Arc<Liveness>,
    log: RateLimitedLog,
}

/// Limits from the configuration, evaluated for every connection.
#[derive(Default)]
pub struct ConnectionLimits {
    /// 0: unlimited.
    pub max_connections: usize,
    /// 0: unlimited.
    pub max_connections_per_ip: usize,
    /// Connections of these proxies count for the client that `X-Forwarded-For` names, from their first authenticated request.
    pub trusted_proxies: Arc<[IpAddr]>,
}

impl ConnectionLimits {
    /// Limits the connections in total only.
    pub fn total(max_connections: usize) -> Self {
        Self { max_connections, ..Self::default() }
    }
}

/// An accepted connection within the limits.
pub struct ClientConnection<'a> {
    pub peer: SocketAddr,
    pub permit: ConnectionPermit<'a>,
    pub stats: &'a ListenerStats,
    _open: OpenGuard<'a>,
}

impl<'a> ClientConnection<'a> {
    pub fn new(peer: SocketAddr, permit: ConnectionPermit<'a>, stats: &'a ListenerStats) -> Self {
        Self { peer, permit, stats, _open: stats.connection_opened() }
    }
}

impl Listener {
    /// Listens on `address` and logs it.
    pub fn bind(name: &'static str, address: SocketAddr) -> Result<Self, Error> {
        let fail = |error| {
            let in_use = io::Error::kind(&error) == io::ErrorKind::AddrInUse;
            let hint = if in_use { "is another hm-agent running? " } else { "" };
            let failure = Error::system(format!("{name} cannot listen on {address}"), error);
            failure.with_hint(format!("{hint}see {name}.listen"))
        };
        let listener = TcpListener::bind(address).map_err(fail)?;
        sys::net::set_listener_options(&listener, SEND_BUFFER_BYTES).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        log::info!("{name} listening on {}", listener.local_addr().map_err(fail)?);
        Ok(Self {
            name,
            listener,
            tls: None,
            limiter: ConnectionLimiter::default(),
            stats: Arc::default(),
            liveness: Arc::new(Liveness::new(name)),
            log: RateLimitedLog::new(),
        })
    }

    /// Requires TLS, and logs it.
    pub fn with_tls(mut self, tls: Arc<TlsAcceptor>) -> Self {
        log::info!("{} uses TLS, certificate from {}", self.name, tls.certificate_file().display());
        self.tls = Some(tls);
        self
    }

    pub fn stats(&self) -> Arc<ListenerStats> {
        self.stats.clone()
    }

    /// Liveness of the accept loop.
    pub fn liveness(&self) -> Arc<Liveness> {
        self.liveness.clone()
    }

    /// Runs `serve` for every connection in a thread of its own until shutdown. Returns after the last of these threads has
    /// ended. Fails if the listening socket is unusable.
    pub fn run<'a>(
        &'a self,
        shutdown: &'a Shutdown,
        limits: impl Fn() -> ConnectionLimits,
        serve: impl Fn(ServerStream<'a>, ClientConnection<'a>) + Sync,
    ) -> Result<(), Error> {
        let serve = &serve;
        std::thread::scope(|scope| {
            while !shutdown.is_triggered() {
                self.liveness.busy();
                match self.listener.accept() {
                    // Reset while it was queued: a storm of these must not cost a thread each.
                    Ok((socket, _)) if !matches!(socket.take_error(), Ok(None)) => {}
                    Ok((socket, peer)) => {
                        let socket = Arc::new(socket);
                        match self.admit(peer, &socket, &limits()) {
                            Ok(client) => self.spawn(scope, shutdown, socket, client, serve),
                            Err(text) => self.reject(&socket, peer, text),
                        }
                    }
                    Err(error) => self.on_accept_error(error, shutdown)?,
                }
            }
            Ok(())
        })
    }

    fn on_accept_error(&self, error: io::Error, shutdown: &Shutdown) -> Result<(), Error> {
        match AcceptError::classify(&error) {
            AcceptError::WouldBlock => {
                self.liveness.idle(None);
                sys::wait_readable([self.listener.as_fd(), shutdown.as_fd()], None);
            }
            AcceptError::Connection => {}
            AcceptError::ResourceExhausted => {
                let name = self.name;
                let line = || format!("{name}: cannot accept connections: {}", reason(&error));
                self.log.write(Level::Warn, line);
                shutdown.wait(ACCEPT_PAUSE);
            }
            AcceptError::Fatal => {
                let doing = format!("{}: accept connections", self.name);
                // Ends the connections, for which the caller waits. The agent cannot continue without this port anyway.
                shutdown.trigger();
                return Err(Error::system(doing, error));
            }
        }
        Ok(())
    }

    fn admit(
        &self,
        peer: SocketAddr,
        socket: &Arc<TcpStream>,
        limits: &ConnectionLimits,
    ) -> Result<ClientConnection<'_>, String> {
        let (name, max) = (self.name, limits.max_connections);
        let mut permit = self
            .limiter
            .acquire(max, socket)
            .ok_or_else(|| format!("connection limit reached ({max})"))?;
        if permit.evicted_other {
            self.log.write(Level::Warn, || {
                format!("{name}: connection limit reached ({max}), evicting idle connections")
            });
        }
        let (ip, max) = (peer.ip().to_canonical(), limits.max_connections_per_ip);
        let client = CountedClient { network: ip.into(), is_forwarded: false };
        if !limits.trusted_proxies.contains(&ip) && !permit.assign_client(client, max) {
            return Err(client_limit_message(client.network, max));
        }
        Ok(ClientConnection::new(SocketAddr::new(ip, peer.port()), permit, &self.stats))
    }

    fn spawn<'scope, 'env, 'a: 'scope>(
        &'a self,
        scope: &'scope Scope<'scope, 'env>,
        shutdown: &'a Shutdown,
        socket: Arc<TcpStream>,
        client: ClientConnection<'a>,
        serve: &'scope (impl Fn(ServerStream<'a>, ClientConnection<'a>) + Sync),
    ) {
        let spawned = ThreadSlot::acquire().and_then(|slot| {
            check_headroom()?;
            spawn_scoped(scope, "conn", CONNECTION_STACK_BYTES, move || {
                let _slot = slot;
                match self.open(socket, shutdown, &client) {
                    Ok(stream) => serve(stream, client),
                    Err(error) => self.on_handshake_error(error, &client),
                }
            })
        });
        if let Err(error) = spawned {
            // The socket was dropped with the closure: the connection is closed without a response.
            self.log.write(Level::Warn, || {
                format!("{}: cannot start a thread: {}", self.name, reason(&error))
            });
            shutdown.wait(ACCEPT_PAUSE);
        }
    }

    /// Completes the TLS handshake, if the port has TLS.
    fn open<'a>(
        &'a self,
        socket: Arc<TcpStream>,
        shutdown: &'a Shutdown,
        client: &ClientConnection<'a>,
    ) -> Result<ServerStream<'a>, HandshakeError<'a>> {
        let stream = DeadlineStream::new(socket, shutdown)?.count_bytes(&client.stats.bytes);
        match &self.tls {
            // Signing takes a millisecond: when many clients connect at once, those without an answer are evicted first.
            Some(tls) => {
                ServerStream::accept_tls(stream, tls.config(), || client.permit.mark_idle())
            }
            None => Ok(ServerStream::plain(stream)),
        }
    }

    fn on_handshake_error(&self, error: HandshakeError<'_>, client: &ClientConnection<'_>) {
        let (name, peer) = (self.name, client.peer);
        // Health checks and port scanners connect and send nothing; a wrong certificate needs an operator.
        let level = match error {
            _ if client.permit.was_evicted() => Level::Debug,
            HandshakeError::Tls(_) => Level::Info,
            HandshakeError::PlainHttp(_) | HandshakeError::Io(_) => Level::Debug,
        };
        self.log.write(level, || format!("{name}: {peer} {error}"));
        if let HandshakeError::PlainHttp(stream) = error {
            let text = "this port requires TLS: connect with https:// or wss://";
            let response = ErrorResponse::new("400 Bad Request", text).to_response();
            self.stats.record_status(response.status);
            response.send_and_close(stream, false);
        }
    }

    /// Rejects a connection without waiting for the client: during a flood this thread must keep accepting.
    fn reject(&self, mut socket: &TcpStream, peer: SocketAddr, text: String) {
        self.log.write(Level::Warn, || format!("{}: {peer} rejected: {text}", self.name));
        let response = ErrorResponse::service_unavailable(text).to_response();
        self.stats.record_status(response.status);
        if self.tls.is_some() {
            return; // closed without a response, which would take a handshake
        }
        // Best effort: none of these calls waits, and the socket is closed next. A request that has already arrived is read,
        // so that the close does not become a reset.
        let mut request = [0; 2048];
        let _ = socket.set_nonblocking(true);
        let _ = socket.read(&mut request);
        let _ = response.write_to(&mut socket, false, false, |_| {});
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }
}

pub(crate) fn client_limit_message(client: ClientNetwork, max: usize) -> String {
    format!("connection limit of {client} reached ({max})")
}

/// What an error of accept(2) concerns.
#[derive(Debug, PartialEq, Eq)]
enum AcceptError {
    WouldBlock,
    /// One connection, which is gone.
    Connection,
    /// This process or host is out of descriptors or memory.
    ResourceExhausted,
    /// The listening socket is unusable.
    Fatal,
}

impl AcceptError {
    fn classify(error: &io::Error) -> Self {
        match error.raw_os_error().unwrap_or_default() {
            libc::EAGAIN => Self::WouldBlock,
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Self::ResourceExhausted,
            libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT => Self::Fatal,
            // accept(2): Linux passes on network errors that are pending on the new socket.
            _ => Self::Connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn unusable_socket_ends_open_connections() {
        use nix::sys::socket::{Shutdown as Half, shutdown};
        use std::os::fd::AsRawFd;

        let listener = Listener::bind("usage", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let stop = Shutdown::new().unwrap();
        let socket = listener.listener.as_raw_fd();
        let _peer = TcpStream::connect(listener.listener.local_addr().unwrap()).unwrap();
        // The connection's thread makes accept(2) fail and then waits for input.
        let result = listener.run(&stop, ConnectionLimits::default, |mut stream, _client| {
            shutdown(socket, Half::Both).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            let end = stream.read_by(&mut [0], deadline).unwrap_err();
            assert_eq!(end.to_string(), "shutting down");
        });
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("usage: accept connections: "), "{error}");
    }

    #[test]
    fn classifies_accept_errors() {
        for (errno, expected) in [
            (libc::EAGAIN, AcceptError::WouldBlock),
            (libc::ECONNABORTED, AcceptError::Connection),
            (libc::EPROTO, AcceptError::Connection),
            (libc::EINTR, AcceptError::Connection),
            (libc::ENETUNREACH, AcceptError::Connection),
            (libc::EMFILE, AcceptError::ResourceExhausted),
            (libc::ENOMEM, AcceptError::ResourceExhausted),
            (libc::EBADF, AcceptError::Fatal),
        ] {
            assert_eq!(AcceptError::classify(&io::Error::from_raw_os_error(errno)), expected);
        }
    }
}
