//! Requests to another hub, which has the connection of a node.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::hub::cluster::database::changes::InstanceRow;
use crate::net::resolve;
use crate::net::url::Url;

/// A longer response is an error: nodes send less.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;
const MAX_HEADERS: usize = 32;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Another hub.
pub struct Peer {
    pub row: InstanceRow,
    /// `None`: it has no `hub.url`.
    pub url: Option<Url>,
}

impl InstanceRow {
    /// Whether only the count differs.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { id, name, url, secret, renewals: _ } = other;
        (self.id, &self.name, &self.url, &self.secret) == (*id, name, url, secret)
    }
}

/// What another hub has answered.
pub struct PeerResponse {
    pub status: u16,
    pub content_type: String,
    pub is_gzip: bool,
    /// `Age`.
    pub age: Option<String>,
    pub body: Vec<u8>,
}

impl Peer {
    pub fn new(row: InstanceRow) -> Self {
        let url = row.url.as_deref().and_then(|url| Url::parse_web(url).ok());
        Self { row, url }
    }

    /// Sends a GET request, and waits for the whole response. `headers` are lines without their ends.
    pub fn get(
        &self,
        tls: &Arc<ClientConfig>,
        target: &str,
        headers: &[String],
        timeout: Duration,
    ) -> io::Result<PeerResponse> {
        let deadline = Instant::now() + timeout;
        let url = self.url.as_ref().ok_or_else(|| io::Error::other("it has no hub.url"))?;
        let socket = DeadlineSocket { socket: connect(url, deadline)?, deadline };
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n",
            url.authority(),
            self.row.secret
        );
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        let response = match url.is_secure() {
            false => exchange(socket, &request)?,
            true => {
                let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
                let connection =
                    ClientConnection::new(tls.clone(), name).map_err(io::Error::other)?;
                exchange(StreamOwned::new(connection, socket), &request)?
            }
        };
        parse(response)
    }
}

/// A socket whose reads and writes end at a deadline.
struct DeadlineSocket {
    socket: TcpStream,
    deadline: Instant,
}

impl DeadlineSocket {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(Some(left)),
        }
    }
}

impl Read for DeadlineSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer)
    }
}

impl Write for DeadlineSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn connect(url: &Url, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::other("its name has no address");
    for address in resolve::addresses(&url.host, url.port) {
        let left = deadline.saturating_duration_since(Instant::now()).min(CONNECT_TIMEOUT);
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match address.and_then(|address| TcpStream::connect_timeout(&address, left)) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut response = Vec::new();
    let read = stream.take(MAX_RESPONSE_BYTES + 1).read_to_end(&mut response)?;
    match read as u64 > MAX_RESPONSE_BYTES {
        true => Err(io::Error::other("the response is too long")),
        false => Ok(response),
    }
}

/// A response with a `Content-Length`, after which the connection has ended.
fn parse(mut response: Vec<u8>) -> io::Result<PeerResponse> {
    let invalid = || io::Error::other("the response is not one of hm-hub");
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(&response).map_err(io::Error::other)?
    else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let value = |name: &str| {
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::to_owned)
    };
    let body_length: usize =
        value("content-length").and_then(|text| text.parse().ok()).ok_or_else(invalid)?;
    let status = head.code.ok_or_else(invalid)?;
    let content_type = value("content-type").unwrap_or_default();
    let is_gzip = value("content-encoding").as_deref() == Some("gzip");
    let age = value("age");
    if response.len() - length != body_length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    response.drain(..length);
    Ok(PeerResponse { status, content_type, is_gzip, age, body: response })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_responses_only() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nAge: 3\r\nContent-Length: 2\r\n\r\n";
        let response = parse(format!("{text}ab").into_bytes()).unwrap();
        assert_eq!((response.status, response.is_gzip, &*response.body), (200, true, &b"ab"[..]));
        assert_eq!((&*response.content_type, response.age.as_deref()), ("text/plain", Some("3")));
        for cut in ["", "HTTP/1.1 200 OK\r\n", text, &format!("{text}a"), &format!("{text}abc")] {
            assert!(parse(cut.as_bytes().to_vec()).is_err(), "{cut:?}");
        }
        assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).is_err(), "no length");
    }
}
