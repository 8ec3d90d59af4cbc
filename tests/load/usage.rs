//! Load generator for `/usage`: one thread holds many subscriptions and measures how late each update arrives. It works with any server
//! of the protocol.

mod frames;
mod lateness;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use frames::{Frames, Incoming, KEY, PONG, TEXT, contains, masked, upgrade};
use lateness::{Figures, Nanos, Record};

const USAGE: &str = "\
usage: usage-load HOST:PORT --subscribers N --interval SECONDS --seconds WINDOW --schedule grid|own
                  [--connect-limit SECONDS] [--detail] [--deflate] [--hold]
  grid       all subscribers get updates at the same ticks, and one more with the subscription
  own        each subscriber gets updates every interval after its own subscription
  --deflate  offer compression, as browsers do
  --hold     keep the connections after the JSON line, until standard input ends";

/// Connections that are not subscribed yet. More would measure the server's listen backlog.
const OPENING: usize = 256;
/// Delay before a failed connection is retried.
const RETRY_DELAY: Nanos = 1_000_000_000;

fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match Load::new(options).and_then(Load::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("usage-load: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    server: SocketAddr,
    subscribers: usize,
    interval: Nanos,
    window: Nanos,
    grid: bool,
    connect_limit: Nanos,
    subscription: &'static str,
    deflate: bool,
    hold: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let server = arguments.next()?.parse().ok()?;
        let (mut subscribers, mut interval, mut window, mut grid) = (None, None, None, None);
        let mut connect_limit = 60_000_000_000;
        let (mut detail, mut deflate, mut hold) = (false, false, false);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--subscribers" => subscribers = Some(arguments.next()?.parse().ok()?),
                "--interval" => interval = Some(seconds(&arguments.next()?)?),
                "--seconds" => window = Some(seconds(&arguments.next()?)?),
                "--schedule" => {
                    let known = |schedule: &&str| ["grid", "own"].contains(schedule);
                    grid = Some(Some(arguments.next()?.as_str()).filter(known)? == "grid");
                }
                "--connect-limit" => connect_limit = seconds(&arguments.next()?)?,
                "--detail" => detail = true,
                "--deflate" => deflate = true,
                "--hold" => hold = true,
                _ => return None,
            }
        }
        Some(Self {
            server,
            subscribers: subscribers?,
            interval: interval?,
            window: window?,
            grid: grid?,
            connect_limit,
            subscription: if detail { "subscribe:detail" } else { "subscribe:usage" },
            deflate,
            hold,
        })
    }
}

fn seconds(text: &str) -> Option<Nanos> {
    let duration = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
    Nanos::try_from(duration.as_nanos()).ok().filter(|nanos| *nanos > 0)
}

struct Load {
    options: Options,
    start: Instant,
    poll: Poll,
    clients: Vec<Client>,
    /// Clients to connect, each with its earliest time.
    waiting: VecDeque<(Nanos, usize)>,
    opening: usize,
    subscribed: usize,
    /// The last error of a connection.
    last_error: Option<io::Error>,
}

impl Load {
    fn new(options: Options) -> io::Result<Self> {
        let clients = (0..options.subscribers).map(|_| Client::default()).collect();
        let waiting = (0..options.subscribers).map(|at| (0, at)).collect();
        let (start, poll) = (Instant::now(), Poll::new()?);
        Ok(Self {
            options,
            start,
            poll,
            clients,
            waiting,
            opening: 0,
            subscribed: 0,
            last_error: None,
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        while self.subscribed < self.clients.len() && self.now() < self.options.connect_limit {
            self.connect_more()?;
            // A short timeout, because no event announces a retry.
            self.poll_once(&mut events, Duration::from_millis(20))?;
        }
        for client in self.clients.iter_mut().filter(|client| client.record.confirmed.is_none()) {
            client.socket = None;
        }
        println!("ready {}", self.subscribed);
        let from = self.now();
        let window = from..from + self.options.window;
        while let Some(left) = window.end.checked_sub(self.now()).filter(|left| *left > 0) {
            self.poll_once(&mut events, Duration::from_nanos(left))?;
        }
        println!("{}", self.report(&window));
        if let Some(error) = &self.last_error {
            eprintln!("usage-load: the last connection that failed or ended: {error}");
        }
        if self.options.hold {
            io::stdin().read_to_end(&mut Vec::new())?;
        }
        Ok(())
    }

    fn now(&self) -> Nanos {
        since(self.start)
    }

    fn connect_more(&mut self) -> io::Result<()> {
        let now = self.now();
        while self.opening < OPENING && self.waiting.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, at)) = self.waiting.pop_front() else { break };
            let mut socket = TcpStream::connect(self.options.server)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, Token(at), interest)?;
            self.clients[at] = Client::new(socket, &self.options);
            self.opening += 1;
        }
        Ok(())
    }

    fn poll_once(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in events.iter() {
            self.handle(event);
        }
        Ok(())
    }

    fn handle(&mut self, event: &Event) {
        let at = event.token().0;
        let client = &mut self.clients[at];
        let was_opening = client.record.confirmed.is_none();
        let result = client.handle(event, self.start, &self.options);
        match result {
            Ok(()) if was_opening && client.record.confirmed.is_some() => {
                self.opening -= 1;
                self.subscribed += 1;
            }
            Ok(()) => {}
            Err(error) => {
                self.last_error = Some(error);
                client.socket = None;
                if was_opening {
                    self.opening -= 1;
                    client.record.confirmed = None;
                    self.waiting.push_back((since(self.start) + RETRY_DELAY, at));
                } else {
                    client.record.closed = true;
                }
            }
        }
    }

    fn report(&self, window: &Range<Nanos>) -> String {
        let records = || self.clients.iter().map(|client| &client.record);
        let interval = self.options.interval;
        let figures = match self.options.grid {
            true => Figures::on_grid(records(), window, interval),
            false => Figures::on_own_timers(records(), window, interval),
        };
        let lateness = |percent| match figures.percentile_ms(percent) {
            Some(milliseconds) => format!("{milliseconds:.3}"),
            None => "null".to_owned(),
        };
        // If not all clients connected, connect_seconds is the limit.
        format!(
            "{{\"subscribers\":{},\"connected\":{},\"connect_seconds\":{:.3},\
             \"updates_expected\":{},\"updates_received\":{},\"updates_missed\":{},\
             \"updates_unexpected\":{},\
             \"lateness_ms\":{{\"p50\":{},\"p99\":{},\"max\":{}}},\"closed_by_server\":{}}}",
            self.clients.len(),
            self.subscribed,
            window.start as f64 / 1e9,
            figures.expected,
            figures.received,
            figures.missed,
            figures.unexpected,
            lateness(50),
            lateness(99),
            lateness(100),
            records().filter(|record| record.closed).count(),
        )
    }
}

fn since(start: Instant) -> Nanos {
    Nanos::try_from(start.elapsed().as_nanos()).unwrap_or(Nanos::MAX)
}

#[derive(Default)]
struct Client {
    socket: Option<TcpStream>,
    upgraded: bool,
    input: Frames,
    unsent: Vec<u8>,
    record: Record,
    /// Number of compressed messages received.
    compressed: usize,
    /// The update that answers the subscription has arrived.
    got_first_update: bool,
}

impl Client {
    fn new(socket: TcpStream, options: &Options) -> Self {
        let server = options.server;
        let offer = match options.deflate {
            true => "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
            false => "",
        };
        let request = format!(
            "GET /usage HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offer}\r\n"
        );
        Self { socket: Some(socket), unsent: request.into_bytes(), ..Self::default() }
    }

    /// Reads all that is available and sends answers. An error ends this connection.
    fn handle(&mut self, event: &Event, start: Instant, options: &Options) -> io::Result<()> {
        // The connection ended earlier in the same poll.
        if self.socket.is_none() {
            return Ok(());
        }
        if event.is_readable() {
            self.read(event.is_read_closed() || event.is_error(), start, options)?;
        }
        if self.unsent.is_empty() { Ok(()) } else { self.send() }
    }

    fn read(&mut self, ending: bool, start: Instant, options: &Options) -> io::Result<()> {
        let mut buffer = [0; 4 << 10];
        loop {
            let Some(socket) = &mut self.socket else { return Ok(()) };
            match socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.input.push(&buffer[..count]);
                    self.process_input(since(start), options).map_err(io::Error::other)?;
                    // epoll(7): a short read has emptied the socket.
                    if count < buffer.len() && !ending {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn process_input(&mut self, now: Nanos, options: &Options) -> Result<(), &'static str> {
        if !self.upgraded {
            let Some(length) = upgrade(self.input.rest())? else { return Ok(()) };
            self.input.skip(length);
            self.upgraded = true;
            self.unsent.extend(masked(TEXT, options.subscription.as_bytes()));
        }
        while let Some(incoming) = self.input.next()? {
            match incoming {
                Incoming::Compressed => {
                    // The protocol fixes the order of the first messages.
                    self.compressed += 1;
                    match self.compressed {
                        1 => self.record.confirmed = Some(now),
                        2 => {} // system_info
                        _ => self.updated(now, options),
                    }
                }
                Incoming::Message(text) if contains(text, b"\"usage_update\"") => {
                    self.updated(now, options);
                }
                Incoming::Message(text) if contains(text, b"\"subscribed\"") => {
                    self.record.confirmed.get_or_insert(now);
                }
                Incoming::Message(_) | Incoming::Pong => {}
                Incoming::Ping(payload) => self.unsent.extend(masked(PONG, payload)),
                Incoming::Close => return Err("the server closed the connection"),
            }
        }
        Ok(())
    }

    fn updated(&mut self, now: Nanos, options: &Options) {
        if self.got_first_update || !options.grid {
            self.record.updates.push(now);
        }
        self.got_first_update = true;
    }

    fn send(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        match socket.write(&self.unsent) {
            Ok(count) => drop(self.unsent.drain(..count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_confirmation_and_updates() {
        let line = "127.0.0.1:1 --subscribers 1 --interval 10 --seconds 40 --schedule grid";
        let options = Options::parse(line.split(' ').map(str::to_owned)).expect("options");
        let mut client = Client { upgraded: true, ..Client::default() };
        let messages = ["{\"status\": \"subscribed\"}", "{\"type\":\"usage_update\"}"];
        for (now, at) in [(10, 0), (11, 1), (20, 1), (30, 1)] {
            client
                .input
                .push(&[&[0x81, messages[at].len() as u8], messages[at].as_bytes()].concat());
            client.process_input(now, &options).expect("frames");
        }
        client.input.push(b"\x89\x02hi");
        client.process_input(31, &options).expect("frames");
        assert_eq!(client.record.confirmed, Some(10));
        assert_eq!(client.record.updates, [20, 30], "the first one answers the subscription");
        assert_eq!(client.unsent, masked(PONG, b"hi"));
    }

    #[test]
    fn rejects_invalid_arguments() {
        let parse = |line: &str| Options::parse(line.split(' ').map(str::to_owned));
        let good = "127.0.0.1:1 --subscribers 1 --interval 0.5 --seconds 40 --schedule own";
        assert!(parse(good).is_some_and(|options| options.interval == 500_000_000));
        for bad in ["--schedule none", "--interval 0", "--interval -1", "--unknown", "--seconds"] {
            assert!(parse(&format!("{good} {bad}")).is_none(), "{bad}");
        }
        assert!(parse("127.0.0.1:1 --subscribers 1 --interval 1 --seconds 40").is_none());
    }
}
