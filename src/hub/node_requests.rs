//! Requests that wait for the answer of a node.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::hub::Hub;
use crate::hub::event_loop::mailbox::LoopMessage;
use crate::hub::nodes::shared::InstanceId;
use crate::hub::nodes::{LinkId, RequestLink};
use crate::hub_extension::messages::{self, GetRequest, HubMessage, ResponseHead};
use crate::util::sync::lock;

/// Requests that one connection has not answered. It answers one after the other.
const MAX_PER_LINK: usize = 8;
/// Clients that wait for one other hub, which may hang.
const MAX_PER_HUB: usize = 300;
/// Clients that wait for nodes. Others of the port must be served, too.
const MAX_WAITING: usize = 1500;

const STATUS_CODES: [&str; 5] = ["200", "404", "502", "503", "504"];

/// What a node has answered.
#[derive(Debug, PartialEq, Eq)]
pub struct NodeAnswer {
    pub head: ResponseHead,
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum NoAnswer {
    UnknownNode,
    /// It is connected to this other hub.
    Elsewhere(InstanceId),
    /// How long it has been disconnected; `None`: it has not connected since the hub started.
    NotConnected(Option<Duration>),
    /// None of its connections is one of an hm-agent that answers requests.
    NotSupported,
    /// Too many requests to this node are in progress.
    TooMany,
    /// Too many requests to all nodes are in progress.
    TooManyInAll,
    /// Earlier requests have timed out, and are still not answered.
    Unresponsive,
    /// The connection has ended meanwhile.
    Disconnected,
    Timeout,
}

/// A request that was sent. It counts until the node has answered it, even if nothing waits any more: otherwise requests would pile up
/// at a slow node.
struct Pending {
    link: LinkId,
    /// `None`: it has timed out.
    answer: Option<SyncSender<NodeAnswer>>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    waiting: usize,
    /// Of those, requests that other hubs answer.
    forwarded: HashMap<InstanceId, usize>,
    by_id: HashMap<u64, Pending>,
}

/// The requests of all clients.
#[derive(Default)]
pub struct NodeRequests {
    state: Mutex<State>,
    /// Responses to clients by [`STATUS_CODES`].
    responses: [AtomicU64; STATUS_CODES.len()],
}

impl NodeRequests {
    /// Counts a response to a client by the code that its status begins with.
    pub fn count(&self, status: &str) {
        let codes = STATUS_CODES.iter().zip(&self.responses);
        for (_, count) in codes.filter(|(code, _)| status.starts_with(**code)) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Responses to clients by status code, and how many clients wait for one.
    pub fn counts(&self) -> ([(&'static str, u64); STATUS_CODES.len()], usize) {
        let count = |at: usize| (STATUS_CODES[at], self.responses[at].load(Relaxed));
        (std::array::from_fn(count), lock(&self.state).waiting)
    }

    fn begin(&self, link: LinkId) -> Result<(u64, Receiver<NodeAnswer>), NoAnswer> {
        let mut state = lock(&self.state);
        let of_link = || state.by_id.values().filter(|pending| pending.link == link);
        if of_link().count() >= MAX_PER_LINK {
            return Err(match of_link().any(|pending| pending.answer.is_none()) {
                true => NoAnswer::Unresponsive,
                false => NoAnswer::TooMany,
            });
        }
        if state.waiting >= MAX_WAITING {
            return Err(NoAnswer::TooManyInAll);
        }
        state.waiting += 1;
        state.last_id += 1;
        let (id, (answer, receiver)) = (state.last_id, sync_channel(1));
        state.by_id.insert(id, Pending { link, answer: Some(answer) });
        Ok((id, receiver))
    }

    /// Nothing waits for this request any more.
    fn end(&self, id: u64) {
        let mut state = lock(&self.state);
        state.waiting -= 1;
        if let Some(pending) = state.by_id.get_mut(&id) {
            pending.answer = None;
        }
    }

    /// Counts a request that another hub answers, until the result is dropped.
    pub fn begin_forwarded(&self, instance: InstanceId) -> Result<Forwarded<'_>, NoAnswer> {
        let mut state = lock(&self.state);
        let of_hub = state.forwarded.get(&instance).copied().unwrap_or_default();
        if state.waiting >= MAX_WAITING || of_hub >= MAX_PER_HUB {
            return Err(NoAnswer::TooManyInAll);
        }
        state.waiting += 1;
        state.forwarded.insert(instance, of_hub + 1);
        Ok(Forwarded { requests: self, instance })
    }

    /// Passes on what arrived on `link`, unless nothing waits for it any more. Returns whether it is the answer to a request that was sent
    /// on this connection.
    pub fn on_answer(&self, link: LinkId, head: ResponseHead, body: &[u8]) -> bool {
        let mut state = lock(&self.state);
        if state.by_id.get(&head.id).is_none_or(|pending| pending.link != link) {
            return false;
        }
        let pending = state.by_id.remove(&head.id);
        drop(state);
        if let Some(answer) = pending.and_then(|pending| pending.answer) {
            // The channel has room for one, and the client may have given up.
            let _ = answer.try_send(NodeAnswer { head, body: body.to_vec() });
        }
        true
    }

    /// Ends the requests of a connection that has ended.
    pub fn on_disconnect(&self, link: LinkId) {
        lock(&self.state).by_id.retain(|_, pending| pending.link != link);
    }
}

/// A request that another hub answers.
pub struct Forwarded<'a> {
    requests: &'a NodeRequests,
    instance: InstanceId,
}

impl Drop for Forwarded<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.requests.state);
        state.waiting -= 1;
        if let Some(count) = state.forwarded.get_mut(&self.instance) {
            *count -= 1;
        }
    }
}

/// Sends a request to a node and waits for its answer. `with_id` makes the request.
pub fn request(
    hub: &Hub,
    node_id: &str,
    with_id: impl FnOnce(u64) -> GetRequest,
    timeout: Duration,
) -> Result<NodeAnswer, NoAnswer> {
    let (link, (id, answer)) = {
        // A connection that ends leaves the nodes first and ends its requests then: with this lock, none begins in between.
        let nodes = lock(&hub.nodes);
        let link = match nodes.request_link(Instant::now(), node_id) {
            RequestLink::Link(link) => link,
            RequestLink::UnknownNode => return Err(NoAnswer::UnknownNode),
            RequestLink::Elsewhere(instance) => return Err(NoAnswer::Elsewhere(instance)),
            RequestLink::NotConnected(time) => return Err(NoAnswer::NotConnected(time)),
            RequestLink::NotSupported => return Err(NoAnswer::NotSupported),
        };
        (link, hub.requests.begin(link)?)
    };
    let bytes = messages::encode(&HubMessage::Get(with_id(id)), b"");
    hub.send(link.event_loop, LoopMessage::SendBinary { link: link.number, bytes });
    let result = answer.recv_timeout(timeout).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoAnswer::Timeout,
        RecvTimeoutError::Disconnected => NoAnswer::Disconnected,
    });
    hub.requests.end(id);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(id: u64) -> ResponseHead {
        ResponseHead { id, status: 200, content_type: String::new(), gzip: false }
    }

    fn link(number: u64) -> LinkId {
        LinkId { event_loop: 0, number }
    }

    #[test]
    fn answer_reaches_its_request_only_from_its_own_node() {
        let requests = NodeRequests::default();
        let (id, receiver) = requests.begin(link(1)).unwrap();
        assert!(!requests.on_answer(link(2), head(id), b""));
        assert!(!requests.on_answer(link(1), head(id + 1), b""));
        assert!(receiver.try_recv().is_err());
        assert!(requests.on_answer(link(1), head(id), b"x"));
        assert_eq!(receiver.try_recv(), Ok(NodeAnswer { head: head(id), body: b"x".to_vec() }));
        assert!(!requests.on_answer(link(1), head(id), b""));
        requests.end(id);
        assert_eq!(lock(&requests.state).waiting, 0);
    }

    #[test]
    fn request_counts_until_it_is_answered_or_its_connection_ends() {
        let requests = NodeRequests::default();
        let (_, other) = requests.begin(link(2)).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| requests.begin(link(1)).ok()).collect();
        assert_eq!(waiting.len(), MAX_PER_LINK);
        assert_eq!(requests.begin(link(1)).unwrap_err(), NoAnswer::TooMany);
        requests.end(waiting[0].0);
        assert_eq!(requests.begin(link(1)).unwrap_err(), NoAnswer::Unresponsive);
        assert!(requests.on_answer(link(1), head(waiting[0].0), b""), "late");
        assert!(requests.begin(link(1)).is_ok());
        requests.on_disconnect(link(1));
        assert_eq!(waiting[1].1.recv(), Err(std::sync::mpsc::RecvError));
        assert_eq!(other.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    }

    #[test]
    fn clients_that_wait_for_one_hub_are_bounded() {
        let requests = NodeRequests::default();
        let waiting: Vec<_> = (0..MAX_PER_HUB).map(|_| requests.begin_forwarded(7)).collect();
        assert!(waiting.iter().all(Result::is_ok));
        assert!(requests.begin_forwarded(7).is_err() && requests.begin_forwarded(8).is_ok());
        drop(waiting);
        assert!(requests.begin_forwarded(7).is_ok());
        assert_eq!(lock(&requests.state).waiting, 0);
    }

    #[test]
    fn waiting_clients_are_bounded() {
        let requests = NodeRequests::default();
        let waiting: Vec<_> =
            (0..MAX_WAITING as u64).map(|number| requests.begin(link(number))).collect();
        assert!(waiting.iter().all(Result::is_ok));
        assert_eq!(requests.begin(link(9999)).unwrap_err(), NoAnswer::TooManyInAll);
    }
}
