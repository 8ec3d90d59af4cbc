//! A connection with or without TLS over any socket. Nothing is lost if the socket reports WouldBlock, so that the connection can be
//! moved from a blocking thread to an event loop.

use std::io::{self, ErrorKind, Read, Write};

use rustls::ServerConnection;

/// Plaintext that is accepted before the socket has taken what was encrypted, as much as the kernel's send buffer takes. More would be
/// held twice for a peer that does not read, because the callers have buffers of their own.
const MAX_UNSENT_BYTES: usize = 32 << 10;

/// The server's end of a TLS connection.
pub struct TlsStream<S> {
    connection: ServerConnection,
    socket: S,
}

impl<S: Read + Write> TlsStream<S> {
    pub fn new(mut connection: ServerConnection, socket: S) -> Self {
        connection.set_buffer_limit(Some(MAX_UNSENT_BYTES));
        Self { connection, socket }
    }

    pub fn socket(&self) -> &S {
        &self.socket
    }

    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Continues the handshake. `Ok`: it is complete and everything was sent.
    pub fn handshake(&mut self) -> io::Result<()> {
        loop {
            self.send()?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            if !self.receive()? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Whether the handshake has come to the server's answer, with its signature.
    pub fn has_answered(&self) -> bool {
        self.connection.protocol_version().is_some()
    }

    /// Receives a part of the peer's output. Returns false at its end.
    fn receive(&mut self) -> io::Result<bool> {
        let received = self.connection.read_tls(&mut self.socket)?;
        if let Err(error) = self.connection.process_new_packets() {
            // The alert says why. It is lost if the socket does not take it at once: the connection ends anyway.
            let _ = self.send();
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(received > 0)
    }

    /// Sends what was encrypted.
    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.socket)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            // At the end of the input, the reader has the error or the end.
            self.receive()?;
            // The peer may have requested new keys, which it is sent now or with the next output.
            match self.send() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => result?,
            }
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    /// Accepts nothing while earlier output waits for the socket.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?;
        let accepted = self.connection.writer().write(bytes)?;
        match self.send() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(accepted),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()?;
        self.socket.flush()
    }
}

/// A connection with or without TLS.
pub enum MaybeTlsStream<S> {
    Plain(S),
    Tls(Box<TlsStream<S>>),
}

impl<S> MaybeTlsStream<S> {
    pub fn socket(&self) -> &S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.socket,
        }
    }

    pub fn socket_mut(&mut self) -> &mut S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Continues the connection on another handle of its socket. What was received and not read yet stays.
    pub fn try_map<T>(
        self,
        convert: impl FnOnce(S) -> io::Result<T>,
    ) -> io::Result<MaybeTlsStream<T>> {
        Ok(match self {
            Self::Plain(socket) => MaybeTlsStream::Plain(convert(socket)?),
            Self::Tls(tls) => {
                let TlsStream { connection, socket } = *tls;
                MaybeTlsStream::Tls(Box::new(TlsStream { connection, socket: convert(socket)? }))
            }
        })
    }
}

impl<S: Read + Write> MaybeTlsStream<S> {
    /// Sends the alert that ends a TLS connection: without it, a client cannot tell the end from an attack that cuts the connection.
    pub fn close_notify(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => {
                tls.connection.send_close_notify();
                tls.send()
            }
        }
    }
}

impl<S: Read + Write> Read for MaybeTlsStream<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl<S: Read + Write> Write for MaybeTlsStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
