//! A service manager's ear: the socket that it names in `NOTIFY_SOCKET`.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use super::{PATIENCE, Scratch};

pub struct Manager {
    pub socket: UnixDatagram,
    /// What `NOTIFY_SOCKET` must be.
    pub name: String,
    _directory: Scratch,
}

impl Manager {
    pub fn new() -> Self {
        let directory = Scratch::new("manager");
        let path = directory.0.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, name: path.display().to_string(), _directory: directory }
    }

    /// The next message, if one comes in that time.
    pub fn hear(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).unwrap();
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    /// The next message that is no beat.
    pub fn word(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.hear(left).expect("a word to the service manager");
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    /// How many beats come in that time.
    pub fn beats(&self, time: Duration) -> usize {
        let deadline = Instant::now() + time;
        let mut beats = 0;
        while let Some(message) = self.hear(deadline.saturating_duration_since(Instant::now())) {
            beats += usize::from(message == "WATCHDOG=1");
            if Instant::now() >= deadline {
                break;
            }
        }
        beats
    }
}
