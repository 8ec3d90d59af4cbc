//! A WebSocket to a server: every step has a deadline, every failure says at which step it was, and the agent's
//! stop ends any wait.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Bytes, Message, Utf8Bytes, WebSocket};

use crate::limits;
use crate::net::reconnect::DisconnectReason;
use crate::net::tls;
use crate::net::url::{Address, Proxy};
use crate::sys;
use crate::sys::Interest;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::reason;
use crate::util::sync::Shutdown;

/// A server, and the way to it.
pub struct Route {
    /// The server.
    pub address: Address,
    /// On the way there.
    pub proxy: Option<Proxy>,
    /// Certificate authorities; needed for `wss://`.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A connection with or without TLS.
enum Transport<'a> {
    Plain(DeadlineStream<'a>),
    Tls(Box<StreamOwned<ClientConnection, DeadlineStream<'a>>>),
}

impl<'a> Transport<'a> {
    fn stream(&self) -> &DeadlineStream<'a> {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.sock,
        }
    }

    fn stream_mut(&mut self) -> &mut DeadlineStream<'a> {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &mut tls.sock,
        }
    }
}

impl Read for Transport<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Transport<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// An open WebSocket.
pub struct Socket<'a>(WebSocket<Transport<'a>>);

impl<'a> Socket<'a> {
    /// Connects, through the proxy and TLS, and upgrades.
    pub fn connect(route: &Route, stop: &'a Shutdown) -> Result<Self, DisconnectReason> {
        let (host, port) = match &route.proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (&route.address.host, route.address.port),
        };
        let socket = reach(host, port, stop)?;
        let lost = |error: io::Error| DisconnectReason::Lost(reason(&error));
        sys::net::enable_keepalive(&socket).map_err(lost)?;
        let mut stream = DeadlineStream::new(socket, stop).map_err(lost)?;
        if let Some(proxy) = &route.proxy {
            pass(&mut stream, &proxy.request(&route.address))?;
        }
        let transport = match (&route.tls, route.address.secure) {
            (Some(config), true) => secure(stream, config.clone(), &route.address.host)?,
            _ => Transport::Plain(stream),
        };
        upgrade(transport, &route.address).map(Self)
    }

    /// This machine's address on the way to the server.
    pub fn local_ip(&self) -> Option<IpAddr> {
        let address = self.0.get_ref().stream().local_addr().ok()?;
        Some(address.ip().to_canonical())
    }

    /// Sends a message; a long one in parts, each with a time of its own, and without a buffer of its size that stays.
    pub fn send(&mut self, message: Message) -> Result<(), DisconnectReason> {
        let Message::Text(text) = message else { return self.send_part(message) };
        let (mut rest, mut kind) = (Bytes::from(text), Data::Text);
        loop {
            let part = rest.split_to(rest.len().min(limits::FRAME_BYTES));
            let frame = Frame::message(part, OpCode::Data(kind), rest.is_empty());
            self.send_part(Message::Frame(frame))?;
            if rest.is_empty() {
                return Ok(());
            }
            kind = Data::Continue;
        }
    }

    fn send_part(&mut self, message: Message) -> Result<(), DisconnectReason> {
        self.0.get_mut().stream_mut().reset_write_deadline();
        self.0.send(message).map_err(outage)
    }

    /// The next message, if one is there.
    pub fn receive(&mut self) -> Result<Option<Message>, DisconnectReason> {
        self.0.get_mut().stream_mut().reset_read_deadline();
        match self.0.read() {
            Ok(message) => {
                if message.is_close() {
                    // The answer to it would go with the next read, and there is none.
                    self.last_words(None);
                }
                Ok(Some(message))
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => {
                if let Some(code) = failed_with(&error) {
                    self.last_words(Some(CloseFrame { code, reason: Utf8Bytes::default() }));
                }
                Err(outage(error))
            }
        }
    }

    /// Says why it is over, and waits a little for the other end to hear it: what it has said meanwhile and nobody reads
    /// would become a reset, and take these words away.
    fn last_words(&mut self, frame: Option<CloseFrame>) {
        self.0.get_mut().stream_mut().begin_close();
        // The connection is over, said or not.
        if self.0.close(frame).is_ok() {
            self.0.get_mut().stream_mut().linger();
        }
    }

    /// Waits until there may be a message, `timeout` at most.
    pub fn wait(&self, timeout: Duration) {
        self.0.get_ref().stream().wait_readable(timeout);
    }

    /// Says goodbye, without waiting for the other end's.
    pub fn close(mut self) {
        self.0.get_mut().stream_mut().begin_close();
        // Nothing is lost if this cannot be sent: the connection is over either way.
        let _ = self.0.close(None);
        let _ = self.0.flush();
    }
}

impl AsFd for Socket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().stream().as_fd()
    }
}

/// A TCP connection to one of the host's addresses, tried one after the other.
fn reach(host: &str, port: u16, stop: &Shutdown) -> Result<TcpStream, DisconnectReason> {
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| DisconnectReason::Dns(reason(&error)))?
        .collect();
    let mut failure = DisconnectReason::Dns(format!("{host} has none"));
    for address in addresses {
        match connect(address, stop) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_none() => {
                failure = DisconnectReason::Timeout("connecting");
            }
            Err(error) => {
                failure = DisconnectReason::Unreachable(format!("{address}: {}", reason(&error)));
            }
        }
        if stop.is_triggered() {
            break;
        }
    }
    Err(failure)
}

fn connect(address: SocketAddr, stop: &Shutdown) -> io::Result<TcpStream> {
    let socket = sys::net::start_connect(address)?;
    let waiting = [(socket.as_fd(), Interest::Writable), (stop.as_fd(), Interest::Readable)];
    let [connected, stopped] = sys::wait(waiting, Some(limits::CONNECT));
    match (connected, socket.take_error()?) {
        (_, Some(error)) => Err(error),
        (true, None) => Ok(socket),
        (false, None) if stopped => Err(io::Error::other("the agent is stopping")),
        (false, None) => Err(ErrorKind::TimedOut.into()),
    }
}

/// Has a proxy pass the connection on.
fn pass(stream: &mut DeadlineStream<'_>, request: &str) -> Result<(), DisconnectReason> {
    let refused = |why: String| DisconnectReason::Proxy(why);
    stream.write_all(request.as_bytes()).map_err(|error| refused(reason(&error)))?;
    let deadline = Instant::now() + limits::HANDSHAKE;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    loop {
        let mut lines = [httparse::EMPTY_HEADER; limits::HEAD_LINES];
        let mut head = httparse::Response::new(&mut lines);
        match head.parse(&answer) {
            Ok(httparse::Status::Complete(_)) => {
                return match head.code {
                    Some(200..300) => Ok(()),
                    code => {
                        let (code, words) = (code.unwrap_or_default(), head.reason.unwrap_or(""));
                        Err(refused(format!("answers {code} {}", words.escape_debug())))
                    }
                };
            }
            Ok(httparse::Status::Partial) if answer.len() < limits::HEAD_BYTES => {}
            _ => return Err(refused("answers something that is no HTTP".to_owned())),
        }
        match stream.read_by(&mut part, deadline) {
            Ok(0) => return Err(refused("closed the connection".to_owned())),
            Ok(read) => answer.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(DisconnectReason::Timeout("the proxy's answer"));
            }
            Err(error) => return Err(refused(reason(&error))),
        }
    }
}

/// Waits for the other end to go on with `what`, until `deadline`.
fn until(
    stream: &DeadlineStream<'_>,
    deadline: Instant,
    what: &'static str,
) -> Result<(), DisconnectReason> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(DisconnectReason::Timeout(what));
    }
    if stream.wait_readable(left) {
        Err(DisconnectReason::Lost("the agent is stopping".to_owned()))
    } else {
        Ok(())
    }
}

fn secure<'a>(
    mut stream: DeadlineStream<'a>,
    config: Arc<ClientConfig>,
    host: &str,
) -> Result<Transport<'a>, DisconnectReason> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| DisconnectReason::Tls(error.to_string()))?;
    let connection = ClientConnection::new(config, name);
    let mut connection = connection.map_err(|error| DisconnectReason::Tls(error.to_string()))?;
    let deadline = Instant::now() + limits::HANDSHAKE;
    stream.reset_write_deadline();
    while connection.is_handshaking() {
        match connection.complete_io(&mut stream) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                until(&stream, deadline, "TLS")?;
            }
            Err(error) => return Err(tls::outage(&error)),
        }
    }
    Ok(Transport::Tls(Box::new(StreamOwned::new(connection, stream))))
}

fn upgrade<'a>(
    mut transport: Transport<'a>,
    address: &Address,
) -> Result<WebSocket<Transport<'a>>, DisconnectReason> {
    let url = format!("ws://{}{}", address.authority(), address.target);
    let mut request =
        url.into_client_request().map_err(|error| DisconnectReason::Protocol(error.to_string()))?;
    let agent = concat!("hm-agent/", env!("CARGO_PKG_VERSION"));
    request.headers_mut().insert(
        tungstenite::http::header::USER_AGENT,
        tungstenite::http::HeaderValue::from_static(agent),
    );
    let config = WebSocketConfig::default()
        .read_buffer_size(limits::LINK_READ_BUFFER_BYTES)
        .max_message_size(Some(limits::SERVER_MESSAGE_BYTES))
        .max_frame_size(Some(limits::SERVER_MESSAGE_BYTES));
    let deadline = Instant::now() + limits::HANDSHAKE;
    transport.stream_mut().reset_write_deadline();
    let mut result = tungstenite::client::client_with_config(request, transport, Some(config));
    loop {
        match result {
            Ok((socket, _)) => return Ok(socket),
            Err(HandshakeError::Interrupted(middle)) => {
                until(middle.get_ref().get_ref().stream(), deadline, "the upgrade")?;
                result = middle.handshake();
            }
            Err(HandshakeError::Failure(error)) => return Err(outage(error)),
        }
    }
}

/// The code with which a server is told that it does not speak the protocol (RFC 6455 7.4.1); `None`: it is gone.
fn failed_with(error: &tungstenite::Error) -> Option<CloseCode> {
    use tungstenite::Error as E;
    match error {
        E::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        E::Protocol(_) => Some(CloseCode::Protocol),
        E::Utf8(_) => Some(CloseCode::Invalid),
        E::Capacity(_) => Some(CloseCode::Size),
        _ => None,
    }
}

/// What an error of a WebSocket means for the link.
fn outage(error: tungstenite::Error) -> DisconnectReason {
    use tungstenite::Error as E;
    match error {
        E::Io(error) if error.kind() == ErrorKind::TimedOut => {
            DisconnectReason::Lost("it does not read".into())
        }
        E::Io(error) => {
            match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(tls) => DisconnectReason::Tls(tls.to_string()),
                None => DisconnectReason::Lost(reason(&error)),
            }
        }
        E::ConnectionClosed | E::AlreadyClosed => DisconnectReason::Closed(String::new()),
        E::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            DisconnectReason::Lost("it ended without a goodbye".to_owned())
        }
        E::Http(answer) => {
            let retry_after = answer.headers().get("retry-after");
            let seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let body = answer.body().as_deref().unwrap_or_default();
            let text = crate::util::text::escape_for_log(body.trim_ascii(), 40);
            DisconnectReason::Http(answer.status().as_u16(), seconds.map(Duration::from_secs), text)
        }
        error => DisconnectReason::Protocol(error.to_string()),
    }
}
