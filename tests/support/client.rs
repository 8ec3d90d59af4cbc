//! A WebSocket client of the agent.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use super::TEST_TIMEOUT;

pub struct Client(pub WebSocket<TcpStream>);

impl Client {
    pub fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).unwrap();
    }

    /// Reads the next message that is no ping. A read with a timeout is interrupted if the process is stopped and continued.
    fn read(&mut self) -> Message {
        loop {
            match self.0.read() {
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Message::Ping(_)) => {}
                message => return message.unwrap(),
            }
        }
    }

    /// Reads the next message that is no ping.
    pub fn json(&mut self) -> serde_json::Value {
        match self.read() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("expected text, got {other:?}"),
        }
    }

    /// Reads until the close frame.
    pub fn closed(&mut self) -> CloseFrame {
        loop {
            if let Message::Close(frame) = self.read() {
                return frame.unwrap();
            }
        }
    }

    /// Asserts that no message arrives within `time`. Pings are no messages.
    pub fn assert_no_message_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        let read = loop {
            let left =
                deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.0.get_ref().set_read_timeout(Some(left)).unwrap();
            match self.0.read() {
                Ok(Message::Ping(_)) => {}
                read => break read,
            }
        };
        assert!(
            matches!(&read, Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock),
            "{read:?}"
        );
        self.0.get_ref().set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
    }
}
