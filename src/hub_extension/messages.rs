//! Messages of the extension: binary WebSocket messages of one line of JSON, a line feed, and a body.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::hub_extension::status::NodeStatus;

/// Every message begins with this, and no message of the hm protocol does.
const PREFIX: &[u8] = b"{\"extension\":";
/// A longer first line is an error. Serde keeps a copy of all of it while it looks for the name of the extension.
const MAX_HEAD_BYTES: usize = 20 << 10;
/// A longer announcement is ignored.
const MAX_ANNOUNCEMENT_BYTES: usize = 4 << 10;
/// Limits of a description; real ones are shorter.
const MAX_TEXT_BYTES: usize = 256;
const MAX_MODELS: usize = 8;
const MAX_MODEL_BYTES: usize = 64;
/// Names in what the hub announces.
const GET: &str = "get";
const SNAPSHOT: &str = "snapshot";
const CREDENTIAL: &str = "credential";

/// A message of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "extension", rename_all = "snake_case")]
pub enum NodeMessage {
    /// The node answers requests. Sent first, and when it has changed. It has no body.
    Node(AgentInfo),
    /// The answer to a request, with the resource as its body.
    Response(ResponseHead),
    /// The status of the node, with its snapshot as the body, which is empty if it is too long.
    Snapshot(SnapshotHead),
    /// The node has kept its credential, or has got it over another connection. It has no body.
    Credential(CredentialHead),
}

/// What the hub knows of an hm-agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    pub agent_version: String,
    pub hostname: String,
    /// `hm.project`; empty without `hm.url`.
    #[serde(default)]
    pub project: String,
    /// Each model once.
    #[serde(default)]
    pub gpu_models: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// The `id` of the request.
    pub id: u64,
    /// HTTP status code.
    pub status: u16,
    pub content_type: String,
    /// Whether the body is compressed.
    #[serde(default)]
    pub gzip: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    pub status: NodeStatus,
    /// Whether the body is compressed.
    #[serde(default)]
    pub gzip: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialHead {
    pub credential: Credential,
}

/// What a node presents instead of its token once it has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Credential(String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

impl From<Credential> for Secret {
    fn from(credential: Credential) -> Self {
        Self::new(credential.0)
    }
}

impl From<Secret> for Credential {
    fn from(secret: Secret) -> Self {
        Self(secret.expose().to_owned())
    }
}

/// A message of the hub. It has no body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "extension", rename_all = "snake_case")]
pub enum HubMessage {
    Get(GetRequest),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetRequest {
    pub id: u64,
    /// `/metrics`, `/snapshot`, `/health`, `/events?QUERY` or `/history?range=RANGE`.
    pub path: String,
    /// The `Accept` header of the client.
    #[serde(default)]
    pub accept: String,
    /// Whether the client accepts a compressed body.
    #[serde(default)]
    pub gzip: bool,
}

/// What hm-hub announces: in the body of a successful response to `online`, and in `data` of `register_response`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub hub: HubInfo,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubInfo {
    pub version: String,
    /// Names of extensions.
    pub extensions: Vec<String>,
    /// For a node that has connected with a join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
}

impl AgentInfo {
    /// Cuts off what exceeds the limits.
    pub fn truncate(mut self) -> Self {
        self.gpu_models.truncate(MAX_MODELS);
        for text in [&mut self.agent_version, &mut self.hostname, &mut self.project] {
            cut(text, MAX_TEXT_BYTES);
        }
        for model in &mut self.gpu_models {
            cut(model, MAX_MODEL_BYTES);
        }
        self
    }
}

/// Cuts off a text before the character that exceeds `max` bytes.
pub fn cut(text: &mut String, max: usize) {
    let end = (0..=max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
}

impl Announcement {
    /// From JSON. `None`: hm-hub has not sent it.
    pub fn parse(json: &str) -> Option<Self> {
        parse_announced(json)
    }
}

fn parse_announced<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    (json.len() <= MAX_ANNOUNCEMENT_BYTES).then(|| serde_json::from_str(json).ok()).flatten()
}

impl HubInfo {
    /// From JSON. `None`: hm-hub has not sent it.
    pub fn parse(json: &str) -> Option<Self> {
        parse_announced(json)
    }

    /// What this build of hm-hub announces.
    pub fn own(credential: Option<Credential>) -> Self {
        let extensions = [GET, SNAPSHOT, CREDENTIAL].map(str::to_owned).to_vec();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), extensions, credential }
    }

    pub fn supports_get(&self) -> bool {
        self.supports(GET)
    }

    pub fn supports_snapshot(&self) -> bool {
        self.supports(SNAPSHOT)
    }

    pub fn supports_credential(&self) -> bool {
        self.supports(CREDENTIAL)
    }

    fn supports(&self, extension: &str) -> bool {
        self.extensions.iter().any(|name| name == extension)
    }
}

pub fn is_extension(message: &[u8]) -> bool {
    message.starts_with(PREFIX)
}

pub fn encode(head: &impl Serialize, body: &[u8]) -> Vec<u8> {
    // Serialization cannot fail: the types have neither maps nor custom implementations.
    let mut message = serde_json::to_vec(head).unwrap_or_default();
    message.push(b'\n');
    message.extend_from_slice(body);
    message
}

/// Head and body of a message.
pub fn decode<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<(T, &'a [u8]), String> {
    let end = message.iter().take(MAX_HEAD_BYTES).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| format!("it has no line feed in {MAX_HEAD_BYTES} bytes"))?;
    let (head, body) = message.split_at(end);
    let head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    Ok((head, body.strip_prefix(b"\n").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub_extension::status::{GpuCondition, GpuStatus};
    use crate::model::health_problem::{HealthProblem, Severity};

    #[test]
    fn messages_match_the_documented_examples() {
        let document = include_str!("../../docs/hm-extension.md");
        let node = NodeMessage::Node(AgentInfo {
            agent_version: "0.1.0".into(),
            hostname: "gpu-17".into(),
            project: "imagenet".into(),
            gpu_models: vec!["NVIDIA H200".into()],
        });
        let response = NodeMessage::Response(ResponseHead {
            id: 7,
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8".into(),
            gzip: true,
        });
        let gpu = |state| GpuStatus { model: "NVIDIA H200".into(), state };
        let text = "GPU 1: lost: not on the PCI bus".into();
        let status = NodeStatus {
            gpus: vec![gpu(GpuCondition::Active), gpu(GpuCondition::Lost)],
            gpu_utilization_percent: Some(87),
            gpu_memory_used_percent: Some(61),
            problems: vec![HealthProblem { severity: Severity::Critical, text }],
            xids_last_24h: 1,
        };
        let snapshot = NodeMessage::Snapshot(SnapshotHead { status, gzip: true });
        let get = HubMessage::Get(GetRequest {
            id: 7,
            path: "/metrics".into(),
            accept: "application/openmetrics-text".into(),
            gzip: true,
        });
        let texts = [
            r#"{"extension":"node","agent_version":"0.1.0","hostname":"gpu-17","project":"imagenet","gpu_models":["NVIDIA H200"]}"#,
            r#"{"extension":"response","id":7,"status":200,"content_type":"text/plain; version=0.0.4; charset=utf-8","gzip":true}"#,
            r#"{"extension":"snapshot","status":{"gpus":[{"model":"NVIDIA H200","state":"active"},{"model":"NVIDIA H200","state":"lost"}],"gpu_utilization_percent":87,"gpu_memory_used_percent":61,"problems":[{"severity":"critical","text":"GPU 1: lost: not on the PCI bus"}],"xids_last_24h":1},"gzip":true}"#,
            r#"{"extension":"get","id":7,"path":"/metrics","accept":"application/openmetrics-text","gzip":true}"#,
        ];
        for text in texts {
            assert!(document.contains(&format!("\n{text}\n")), "{text}");
        }
        for (message, text) in [(&node, texts[0]), (&response, texts[1]), (&snapshot, texts[2])] {
            let bytes = encode(message, b"a\nb");
            assert_eq!(String::from_utf8_lossy(&bytes), format!("{text}\na\nb"));
            assert!(is_extension(&bytes));
            assert_eq!(decode(&bytes), Ok((message.clone(), &b"a\nb"[..])));
        }
        let bytes = encode(&get, b"");
        assert_eq!(String::from_utf8_lossy(&bytes), format!("{}\n", texts[3]));
        assert_eq!(decode(&bytes), Ok((get, &b""[..])));
    }

    #[test]
    fn other_messages_are_errors() {
        for text in ["", "{\"extension\":\"get\"}", "{\"extension\":\"new\"}\n", "x\n", "\n"] {
            assert!(decode::<HubMessage>(text.as_bytes()).is_err(), "{text}");
        }
        let long =
            format!("{{\"extension\":\"get\",\"id\":1,\"path\":\"{}\"}}\n", "x".repeat(21_000));
        assert!(decode::<HubMessage>(long.as_bytes()).is_err());
        assert!(!is_extension(b"{\n\"version\": 0}"));
        assert_eq!(HubInfo::parse("{\"version\": 1, \"extensions\": []}"), None);
        let many = format!("{{\"version\":\"\",\"extensions\":[{}\"\"]}}", "\"\",".repeat(2000));
        assert_eq!(HubInfo::parse(&many), None);
    }

    #[test]
    fn longest_description_fits_into_a_message() {
        // An escaped control character has six bytes.
        let long = "\u{1}".repeat(1000) + &"é".repeat(1000);
        let info = AgentInfo {
            agent_version: "1".into(),
            hostname: long.clone(),
            project: long.clone(),
            gpu_models: vec![long; 1000],
        };
        let info = info.truncate();
        assert_eq!(info.hostname.len(), MAX_TEXT_BYTES);
        let message = encode(&NodeMessage::Node(info.clone()), b"");
        assert_eq!(decode(&message), Ok((NodeMessage::Node(info), &b""[..])));
        let accented = AgentInfo { hostname: "é".repeat(1000), ..AgentInfo::default() };
        assert_eq!(accented.truncate().hostname, "é".repeat(MAX_TEXT_BYTES / 2));
    }
}
