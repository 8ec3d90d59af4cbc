//! A client of the heartbeat port that sends bytes as they are and takes answers apart.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use super::{Agent, PATIENCE, hm_agent, wait_until};

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and header lines, each with its line end.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A connection to the port.
pub struct Line(BufReader<TcpStream>);

impl Line {
    pub fn to(agent: &Agent) -> Self {
        let socket = TcpStream::connect(agent.heartbeat()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::on(socket)
    }

    /// A connection to another port that speaks HTTP.
    pub fn on(socket: TcpStream) -> Self {
        Self(BufReader::new(socket))
    }

    pub fn socket(&self) -> &TcpStream {
        self.0.get_ref()
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// The next answer; `None`: the agent has closed.
    pub fn next(&mut self, with_body: bool) -> Option<Answer> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).unwrap() == 0 {
                assert_eq!(head, "", "it ends in the middle");
                return None;
            }
        }
        let status = head.strip_prefix("HTTP/1.1 ").unwrap().split(' ').next().unwrap();
        let mut answer = Answer { status: status.parse().unwrap(), head, body: String::new() };
        let length: usize = answer.header("Content-Length").unwrap().parse().unwrap();
        if with_body {
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).unwrap();
            answer.body = String::from_utf8(body).unwrap();
        }
        Some(answer)
    }

    pub fn hear(&mut self) -> Answer {
        self.next(true).expect("an answer")
    }

    /// Asks on this connection, which stays.
    pub fn get(&mut self, target: &str) -> Answer {
        self.say(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.hear()
    }

    /// The agent closes, and has said all before.
    pub fn closed(&mut self) {
        assert!(self.next(true).is_none(), "it said more, and did not close");
    }
}

impl Agent {
    /// One request on a connection of its own.
    pub fn say(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut line = Line::to(self);
        line.say(request);
        line.hear()
    }

    /// GET; the status and the body.
    pub fn ask(&self, target: &str) -> (u16, String) {
        self.ask_with(target, "")
    }

    /// The same with header lines.
    pub fn ask_with(&self, target: &str, headers: &str) -> (u16, String) {
        let close = "Host: a\r\nConnection: close\r\n";
        let answer = self.say(format!("GET {target} HTTP/1.1\r\n{close}{headers}\r\n"));
        (answer.status, answer.body)
    }

    /// GET of what succeeds; the body.
    pub fn tell(&self, target: &str) -> String {
        let (status, body) = self.ask(target);
        assert_eq!(status, 200, "{target}: {body}");
        body
    }

    /// What `/status` says, from its first word to the `|`.
    pub fn line(&self, id: &str) -> String {
        let line = self.tell(&format!("/status?0&appid={id}"));
        line.split('|').next().unwrap().to_owned()
    }

    /// Asks again until the line begins so.
    pub fn wait_line(&self, id: &str, start: &str) -> String {
        let what = format!("{id}: {start}");
        wait_until(&what, || Some(self.line(id)).filter(|line| line.starts_with(start)))
    }

    pub fn list(&self) -> Vec<String> {
        self.tell("/list").lines().map(str::to_owned).collect()
    }
}

/// `hm-agent` with a subcommand, which finds the server in its environment as the protocol's clients do.
pub fn client_of(agent: &Agent, arguments: &[&str]) -> Command {
    let mut command = hm_agent();
    command.env("HB_URL", format!("http://{}", agent.heartbeat())).args(arguments);
    command
}

/// The overdue ratio in a line of `/status`.
pub fn od_of(line: &str) -> f64 {
    let od = line.split("| od=").nth(1).and_then(|numbers| numbers.split(';').next());
    od.and_then(|od| od.parse().ok()).unwrap_or_else(|| panic!("no od in {line:?}"))
}

/// A setting that is a list.
pub fn list_setting(name: &str, items: &[&str]) -> String {
    format!("{name}={}", serde_json::to_string(items).unwrap())
}

/// The lines of a file that may not be there yet.
pub fn lines_of(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}
