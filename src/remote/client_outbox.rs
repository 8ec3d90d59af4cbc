//! What waits for one client: a slow one finds the latest of each host's events, not all of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use crate::sys::EventFd;
use crate::util::sync::lock;

/// What became of a host that was asked for, by ticket.
pub type Outcome = (u64, Result<(), String>);

/// Which of a host's notifications; those of one kind replace each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Connection,
    Look,
    CpuInfo,
    Process,
    Gpu,
    Rough,
}

/// A client's mailbox.
pub struct ClientOutbox {
    waiting: Mutex<Waiting>,
    bell: EventFd,
}

#[derive(Default)]
struct Waiting {
    outcomes: Vec<Outcome>,
    /// Frames, by host and kind; at most so many as there are of those.
    frames: Vec<(Arc<str>, Kind, Arc<[u8]>)>,
}

impl ClientOutbox {
    /// An empty one.
    pub fn new() -> io::Result<Self> {
        Ok(Self { waiting: Mutex::default(), bell: EventFd::new()? })
    }

    /// Says what became of a host that was asked for.
    pub(super) fn tell(&self, ticket: u64, outcome: Result<(), String>) {
        lock(&self.waiting).outcomes.push((ticket, outcome));
        self.bell.notify();
    }

    /// Leaves frames; those of the same host and kind that are still there are out of date.
    pub(super) fn leave(&self, host: &Arc<str>, kind: Kind, frames: &Arc<[u8]>) {
        let mut waiting = lock(&self.waiting);
        let same = |(known, its, _): &&mut (Arc<str>, Kind, _)| known == host && *its == kind;
        match waiting.frames.iter_mut().find(same) {
            Some((_, _, old)) => *old = frames.clone(),
            None => waiting.frames.push((host.clone(), kind, frames.clone())),
        }
        drop(waiting);
        self.bell.notify();
    }

    /// Forgets what waits from a host that is no longer watched.
    pub(super) fn forget(&self, host: &str, rough: Option<bool>) {
        let is_meant = |kind: Kind| rough.is_none_or(|rough| (kind == Kind::Rough) == rough);
        lock(&self.waiting).frames.retain(|(known, kind, _)| {
            &**known != host || *kind == Kind::Connection || !is_meant(*kind)
        });
    }

    /// What became of hosts, since it was asked last.
    pub fn outcomes(&self) -> Vec<Outcome> {
        self.bell.reset();
        std::mem::take(&mut lock(&self.waiting).outcomes)
    }

    /// The frames that have waited longest, of one host and kind.
    pub fn next(&self) -> Option<Arc<[u8]>> {
        let mut waiting = lock(&self.waiting);
        (!waiting.frames.is_empty()).then(|| waiting.frames.remove(0).2)
    }

    /// Readable when something came since [`Mailbox::outcomes`].
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_client_finds_the_latest() {
        let mailbox = ClientOutbox::new().expect("an event");
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let bytes = |text: &str| -> Arc<[u8]> { text.as_bytes().into() };
        for round in ["1", "2", "3"] {
            mailbox.leave(&a, Kind::Look, &bytes(round));
            mailbox.leave(&b, Kind::Look, &bytes(round));
            mailbox.leave(&b, Kind::Rough, &bytes("r"));
        }
        mailbox.forget("b", Some(true));
        let taken: Vec<_> = std::iter::from_fn(|| mailbox.next()).collect();
        assert_eq!(taken, [bytes("3"), bytes("3")]);
        mailbox.leave(&b, Kind::Rough, &bytes("r"));
        mailbox.leave(&b, Kind::Connection, &bytes("c"));
        mailbox.forget("b", None);
        assert_eq!(mailbox.next(), Some(bytes("c")), "how it ended is told");
    }
}
