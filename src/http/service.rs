//! The path of every request on every port: read, authenticate, route, respond.
//!
//! [`HttpService::handle_connection`] reads requests and sends responses. The port's own `route` authenticates and routes one
//! request. A request that asks for a WebSocket ends the HTTP part of the connection.

use std::io;
use std::net::TcpStream;

use log::Level;
use tungstenite::WebSocket;

use crate::http::connection::{ConnectionEnd, RequestReader};
use crate::http::listener::ClientConnection;
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, Response};
use crate::http::stream::ServerStream;
use crate::http::tls::MaybeTlsStream;
use crate::http::websocket;
use crate::http::websocket::SessionEnd;
use crate::util::error::reason;
use crate::util::logger::RateLimitedLog;

/// What `route` decides about a request that is not rejected.
pub enum Routed {
    Response(Response),
    /// The client becomes a WebSocket client; this is its `Sec-WebSocket-Key`.
    Upgrade(String),
}

/// A connection whose client has requested a WebSocket.
pub struct Upgrade<'a> {
    stream: ServerStream<'a>,
    key: String,
    /// Bytes that the client sent after its request.
    buffered: Vec<u8>,
}

impl Upgrade<'_> {
    /// Completes the upgrade for a caller that does its own I/O. Returns the socket, and the bytes that the client sent after its
    /// request.
    pub fn into_socket(mut self) -> io::Result<(MaybeTlsStream<TcpStream>, Vec<u8>)> {
        websocket::send_switching_protocols(&mut self.stream, &self.key)?;
        Ok((self.stream.into_socket()?, self.buffered))
    }
}

/// What follows a handled request.
enum Next {
    Request,
    Upgrade(String, Vec<u8>),
}

/// A request after which the connection ends.
struct LastRequest {
    end: ConnectionEnd,
    /// It is a HEAD request.
    head_only: bool,
}

/// The HTTP part of one port.
pub struct HttpService {
    /// Name of the port in log lines.
    port: &'static str,
    /// The first request of a connection must arrive at once; otherwise it may take as long as any later one.
    expects_first_request: bool,
    keeps_bodies: bool,
    /// Header lines that every rejection carries.
    rejection_header: Option<&'static str>,
    /// Limits the log lines that clients can cause.
    pub log: RateLimitedLog,
}

impl HttpService {
    pub fn new(port: &'static str) -> Self {
        let log = RateLimitedLog::new();
        Self { port, expects_first_request: true, keeps_bodies: false, rejection_header: None, log }
    }

    /// For clients that open connections in advance: the first request may take as long as any later one.
    pub fn allow_idle_start(mut self) -> Self {
        self.expects_first_request = false;
        self
    }

    /// Passes bodies with a length to `route` instead of skipping them.
    pub fn keep_bodies(mut self) -> Self {
        self.keeps_bodies = true;
        self
    }

    /// Adds a header line to every rejection.
    pub fn with_rejection_header(mut self, line: &'static str) -> Self {
        self.rejection_header = Some(line);
        self
    }

    /// Serves requests until the connection ends or one of them is an upgrade.
    pub fn handle_connection<'s>(
        &self,
        mut stream: ServerStream<'s>,
        client: &mut ClientConnection<'_>,
        mut route: impl FnMut(
            &RequestHead<'_>,
            &mut ClientConnection<'_>,
        ) -> Result<Routed, ErrorResponse>,
    ) -> Option<Upgrade<'s>> {
        let mut reader = match self.expects_first_request {
            true => RequestReader::new_awaiting_first(),
            false => RequestReader::default(),
        };
        if self.keeps_bodies {
            reader = reader.keep_bodies();
        }
        let LastRequest { end, head_only } = loop {
            match self.handle_request(&mut stream, &mut reader, client, &mut route) {
                Ok(Next::Request) => {}
                Ok(Next::Upgrade(key, buffered)) => {
                    return Some(Upgrade { stream, key, buffered });
                }
                Err(last) => break last,
            }
        };
        let (port, peer) = (self.port, client.peer);
        match end {
            // Even a rejection: the incomplete request of an evicted connection is no fault of the client.
            _ if client.permit.was_evicted() => {
                self.log.write(Level::Debug, || format!("{port}: {peer} evicted while idle"));
            }
            ConnectionEnd::Rejected(error) => self.reject(stream, client, error, head_only),
            ConnectionEnd::Closed => {
                stream.close();
                self.log.write(Level::Debug, || format!("{port}: {peer} disconnected"));
            }
            ConnectionEnd::Io(error) => self.log_lost(client, &error),
        }
        None
    }

    fn handle_request(
        &self,
        stream: &mut ServerStream<'_>,
        reader: &mut RequestReader,
        client: &mut ClientConnection<'_>,
        route: &mut impl FnMut(
            &RequestHead<'_>,
            &mut ClientConnection<'_>,
        ) -> Result<Routed, ErrorResponse>,
    ) -> Result<Next, LastRequest> {
        let last = |end| LastRequest { end, head_only: false };
        let handle = |head: &RequestHead<'_>| {
            // Before `route`, which may wait: a connection with a request in progress must not be evicted.
            client.permit.mark_active();
            route(head, client)
        };
        let (request, routed) = reader.next_request(stream, handle).map_err(last)?;
        let response = match routed {
            Ok(Routed::Response(response)) => response,
            Ok(Routed::Upgrade(key)) => {
                return Ok(Next::Upgrade(key, reader.buffered_after(&request)));
            }
            Err(error) => {
                let end = ConnectionEnd::Rejected(error);
                return Err(LastRequest { end, head_only: request.head_only });
            }
        };
        client.stats.record_status(response.status);
        reader.respond(stream, &request, &response).map_err(last)?;
        client.permit.mark_idle();
        Ok(Next::Request)
    }

    /// Sends an error response, logs it and closes the connection.
    fn reject(
        &self,
        stream: ServerStream<'_>,
        client: &ClientConnection<'_>,
        error: ErrorResponse,
        head_only: bool,
    ) {
        client.stats.record_status(error.status);
        self.log_rejected(client, error.status, &error.text);
        let error = match self.rejection_header {
            Some(line) => error.header(line),
            None => error,
        };
        error.to_response().send_and_close(stream, head_only);
    }

    pub fn log_rejected(&self, client: &ClientConnection<'_>, status: &str, text: &str) {
        let (port, peer) = (self.port, client.peer);
        self.log.write(Level::Info, || format!("{port}: {peer} rejected: {status}: {text}"));
    }

    fn log_lost(&self, client: &ClientConnection<'_>, error: &io::Error) {
        let (port, peer) = (self.port, client.peer);
        self.log.write(Level::Debug, || format!("{port}: {peer} disconnected: {}", reason(error)));
    }

    /// Completes the upgrade and runs a WebSocket session to its end. Messages over `max_message_bytes` end it.
    pub fn run_session<'s>(
        &self,
        upgrade: Upgrade<'s>,
        client: &ClientConnection<'_>,
        max_message_bytes: usize,
        session: impl FnOnce(&mut WebSocket<ServerStream<'s>>) -> SessionEnd,
    ) {
        let (port, peer) = (self.port, client.peer);
        let Upgrade { stream, key, buffered } = upgrade;
        let mut socket = match websocket::accept(stream, &key, buffered, max_message_bytes) {
            Ok(socket) => socket,
            Err(error) => return self.log_lost(client, &error),
        };
        self.log.write(Level::Debug, || format!("{port}: {peer} connected"));
        let end = session(&mut socket);
        websocket::finish(&mut socket, &end);
        if let SessionEnd::ClosedByServer(..) = end {
            client.stats.record_websocket_closed();
        }
        self.log.write(end.level(), || format!("{port}: {peer} {end}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::connection_limits::ConnectionLimiter;
    use crate::http::stats::ListenerStats;
    use crate::util::deadline_stream::DeadlineStream;
    use crate::util::sync::Shutdown;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;

    #[test]
    fn first_request_in_progress_is_not_evicted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, address) = listener.accept().unwrap();
        let socket = Arc::new(socket);
        let (limiter, stats, shutdown) =
            (ConnectionLimiter::default(), ListenerStats::default(), Shutdown::new().unwrap());
        let permit = limiter.acquire(1, &socket).unwrap();
        let mut client = ClientConnection::new(address, permit, &stats);
        peer.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let stream = DeadlineStream::new(socket.clone(), &shutdown).unwrap();
        let stream = ServerStream::plain(stream);
        HttpService::new("usage").handle_connection(stream, &mut client, |_, _| {
            assert!(limiter.acquire(1, &socket).is_none(), "evicted for another connection");
            Ok(Routed::Response(Response::text("200 OK", "done")))
        });
        drop((client, socket));
        let mut response = String::new();
        peer.read_to_string(&mut response).unwrap();
        assert!(response.ends_with("done"), "{response}");
    }
}
