//! A TCP socket with a deadline for every wait. Reads never block; writes block until the deadline or until shutdown.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{self, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::sys;
use crate::sys::Interest;
use crate::util::sync::Shutdown;

/// One message must be written within this, or the connection is closed. Plain TCP recovers from a lost packet in less.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Limits one `read` call of the WebSocket parser. The call returns early when no more data has arrived, so this limits a
/// message whose parts arrive without a pause.
pub const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// After the last message, how long to wait for the peer to close its end: if the socket is closed while unread data is
/// queued, the kernel sends a reset and discards what was written last.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts the bytes received and sent over several connections.
#[derive(Default)]
pub struct ByteCounters {
    received: AtomicU64,
    sent: AtomicU64,
}

impl ByteCounters {
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

/// A connection to a client or to a server.
pub struct DeadlineStream<'a> {
    /// Shared with the connection limiter, which shuts down the socket to evict the connection.
    socket: Arc<TcpStream>,
    shutdown: &'a Shutdown,
    write_deadline: Instant,
    /// `None`: the caller of `read` enforces a deadline of its own.
    read_deadline: Option<Instant>,
    /// When bytes were last sent.
    last_sent: Instant,
    is_closing: bool,
    counters: Option<&'a ByteCounters>,
}

impl<'a> DeadlineStream<'a> {
    /// Takes a socket that was just accepted or connected and makes it non-blocking.
    pub fn new(socket: impl Into<Arc<TcpStream>>, shutdown: &'a Shutdown) -> io::Result<Self> {
        let socket = socket.into();
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            shutdown,
            write_deadline: Instant::now() + WRITE_TIMEOUT,
            read_deadline: None,
            last_sent: Instant::now(),
            is_closing: false,
            counters: None,
        })
    }

    /// Adds the bytes of this connection to `counters` from now on.
    pub fn count_bytes(mut self, counters: &'a ByteCounters) -> Self {
        self.counters = Some(counters);
        self
    }

    /// Another handle of the socket, which stays open when this stream is dropped.
    pub fn try_clone_socket(&self) -> io::Result<TcpStream> {
        self.socket.try_clone()
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// Starts the write timeout anew. Call it before each message.
    pub fn reset_write_deadline(&mut self) {
        self.write_deadline = Instant::now() + WRITE_TIMEOUT;
    }

    /// Starts both timeouts anew before one WebSocket message is read. The WebSocket parser does not return before it has a
    /// whole message, and a peer can send empty fragments without end.
    pub fn reset_read_deadline(&mut self) {
        self.reset_write_deadline();
        self.read_deadline = Some(Instant::now() + READ_TIMEOUT);
    }

    /// Writes one message within [`WRITE_TIMEOUT`].
    pub fn write_message(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reset_write_deadline();
        self.write_all(bytes)
    }

    pub fn is_shutting_down(&self) -> bool {
        self.shutdown.is_triggered()
    }

    /// Becomes readable at shutdown.
    pub fn shutdown_fd(&self) -> BorrowedFd<'_> {
        self.shutdown.as_fd()
    }

    /// Waits until data arrives, at most `timeout`. Returns whether the process is shutting down.
    pub fn wait_readable(&self, timeout: Duration) -> bool {
        let [_, stopped] = sys::wait_readable([self.as_fd(), self.shutdown_fd()], Some(timeout));
        stopped
    }

    /// Reads what has arrived, or waits for data until `deadline`. Returns 0 when the peer has closed its end.
    pub fn read_by(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match self.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.wait_readable_until(deadline)?;
        }
    }

    /// Waits until data arrives. Fails at the deadline, even if there is data, and at shutdown.
    pub fn wait_readable_until(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        if self.wait_readable(left) { Err(shutting_down()) } else { Ok(()) }
    }

    /// Copies what has arrived to `buffer`, where the next read finds it too.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.peek(buffer)
    }

    /// Announces that the next message is the last one: it is written even during shutdown, within [`LINGER_TIMEOUT`].
    pub fn begin_close(&mut self) {
        self.is_closing = true;
        self.write_deadline = Instant::now() + LINGER_TIMEOUT;
    }

    /// Shuts down the write side and discards input until the peer closes its end, at most for [`LINGER_TIMEOUT`].
    pub fn linger(&mut self) {
        let deadline = Instant::now() + LINGER_TIMEOUT;
        self.read_deadline = None;
        if self.socket.shutdown(net::Shutdown::Write).is_err() {
            return; // the peer has closed the connection already
        }
        let mut unread = [0; 1024];
        loop {
            match self.read(&mut unread) {
                Ok(0) => return,
                Ok(_) if Instant::now() < deadline => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                _ => return,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sys::wait_readable([self.as_fd()], Some(left));
        }
    }

    fn wait_writable(&self, timeout: Duration) -> io::Result<()> {
        let writable = (self.as_fd(), Interest::Writable);
        if self.is_closing {
            // The last message is written although shutdown may be its cause.
            sys::wait([writable], Some(timeout));
            return Ok(());
        }
        let shutdown = (self.shutdown_fd(), Interest::Readable);
        let [_, stopped] = sys::wait([writable, shutdown], Some(timeout));
        if stopped { Err(shutting_down()) } else { Ok(()) }
    }
}

impl AsFd for DeadlineStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for DeadlineStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_deadline.is_some_and(|deadline| Instant::now() > deadline) {
            let seconds = READ_TIMEOUT.as_secs();
            return Err(io::Error::other(format!("message not complete within {seconds} s")));
        }
        let read = (&*self.socket).read(buffer);
        if let (Ok(read), Some(counters)) = (&read, self.counters) {
            counters.received.fetch_add(*read as u64, Relaxed);
        }
        read
    }
}

impl Write for DeadlineStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.socket).write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => {
                    self.last_sent = Instant::now();
                    if let (Ok(written), Some(counters)) = (&written, self.counters) {
                        counters.sent.fetch_add(*written as u64, Relaxed);
                    }
                    return written;
                }
            }
            let left = self.write_deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            // A pong may be written while a message is read. A peer that does not read the pong exceeds the write timeout, not
            // the read timeout.
            self.read_deadline = self.read_deadline.map(|_| self.write_deadline + READ_TIMEOUT);
            self.wait_writable(left)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn shutting_down() -> io::Error {
    io::Error::other("shutting down")
}
