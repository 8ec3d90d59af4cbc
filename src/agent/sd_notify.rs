//! Tells whoever looks after the agent how it goes: systemd, by the protocol of sd_notify(3), or a supervisor, by the same
//! words. Nothing here waits: what cannot be sent is tried again, and an agent that nobody listens to goes on.
//!
//! The main thread owns it and beats for all the others: [`Notifier::tend`] asks before every beat whether one of them hangs.
//! A beat on a thread of its own would prove that this thread lives.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use crate::limits;
use crate::sys;
use crate::util::error::reason;

/// Whom to tell, and what is still to be told.
pub struct SdNotifier {
    /// `None`: nobody.
    to: Option<(UnixDatagram, Option<SocketAddr>)>,
    /// What nobody took yet. The last word counts.
    unsaid: Option<String>,
    /// Time between two beats, and when the next one is due.
    beats: Option<(Duration, Instant)>,
    /// How often in a row a thread was found late.
    late: u32,
}

impl SdNotifier {
    /// The service manager that the environment names, if it names one.
    pub fn from_environment() -> Self {
        let variable = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let to = variable.and_then(|name| match socket(&name) {
            Ok((socket, address)) => Some((socket, Some(address))),
            Err(error) => {
                let (name, why) = (name.to_string_lossy(), reason(&error));
                log::warn!("NOTIFY_SOCKET {}: {why}; nobody is told", name.escape_debug());
                None
            }
        });
        Self::new(to)
    }

    /// The supervisor at the other end of standard input, of which there is one while the process `supervisor` lives: from now
    /// on its end is a SIGTERM, so that its agent is not left behind as a second one. `None`: it has ended already.
    pub fn to_supervisor(supervisor: u32) -> io::Result<Option<Self>> {
        if !sys::children::hear_of_parents_end(supervisor) {
            return Ok(None);
        }
        let socket = UnixDatagram::from(io::stdin().as_fd().try_clone_to_owned()?);
        socket.set_nonblocking(true)?;
        Ok(Some(Self::new(Some((socket, None)))))
    }

    fn new(to: Option<(UnixDatagram, Option<SocketAddr>)>) -> Self {
        let every = to.as_ref().and_then(|_| watched_every());
        // Half of what may pass between two.
        let beats = every.map(|every| (every / 2, Instant::now()));
        Self { to, unsaid: None, beats, late: 0 }
    }

    /// All ports are open, or the settings were read again.
    pub fn ready(&mut self, status: &str) {
        // A line of its own would be another word.
        self.say(format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// The settings are read again. The time is for `Type=notify-reload`.
    pub fn reloading(&mut self) {
        let microseconds = sys::process::monotonic().as_micros();
        self.say(format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// It ends.
    pub fn stopping(&mut self) {
        self.say("STOPPING=1\nSTATUS=stopping".to_owned());
    }

    /// Something else, in the protocol's own words.
    pub fn say(&mut self, words: String) {
        self.unsaid = self.to.is_some().then_some(words);
        self.tell();
    }

    /// Does what is due: says again what nobody took, and beats, unless `late` names a thread that hangs. How long
    /// nothing will be due.
    pub fn tend(&mut self, late: impl FnOnce() -> Option<&'static str>) -> Option<Duration> {
        self.tell();
        let again = self.unsaid.as_ref().map(|_| limits::TELL_AGAIN);
        let Some((every, due)) = self.beats else { return again };
        let now = Instant::now();
        let wait = if now < due {
            due - now
        } else if let Some(name) = late() {
            self.late = self.late.saturating_add(1);
            // At the first look all may be late, after a pause of the whole process.
            if self.late == 2 {
                log::error!(
                    "the thread {name} hangs: the service manager is not told that all is well"
                );
            }
            limits::TELL_AGAIN
        } else {
            if self.late > 1 {
                log::warn!("no thread hangs any more");
            }
            self.late = 0;
            self.send(b"WATCHDOG=1");
            self.beats = Some((every, now + every));
            every
        };
        Some(again.map_or(wait, |again| again.min(wait)))
    }

    fn tell(&mut self) {
        if let Some(words) = self.unsaid.take()
            && !self.send(words.as_bytes())
        {
            self.unsaid = Some(words);
        }
    }

    /// Whether nothing is left to be done for it: it was sent, or nobody is there.
    fn send(&self, words: &[u8]) -> bool {
        let Some((socket, address)) = &self.to else { return true };
        let sent = match address {
            Some(address) => socket.send_to_addr(words, address),
            None => socket.send(words),
        };
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => {
                log::debug!("tell the service manager: {}", reason(&error));
                true
            }
            Ok(_) => true,
        }
    }
}

/// A path, or a name in no directory, which is written with an @.
fn socket(name: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// How long nobody may be heard of who is watched: sd_watchdog_enabled(3). It is not for us if another process is named.
fn watched_every() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = match std::env::var_os("WATCHDOG_PID") {
        Some(_) => number("WATCHDOG_PID") == Some(std::process::id().into()),
        None => true,
    };
    number("WATCHDOG_USEC").filter(|every| ours && *every > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (SdNotifier, UnixDatagram) {
        let (own, other) = UnixDatagram::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        (SdNotifier { to: Some((own, None)), unsaid: None, beats: None, late: 0 }, other)
    }

    fn heard(other: &UnixDatagram) -> Vec<String> {
        let mut part = [0; 256];
        let next = || other.recv(&mut part).ok().map(|length| part[..length].to_vec());
        std::iter::from_fn(next).map(|words| String::from_utf8(words).unwrap()).collect()
    }

    #[test]
    fn what_nobody_takes_is_said_again_and_the_last_word_counts() {
        let (mut notifier, other) = pair();
        while notifier.send(b"WATCHDOG=1") {}
        notifier.reloading();
        notifier.ready("two\nlines");
        assert_eq!(notifier.tend(|| None), Some(limits::TELL_AGAIN));
        assert!(heard(&other).iter().all(|words| words == "WATCHDOG=1"));
        assert_eq!(notifier.tend(|| None), None);
        assert_eq!(heard(&other), ["READY=1\nSTATUS=two lines"]);
    }

    #[test]
    fn it_beats_when_a_beat_is_due_and_nobody_is_late() {
        let (mut notifier, other) = pair();
        let every = Duration::from_secs(3600);
        notifier.beats = Some((every, Instant::now()));
        assert_eq!(notifier.tend(|| Some("sampler")), Some(limits::TELL_AGAIN));
        assert!(heard(&other).is_empty());
        assert_eq!(notifier.tend(|| None), Some(every));
        assert_eq!(heard(&other), ["WATCHDOG=1"]);
        assert!(notifier.tend(|| panic!("nothing is due")).is_some_and(|wait| wait <= every));
        assert!(heard(&other).is_empty());
    }

    #[test]
    fn nobody_who_listens_is_no_trouble() {
        let (mut notifier, other) = pair();
        drop(other);
        notifier.stopping();
        assert_eq!(notifier.tend(|| None), None);
    }

    #[test]
    fn names_of_sockets() {
        assert!(socket("/run/systemd/notify".as_ref()).unwrap().1.as_pathname().is_some());
        let (_, address) = socket("@hm".as_ref()).unwrap();
        assert_eq!(address.as_abstract_name(), Some(&b"hm"[..]));
        assert!(socket("vsock:2:1".as_ref()).is_err() && socket("notify".as_ref()).is_err());
    }
}
