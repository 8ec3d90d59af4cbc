//! A socket that is read for a limited number of bytes, so that one link does not delay others.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream as StdTcpStream;

use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};

use crate::sys;

/// Bytes read from a link before others are served. tungstenite reads until it has a message, and a peer can send empty fragments without
/// end.
const TURN_BYTES: usize = 64 << 10;

/// A socket that reports WouldBlock, to TLS or to tungstenite, when the budget of a turn is spent.
pub struct BudgetedSocket {
    socket: TcpStream,
    budget: usize,
}

impl BudgetedSocket {
    /// The socket of a client that has completed its handshake.
    pub fn open(socket: StdTcpStream, is_core_node: bool) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // Detects dead peers. A WebSocket ping would make the published Core agent disconnect.
        sys::net::enable_keepalive(&socket)?;
        if is_core_node {
            // The listener's timeout would end the connection of a node that does not read, too.
            setsockopt(&socket, sockopt::TcpUserTimeout, &0)?;
        }
        Ok(Self { socket: TcpStream::from_std(socket), budget: TURN_BYTES })
    }

    pub fn socket_mut(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub fn start_turn(&mut self) {
        self.budget = TURN_BYTES;
    }

    /// Whether the turn has ended before everything was read.
    pub fn is_spent(&self) -> bool {
        self.budget == 0
    }

    /// Whether something was read in this turn.
    pub fn has_read(&self) -> bool {
        self.budget < TURN_BYTES
    }
}

impl Read for BudgetedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.budget == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let room = buffer.len().min(self.budget);
        let read = self.socket.read(&mut buffer[..room])?;
        self.budget -= read;
        Ok(read)
    }
}

impl Write for BudgetedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
