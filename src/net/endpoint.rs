//! Establishes a connection to a server: DNS, TCP, proxy, TLS. Each step has a timeout; that of the
//! lookup of IPv4 addresses is libc's (resolv.conf(5), `timeout` and `attempts`).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::config::Secret;
use crate::net::disconnect::DisconnectReason;
use crate::net::proxy::Proxy;
use crate::net::resolve;
use crate::net::tls;
use crate::net::url::Url;
use crate::sys;
use crate::sys::Interest;
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::reason;
use crate::util::sync::Shutdown;

/// Timeout of a TCP connect to one address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of each of: the proxy's response, the TLS handshake, the WebSocket handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A longer proxy response head is rejected.
const MAX_PROXY_RESPONSE_BYTES: usize = 8 << 10;
const MAX_PROXY_RESPONSE_HEADERS: usize = 64;
/// A server and how to reach it.
pub struct Endpoint {
    pub url: Url,
    pub proxy: Option<Proxy>,
    /// `tls.ca_file`.
    pub ca_file: Option<PathBuf>,
    /// Sent with the WebSocket handshake as `Authorization: Bearer`.
    pub token: Option<Secret>,
}

impl Endpoint {
    /// Where connections go, without secrets.
    pub fn describe(&self) -> String {
        let proxy = self.proxy.as_ref();
        let proxy = proxy.map(|proxy| format!(" through proxy {}:{}", proxy.host(), proxy.port()));
        format!("{}{}", self.url.redacted(), proxy.unwrap_or_default())
    }

    /// The connection up to TLS.
    pub(super) fn connect<'a>(
        &self,
        shutdown: &'a Shutdown,
    ) -> Result<Transport<'a>, DisconnectReason> {
        let (host, port) = match &self.proxy {
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (self.url.host.as_str(), self.url.port),
        };
        let socket = connect_tcp(host, port, shutdown)?;
        let lost = |error: io::Error| DisconnectReason::Lost(reason(&error));
        sys::net::enable_keepalive(&socket).map_err(lost)?;
        let mut stream = DeadlineStream::new(socket, shutdown).map_err(lost)?;
        if let Some(proxy) = &self.proxy {
            proxy_connect(&mut stream, &proxy.connect_request(&self.url))?;
        }
        match self.url.is_secure() {
            true => self.tls_handshake(stream),
            false => Ok(Transport::Plain(stream)),
        }
    }

    fn tls_handshake<'a>(
        &self,
        mut stream: DeadlineStream<'a>,
    ) -> Result<Transport<'a>, DisconnectReason> {
        let config = tls::client_config(self.ca_file.as_deref()).map_err(DisconnectReason::Tls)?;
        let fail = |error: &dyn std::fmt::Display| DisconnectReason::Tls(error.to_string());
        let name = ServerName::try_from(self.url.host.clone()).map_err(|error| fail(&error))?;
        let mut connection = ClientConnection::new(config, name).map_err(|error| fail(&error))?;
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        stream.reset_write_deadline();
        while connection.is_handshaking() {
            match connection.complete_io(&mut stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait_readable_until(&stream, deadline, "TLS handshake")?;
                }
                Err(error) => return Err(tls::disconnect_reason(&error)),
            }
        }
        Ok(Transport::Tls(Box::new(StreamOwned::new(connection, stream))))
    }
}

/// A connection with or without TLS.
pub(super) enum Transport<'a> {
    Plain(DeadlineStream<'a>),
    Tls(Box<StreamOwned<ClientConnection, DeadlineStream<'a>>>),
}

impl<'a> Transport<'a> {
    pub(super) fn stream(&self) -> &DeadlineStream<'a> {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.sock,
        }
    }

    pub(super) fn stream_mut(&mut self) -> &mut DeadlineStream<'a> {
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

/// Connects to the addresses of `host`, one after the other.
fn connect_tcp(host: &str, port: u16, shutdown: &Shutdown) -> Result<TcpStream, DisconnectReason> {
    let mut failure = None;
    for address in resolve::addresses(host, port) {
        let address = match address {
            Ok(address) => address,
            // A failed connection to an address of the other family says more.
            Err(error) => {
                failure.get_or_insert_with(|| DisconnectReason::Dns(reason(&error)));
                continue;
            }
        };
        match connect_to_address(address, shutdown) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_none() => {
                failure = Some(DisconnectReason::Timeout("TCP connect"));
            }
            Err(error) => {
                let why = format!("{address}: {}", reason(&error));
                failure = Some(DisconnectReason::Unreachable(why));
            }
        }
        if shutdown.is_triggered() {
            break;
        }
    }
    Err(failure.unwrap_or_else(|| DisconnectReason::Dns(format!("{host} has no address"))))
}

fn connect_to_address(address: SocketAddr, shutdown: &Shutdown) -> io::Result<TcpStream> {
    let socket = sys::net::start_connect(address)?;
    let fds = [(socket.as_fd(), Interest::Writable), (shutdown.as_fd(), Interest::Readable)];
    let [connected, stopping] = sys::wait(fds, Some(CONNECT_TIMEOUT));
    match (connected, socket.take_error()?) {
        (_, Some(error)) => Err(error),
        (true, None) => Ok(socket),
        (false, None) if stopping => Err(io::Error::other("agent is stopping")),
        (false, None) => Err(ErrorKind::TimedOut.into()),
    }
}

/// Sends CONNECT and reads the response.
fn proxy_connect(stream: &mut DeadlineStream<'_>, request: &str) -> Result<(), DisconnectReason> {
    let fail = |why: String| DisconnectReason::Proxy(why);
    stream.write_all(request.as_bytes()).map_err(|error| fail(reason(&error)))?;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let mut response = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_PROXY_RESPONSE_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        match head.parse(&response) {
            Ok(httparse::Status::Complete(_)) => {
                return match head.code {
                    Some(200..300) => Ok(()),
                    code => {
                        let (code, text) = (code.unwrap_or_default(), head.reason.unwrap_or(""));
                        Err(fail(format!("HTTP status {code} {}", text.escape_debug())))
                    }
                };
            }
            Ok(httparse::Status::Partial) if response.len() < MAX_PROXY_RESPONSE_BYTES => {}
            _ => return Err(fail("response is not HTTP".to_owned())),
        }
        match stream.read_by(&mut buffer, deadline) {
            Ok(0) => return Err(fail("closed the connection".to_owned())),
            Ok(length) => response.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                return Err(DisconnectReason::Timeout("proxy response"));
            }
            Err(error) => return Err(fail(reason(&error))),
        }
    }
}

/// Waits for data from the server; `step` names what times out.
pub(super) fn wait_readable_until(
    stream: &DeadlineStream<'_>,
    deadline: Instant,
    step: &'static str,
) -> Result<(), DisconnectReason> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(DisconnectReason::Timeout(step));
    }
    match stream.wait_readable(left) {
        true => Err(DisconnectReason::Lost("agent is stopping".to_owned())),
        false => Ok(()),
    }
}
