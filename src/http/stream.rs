//! The connection of a client, with or without TLS.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection};

use crate::http::tls::{MaybeTlsStream, TlsStream};
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::reason;

/// A TLS handshake must be complete within this, as a request head.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection of a client with a deadline for every wait: a [`DeadlineStream`], possibly with TLS. Reads never block; writes block
/// until the deadline or until shutdown.
pub struct ServerStream<'a>(MaybeTlsStream<DeadlineStream<'a>>);

/// Why a TLS handshake failed.
pub enum HandshakeError<'a> {
    /// The client speaks HTTP without TLS.
    PlainHttp(ServerStream<'a>),
    /// The client and this port do not agree, for example on the certificate.
    Tls(String),
    Io(io::Error),
}

impl<'a> ServerStream<'a> {
    /// A connection without TLS.
    pub fn plain(stream: DeadlineStream<'a>) -> Self {
        Self(MaybeTlsStream::Plain(stream))
    }

    /// A connection with TLS, after the handshake. `on_hello` is called when the client has been sent the certificate.
    pub fn accept_tls(
        mut stream: DeadlineStream<'a>,
        config: Arc<ServerConfig>,
        on_hello: impl FnOnce(),
    ) -> Result<Self, HandshakeError<'a>> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        stream.reset_write_deadline();
        stream.wait_readable_until(deadline)?;
        let mut first = [0];
        // A TLS record begins with its type, 22 for a handshake; a request with its method.
        if matches!(stream.peek(&mut first), Ok(1)) && first[0].is_ascii_uppercase() {
            return Err(HandshakeError::PlainHttp(Self::plain(stream)));
        }
        let connection = ServerConnection::new(config)
            .map_err(|error| HandshakeError::Tls(error.to_string()))?;
        let mut tls = Box::new(TlsStream::new(connection, stream));
        let mut on_hello = Some(on_hello);
        loop {
            match tls.handshake() {
                Ok(()) => return Ok(Self(MaybeTlsStream::Tls(tls))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if let Some(on_hello) = on_hello.take_if(|_| tls.has_answered()) {
                        on_hello();
                    }
                    tls.socket().wait_readable_until(deadline)?;
                }
                Err(error) => {
                    let error = HandshakeError::from(error);
                    if let HandshakeError::Tls(_) = error {
                        tls.socket_mut().linger(); // for the alert
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Another handle of the connection, which stays open when this stream is dropped.
    pub fn into_socket(self) -> io::Result<MaybeTlsStream<TcpStream>> {
        self.0.try_map(|stream| stream.try_clone_socket())
    }

    pub fn last_sent(&self) -> Instant {
        self.0.socket().last_sent()
    }

    /// As [`DeadlineStream::reset_write_deadline`].
    pub fn reset_write_deadline(&mut self) {
        self.0.socket_mut().reset_write_deadline();
    }

    /// As [`DeadlineStream::reset_read_deadline`].
    pub fn reset_read_deadline(&mut self) {
        self.0.socket_mut().reset_read_deadline();
    }

    /// Writes one message within the write timeout.
    pub fn write_message(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reset_write_deadline();
        self.write_all(bytes)
    }

    pub fn is_shutting_down(&self) -> bool {
        self.0.socket().is_shutting_down()
    }

    /// Becomes readable at shutdown.
    pub fn shutdown_fd(&self) -> BorrowedFd<'_> {
        self.0.socket().shutdown_fd()
    }

    /// Reads what has arrived, or waits for data until `deadline`. Returns 0 when the peer has closed its end.
    pub fn read_by(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match self.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.0.socket().wait_readable_until(deadline)?;
        }
    }

    /// As [`DeadlineStream::begin_close`].
    pub fn begin_close(&mut self) {
        self.0.socket_mut().begin_close();
    }

    /// Ends the output and discards input until the peer closes its end, as [`DeadlineStream::linger`].
    pub fn linger(&mut self) {
        // If it fails, so does the shutdown of the socket.
        let _ = self.0.close_notify();
        self.0.socket_mut().linger();
    }

    /// Ends a connection whose client expects nothing more.
    pub fn close(mut self) {
        self.begin_close();
        // The socket is closed next, whether or not that succeeds.
        let _ = self.0.close_notify();
    }
}

impl AsFd for ServerStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket().as_fd()
    }
}

impl Read for ServerStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for ServerStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl From<io::Error> for HandshakeError<'_> {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(error) => Self::Tls(error.to_string()),
            None => Self::Io(error),
        }
    }
}

impl fmt::Display for HandshakeError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainHttp(_) => f.write_str("request without TLS"),
            Self::Tls(why) => write!(f, "TLS handshake failed: {why}"),
            Self::Io(error) if error.kind() == ErrorKind::TimedOut => {
                let seconds = HANDSHAKE_TIMEOUT.as_secs();
                write!(f, "TLS handshake not complete within {seconds} s")
            }
            Self::Io(error) => {
                write!(f, "disconnected during the TLS handshake: {}", reason(error))
            }
        }
    }
}
