//! One question to a heartbeat server: this agent's port 8888, or another server of the same protocol.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::heartbeat::protocol;
use crate::limits;
use crate::model::status::AppStatus;
use crate::util::error::reason;

/// Where a heartbeat server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host and port, as they are written.
    authority: String,
    /// What comes before the commands; no slash at its end.
    prefix: String,
}

impl Server {
    /// Reads `http://HOST[:PORT][/PREFIX]`; the port is 80 if it is left out, as everywhere on the web.
    pub fn parse(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("http:")
            .unwrap_or(url)
            .strip_prefix("//")
            .ok_or_else(|| format!("\"{}\" is not http://HOST:PORT", url.escape_debug()))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let bad = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '@';
        if host.is_empty() || rest.contains(bad) {
            return Err(format!("\"{}\" is not http://HOST:PORT", url.escape_debug()));
        }
        let authority = if has_port { host.to_owned() } else { format!("{host}:80") };
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { authority, prefix })
    }

    /// The one that the environment of the protocol's clients names: `HB_URL`, else `HB_HOST` and `HB_PORT`.
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

    /// The one that listens on an address of this machine.
    pub fn at(address: SocketAddr) -> Self {
        Self { authority: crate::net::local(address).to_string(), prefix: String::new() }
    }

    /// How all its applications are, at most so many; none if it does not say.
    pub fn statuses(&self, most: usize) -> Vec<AppStatus> {
        let ok = |target: &str| match self.ask("GET", target) {
            Ok((200, text)) => Some(text),
            _ => None,
        };
        let ids = ok("/list").unwrap_or_default();
        // An id that had to be escaped is not found by what is shown of it, and left out.
        let status = |id: &str| {
            let line = ok(&format!("/status?0&appid={}", encode(id)))?;
            protocol::parse_status_line(id, &line)
        };
        ids.lines().take(most).filter_map(status).collect()
    }

    /// Its address as a text.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.authority, self.prefix)
    }

    /// Asks for `target`, `/status?…` say. What comes back are the status' number and the body. An error says
    /// what went wrong, within [`limits::QUESTION`].
    pub fn ask(&self, method: &str, target: &str) -> Result<(u16, String), String> {
        let deadline = Instant::now() + limits::QUESTION;
        let mut socket = self.connect(deadline)?;
        let say = |error: std::io::Error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
            _ => reason(&error),
        };
        let request = format!(
            "{method} {}{target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: hm-agent/{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.prefix,
            self.authority,
            env!("CARGO_PKG_VERSION")
        );
        socket.set_write_timeout(Some(left(deadline))).map_err(say)?;
        socket.write_all(request.as_bytes()).map_err(say)?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            socket.set_read_timeout(Some(left(deadline))).map_err(say)?;
            match socket.read(&mut part).map_err(say)? {
                0 => break,
                read if answer.len() < limits::ANSWER_BYTES => {
                    answer.extend_from_slice(&part[..read]);
                }
                _ => return Err("an answer without end".to_owned()),
            }
        }
        parse_answer(&answer).ok_or_else(|| "something that is no HTTP answers".to_owned())
    }

    fn connect(&self, deadline: Instant) -> Result<TcpStream, String> {
        let addresses = self.authority.to_socket_addrs().map_err(|error| reason(&error))?;
        let mut failure = "it has no address".to_owned();
        for address in addresses {
            match TcpStream::connect_timeout(&address, left(deadline)) {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = reason(&error),
            }
        }
        Err(failure)
    }
}

/// Never zero, which would mean for ever.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

fn parse_answer(answer: &[u8]) -> Option<(u16, String)> {
    let mut lines = [httparse::EMPTY_HEADER; limits::HEAD_LINES];
    let mut head = httparse::Response::new(&mut lines);
    let httparse::Status::Complete(length) = head.parse(answer).ok()? else { return None };
    Some((head.code?, String::from_utf8_lossy(answer.get(length..)?).into_owned()))
}

/// An id as it stands in a query.
pub fn encode(id: &str) -> String {
    id.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            byte => {
                out.push('%');
                out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        for (url, expected) in [
            ("http://localhost:8888", "http://localhost:8888"),
            ("//localhost:8888/", "http://localhost:8888"),
            ("http://[::1]:8888/a/b/", "http://[::1]:8888/a/b"),
            ("http://[::1]", "http://[::1]:80"),
            ("http://host", "http://host:80"),
        ] {
            assert_eq!(Server::parse(url).unwrap().url(), expected);
        }
        for bad in ["", "localhost:8888", "https://host", "http://", "http:///x", "http://a b"] {
            assert!(Server::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_in_queries() {
        assert_eq!(encode("a b&c|ü"), "a%20b%26c%7C%C3%BC");
    }

    #[test]
    fn answers() {
        let answer = b"HTTP/1.0 200 OK\r\nContent-type: text/plain\r\n\r\n6000";
        assert_eq!(parse_answer(answer), Some((200, "6000".to_owned())));
        assert_eq!(parse_answer(b"HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(parse_answer(b"\x16\x03"), None);
    }
}
