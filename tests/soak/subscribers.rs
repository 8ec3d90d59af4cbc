//! Subscribers of `/usage` that come and go. Most close the connection, some vanish, some never read, some have a wrong token.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tungstenite::client::IntoClientRequest;
use tungstenite::{Error, Message, WebSocket};

use super::fault_log::{FaultLog, STOPPED};
use super::support::rng::Rng;
use super::{INTERVAL, TOKEN};

pub const SUBSCRIBERS: usize = 500;
/// The agent answers a close frame within this time, unless it is stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// With a longer gap between two updates, at least one was missed.
const MAX_GAP: Duration = Duration::from_secs(2 * INTERVAL + 1);

#[derive(Clone, Copy, PartialEq)]
enum ClientBehaviour {
    Reads,
    NeverReads,
    WrongToken,
}

#[derive(Clone, Copy, PartialEq)]
enum ClientEnd {
    Closes,
    Vanishes,
}

/// Runs one subscriber after another until the soak stops.
pub fn run(server: SocketAddr, log: &FaultLog, mut rng: Rng) {
    log.pause(Duration::from_millis(rng.below(5000)));
    while !log.is_stopping() {
        let (behaviour, end, longest) = match rng.below(100) {
            0..72 => (ClientBehaviour::Reads, ClientEnd::Closes, 90),
            72..87 => (ClientBehaviour::Reads, ClientEnd::Vanishes, 30),
            87..95 => (ClientBehaviour::NeverReads, ClientEnd::Vanishes, 90),
            _ => (ClientBehaviour::WrongToken, ClientEnd::Vanishes, 1),
        };
        let stay = Duration::from_millis(2000 + rng.below(longest * 1000));
        // The detailed messages fill the buffers of clients that never read sooner.
        let detail = behaviour == ClientBehaviour::NeverReads || rng.below(20) == 0;
        match connect(server, behaviour, rng.below(2) == 0) {
            Ok(mut socket) if behaviour != ClientBehaviour::WrongToken => {
                let message = if detail { "subscribe:detail" } else { "subscribe:usage" };
                let sent = socket.send(Message::text(message));
                if behaviour == ClientBehaviour::NeverReads {
                    log.pause(stay);
                } else if let Err(error) = sent.and_then(|()| read(&mut socket, stay, end, log)) {
                    log.fail(format!("a subscriber failed: {error}"));
                }
                if end == ClientEnd::Vanishes {
                    log.count("subscribers that vanished", 1);
                }
            }
            Err(Error::Http(response))
                if behaviour == ClientBehaviour::WrongToken && response.status() == 401 =>
            {
                log.count("wrong tokens rejected", 1);
            }
            Ok(_) => log.fail("a wrong token was accepted".to_owned()),
            Err(error) => log.fail(format!("a subscriber cannot connect: {error}")),
        }
    }
}

fn connect(
    server: SocketAddr,
    behaviour: ClientBehaviour,
    in_query: bool,
) -> Result<WebSocket<TcpStream>, Error> {
    let token = if behaviour == ClientBehaviour::WrongToken { "wrong" } else { TOKEN };
    let query = if in_query { format!("?token={token}") } else { String::new() };
    let mut request = format!("ws://{server}/usage{query}").into_client_request()?;
    if !in_query {
        request.headers_mut().insert("Authorization", format!("Bearer {token}").parse().unwrap());
    }
    let socket = TcpStream::connect(server)?;
    socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    let connected = tungstenite::client(request, socket).map_err(|error| match error {
        tungstenite::HandshakeError::Failure(error) => error,
        tungstenite::HandshakeError::Interrupted(_) => Error::Io(ErrorKind::TimedOut.into()),
    })?;
    connected.0.get_ref().set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(connected.0)
}

/// Reads updates for a while, and checks that none is missed and that the agent answers a close frame.
fn read(
    socket: &mut WebSocket<TcpStream>,
    stay: Duration,
    end: ClientEnd,
    log: &FaultLog,
) -> Result<(), Error> {
    let (start, generation) = (Instant::now(), log.vanish_generation.load(Ordering::Relaxed));
    let (mut last, mut closing, mut counted): (Option<Instant>, Option<Instant>, bool) =
        (None, None, false);
    let result = loop {
        match socket.read() {
            Ok(Message::Text(text)) if text.contains("\"usage_update\"") => {
                let now = Instant::now();
                if let Some(last) = last {
                    log.count("updates", 1);
                    if now - last > MAX_GAP && !log.was_active(STOPPED, last, now) {
                        log.fail(format!("an update came {:?} after the one before", now - last));
                    }
                }
                last = Some(now);
            }
            Ok(_) => {}
            Err(Error::ConnectionClosed) if closing.is_some() => {
                log.count("close frames answered", 1);
                break Ok(());
            }
            Err(Error::Io(error))
                if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
            Err(error) => break Err(error),
        }
        let now = Instant::now();
        if last.is_some() && !counted {
            counted = true;
            log.subscribers.fetch_add(1, Ordering::Relaxed);
        }
        let is_due = now - start > stay || log.is_stopping();
        if log.vanish_generation.load(Ordering::Relaxed) != generation
            || (is_due && end == ClientEnd::Vanishes)
        {
            break Ok(());
        }
        if let Some(closing) = closing {
            if now - closing > CLOSE_TIMEOUT && !log.was_active(STOPPED, closing, now) {
                log.fail(format!("no answer to a close frame within {CLOSE_TIMEOUT:?}"));
                break Ok(());
            }
        } else if is_due && last.is_some() {
            // Fails if the send buffer is full; then the frame is sent by the next read.
            let _ = socket.close(None);
            closing = Some(now);
        } else if now - last.unwrap_or(start) > CONNECT_TIMEOUT {
            log.fail(format!("no update for {CONNECT_TIMEOUT:?}"));
            break Ok(());
        }
    };
    if counted {
        log.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
    result
}
