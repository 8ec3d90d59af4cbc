//! Requests that wait for the answer of a node.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::hub::Hub;
use crate::hub::event_loop::mailbox::LoopMessage;
use crate::hub::nodes::{LinkId, RequestLink};
use crate::hub_extension::messages::{self, GetRequest, HubMessage, ResponseHead};
use crate::util::sync::lock;

/// Requests to one node that wait at the same time. It answers one after the other.
const MAX_PER_LINK: usize = 8;

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
    /// It has no connection; since when, unless it has had none since the hub started.
    NotConnected(Option<Duration>),
    /// None of its connections is one of an hm-agent that answers requests.
    NotSupported,
    TooMany,
    /// The connection has ended meanwhile.
    Disconnected,
    Timeout,
}

struct Pending {
    link: LinkId,
    answer: SyncSender<NodeAnswer>,
}

#[derive(Default)]
struct State {
    last_id: u64,
    by_id: HashMap<u64, Pending>,
}

/// The requests of all clients.
#[derive(Default)]
pub struct NodeRequests(Mutex<State>);

impl NodeRequests {
    fn begin(&self, link: LinkId) -> Option<(u64, Receiver<NodeAnswer>)> {
        let mut state = lock(&self.0);
        if state.by_id.values().filter(|pending| pending.link == link).count() >= MAX_PER_LINK {
            return None;
        }
        state.last_id += 1;
        let (id, (answer, receiver)) = (state.last_id, sync_channel(1));
        state.by_id.insert(id, Pending { link, answer });
        Some((id, receiver))
    }

    fn end(&self, id: u64) {
        lock(&self.0).by_id.remove(&id);
    }

    /// Passes on what arrived on `link`, unless nothing waits for it any more. A node cannot answer what was sent to another.
    pub fn on_answer(&self, link: LinkId, answer: NodeAnswer) {
        let id = answer.head.id;
        let mut state = lock(&self.0);
        if state.by_id.get(&id).is_some_and(|pending| pending.link == link)
            && let Some(pending) = state.by_id.remove(&id)
        {
            // The channel has room for one, and the client may have given up.
            let _ = pending.answer.try_send(answer);
        }
    }

    /// Ends the requests of a connection that has ended.
    pub fn on_disconnect(&self, link: LinkId) {
        lock(&self.0).by_id.retain(|_, pending| pending.link != link);
    }
}

/// Sends a request to a node and waits for its answer.
pub fn request(
    hub: &Hub,
    node_id: &str,
    mut request: GetRequest,
    timeout: Duration,
) -> Result<NodeAnswer, NoAnswer> {
    let link = match lock(&hub.nodes).request_link(node_id) {
        RequestLink::Link(link) => link,
        RequestLink::UnknownNode => return Err(NoAnswer::UnknownNode),
        RequestLink::NotConnected(since) => return Err(NoAnswer::NotConnected(since)),
        RequestLink::NotSupported => return Err(NoAnswer::NotSupported),
    };
    let (id, answer) = hub.requests.begin(link).ok_or(NoAnswer::TooMany)?;
    request.id = id;
    let bytes = messages::encode(&HubMessage::Get(request), b"");
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

    fn answer(id: u64) -> NodeAnswer {
        let head = ResponseHead { id, status: 200, content_type: String::new(), gzip: false };
        NodeAnswer { head, body: Vec::new() }
    }

    fn link(number: u64) -> LinkId {
        LinkId { event_loop: 0, number }
    }

    #[test]
    fn answer_reaches_its_request_only_from_its_own_node() {
        let requests = NodeRequests::default();
        let (id, receiver) = requests.begin(link(1)).unwrap();
        requests.on_answer(link(2), answer(id));
        requests.on_answer(link(1), answer(id + 1));
        assert!(receiver.try_recv().is_err());
        requests.on_answer(link(1), answer(id));
        assert_eq!(receiver.try_recv(), Ok(answer(id)));
        requests.on_answer(link(1), answer(id));
    }

    #[test]
    fn requests_end_with_their_connection_and_are_bounded_per_connection() {
        let requests = NodeRequests::default();
        let (_, other) = requests.begin(link(2)).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| requests.begin(link(1))).collect();
        assert_eq!(waiting.len(), MAX_PER_LINK);
        requests.end(waiting[0].0);
        assert!(requests.begin(link(1)).is_some());
        requests.on_disconnect(link(1));
        assert_eq!(waiting[1].1.recv(), Err(std::sync::mpsc::RecvError));
        assert_eq!(other.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    }
}
