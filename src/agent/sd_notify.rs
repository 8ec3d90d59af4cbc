//! Reports readiness and liveness to systemd, or to the agent's own supervisor, by the protocol of sd_notify(3). Nothing here
//! blocks: a message that cannot be sent is retried.
//!
//! The main thread owns this and sends watchdog messages on behalf of all threads: [`SdNotifier::poll`] checks before each
//! message whether one of them is stalled. A thread of its own would only prove that it runs itself.
//!
//! Not the crate sd-notify: its socket blocks, and it cannot send to a socket that is inherited as standard input.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::sys;
use crate::util::error::reason;

/// Time between two attempts to send a message, and between two checks of a stalled thread.
const NOTIFY_RETRY: Duration = Duration::from_secs(1);

/// The connection to a service manager.
pub struct SdNotifier {
    /// `None`: there is no service manager. The address is `None` for a connected socket.
    socket: Option<(UnixDatagram, Option<SocketAddr>)>,
    /// A message that was not sent yet. A later one replaces it.
    pending: Option<String>,
    /// Time between two watchdog messages, if the service manager expects them.
    watchdog_interval: Option<Duration>,
    next_watchdog: Instant,
    /// Consecutive checks that found a stalled thread.
    stalled_checks: u32,
}

impl SdNotifier {
    /// Uses the service manager that the environment names.
    pub fn from_environment() -> Self {
        let variable = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let socket = variable.and_then(|name| match open_socket(&name) {
            Ok((socket, address)) => Some((socket, Some(address))),
            Err(error) => {
                let (name, why) = (name.to_string_lossy(), reason(&error));
                log::warn!(
                    "NOTIFY_SOCKET {}: {why}; the service manager is not notified",
                    name.escape_debug()
                );
                None
            }
        });
        Self::new(socket)
    }

    /// Uses the supervisor at the other end of standard input. From now on the supervisor's exit is a SIGTERM, so that its
    /// agent is not left beside the next one. `None` if it has exited already.
    pub fn to_supervisor(supervisor: u32) -> io::Result<Option<Self>> {
        if !sys::children::set_parent_death_signal(supervisor) {
            return Ok(None);
        }
        let socket = UnixDatagram::from(io::stdin().as_fd().try_clone_to_owned()?);
        socket.set_nonblocking(true)?;
        Ok(Some(Self::new(Some((socket, None)))))
    }

    fn new(socket: Option<(UnixDatagram, Option<SocketAddr>)>) -> Self {
        // Half of the timeout, as sd_watchdog_enabled(3) recommends.
        let watchdog_interval =
            socket.as_ref().and_then(|_| watchdog_timeout()).map(|time| time / 2);
        let next_watchdog = Instant::now();
        Self { socket, pending: None, watchdog_interval, next_watchdog, stalled_checks: 0 }
    }

    /// All ports are open, or the configuration was reloaded.
    pub fn ready(&mut self, status: &str) {
        // A line break would start another field of the message.
        self.notify(format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// The configuration is being reloaded. `Type=notify-reload` needs the time.
    pub fn reloading(&mut self) {
        let time = sys::process::monotonic_clock().unwrap_or_default();
        self.notify(format!("RELOADING=1\nMONOTONIC_USEC={}", time.as_micros()));
    }

    pub fn stopping(&mut self) {
        self.notify("STOPPING=1\nSTATUS=stopping".to_owned());
    }

    fn notify(&mut self, message: String) {
        self.pending = self.socket.is_some().then_some(message);
        self.flush();
    }

    /// Does what is due: sends the pending message, and a watchdog message unless `stalled` names a thread. Returns the time
    /// until the next call; `None` if there is nothing to do.
    pub fn poll(&mut self, stalled: impl FnOnce() -> Option<&'static str>) -> Option<Duration> {
        self.flush();
        let retry = self.pending.as_ref().map(|_| NOTIFY_RETRY);
        let Some(interval) = self.watchdog_interval else { return retry };
        let now = Instant::now();
        let wait = if now < self.next_watchdog {
            self.next_watchdog - now
        } else if let Some(name) = stalled() {
            self.stalled_checks = self.stalled_checks.saturating_add(1);
            // After a pause of the whole process, the first check may find every thread stalled.
            if self.stalled_checks == 2 {
                log::error!("thread {name} is stalled: no watchdog messages are sent");
            }
            NOTIFY_RETRY
        } else {
            if self.stalled_checks > 1 {
                log::warn!("stalled thread recovered");
            }
            self.stalled_checks = 0;
            self.send(b"WATCHDOG=1");
            self.next_watchdog = now + interval;
            interval
        };
        Some(retry.map_or(wait, |retry| retry.min(wait)))
    }

    fn flush(&mut self) {
        if let Some(message) = self.pending.take()
            && !self.send(message.as_bytes())
        {
            self.pending = Some(message);
        }
    }

    /// Returns false if the message must be sent again.
    fn send(&self, message: &[u8]) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        let sent = match address {
            Some(address) => socket.send_to_addr(message, address),
            None => socket.send(message),
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                log::debug!("notify the service manager: {}", reason(&error));
                true
            }
            Ok(_) => true,
        }
    }
}

/// Opens a socket for an address in `NOTIFY_SOCKET`: a path, or an abstract name after an @.
fn open_socket(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// The service manager's watchdog timeout: sd_watchdog_enabled(3). It is not for this process if another one is named.
fn watchdog_timeout() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = match std::env::var_os("WATCHDOG_PID") {
        Some(_) => number("WATCHDOG_PID") == Some(std::process::id().into()),
        None => true,
    };
    number("WATCHDOG_USEC").filter(|time| ours && *time > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (SdNotifier, UnixDatagram) {
        let (own, peer) = UnixDatagram::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        peer.set_nonblocking(true).unwrap();
        let mut notifier = SdNotifier::new(Some((own, None)));
        notifier.watchdog_interval = None; // whatever this test's own environment says
        (notifier, peer)
    }

    fn received(peer: &UnixDatagram) -> Vec<String> {
        let mut message = [0; 256];
        let next = || peer.recv(&mut message).ok().map(|length| message[..length].to_vec());
        std::iter::from_fn(next).map(|message| String::from_utf8(message).unwrap()).collect()
    }

    #[test]
    fn retries_unsent_message_and_keeps_only_last_one() {
        let (mut notifier, peer) = pair();
        while notifier.send(b"WATCHDOG=1") {}
        notifier.reloading();
        notifier.ready("two\nlines");
        assert_eq!(notifier.poll(|| None), Some(NOTIFY_RETRY));
        assert!(received(&peer).iter().all(|message| message == "WATCHDOG=1"));
        assert_eq!(notifier.poll(|| None), None);
        assert_eq!(received(&peer), ["READY=1\nSTATUS=two lines"]);
    }

    #[test]
    fn sends_watchdog_message_when_due_and_no_thread_is_stalled() {
        let (mut notifier, peer) = pair();
        let interval = Duration::from_secs(3600);
        notifier.watchdog_interval = Some(interval);
        assert_eq!(notifier.poll(|| Some("sampler")), Some(NOTIFY_RETRY));
        assert!(received(&peer).is_empty());
        assert_eq!(notifier.poll(|| None), Some(interval));
        assert_eq!(received(&peer), ["WATCHDOG=1"]);
        assert!(notifier.poll(|| panic!("nothing is due")).is_some_and(|wait| wait <= interval));
        assert!(received(&peer).is_empty());
    }

    #[test]
    fn ignores_closed_service_manager_socket() {
        let (mut notifier, peer) = pair();
        drop(peer);
        notifier.stopping();
        assert_eq!(notifier.poll(|| None), None);
    }

    #[test]
    fn accepts_path_and_abstract_socket_names_only() {
        assert!(open_socket("/run/systemd/notify".as_ref()).unwrap().1.as_pathname().is_some());
        let (_, address) = open_socket("@hm".as_ref()).unwrap();
        assert_eq!(address.as_abstract_name(), Some(&b"hm"[..]));
        assert!(open_socket("vsock:2:1".as_ref()).is_err());
        assert!(open_socket("notify".as_ref()).is_err());
    }
}
