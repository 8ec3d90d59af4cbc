//! The node's side of the extension on one connection, without I/O.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Secret;
use crate::hub_extension::messages::{
    self, AgentInfo, CredentialHead, GetRequest, HubInfo, HubMessage, NodeMessage, ResponseHead,
    SnapshotHead,
};
use crate::hub_extension::status::NodeStatus;
use crate::model::health_problem::HealthProblem;

/// Time between two snapshots, if no problem begins or ends.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two checks for problems that begin or end.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// A longer snapshot is left out: the hub ends an hm connection for a message of 64 KiB. That of a machine with eight GPUs and a hundred
/// disks has 10 KiB.
const MAX_SNAPSHOT_BYTES: usize = 40 << 10;

/// What a node answers.
pub struct NodeResponse {
    /// HTTP status code.
    pub status: u16,
    pub content_type: &'static str,
    pub is_gzip: bool,
    pub body: Arc<[u8]>,
}

/// What the hub can learn of this node.
pub trait NodeResources: Sync {
    /// `None` until the GPUs are known.
    fn agent_info(&self) -> Option<AgentInfo>;
    fn status(&self) -> NodeStatus;
    /// Does not block.
    fn get(&self, request: &GetRequest) -> NodeResponse;
}

/// State of one connection. It sends nothing to a server that has not announced the extension.
#[derive(Default)]
pub struct NodeExtension {
    is_announced: bool,
    sent: Option<AgentInfo>,
    sends_snapshots: bool,
    next_check: Duration,
    last_snapshot: Option<SentSnapshot>,
    takes_credentials: bool,
    /// The credential that the hub has got on this connection.
    sent_credential: Option<Secret>,
}

struct SentSnapshot {
    at: Duration,
    problems: Vec<HealthProblem>,
}

impl NodeExtension {
    /// `credential` was sent with the handshake.
    pub fn new(credential: Option<Secret>) -> Self {
        Self { sent_credential: credential, ..Self::default() }
    }

    /// Whether the server has got this credential on this connection.
    pub fn has_sent(&self, credential: &Secret) -> bool {
        self.sent_credential.as_ref() == Some(credential)
    }

    /// The server has accepted the node. `hub` is its announcement, if it has sent one.
    pub fn on_accepted(&mut self, hub: Option<&HubInfo>) {
        *self = Self {
            takes_credentials: hub.is_some_and(HubInfo::supports_credential),
            sent_credential: self.sent_credential.take(),
            is_announced: hub.is_some_and(HubInfo::supports_get),
            sends_snapshots: hub.is_some_and(HubInfo::supports_snapshot),
            ..Self::default()
        };
    }

    /// When [`Self::next_message`] should be called again, even if nothing arrives.
    pub fn next_check(&self) -> Option<Duration> {
        (self.is_announced && self.sends_snapshots).then_some(self.next_check)
    }

    /// The credential or the description of the node, if it was not sent on this connection or has changed since, or a snapshot that is
    /// due. `credential` is the one that the node has kept, `now` any clock that does not jump.
    pub fn next_message(
        &mut self,
        resources: &dyn NodeResources,
        credential: Option<Secret>,
        now: Duration,
    ) -> Option<Vec<u8>> {
        if !self.is_announced {
            return None;
        }
        if self.takes_credentials
            && let Some(credential) = credential
            && self.sent_credential.as_ref() != Some(&credential)
        {
            self.sent_credential = Some(credential.clone());
            let head = CredentialHead { credential: credential.into() };
            return Some(messages::encode(&NodeMessage::Credential(head), b""));
        }
        let is_check_due = self.sends_snapshots && now >= self.next_check;
        if is_check_due {
            self.next_check = now + CHECK_INTERVAL;
        }
        let info = resources.agent_info()?.truncate();
        if self.sent.as_ref() != Some(&info) {
            self.sent = Some(info.clone());
            self.next_check = now;
            return Some(messages::encode(&NodeMessage::Node(info), b""));
        }
        is_check_due.then(|| self.snapshot_if_due(resources, now)).flatten()
    }

    fn snapshot_if_due(&mut self, resources: &dyn NodeResources, now: Duration) -> Option<Vec<u8>> {
        let status = resources.status();
        let is_due = self.last_snapshot.as_ref().is_none_or(|last| {
            now.saturating_sub(last.at) >= SNAPSHOT_INTERVAL || last.problems != status.problems
        });
        if !is_due {
            return None;
        }
        self.last_snapshot = Some(SentSnapshot { at: now, problems: status.problems.clone() });
        let snapshot = resources.get(&GetRequest {
            id: 0,
            path: "/snapshot".to_owned(),
            accept: String::new(),
            gzip: true,
        });
        let fits = snapshot.status == 200 && snapshot.body.len() <= MAX_SNAPSHOT_BYTES;
        let body = if fits { &snapshot.body[..] } else { b"" };
        let head = NodeMessage::Snapshot(SnapshotHead { status, gzip: fits && snapshot.is_gzip });
        Some(messages::encode(&head, body))
    }

    /// The answer to a binary message, if it is a request. A later version of the hub may send others.
    pub fn answer(&self, message: &[u8], resources: &dyn NodeResources) -> Option<Vec<u8>> {
        if !self.is_announced {
            return None;
        }
        let (HubMessage::Get(request), _) = messages::decode(message).ok()?;
        let response = resources.get(&request);
        let head = NodeMessage::Response(ResponseHead {
            id: request.id,
            status: response.status,
            content_type: response.content_type.to_owned(),
            gzip: response.is_gzip,
        });
        Some(messages::encode(&head, &response.body))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::model::health_problem::Severity;

    #[derive(Default)]
    struct Resources {
        hostname: Mutex<String>,
        problems: Mutex<Vec<HealthProblem>>,
        snapshot: Mutex<Vec<u8>>,
    }

    impl NodeResources for Resources {
        fn agent_info(&self) -> Option<AgentInfo> {
            let hostname = self.hostname.lock().unwrap().clone();
            (hostname != "unknown").then(|| AgentInfo { hostname, ..AgentInfo::default() })
        }

        fn status(&self) -> NodeStatus {
            NodeStatus { problems: self.problems.lock().unwrap().clone(), ..NodeStatus::default() }
        }

        fn get(&self, request: &GetRequest) -> NodeResponse {
            let body: Arc<[u8]> = match request.path.as_str() {
                "/snapshot" => self.snapshot.lock().unwrap().clone().into(),
                path => path.as_bytes().into(),
            };
            NodeResponse { status: 200, content_type: "text/plain", is_gzip: true, body }
        }
    }

    const GET: &[u8] = b"{\"extension\":\"get\",\"id\":3,\"path\":\"/metrics\"}\n";
    const START: Duration = Duration::from_secs(100);

    fn announced(extensions: &[&str]) -> NodeExtension {
        let mut extension = NodeExtension::default();
        let extensions = extensions.iter().map(ToString::to_string).collect();
        extension.on_accepted(Some(&HubInfo { version: "9".into(), extensions, credential: None }));
        extension
    }

    #[test]
    fn sends_nothing_to_a_server_without_the_extension() {
        let resources = Resources::default();
        let mut none = NodeExtension::default();
        none.on_accepted(None);
        for mut extension in [none, announced(&["other"]), announced(&["snapshot"])] {
            assert_eq!(extension.next_message(&resources, None, START), None);
            assert_eq!(extension.next_check(), None);
            assert_eq!(extension.answer(GET, &resources), None);
        }
    }

    #[test]
    fn describes_the_node_again_after_a_change() {
        let (mut extension, resources) = (announced(&["get"]), Resources::default());
        let set = |hostname: &str| *resources.hostname.lock().unwrap() = hostname.to_owned();
        set("unknown");
        assert_eq!(extension.next_message(&resources, None, START), None);
        set("named");
        assert!(extension.next_message(&resources, None, START).is_some());
        assert_eq!(extension.next_message(&resources, None, START), None);
        set("renamed");
        assert!(extension.next_message(&resources, None, START).is_some());
        // Another connection, or the node was accepted again.
        extension.on_accepted(Some(&HubInfo::own(None)));
        assert!(extension.next_message(&resources, None, START).is_some());
    }

    #[test]
    fn sends_snapshots_every_ten_seconds_and_after_a_change_of_problems() {
        let (mut extension, resources) = (announced(&["get", "snapshot"]), Resources::default());
        *resources.snapshot.lock().unwrap() = b"{}".to_vec();
        assert!(extension.next_message(&resources, None, START).is_some(), "the description");
        let mut sent = |seconds| {
            let now = START + Duration::from_secs(seconds);
            let message = extension.next_message(&resources, None, now);
            assert!(extension.next_check() > Some(now));
            message.map(|message| {
                let (head, body) = messages::decode::<NodeMessage>(&message).unwrap();
                let NodeMessage::Snapshot(head) = head else { panic!("{head:?}") };
                (head.status.problems.len(), head.gzip, body.to_vec())
            })
        };
        assert_eq!(sent(0), Some((0, true, b"{}".to_vec())));
        assert_eq!(sent(0), None);
        assert_eq!(sent(9), None);
        assert_eq!(sent(11), Some((0, true, b"{}".to_vec())));
        let problem = HealthProblem { severity: Severity::Warning, text: "hot".into() };
        *resources.problems.lock().unwrap() = vec![problem];
        *resources.snapshot.lock().unwrap() = vec![0; MAX_SNAPSHOT_BYTES + 1];
        assert_eq!(sent(12), None, "before the next check");
        assert_eq!(sent(13), Some((1, false, Vec::new())));
        assert_eq!(sent(15), None);
        resources.problems.lock().unwrap().clear();
        assert_eq!(sent(17), Some((0, false, Vec::new())));
    }

    #[test]
    fn sends_stored_credential_once_per_connection() {
        let resources = Resources::default();
        let secret = |text: &str| Some(Secret::new(text.to_owned()));
        let mut extension = NodeExtension::new(secret("old"));
        extension.on_accepted(Some(&HubInfo::own(None)));
        let mut is_credential = |kept: &str| {
            let message = extension.next_message(&resources, secret(kept), START);
            message.is_some_and(|it| it.starts_with(b"{\"extension\":\"credential\","))
        };
        assert!(!is_credential("old"), "it was sent with the handshake");
        assert!(is_credential("new"));
        assert!(!is_credential("new"));
        let mut other = announced(&["get", "snapshot"]);
        let message = other.next_message(&resources, secret("new"), START).unwrap();
        assert!(message.starts_with(b"{\"extension\":\"node\","), "never to other servers");
    }

    #[test]
    fn answers_requests_and_ignores_other_messages() {
        let (extension, resources) = (announced(&["get"]), Resources::default());
        let answer = extension.answer(GET, &resources).unwrap();
        let (message, body) = messages::decode(&answer).unwrap();
        assert!(matches!(message, NodeMessage::Response(ResponseHead { id: 3, status: 200, .. })));
        assert_eq!(body, b"/metrics");
        assert_eq!(extension.answer(b"{\"extension\":\"later\"}\n", &resources), None);
    }
}
