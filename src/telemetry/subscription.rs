//! The conversation on `/usage`: a dashboard subscribes, and gets every sample from then on.
//!
//! Runs in the connection's thread. It sleeps in one poll(2) until the client speaks; meanwhile the [fan](super::fan) sends
//! the updates, bytes that all subscribers share.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use log::Level;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Error, Message, WebSocket};

use crate::collector::latest::{LatestSample, PublishedSample};
use crate::config::Current;
use crate::http::frame;
use crate::limits;
use crate::model::host_info::HostInfo;
use crate::sys;
use crate::telemetry::fan::{Fan, Lent, Subscription};
use crate::telemetry::messages;
use crate::telemetry::messages::{Request, SUBSCRIBED, UNSUBSCRIBED};
use crate::util::deadline_stream::DeadlineStream;
use crate::util::error::reason;
use crate::util::logger::unix_seconds;
use crate::util::sync::TokenBucket;

/// What subscribers see.
pub struct Source<'a> {
    /// The samples.
    pub feed: &'a LatestSample,
    /// Who sends them while this thread sleeps.
    pub fan: &'a Fan,
    /// What does not change.
    pub machine: &'a HostInfo,
    /// The settings in force.
    pub settings: &'a Current,
}

/// Why a conversation ended.
pub enum End {
    /// The client closed it.
    Left,
    /// We closed it, and told the client why.
    Closed(CloseCode, &'static str),
    /// It broke.
    Broken(io::Error),
}

impl End {
    /// How much it matters to an operator.
    pub fn level(&self) -> Level {
        match self {
            Self::Left | Self::Closed(CloseCode::Away, _) => Level::Debug,
            Self::Closed(..) | Self::Broken(_) => Level::Info,
        }
    }
}

impl End {
    /// What an error of the WebSocket means; `too_long` is said of a message that is.
    pub fn of(error: Error, too_long: &'static str) -> Self {
        match error {
            Error::Io(error) => Self::Broken(error),
            Error::ConnectionClosed | Error::AlreadyClosed => Self::Left,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Left,
            Error::Capacity(_) => Self::Closed(CloseCode::Size, too_long),
            Error::Utf8(_) => Self::Closed(CloseCode::Invalid, "not UTF-8"),
            _ => Self::Closed(CloseCode::Protocol, "not the WebSocket protocol"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("left"),
            Self::Closed(code, why) => write!(f, "closed ({}): {why}", u16::from(*code)),
            // Our own deadline; that of the kernel, for data that nobody confirms, has a number.
            Self::Broken(error)
                if error.kind() == ErrorKind::TimedOut && error.raw_os_error().is_none() =>
            {
                write!(f, "cut: it did not read for {} s", limits::WRITE.as_secs())
            }
            Self::Broken(error) => write!(f, "lost: {}", reason(error)),
        }
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

impl Source<'_> {
    /// Talks with one client to the end.
    pub fn converse(&self, socket: WebSocket<DeadlineStream<'_>>) -> End {
        let mut conversation = Conversation {
            source: self,
            socket,
            subscription: None,
            lent: None,
            subscribe_by: Some(Instant::now() + limits::SUBSCRIBE),
            subscriptions: TokenBucket::new(limits::SUBSCRIPTIONS),
            error_answers: TokenBucket::new(limits::ERROR_ANSWERS),
        };
        let end = conversation.run().err().unwrap_or(End::Left);
        match end {
            End::Closed(code, why) => conversation.close(code, why),
            // Its goodbye is answered; whatever it said behind that must not become a reset that takes the answer away.
            End::Left => conversation.socket.get_mut().linger(),
            End::Broken(_) => {}
        }
        end
    }

    fn update_frame<'s>(&self, sample: &'s PublishedSample, detailed: bool) -> &'s [u8] {
        messages::update_frame(sample, || self.settings.get().gpu.primary, detailed)
    }
}

struct Conversation<'a, 'b> {
    source: &'a Source<'a>,
    socket: WebSocket<DeadlineStream<'b>>,
    subscription: Option<Subscription>,
    /// Its socket, since it subscribed first.
    lent: Option<Lent<'a>>,
    /// Until when a client that has never subscribed must do so.
    subscribe_by: Option<Instant>,
    subscriptions: TokenBucket,
    error_answers: TokenBucket,
}

impl Conversation<'_, '_> {
    fn run(&mut self) -> Result<(), End> {
        let mut readable = true;
        loop {
            if self.socket.get_ref().stopping() {
                return Err(End::Closed(CloseCode::Away, "the agent is stopping"));
            }
            if self.send_update()? {
                // That may have taken a while, and the next sample may be there already.
                continue;
            }
            readable = if readable { self.read_one()? } else { self.sleep()? };
        }
    }

    /// Sends the current sample to a subscriber who does not have it yet. Says whether it did.
    fn send_update(&mut self) -> Result<bool, End> {
        let Some(subscription) = &mut self.subscription else { return Ok(false) };
        let sample = self.source.feed.current();
        if subscription.sent == sample.tick() {
            return Ok(false);
        }
        subscription.sent = sample.tick();
        let update = self.source.update_frame(&sample, subscription.detailed);
        // Past tungstenite, which would copy it for everybody: it has nothing to send now, because
        // every write below it is complete or ends the conversation.
        write(self.socket.get_mut(), update)?;
        Ok(true)
    }

    /// Waits until the client speaks, or the fan needs this thread, or the agent stops. Says whether the client did.
    fn sleep(&mut self) -> Result<bool, End> {
        let left = self.time_left()?;
        let rung = self.source.fan.rung();
        let lent = self.lent.as_ref().zip(self.subscription);
        if let Some((lent, subscription)) = lent {
            lent.sleep(subscription);
        }
        // A sample that came before that was not the fan's to send, and who was woken before that must not sleep.
        let current = self.source.feed.current().tick();
        let missed = lent.is_some_and(|(_, subscription)| subscription.sent != current);
        let stream = self.socket.get_ref();
        let readable = if missed || stream.stopping() || self.source.fan.rung() != rung {
            false
        } else {
            let bell = self.source.fan.bell(rung);
            let [readable, _] = sys::wait_readable([stream.as_fd(), bell], left);
            readable
        };
        if let Some((lent, _)) = lent {
            let (subscription, owed) = lent.wake();
            self.subscription = subscription;
            if let Some(owed) = owed {
                let rest = owed.bytes(|| self.source.settings.get().gpu.primary);
                write(self.socket.get_mut(), rest)?;
            }
        }
        Ok(readable)
    }

    fn time_left(&self) -> Result<Option<std::time::Duration>, End> {
        let Some(deadline) = self.subscribe_by else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(End::Closed(CloseCode::Policy, "no subscription within 30 s"));
        }
        Ok(Some(left))
    }

    /// Handles what the client said, one message at a time, so that its chatter does not hold up the
    /// next update. Says whether there may be more.
    fn read_one(&mut self) -> Result<bool, End> {
        self.socket.get_mut().begin_reading();
        match self.socket.read() {
            Ok(Message::Text(text)) => self.answer(&text)?,
            Ok(Message::Binary(_)) => {
                return Err(End::Closed(CloseCode::Unsupported, "only text is understood"));
            }
            // A pong is on its way with the next read.
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(End::of(error, "a message over 4 KiB")),
        }
        Ok(true)
    }

    fn answer(&mut self, text: &str) -> Result<(), End> {
        let request = Request::parse(text);
        if request.is_ok() && !self.subscriptions.take(Instant::now()) {
            return Err(End::Closed(CloseCode::Policy, "too many requests"));
        }
        match request {
            Ok(Request::Subscribe) => self.subscribe(false),
            Ok(Request::SubscribeDetail) => self.subscribe(true),
            Ok(Request::Unsubscribe) => {
                self.subscription = None;
                self.send(&[UNSUBSCRIBED])
            }
            Err(unknown) if self.error_answers.take(Instant::now()) => {
                self.send(&[&unknown.message()])
            }
            Err(_) => Ok(()),
        }
    }

    /// Confirmation, `system_info`, and the current update at once. A client that has this subscription
    /// already gets the confirmation alone.
    fn subscribe(&mut self, detailed: bool) -> Result<(), End> {
        self.subscribe_by = None;
        if self.subscription.is_some_and(|known| known.detailed == detailed) {
            return self.send(&[SUBSCRIBED]);
        }
        let sample: &PublishedSample = &self.source.feed.current();
        let machine = self.source.machine;
        let info = messages::system_info(machine, &sample.snapshot, detailed, unix_seconds());
        self.subscription = Some(Subscription { detailed, sent: sample.tick() });
        let (fan, socket) = (self.source.fan, self.socket.get_ref().socket());
        self.lent.get_or_insert_with(|| fan.lend(socket));
        let mut bytes = [frame::text(SUBSCRIBED), frame::text(&info)].concat();
        bytes.extend(self.source.update_frame(sample, detailed));
        Ok(write(self.socket.get_mut(), &bytes)?)
    }

    fn send(&mut self, texts: &[&str]) -> Result<(), End> {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| frame::text(text)).collect();
        Ok(write(self.socket.get_mut(), &bytes)?)
    }

    fn close(mut self, code: CloseCode, why: &'static str) {
        self.socket.get_mut().last_words();
        let frame = CloseFrame { code, reason: why.into() };
        if self.socket.close(Some(frame)).is_ok() {
            self.socket.into_inner().linger();
        }
    }
}

fn write(stream: &mut DeadlineStream<'_>, bytes: &[u8]) -> io::Result<()> {
    stream.begin_message();
    stream.write_all(bytes)
}
