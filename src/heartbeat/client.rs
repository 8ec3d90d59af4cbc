//! HTTP client for a heartbeat server: this agent's port 8888, or another server of the same protocol.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::heartbeat::nagios;
use crate::http::tls::TlsFiles;
use crate::model::status::AppSummary;
use crate::net::resolve;
use crate::net::tls::own_port::PortTls;
use crate::net::url::{Scheme, Url};
use crate::util::error::reason;
use crate::util::percent;

/// Deadline of one request, the DNS lookup included, or of all requests about one server. The released clients use the same.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// The longest response is a list of 10 000 applications with ids of 256 bytes, each of which is escaped with six.
const MAX_RESPONSE_BYTES: usize = 16 << 20;
const MAX_HEADERS: usize = 64;

/// Sends requests to one heartbeat server, each on a connection of its own.
#[derive(Debug, Clone)]
pub struct HeartbeatClient {
    /// `HOST:PORT`.
    authority: String,
    /// Path before the commands, without a slash at its end.
    prefix: String,
    /// `None`: plain HTTP.
    tls: Option<Arc<PortTls>>,
}

impl HeartbeatClient {
    /// Parses `http://HOST[:PORT][/PREFIX]` or `https://…`. The scheme may be missing, as in `//HOST`: then it is http. The default port is 80
    /// or 443.
    pub fn parse(url: &str) -> Result<Self, String> {
        let invalid =
            || format!("\"{}\" is not http://HOST:PORT or https://HOST:PORT", url.escape_debug());
        let absolute = if url.starts_with("//") { format!("http:{url}") } else { url.to_owned() };
        let url = Url::parse(&absolute).map_err(|_| invalid())?;
        let tls = match url.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(Arc::new(PortTls::of_host(&url.host)?)),
            _ => return Err(invalid()),
        };
        if url.userinfo.is_some() || url.target.contains('?') {
            return Err(invalid());
        }
        let prefix = url.target.trim_end_matches('/').to_owned();
        Ok(Self { authority: url.authority(), prefix, tls })
    }

    /// The server named by the environment variables of the released clients: `HB_URL`, else `HB_HOST` and `HB_PORT`.
    pub fn from_environment() -> Result<Self, String> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(url) = variable("HB_URL") {
            return Self::parse(&url).map_err(|why| format!("HB_URL: {why}"));
        }
        let host = variable("HB_HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
        let port = variable("HB_PORT").unwrap_or_else(|| "8888".to_owned());
        Self::parse(&format!("http://{host}:{port}"))
            .map_err(|why| format!("HB_HOST, HB_PORT: {why}"))
    }

    /// The server that listens on an address of this machine, with these files if it uses TLS. The error names a file that cannot be used.
    pub fn local(address: SocketAddr, files: Option<&TlsFiles>) -> Result<Self, String> {
        let address = crate::net::replace_unspecified_ip(address);
        let tls = files.map(|files| {
            let key = files.client_ca.as_ref().map(|_| files.key.as_path());
            PortTls::new(&files.certificate, key, address).map(Arc::new).map_err(|(_, why)| why)
        });
        Ok(Self { authority: address.to_string(), prefix: String::new(), tls: tls.transpose()? })
    }

    /// The status of the first `limit` applications, as far as the server answers until the deadline.
    pub fn all(&self, limit: usize, deadline: Instant) -> AppSummary {
        let get = |target: &str| match self.request_by("GET", target, deadline) {
            Ok((200, text)) => Some(text),
            _ => None,
        };
        let ids = get("/list").unwrap_or_default();
        // `/list` escapes ids. The server does not find an id by its escaped form, so such an application is missing here.
        let status = |id: &str| {
            let line = get(&format!("/status?0&appid={}", percent::encode(id)))?;
            nagios::parse_status_line(id, &line)
        };
        let in_time = ids.lines().take(limit).take_while(|_| Instant::now() < deadline);
        let mut summary = AppSummary::from(in_time.filter_map(status).collect::<Vec<_>>());
        summary.truncated = ids.lines().count() - summary.shown.len();
        summary
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.prefix)
    }

    /// Sends one request, e.g. `GET` and `/status?…`. Returns the status code and the body. The error text is complete and
    /// comes within [`REQUEST_TIMEOUT`].
    pub fn request(&self, method: &str, target: &str) -> Result<(u16, String), String> {
        self.request_by(method, target, Instant::now() + REQUEST_TIMEOUT)
    }

    /// [`Self::request`] with another deadline.
    pub fn request_by(
        &self,
        method: &str,
        target: &str,
        deadline: Instant,
    ) -> Result<(u16, String), String> {
        let mut socket = TimedSocket { socket: self.connect(deadline)?, deadline };
        // HTTP/1.0, because a server may answer HTTP/1.1 with a chunked body.
        let request = format!(
            "{method} {}{target} HTTP/1.0\r\nHost: {}\r\nUser-Agent: hm-agent/{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.prefix,
            self.authority,
            env!("CARGO_PKG_VERSION")
        );
        let response = match &self.tls {
            None => exchange(&mut socket, &request),
            Some(tls) => tls
                .connect(socket)
                .and_then(|mut stream| exchange(&mut stream, &request))
                .map_err(|error| tls.explain(error)),
        };
        let response = response.map_err(describe)?;
        parse_response(&response).ok_or_else(|| "the response is not HTTP".to_owned())
    }

    fn connect(&self, deadline: Instant) -> Result<TcpStream, String> {
        let (host, port) = self.authority.rsplit_once(':').unwrap_or((&self.authority, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().map_err(|_| format!("no port in {}", self.authority))?;
        let addresses = lookup(host.to_owned(), port);
        let mut failure = None;
        loop {
            match addresses.recv_timeout(remaining(deadline)) {
                Ok(Ok(address)) => {
                    match TcpStream::connect_timeout(&address, remaining(deadline)) {
                        Ok(socket) => return Ok(socket),
                        Err(error) => failure = Some(reason(&error)),
                    }
                }
                Ok(Err(error)) => {
                    let why = || format!("DNS lookup failed: {}", reason(&error));
                    failure.get_or_insert_with(why);
                }
                Err(RecvTimeoutError::Timeout) => return Err("DNS lookup timed out".to_owned()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        Err(failure.unwrap_or_else(|| "DNS lookup failed: the name has no address".to_owned()))
    }
}

/// Looks up a name in a thread of its own, because the C library has no deadline. The thread ends with the lookup.
fn lookup(host: String, port: u16) -> Receiver<io::Result<SocketAddr>> {
    let (found, addresses) = sync_channel(1);
    let failed = found.clone();
    let lookup = move || {
        // Nothing receives further addresses once one of them is connected.
        resolve::addresses(&host, port).all(|address| found.send(address).is_ok());
    };
    if let Err(error) = std::thread::Builder::new().name("dns".into()).spawn(lookup) {
        // The channel is empty and has room for it.
        let _ = failed.try_send(Err(error));
    }
    addresses
}

/// A socket whose reads and writes end at the deadline.
struct TimedSocket {
    socket: TcpStream,
    deadline: Instant,
}

impl Read for TimedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(remaining(self.deadline)))?;
        self.socket.read(buffer)
    }
}

impl Write for TimedSocket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(remaining(self.deadline)))?;
        self.socket.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends a request, and reads until the server closes the connection.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut response = Vec::new();
    stream.take(1 + MAX_RESPONSE_BYTES as u64).read_to_end(&mut response)?;
    if response.len() > MAX_RESPONSE_BYTES {
        let why = format!("the response is longer than {MAX_RESPONSE_BYTES} bytes");
        return Err(io::Error::other(why));
    }
    Ok(response)
}

fn parse_response(response: &[u8]) -> Option<(u16, String)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(response).ok()? else { return None };
    Some((head.code?, String::from_utf8_lossy(response.get(length..)?).into_owned()))
}

fn describe(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("no response within {} s", REQUEST_TIMEOUT.as_secs())
        }
        _ => reason(&error),
    }
}

/// Time until the deadline. Never zero, which would disable the socket's timeout.
fn remaining(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_server_urls() {
        for (url, expected) in [
            ("http://localhost:8888", "http://localhost:8888"),
            ("//localhost:8888/", "http://localhost:8888"),
            ("http://[::1]:8888/a/b/", "http://[::1]:8888/a/b"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://host", "http://host:80"),
            ("https://host/a", "https://host:443/a"),
        ] {
            assert_eq!(HeartbeatClient::parse(url).unwrap().url(), expected);
        }
        for bad in [
            "",
            "localhost:8888",
            "http://",
            "http:///x",
            "http://a b",
            "http://host:99999",
            "http://host:0",
            "http://host:x",
            "http://me@host",
            "http://host/x?y",
        ] {
            assert!(HeartbeatClient::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_http_1_0_so_that_no_body_is_chunked() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = HeartbeatClient::local(listener.local_addr().unwrap(), None).unwrap();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = socket.read(&mut request).unwrap();
            socket.write_all(b"HTTP/1.0 200 OK\r\n\r\n6000").unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        assert_eq!(client.request("GET", "/hb_ping?5000&appid=a"), Ok((200, "6000".to_owned())));
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /hb_ping?5000&appid=a HTTP/1.0\r\n"), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    }

    #[test]
    fn parses_complete_http_responses_only() {
        let response = b"HTTP/1.0 200 OK\r\nContent-type: text/plain\r\n\r\n6000";
        assert_eq!(parse_response(response), Some((200, "6000".to_owned())));
        assert_eq!(parse_response(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(parse_response(b"\x16\x03"), None);
    }
}
