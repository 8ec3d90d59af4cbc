//! Requests of subcommands to the running hub.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::config::Settings;
use crate::hub::tls;
use crate::hub::tls_client;
use crate::net::tls::own_port::PortTls;
use crate::util::error::Error;
use crate::util::text::escape_for_log;

/// For connecting, and for each wait for data.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest response lists ten thousand nodes.
const MAX_RESPONSE_BYTES: u64 = 64 << 20;
/// What is printed of an error of the hub.
const MAX_REASON_CHARS: usize = 200;

/// A port of the hub on this machine.
pub struct HubPort {
    pub address: SocketAddr,
    /// `None`: it has no TLS.
    pub tls: Option<PortTls>,
}

impl HubPort {
    /// The port with the settings `NAME.listen` and `NAME.tls`. Reads no tokens file, which only the hub's user can read.
    pub fn new(settings: &Settings, name: &str) -> Result<Self, Error> {
        let key = format!("{name}.listen");
        let address = settings.parsed(&key);
        let address = address.ok_or_else(|| settings.invalid(&key, "is not an address"))?;
        let tls = match tls::is_enabled(settings, &format!("{name}.tls"))? {
            true => Some(tls_client::own_port(settings, address)?),
            false => None,
        };
        Ok(Self { address, tls })
    }

    /// Sends a request. Returns status line, headers and body of its response. `token` is an operator's.
    pub fn request(
        &self,
        timeout: Duration,
        (method, target): (&str, &str),
        token: Option<&str>,
        body: &str,
    ) -> io::Result<String> {
        let address = self.address;
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        let token =
            token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {address}\r\n{token}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let Some(tls) = &self.tls else { return exchange(socket, &request) };
        let response = tls.connect(socket).and_then(|socket| exchange(socket, &request));
        response.map_err(|error| tls.explain(error))
    }
}

fn exchange(mut socket: impl Read + Write, request: &str) -> io::Result<String> {
    socket.write_all(request.as_bytes())?;
    let mut response = String::new();
    socket.take(MAX_RESPONSE_BYTES).read_to_string(&mut response)?;
    Ok(response)
}

/// The code of an error and its message. Of a message that begins in Chinese, as in the published service, the English end.
fn reason_of(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let (code, message) = (text("error_code"), text("message"));
    let end = message.rsplit_once(": ").map_or("", |(_, end)| end);
    match [message, end].into_iter().find(|text| !text.is_empty() && text.is_ascii()) {
        Some(english) => format!("error {code}: {english}"),
        None => format!("error {code}"),
    }
}

/// The REST API of the hub on this machine.
pub struct RestClient {
    pub port: HubPort,
    pub token: Option<String>,
}

impl RestClient {
    /// `data` of a successful answer. `path` is below `/api/v1/`.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Result<Value, Error> {
        let target = format!("/api/v1/{path}");
        let token = self.token.as_deref();
        self.try_call((method, &target), token, body).map_err(|error| {
            Error::system(format!("{method} {target} of the hub at {}", self.port.address), error)
        })
    }

    fn try_call(&self, line: (&str, &str), token: Option<&str>, body: &str) -> io::Result<Value> {
        let response = self.port.request(TIMEOUT, line, token, body)?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        let failure = |text: &str| io::Error::other(escape_for_log(text.trim(), MAX_REASON_CHARS));
        if head.starts_with("HTTP/1.1 401 ") {
            return Err(failure("operator token required or wrong; set HM_HUB_TOKEN"));
        }
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(failure(body));
        }
        if response.len() as u64 >= MAX_RESPONSE_BYTES {
            return Err(failure("the response is too long"));
        }
        let mut answer: Value =
            serde_json::from_str(body).map_err(|_| failure("this is not hm-hub"))?;
        match answer["success"] == true {
            true => Ok(answer["data"].take()),
            false => Err(failure(&reason_of(&answer))),
        }
    }
}
