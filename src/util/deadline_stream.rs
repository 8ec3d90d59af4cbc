//! A socket with a deadline before every wait. Reading never blocks; writing blocks until the deadline or
//! until the agent stops.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{self, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::limits;
use crate::sys;
use crate::sys::Interest;
use crate::util::sync::Shutdown;

/// Bytes that went through some connections.
#[derive(Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Bytes that came.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// So many bytes went otherwise than through a [`DeadlineStream`].
    pub fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    /// Bytes that went.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }
}

/// A connection to a client, or to a server.
pub struct DeadlineStream<'a> {
    /// The fan has it too, and who may have to end the connection.
    socket: Arc<TcpStream>,
    stop: &'a Shutdown,
    write_by: Instant,
    /// When a message that is being read must be there; `None`: whoever reads sees to that.
    read_by: Option<Instant>,
    last_words: bool,
    traffic: Option<&'a Traffic>,
}

impl<'a> DeadlineStream<'a> {
    /// Takes over a socket that was just accepted or connected.
    pub fn new(socket: impl Into<Arc<TcpStream>>, stop: &'a Shutdown) -> io::Result<Self> {
        let socket = socket.into();
        socket.set_nonblocking(true)?;
        let write_by = Instant::now() + limits::WRITE;
        Ok(Self { socket, stop, write_by, read_by: None, last_words: false, traffic: None })
    }

    /// Its bytes are counted from now on.
    pub fn counted(mut self, traffic: &'a Traffic) -> Self {
        self.traffic = Some(traffic);
        self
    }

    /// The socket, for somebody else who writes there in turn with this one.
    pub fn socket(&self) -> Arc<TcpStream> {
        self.socket.clone()
    }

    /// This end's address.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// A new message begins: it has the whole time for writing.
    pub fn begin_message(&mut self) {
        self.write_by = Instant::now() + limits::WRITE;
    }

    /// A message is read next, and what goes out meanwhile is a new one. The WebSocket's parser does not come back before it
    /// has a whole one, and of empty parts there may be any number.
    pub fn begin_reading(&mut self) {
        self.begin_message();
        self.read_by = Some(Instant::now() + limits::READ);
    }

    /// Whether the agent is stopping.
    pub fn stopping(&self) -> bool {
        self.stop.is_triggered()
    }

    /// What becomes readable when the agent is stopping.
    pub fn stop(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Waits until there is something to read, `timeout` at most. Says whether the agent is stopping.
    pub fn wait_readable(&self, timeout: Duration) -> bool {
        let [_, stopped] = sys::wait_readable([self.as_fd(), self.stop.as_fd()], Some(timeout));
        stopped
    }

    /// Reads what there is, waiting for it until `deadline`. Zero bytes: the client has ended.
    pub fn read_by(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match self.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            let [_, stopped] = sys::wait_readable([self.as_fd(), self.stop.as_fd()], Some(left));
            if stopped {
                return Err(stopping());
            }
        }
    }

    /// The next message is the last one: it is sent even while the agent stops, in less time.
    pub fn last_words(&mut self) {
        self.last_words = true;
        self.write_by = Instant::now() + limits::LINGER;
    }

    /// Says that nothing more will come and waits a little for the client's own end: closing a socket
    /// with unread data would make the kernel throw away what was sent last.
    pub fn linger(&mut self) {
        let deadline = Instant::now() + limits::LINGER;
        self.read_by = None;
        if self.socket.shutdown(net::Shutdown::Write).is_err() {
            return; // it is gone already
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
}

impl AsFd for DeadlineStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for DeadlineStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read_by.is_some_and(|by| Instant::now() > by) {
            return Err(io::Error::other("its message does not end"));
        }
        let read = (&*self.socket).read(buffer);
        if let (Ok(read), Some(traffic)) = (&read, self.traffic) {
            traffic.received.fetch_add(*read as u64, Relaxed);
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
                    if let (Ok(written), Some(traffic)) = (&written, self.traffic) {
                        traffic.sent.fetch_add(*written as u64, Relaxed);
                    }
                    return written;
                }
            }
            let left = self.write_by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            // Who does not read what is answered meanwhile is not one whose message does not end.
            self.read_by = self.read_by.map(|_| self.write_by + limits::READ);
            let writable = (self.as_fd(), Interest::Writable);
            if self.last_words {
                // They do not heed the stop that may have caused them.
                sys::wait([writable], Some(left));
            } else {
                let stop = (self.stop.as_fd(), Interest::Readable);
                let [_, stopped] = sys::wait([writable, stop], Some(left));
                if stopped {
                    return Err(stopping());
                }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn stopping() -> io::Error {
    io::Error::other("the agent is stopping")
}
