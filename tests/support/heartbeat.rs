//! HTTP client for the heartbeat port that sends raw bytes and parses responses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::{Agent, TEST_TIMEOUT, hm_agent, wait_until};

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// Status line and header lines, with line ends.
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A kept-alive connection.
pub struct HttpConnection(BufReader<TcpStream>);

impl HttpConnection {
    pub fn open(agent: &Agent) -> Self {
        let socket = TcpStream::connect(agent.heartbeat()).unwrap();
        socket.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        Self::from_socket(socket)
    }

    pub fn from_socket(socket: TcpStream) -> Self {
        Self(BufReader::new(socket))
    }

    pub fn socket(&self) -> &TcpStream {
        self.0.get_ref()
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads the next response; `None`: the agent has closed the connection.
    pub fn next(&mut self, with_body: bool) -> Option<Response> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).unwrap() == 0 {
                assert_eq!(head, "", "incomplete response");
                return None;
            }
        }
        let status = head.strip_prefix("HTTP/1.1 ").unwrap().split(' ').next().unwrap();
        let mut response = Response { status: status.parse().unwrap(), head, body: String::new() };
        let length: usize = response.header("Content-Length").unwrap().parse().unwrap();
        if with_body {
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).unwrap();
            response.body = String::from_utf8(body).unwrap();
        }
        Some(response)
    }

    pub fn read(&mut self) -> Response {
        self.next(true).expect("a response")
    }

    /// Sends a GET request and reads the response.
    pub fn get(&mut self, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.read()
    }

    /// Asserts that the agent closes the connection without another response.
    pub fn assert_closed(&mut self) {
        assert!(self.next(true).is_none(), "not closed");
    }
}

impl Agent {
    /// Sends one request on a new connection.
    pub fn request(&self, request: impl AsRef<[u8]>) -> Response {
        let mut connection = HttpConnection::open(self);
        connection.send(request);
        connection.read()
    }

    /// Sends GET and returns the status and the body.
    pub fn get(&self, target: &str) -> (u16, String) {
        self.get_with_headers(target, "")
    }

    pub fn get_with_headers(&self, target: &str, headers: &str) -> (u16, String) {
        let close = "Host: a\r\nConnection: close\r\n";
        let response = self.request(format!("GET {target} HTTP/1.1\r\n{close}{headers}\r\n"));
        (response.status, response.body)
    }

    /// Sends GET, asserts status 200 and returns the body.
    pub fn get_ok(&self, target: &str) -> String {
        let (status, body) = self.get(target);
        assert_eq!(status, 200, "{target}: {body}");
        body
    }

    /// The status line of an application without performance data.
    pub fn status_line(&self, id: &str) -> String {
        let line = self.get_ok(&format!("/status?0&appid={id}"));
        line.split('|').next().unwrap().to_owned()
    }

    /// Waits until the status line starts with `start`.
    pub fn wait_status(&self, id: &str, start: &str) -> String {
        let what = format!("{id}: {start}");
        wait_until(&what, || Some(self.status_line(id)).filter(|line| line.starts_with(start)))
    }

    pub fn list(&self) -> Vec<String> {
        self.get_ok("/list").lines().map(str::to_owned).collect()
    }
}

/// `hm-agent` with arguments and the environment variable that names the agent as heartbeat server.
pub fn client_of(agent: &Agent, arguments: &[&str]) -> Command {
    let mut command = hm_agent();
    command.env("HB_URL", format!("http://{}", agent.heartbeat())).args(arguments);
    command
}

/// The overdue ratio in a status line.
pub fn od_of(line: &str) -> f64 {
    let od = line.split("| od=").nth(1).and_then(|numbers| numbers.split(';').next());
    od.and_then(|od| od.parse().ok()).unwrap_or_else(|| panic!("no od in {line:?}"))
}

/// Formats a list setting for `-s`.
pub fn list_setting(name: &str, items: &[&str]) -> String {
    format!("{name}={}", serde_json::to_string(items).unwrap())
}

/// The lines of a file; none if it does not exist.
pub fn lines_of(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}
