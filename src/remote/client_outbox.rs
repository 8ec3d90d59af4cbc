//! What waits to be sent to one client. Latest wins: for a slow client, a newer notification of a host replaces the
//! older one.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::http::client_network::ClientNetwork;
use crate::remote::protocol::request::NotificationSet;
use crate::sys::EventFd;
use crate::util::sync::lock;

/// The ID of a login request, and its result or the reason of the failure.
pub(super) type Completion = (u64, Result<(), String>);

/// Kinds of notifications. A new one replaces the one of the same host and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotificationKind {
    Connection,
    Sample,
    CpuInfo,
    Process,
    Gpu,
    Rough,
}

impl NotificationKind {
    /// `None`: every client gets it.
    pub(super) fn set(self) -> Option<NotificationSet> {
        match self {
            Self::Connection => None,
            Self::Sample | Self::CpuInfo | Self::Process | Self::Gpu => {
                Some(NotificationSet::Detailed)
            }
            Self::Rough => Some(NotificationSet::Rough),
        }
    }
}

/// A client, and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ClientId {
    pub(super) network: ClientNetwork,
    number: u64,
}

/// Filled by the threads of hosts, drained by the thread of the client's connection.
pub(super) struct ClientOutbox {
    pub(super) id: ClientId,
    pending: Mutex<Pending>,
    changed: EventFd,
}

#[derive(Default)]
struct Pending {
    completions: Vec<Completion>,
    /// WebSocket frames by host and kind, one entry for each pair.
    frames: Vec<(Arc<str>, NotificationKind, Arc<[u8]>)>,
}

impl ClientOutbox {
    pub(super) fn new(address: IpAddr) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = ClientId { network: address.into(), number };
        Ok(Self { id, pending: Mutex::default(), changed: EventFd::new()? })
    }

    /// Adds the result of a login request.
    pub(super) fn complete(&self, request_id: u64, result: Result<(), String>) {
        lock(&self.pending).completions.push((request_id, result));
        self.changed.notify();
    }

    /// Adds frames. They replace those of the same host and kind, which are out of date.
    pub(super) fn put(&self, host: &Arc<str>, kind: NotificationKind, frames: &Arc<[u8]>) {
        let mut pending = lock(&self.pending);
        let queued =
            pending.frames.iter_mut().find(|(known, queued, _)| known == host && *queued == kind);
        match queued {
            Some((_, _, old)) => *old = frames.clone(),
            None => pending.frames.push((host.clone(), kind, frames.clone())),
        }
        drop(pending);
        self.changed.notify();
    }

    /// Drops the notifications of a host that the client no longer watches; its connection state is still sent. `set`
    /// is `None` for all of them.
    pub(super) fn discard(&self, host: &str, set: Option<NotificationSet>) {
        let is_discarded = |kind: NotificationKind| match (kind.set(), set) {
            (None, _) => false,
            (_, None) => true,
            (of_kind, selected) => of_kind == selected,
        };
        lock(&self.pending)
            .frames
            .retain(|(known, kind, _)| &**known != host || !is_discarded(*kind));
    }

    /// Takes the results of login requests, and resets [`ClientOutbox::changed_fd`].
    pub(super) fn take_completions(&self) -> Vec<Completion> {
        self.changed.reset();
        std::mem::take(&mut lock(&self.pending).completions)
    }

    /// Takes the frames that were queued first, of one host and kind.
    pub(super) fn next_frames(&self) -> Option<Arc<[u8]>> {
        let mut pending = lock(&self.pending);
        (!pending.frames.is_empty()).then(|| pending.frames.remove(0).2)
    }

    /// Readable if anything was added since the last [`ClientOutbox::take_completions`].
    pub(super) fn changed_fd(&self) -> BorrowedFd<'_> {
        self.changed.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_latest_notification_of_each_kind() {
        let outbox = ClientOutbox::new([127, 0, 0, 1].into()).expect("an eventfd");
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let bytes = |text: &str| -> Arc<[u8]> { text.as_bytes().into() };
        for round in ["1", "2", "3"] {
            outbox.put(&a, NotificationKind::Sample, &bytes(round));
            outbox.put(&b, NotificationKind::Sample, &bytes(round));
            outbox.put(&b, NotificationKind::Rough, &bytes("r"));
        }
        outbox.discard("b", Some(NotificationSet::Rough));
        let frames: Vec<_> = std::iter::from_fn(|| outbox.next_frames()).collect();
        assert_eq!(frames, [bytes("3"), bytes("3")]);
        outbox.put(&b, NotificationKind::Rough, &bytes("r"));
        outbox.put(&b, NotificationKind::Connection, &bytes("c"));
        outbox.discard("b", None);
        assert_eq!(outbox.next_frames(), Some(bytes("c")), "the last connection state is sent");
    }
}
