//! A WebSocket session on `/usage`: the client subscribes and is sent every sample from then on.
//!
//! Runs in the connection's thread, which waits in one poll(2) for the client's messages, the next sample and shutdown. A
//! write blocks until the client has taken the update; the next update is then that of the latest sample, so a slow client
//! is never sent a backlog. A client that does not read is disconnected after the write timeout.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use crate::collector::latest::{LatestSample, PublishedSample};
use crate::config::CurrentConfig;
use crate::http::frame;
use crate::http::stream::ServerStream;
use crate::http::websocket::{SessionEnd, ping_when_silent};
use crate::model::host_info::HostInfo;
use crate::sys;
use crate::telemetry::messages;
use crate::telemetry::messages::{ClientRequest, SUBSCRIBED, UNSUBSCRIBED};
use crate::util::logger::unix_seconds;
use crate::util::sync::TokenBucket;

/// A longer message of a client ends its session (1009).
pub const MAX_CLIENT_MESSAGE_BYTES: usize = 4 << 10;
/// A session without a subscription after this is closed (1008).
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
/// Subscribe requests in a burst; one per second afterwards, then the session is closed (1008). Each may be answered with a
/// message whose length grows with the host.
const SUBSCRIBE_BURST: u32 = 20;
/// An update up to this length is copied, so that the answer to a subscription is one segment. Longer ones are shared by all
/// subscribers.
const MAX_COPIED_BYTES: usize = 4 << 10;
/// Answers to unknown messages in a burst; one per second afterwards, further ones are not answered.
const ERROR_BURST: u32 = 10;

/// Shared by all sessions.
pub struct Context<'a> {
    pub latest: &'a LatestSample,
    pub host_info: &'a HostInfo,
    pub config: &'a CurrentConfig,
}

impl Context<'_> {
    /// Runs a session until it ends. The caller closes the socket.
    pub fn run(&self, socket: &mut WebSocket<ServerStream<'_>>) -> SessionEnd {
        let mut session = Session {
            context: self,
            socket,
            subscription: None,
            subscribe_deadline: Some(Instant::now() + SUBSCRIBE_TIMEOUT),
            subscribe_bucket: TokenBucket::new(SUBSCRIBE_BURST),
            error_bucket: TokenBucket::new(ERROR_BURST),
        };
        session.run().err().unwrap_or(SessionEnd::ClosedByClient)
    }

    fn update_frame<'s>(&self, sample: &'s PublishedSample, detailed: bool) -> &'s [u8] {
        messages::update_frame(sample, || self.config.get().gpu.primary, detailed)
    }
}

#[derive(Clone, Copy)]
struct Subscription {
    detailed: bool,
    last_tick_sent: u64,
}

struct Session<'a, 'b> {
    context: &'a Context<'a>,
    socket: &'a mut WebSocket<ServerStream<'b>>,
    subscription: Option<Subscription>,
    /// When a client that has never subscribed is disconnected.
    subscribe_deadline: Option<Instant>,
    subscribe_bucket: TokenBucket,
    error_bucket: TokenBucket,
}

impl Session<'_, '_> {
    fn run(&mut self) -> Result<(), SessionEnd> {
        let mut readable = true;
        loop {
            if self.socket.get_ref().is_shutting_down() {
                return Err(SessionEnd::shutting_down());
            }
            if self.send_update()? {
                // The write may have blocked while the next sample was published.
                continue;
            }
            readable = if readable { self.read_message()? } else { self.wait()? };
        }
    }

    /// Sends the current sample unless the subscriber has it. Returns whether it was sent.
    fn send_update(&mut self) -> Result<bool, SessionEnd> {
        let Some(subscription) = &mut self.subscription else { return Ok(false) };
        let sample = self.context.latest.current();
        if subscription.last_tick_sent == sample.tick() {
            return Ok(false);
        }
        subscription.last_tick_sent = sample.tick();
        let update = self.context.update_frame(&sample, subscription.detailed);
        // Bypasses tungstenite, which would copy the frame for every client. tungstenite has no partial frame to write: each
        // of its writes completes or ends the session.
        self.socket.get_mut().write_message(update)?;
        Ok(true)
    }

    /// Waits for a message, the next sample if subscribed, the time of a ping, or shutdown. Returns whether the socket is readable.
    fn wait(&mut self) -> Result<bool, SessionEnd> {
        let to_ping = ping_when_silent(self.socket)?;
        let timeout = self.time_to_subscribe()?.map_or(to_ping, |left| left.min(to_ping));
        let timeout = Some(timeout);
        let stream = self.socket.get_ref();
        let (socket, shutdown) = (stream.as_fd(), stream.shutdown_fd());
        let readable = match self.subscription {
            Some(subscription) => {
                let changed = self.context.latest.changed_fd(subscription.last_tick_sent);
                sys::wait_readable([socket, shutdown, changed], timeout)[0]
            }
            None => sys::wait_readable([socket, shutdown], timeout)[0],
        };
        Ok(readable)
    }

    fn time_to_subscribe(&self) -> Result<Option<Duration>, SessionEnd> {
        let Some(deadline) = self.subscribe_deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SessionEnd::ClosedByServer(
                CloseCode::Policy,
                "no subscription within 30 s",
            ));
        }
        Ok(Some(left))
    }

    /// Handles one message, so that a client that sends many does not delay its updates. Returns whether there may be more.
    fn read_message(&mut self) -> Result<bool, SessionEnd> {
        self.socket.get_mut().reset_read_deadline();
        match self.socket.read() {
            Ok(Message::Text(text)) => self.handle(&text)?,
            Ok(Message::Binary(_)) => {
                let reason = "only text messages are accepted";
                return Err(SessionEnd::ClosedByServer(CloseCode::Unsupported, reason));
            }
            // tungstenite writes the pong with the next read.
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(SessionEnd::from_error(error, "message exceeds 4 KiB")),
        }
        Ok(true)
    }

    fn handle(&mut self, text: &str) -> Result<(), SessionEnd> {
        let request = ClientRequest::parse(text);
        if request.is_ok() && !self.subscribe_bucket.take(Instant::now()) {
            return Err(SessionEnd::ClosedByServer(CloseCode::Policy, "too many requests"));
        }
        match request {
            Ok(ClientRequest::Subscribe) => self.subscribe(false),
            Ok(ClientRequest::SubscribeDetail) => self.subscribe(true),
            Ok(ClientRequest::Unsubscribe) => {
                self.subscription = None;
                self.send(UNSUBSCRIBED)
            }
            Err(unknown) if self.error_bucket.take(Instant::now()) => self.send(&unknown.message()),
            Err(_) => Ok(()),
        }
    }

    /// Sends the confirmation, `system_info` and the current update. A client that has this subscription already is sent the
    /// confirmation only.
    fn subscribe(&mut self, detailed: bool) -> Result<(), SessionEnd> {
        self.subscribe_deadline = None;
        if self.subscription.is_some_and(|current| current.detailed == detailed) {
            return self.send(SUBSCRIBED);
        }
        let sample: &PublishedSample = &self.context.latest.current();
        let host = self.context.host_info;
        let info = messages::system_info(host, &sample.snapshot, detailed, unix_seconds());
        self.subscription = Some(Subscription { detailed, last_tick_sent: sample.tick() });
        let mut bytes = [frame::text(SUBSCRIBED), frame::text(&info)].concat();
        let update = self.context.update_frame(sample, detailed);
        let stream = self.socket.get_mut();
        if update.len() > MAX_COPIED_BYTES {
            stream.write_message(&bytes)?;
            return Ok(stream.write_message(update)?);
        }
        bytes.extend(update);
        Ok(stream.write_message(&bytes)?)
    }

    fn send(&mut self, text: &str) -> Result<(), SessionEnd> {
        Ok(self.socket.get_mut().write_message(&frame::text(text))?)
    }
}
