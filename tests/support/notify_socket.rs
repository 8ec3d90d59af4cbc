//! A service manager's end of sd_notify(3): the socket that `NOTIFY_SOCKET` names.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::{TEST_TIMEOUT, TempDir};

pub struct NotifySocket {
    pub socket: UnixDatagram,
    /// The value of `NOTIFY_SOCKET`.
    pub name: String,
    _directory: TempDir,
}

impl NotifySocket {
    pub fn new() -> Self {
        let directory = TempDir::new("notify");
        let path = directory.0.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, name: path.display().to_string(), _directory: directory }
    }

    /// The next message, if one arrives within the timeout.
    pub fn receive(&self, timeout: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    /// The next message that is not a watchdog message.
    pub fn next_message(&self) -> String {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.receive(left).expect("a message to the service manager");
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    /// Counts the watchdog messages that arrive within `time`.
    pub fn count_watchdog(&self, time: Duration) -> usize {
        let deadline = Instant::now() + time;
        let mut count = 0;
        while let Some(message) = self.receive(deadline.saturating_duration_since(Instant::now())) {
            count += usize::from(message == "WATCHDOG=1");
            if Instant::now() >= deadline {
                break;
            }
        }
        count
    }
}
