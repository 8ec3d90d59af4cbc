//! Sockets: non-blocking connect and listener options.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, UnixAddr, connect, listen,
    setsockopt, socket, sockopt,
};

/// Starts a connection. The socket does not block; it becomes writable when the connection is established or has failed,
/// and [`TcpStream::take_error`] reports which.
pub fn start_connect(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Stream, flags, None)?;
    let result = match address {
        SocketAddr::V4(address) => connect(fd.as_raw_fd(), &SockaddrIn::from(address)),
        SocketAddr::V6(address) => connect(fd.as_raw_fd(), &SockaddrIn6::from(address)),
    };
    match result {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(TcpStream::from(fd)),
        Err(error) => Err(error.into()),
    }
}

/// Connects to a Unix socket. Fails instead of waiting for a peer that accepts no connections. The socket does not block.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

/// Silence after which the kernel probes whether the peer still answers, in seconds. Carriers' NAT drops idle connections
/// after minutes.
const KEEPALIVE_IDLE_SECONDS: u32 = 60;
const KEEPALIVE_INTERVAL_SECONDS: u32 = 15;
const KEEPALIVE_PROBES: u32 = 4;
/// Sent data that is not acknowledged for this long ends a connection: the peer has vanished without closing it.
const TCP_USER_TIMEOUT_MS: u32 = 30_000;

/// Enables keepalive probes and `TCP_USER_TIMEOUT`, and disables Nagle's algorithm: tcp(7).
pub fn enable_keepalive(fd: &impl AsFd) -> io::Result<()> {
    setsockopt(fd, sockopt::KeepAlive, &true)?;
    setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    setsockopt(fd, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_SECONDS)?;
    setsockopt(fd, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_SECONDS)?;
    setsockopt(fd, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(setsockopt(fd, sockopt::TcpUserTimeout, &TCP_USER_TIMEOUT_MS)?)
}

/// Sets what accepted connections inherit, and the largest backlog that the system allows: a fleet's dashboards reconnect
/// all at once, and std's backlog is 128.
pub fn set_listener_options(listener: &TcpListener, send_buffer_bytes: usize) -> io::Result<()> {
    setsockopt(listener, sockopt::SndBuf, &send_buffer_bytes)?;
    enable_keepalive(listener)?;
    // A second listen(2) only changes the backlog.
    Ok(listen(listener, Backlog::MAXALLOWABLE)?)
}
