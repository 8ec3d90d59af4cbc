//! One acceptor for every port: accepts, hands out places, starts a thread for each connection.
//!
//! It goes on whatever happens: a connection that died before it was accepted is nothing; out of
//! descriptors, memory or threads it pauses and tries again. A refused connection costs no thread.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use log::Level;

use crate::config::{Config, Current};
use crate::http::connection_limits::{ConnectionLimiter, ConnectionPermit};
use crate::http::memory_guard;
use crate::http::message::ErrorResponse;
use crate::http::stats::{Counters, OpenGuard};
use crate::limits;
use crate::sys;
use crate::sys::Crew;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::{Error, reason};
use crate::util::liveness::Liveness;
use crate::util::logger::RateLimitedLog;
use crate::util::sync::Shutdown;

/// A port that is listened on.
pub struct Port {
    name: &'static str,
    listener: TcpListener,
    permits: ConnectionLimiter,
    counters: Arc<Counters>,
    liveness: Arc<Liveness>,
    log: RateLimitedLog,
}

/// Who may come in, out of the settings.
pub struct ConnectionLimits<'a> {
    /// Connections in all; 0: no limit.
    pub max_connections: usize,
    /// Connections of one address; 0: no limit.
    pub max_connections_per_ip: usize,
    /// Addresses that speak for others: they are counted once it is known for whom.
    pub trusted_proxies: &'a [IpAddr],
}

/// Somebody who came in.
pub struct ClientConnection<'a> {
    /// Where the connection comes from.
    pub peer: SocketAddr,
    /// Its place.
    pub permit: ConnectionPermit<'a>,
    /// Where the port counts.
    pub counters: &'a Counters,
    /// It is counted as long as it is here.
    _entered: OpenGuard<'a>,
}

impl<'a> ClientConnection<'a> {
    /// Somebody who comes in now.
    pub fn new(peer: SocketAddr, permit: ConnectionPermit<'a>, counters: &'a Counters) -> Self {
        Self { peer, permit, counters, _entered: counters.enter() }
    }
}

impl Port {
    /// Listens on `address` and says so in the log.
    pub fn bind(name: &'static str, address: SocketAddr) -> Result<Self, Error> {
        let fail = |error| {
            let taken = io::Error::kind(&error) == io::ErrorKind::AddrInUse;
            let hint = if taken { "is another hm-agent running? " } else { "" };
            let failure = Error::system(format!("{name} cannot listen on {address}"), error);
            failure.with_hint(format!("{hint}see {name}.listen"))
        };
        let listener = TcpListener::bind(address).map_err(fail)?;
        sys::net::set_listener_options(&listener, limits::SEND_BUFFER_BYTES).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        log::info!("{name} listening on {}", listener.local_addr().map_err(fail)?);
        let (permits, counters) = (ConnectionLimiter::default(), Arc::default());
        let liveness = Arc::new(Liveness::new(name));
        Ok(Self { name, listener, permits, counters, liveness, log: RateLimitedLog::new() })
    }

    /// What came and went.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Whether it gets on with accepting.
    pub fn liveness(&self) -> Arc<Liveness> {
        self.liveness.clone()
    }

    /// Lets `serve` have every connection, each in a thread of its own, until `stop` rings. Returns when
    /// the last of them has ended. The error is a listener that is broken for good.
    pub fn run<'a>(
        &'a self,
        stop: &'a Shutdown,
        settings: &Current,
        admission: impl Fn(&Config) -> ConnectionLimits<'_>,
        serve: impl Fn(DeadlineStream<'a>, ClientConnection<'a>) + Sync,
    ) -> Result<(), Error> {
        let serve = &serve;
        sys::crew(|crew| {
            while !stop.is_triggered() {
                self.liveness.busy();
                match self.listener.accept() {
                    // Reset while it waited: a storm of these must not cost a thread each.
                    Ok((socket, _)) if !matches!(socket.take_error(), Ok(None)) => {}
                    Ok((socket, peer)) => {
                        let (config, socket) = (settings.get(), Arc::new(socket));
                        match self.admit(peer, &socket, &admission(&config)) {
                            Ok(guest) => self.start(crew, stop, socket, guest, serve),
                            Err(text) => self.refuse(&socket, peer, text),
                        }
                    }
                    Err(error) => match AcceptError::of(&error) {
                        AcceptError::Nothing => {
                            self.liveness.idle(None);
                            sys::wait_readable([self.listener.as_fd(), stop.as_fd()], None);
                        }
                        AcceptError::ThatConnection => {}
                        AcceptError::Resources => {
                            self.log.write(Level::Warn, || {
                                format!("{}: cannot accept: {}", self.name, reason(&error))
                            });
                            stop.wait(limits::ACCEPT_PAUSE);
                        }
                        AcceptError::Listener => {
                            let doing = format!("{}: accept connections", self.name);
                            return Err(Error::system(doing, error));
                        }
                    },
                }
            }
            Ok(())
        })
    }

    fn admit(
        &self,
        peer: SocketAddr,
        socket: &Arc<TcpStream>,
        admission: &ConnectionLimits<'_>,
    ) -> Result<ClientConnection<'_>, String> {
        let all = admission.max_connections;
        let each = admission.max_connections_per_ip;
        let mut permit = self
            .permits
            .enter(all, socket)
            .ok_or_else(|| format!("there are {all} connections already, the most that may be"))?;
        if permit.evicted_other {
            self.log.write(Level::Warn, || {
                let name = self.name;
                format!("{name}: there are {all} connections, the most that may be; who asks for nothing gives way")
            });
        }
        let address = peer.ip().to_canonical();
        if !admission.trusted_proxies.contains(&address) && !permit.assign_ip(address, each) {
            return Err(too_many_of(address, each));
        }
        let peer = SocketAddr::new(address, peer.port());
        Ok(ClientConnection::new(peer, permit, &self.counters))
    }

    fn start<'env, 'a: 'env>(
        &'a self,
        crew: &Crew<'env>,
        stop: &'a Shutdown,
        socket: Arc<TcpStream>,
        guest: ClientConnection<'a>,
        serve: &'env (impl Fn(DeadlineStream<'a>, ClientConnection<'a>) + Sync),
    ) {
        let stack = limits::CONNECTION_STACK_BYTES;
        let work = move || match DeadlineStream::new(socket, stop) {
            Ok(stream) => serve(stream.counted(&guest.counters.traffic), guest),
            Err(error) => log::debug!("{}: {}", guest.peer, reason(&error)),
        };
        let spawned = memory_guard::check().and_then(|()| crew.start(c"client", stack, work));
        if let Err(error) = spawned {
            // The socket went with the closure: it is closed. Nothing better can be said without one.
            self.log.write(Level::Warn, || {
                format!("{}: cannot start a thread: {}", self.name, reason(&error))
            });
            stop.wait(limits::ACCEPT_PAUSE);
        }
    }

    /// Refuses without waiting for anybody: under a flood this thread must go on accepting.
    fn refuse(&self, mut socket: &TcpStream, peer: SocketAddr, text: String) {
        self.log.write(Level::Warn, || format!("{}: {peer} refused: {text}", self.name));
        let refusal = ErrorResponse::busy(text);
        self.counters.answered(refusal.status);
        let answer = refusal.to_bytes("GET");
        // Best effort by design. What has arrived is read, so that closing does not become a reset.
        let mut request = [0; 2048];
        let _ = socket.set_nonblocking(true);
        let _ = socket.read(&mut request);
        let _ = socket.write(&answer);
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }
}

/// Why an address may not have another connection.
pub fn too_many_of(address: IpAddr, max: usize) -> String {
    format!("{address} has {max} connections already, the most that one address may have")
}

/// What an error of accept(2) is about.
#[derive(Debug, PartialEq, Eq)]
enum AcceptError {
    /// Nobody is there.
    Nothing,
    /// One connection, which is gone.
    ThatConnection,
    /// This process or machine, which ran out of something.
    Resources,
    /// The listener, for good.
    Listener,
}

impl AcceptError {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().unwrap_or_default() {
            libc::EAGAIN => Self::Nothing,
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => Self::Resources,
            libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT => Self::Listener,
            // accept(2): Linux passes on what happened to the connection before it was accepted.
            _ => Self::ThatConnection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_accept_are_sorted() {
        for (errno, trouble) in [
            (libc::EAGAIN, AcceptError::Nothing),
            (libc::ECONNABORTED, AcceptError::ThatConnection),
            (libc::EPROTO, AcceptError::ThatConnection),
            (libc::EINTR, AcceptError::ThatConnection),
            (libc::ENETUNREACH, AcceptError::ThatConnection),
            (libc::EMFILE, AcceptError::Resources),
            (libc::ENOMEM, AcceptError::Resources),
            (libc::EBADF, AcceptError::Listener),
        ] {
            assert_eq!(AcceptError::of(&io::Error::from_raw_os_error(errno)), trouble);
        }
    }
}
