//! A WebSocket connection to a server.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Bytes, Message, Utf8Bytes, WebSocket};

use crate::config::Secret;
use crate::net::disconnect::DisconnectReason;
use crate::net::endpoint::{Endpoint, HANDSHAKE_TIMEOUT, Transport, wait_readable_until};
use crate::net::tls;
use crate::util::error::reason;
use crate::util::sync::Shutdown;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Longer messages are sent in fragments of this size, each with a write timeout of its own: a slow link delivers a result
/// of some megabytes, and a server that stops reading is still detected within one timeout.
const FRAGMENT_BYTES: usize = 128 << 10;

/// The same for binary messages. hm-hub keeps a buffer of the size of the largest fragment for every connection.
const BINARY_FRAGMENT_BYTES: usize = 4 << 10;

/// tungstenite's read buffer: responses have a few hundred bytes.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// A longer message from the server ends the connection. It allows for a command that is longer than any that can run, so
/// that such a command gets an answer.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// An open WebSocket.
pub struct WebSocketClient<'a>(WebSocket<Transport<'a>>);

impl<'a> WebSocketClient<'a> {
    /// `credential` is sent instead of the token of `endpoint`.
    pub fn connect(
        endpoint: &Endpoint,
        credential: Option<&Secret>,
        shutdown: &'a Shutdown,
    ) -> Result<Self, DisconnectReason> {
        let token = credential.or(endpoint.token.as_ref());
        handshake(endpoint.connect(shutdown)?, endpoint, token).map(Self)
    }

    /// This machine's address in the connection.
    pub fn local_ip(&self) -> Option<IpAddr> {
        let address = self.0.get_ref().stream().local_addr().ok()?;
        Some(address.ip().to_canonical())
    }

    /// Sends a message; a long one in fragments.
    pub fn send(&mut self, message: Message) -> Result<(), DisconnectReason> {
        let (mut rest, mut kind, length) = match message {
            Message::Text(text) => (Bytes::from(text), Data::Text, FRAGMENT_BYTES),
            Message::Binary(bytes) => (bytes, Data::Binary, BINARY_FRAGMENT_BYTES),
            control => return self.send_frame(control),
        };
        loop {
            let fragment = rest.split_to(rest.len().min(length));
            let frame = Frame::message(fragment, OpCode::Data(kind), rest.is_empty());
            self.send_frame(Message::Frame(frame))?;
            if rest.is_empty() {
                return Ok(());
            }
            kind = Data::Continue;
        }
    }

    /// The next message, if one has arrived.
    pub fn receive(&mut self) -> Result<Option<Message>, DisconnectReason> {
        self.0.get_mut().stream_mut().reset_read_deadline();
        match self.0.read() {
            Ok(message) => {
                if message.is_close() {
                    // tungstenite would send the answer with the next read, and there is none.
                    self.close_and_linger(None);
                }
                Ok(Some(message))
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => {
                if let Some(code) = close_code(&error) {
                    self.close_and_linger(Some(CloseFrame { code, reason: Utf8Bytes::default() }));
                }
                Err(disconnect_reason(error))
            }
        }
    }

    /// Waits at most `timeout` for data.
    pub fn wait(&self, timeout: Duration) {
        self.0.get_ref().stream().wait_readable(timeout);
    }

    /// Sends a close frame without waiting for the server's.
    pub fn close(mut self) {
        self.0.get_mut().stream_mut().begin_close();
        // If this cannot be sent, nothing is lost: the connection ends either way.
        let _ = self.0.close(None);
        let _ = self.0.flush();
    }

    fn send_frame(&mut self, message: Message) -> Result<(), DisconnectReason> {
        self.0.get_mut().stream_mut().reset_write_deadline();
        self.0.send(message).map_err(disconnect_reason)
    }

    /// Sends a close frame and lingers. If the socket were closed with unread data, the kernel would send a reset and the
    /// server would lose the close frame.
    fn close_and_linger(&mut self, frame: Option<CloseFrame>) {
        self.0.get_mut().stream_mut().begin_close();
        // The connection ends whether or not the frame can be sent.
        if self.0.close(frame).is_ok() {
            self.0.get_mut().stream_mut().linger();
        }
    }
}

impl AsFd for WebSocketClient<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().stream().as_fd()
    }
}

fn handshake<'a>(
    mut transport: Transport<'a>,
    endpoint: &Endpoint,
    token: Option<&Secret>,
) -> Result<WebSocket<Transport<'a>>, DisconnectReason> {
    let protocol = |error: tungstenite::Error| DisconnectReason::Protocol(error.to_string());
    let url = &endpoint.url;
    // The scheme is always ws: TLS is below tungstenite.
    let request = format!("ws://{}{}", url.authority(), url.target).into_client_request();
    let mut request = request.map_err(protocol)?;
    let agent = concat!("hm-agent/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        let invalid = |_| DisconnectReason::Protocol("the token cannot be sent".to_owned());
        request.headers_mut().insert(AUTHORIZATION, value.map_err(invalid)?);
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    transport.stream_mut().reset_write_deadline();
    let mut result = tungstenite::client::client_with_config(request, transport, Some(config));
    loop {
        match result {
            Ok((socket, _)) => return Ok(socket),
            Err(HandshakeError::Interrupted(handshake)) => {
                let stream = handshake.get_ref().get_ref().stream();
                wait_readable_until(stream, deadline, "WebSocket handshake")?;
                result = handshake.handshake();
            }
            Err(HandshakeError::Failure(error)) => return Err(disconnect_reason(error)),
        }
    }
}

/// The close code for a server that violates the protocol (RFC 6455 section 7.4.1); `None` if the connection is gone.
fn close_code(error: &tungstenite::Error) -> Option<CloseCode> {
    use tungstenite::Error as E;
    match error {
        E::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        E::Protocol(_) => Some(CloseCode::Protocol),
        E::Utf8(_) => Some(CloseCode::Invalid),
        E::Capacity(_) => Some(CloseCode::Size),
        _ => None,
    }
}

fn disconnect_reason(error: tungstenite::Error) -> DisconnectReason {
    use tungstenite::Error as E;
    match error {
        E::Io(error) if error.kind() == ErrorKind::TimedOut => {
            DisconnectReason::Lost("write timeout".into())
        }
        E::Io(error) if error.kind() == ErrorKind::UnexpectedEof => {
            DisconnectReason::Lost("closed by server without the end of TLS".into())
        }
        E::Io(error) => match error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync + 'static>::is::<rustls::Error>)
        {
            true => tls::disconnect_reason(&error),
            false => DisconnectReason::Lost(reason(&error)),
        },
        E::ConnectionClosed | E::AlreadyClosed => DisconnectReason::Closed(String::new()),
        E::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            DisconnectReason::Lost("no close frame received".to_owned())
        }
        // A TCP proxy whose server is restarting accepts the connection and closes it.
        E::Protocol(ProtocolError::HandshakeIncomplete) => {
            DisconnectReason::Lost("closed during the WebSocket handshake".to_owned())
        }
        E::Http(response) => {
            let retry_after = response.headers().get("retry-after");
            let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let body = response.body().as_deref().unwrap_or_default();
            DisconnectReason::Http(
                response.status().as_u16(),
                seconds.map(Duration::from_secs),
                escape_for_log(body.trim_ascii(), EXCERPT_CHARS),
            )
        }
        error => DisconnectReason::Protocol(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn end_of_stream_during_a_handshake_is_retried_like_a_reset() {
        let reset = tungstenite::Error::Io(ErrorKind::ConnectionReset.into());
        let ended = tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete);
        let ended_in_tls = io::Error::from(ErrorKind::UnexpectedEof);
        for reason in [
            disconnect_reason(reset),
            disconnect_reason(ended),
            tls::disconnect_reason(&ended_in_tls),
        ] {
            assert_eq!((reason.label(), reason.min_retry_delay()), ("lost", Duration::ZERO));
        }
    }
}
