//! WebSocket connections of clients.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};

use tungstenite::{Error, HandshakeError, WebSocket};

use super::TEST_TIMEOUT;

/// Connects to a path such as `/usage`. A handshake whose read was interrupted is repeated: the kernel does not restart reads with a
/// timeout after it has stopped the process for a while, and tungstenite does not repeat them.
pub fn connect(address: SocketAddr, path: &str) -> WebSocket<TcpStream> {
    loop {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        match tungstenite::client(format!("ws://{address}{path}"), socket) {
            Ok((socket, _)) => return socket,
            Err(HandshakeError::Failure(error)) if is_interrupted(&error) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn is_interrupted(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == ErrorKind::Interrupted)
}
