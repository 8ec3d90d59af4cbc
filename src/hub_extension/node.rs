//! The node's side of the extension on one connection, without I/O.

use std::sync::Arc;

use crate::hub_extension::messages::{
    self, AgentInfo, GetRequest, HubInfo, HubMessage, NodeMessage, ResponseHead,
};

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
    /// Does not block.
    fn get(&self, request: &GetRequest) -> NodeResponse;
}

/// State of one connection. It sends nothing to a server that has not announced the extension.
#[derive(Default)]
pub struct NodeExtension {
    is_announced: bool,
    sent: Option<AgentInfo>,
}

impl NodeExtension {
    /// The server has accepted the node. `hub` is its announcement, if it has sent one.
    pub fn on_accepted(&mut self, hub: Option<&HubInfo>) {
        self.is_announced = hub.is_some_and(HubInfo::supports_get);
        self.sent = None;
    }

    /// The description of the node, if it was not sent on this connection or has changed since.
    pub fn next_message(&mut self, resources: &dyn NodeResources) -> Option<Vec<u8>> {
        if !self.is_announced {
            return None;
        }
        let info = resources.agent_info()?.truncate();
        if self.sent.as_ref() == Some(&info) {
            return None;
        }
        self.sent = Some(info.clone());
        Some(messages::encode(&NodeMessage::Node(info), b""))
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

    #[derive(Default)]
    struct Resources(Mutex<String>);

    impl NodeResources for Resources {
        fn agent_info(&self) -> Option<AgentInfo> {
            let hostname = self.0.lock().unwrap().clone();
            (hostname != "unknown").then(|| AgentInfo { hostname, ..AgentInfo::default() })
        }

        fn get(&self, request: &GetRequest) -> NodeResponse {
            let body = request.path.as_bytes().into();
            NodeResponse { status: 200, content_type: "text/plain", is_gzip: false, body }
        }
    }

    const GET: &[u8] = b"{\"extension\":\"get\",\"id\":3,\"path\":\"/metrics\"}\n";

    #[test]
    fn sends_nothing_to_a_server_without_the_extension() {
        let (mut extension, resources) = (NodeExtension::default(), Resources::default());
        let other = HubInfo { version: "9".into(), extensions: vec!["other".into()] };
        for hub in [None, Some(&other)] {
            extension.on_accepted(hub);
            assert_eq!(extension.next_message(&resources), None);
            assert_eq!(extension.answer(GET, &resources), None);
        }
    }

    #[test]
    fn describes_the_node_again_after_a_change() {
        let (mut extension, resources) = (NodeExtension::default(), Resources::default());
        extension.on_accepted(Some(&HubInfo::own()));
        *resources.0.lock().unwrap() = "unknown".to_owned();
        assert_eq!(extension.next_message(&resources), None);
        *resources.0.lock().unwrap() = "named".to_owned();
        assert!(extension.next_message(&resources).is_some());
        assert_eq!(extension.next_message(&resources), None);
        *resources.0.lock().unwrap() = "renamed".to_owned();
        assert!(extension.next_message(&resources).is_some());
        // Another connection, or the node was accepted again.
        extension.on_accepted(Some(&HubInfo::own()));
        assert!(extension.next_message(&resources).is_some());
    }

    #[test]
    fn answers_requests_and_ignores_other_messages() {
        let (mut extension, resources) = (NodeExtension::default(), Resources::default());
        extension.on_accepted(Some(&HubInfo::own()));
        let answer = extension.answer(GET, &resources).unwrap();
        let (message, body) = messages::decode(&answer).unwrap();
        assert!(matches!(message, NodeMessage::Response(ResponseHead { id: 3, status: 200, .. })));
        assert_eq!(body, b"/metrics");
        assert_eq!(extension.answer(b"{\"extension\":\"later\"}\n", &resources), None);
    }
}
