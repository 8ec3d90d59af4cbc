//! Messages of the extension: binary WebSocket messages of one line of JSON, a line feed, and a body.

use serde::{Deserialize, Serialize};

/// Every message begins with this, and no message of the hm protocol does.
const PREFIX: &[u8] = b"{\"extension\":";
/// Name of this extension in what the hub announces.
const GET: &str = "get";

/// A message of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "extension", rename_all = "snake_case")]
pub enum NodeMessage {
    /// The node answers requests. Sent first, and when it has changed. It has no body.
    Node(AgentInfo),
    /// The answer to a request, with the resource as its body.
    Response(ResponseHead),
}

/// What the hub knows of an hm-agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    pub agent_version: String,
    pub hostname: String,
    /// `hm.project`.
    #[serde(default)]
    pub project: String,
    /// Each model once.
    #[serde(default)]
    pub gpu_models: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseHead {
    /// Of the request.
    pub id: u64,
    /// Status code of HTTP.
    pub status: u16,
    pub content_type: String,
    /// Whether the body is compressed.
    #[serde(default)]
    pub gzip: bool,
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
    /// `/metrics` or `/snapshot`.
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
}

impl HubInfo {
    /// Of this version of hm-hub.
    pub fn own() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), extensions: vec![GET.to_owned()] }
    }

    pub fn supports_get(&self) -> bool {
        self.extensions.iter().any(|name| name == GET)
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
    let end = message.iter().position(|byte| *byte == b'\n').ok_or("it has no line feed")?;
    let (head, body) = message.split_at(end);
    let head = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    Ok((head, body.strip_prefix(b"\n").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_form_of_the_document() {
        let node = NodeMessage::Node(AgentInfo {
            agent_version: "0.1.0".into(),
            hostname: "gpu-17".into(),
            project: "imagenet".into(),
            gpu_models: vec!["NVIDIA H200".into()],
        });
        let response = NodeMessage::Response(ResponseHead {
            id: 7,
            status: 200,
            content_type: "text/plain".into(),
            gzip: true,
        });
        let get = HubMessage::Get(GetRequest {
            id: 7,
            path: "/metrics".into(),
            accept: "*/*".into(),
            gzip: true,
        });
        let texts = [
            r#"{"extension":"node","agent_version":"0.1.0","hostname":"gpu-17","project":"imagenet","gpu_models":["NVIDIA H200"]}"#,
            r#"{"extension":"response","id":7,"status":200,"content_type":"text/plain","gzip":true}"#,
            r#"{"extension":"get","id":7,"path":"/metrics","accept":"*/*","gzip":true}"#,
        ];
        for (message, text) in [(&node, texts[0]), (&response, texts[1])] {
            let bytes = encode(message, b"a\nb");
            assert_eq!(String::from_utf8_lossy(&bytes), format!("{text}\na\nb"));
            assert!(is_extension(&bytes));
            assert_eq!(decode(&bytes), Ok((message.clone(), &b"a\nb"[..])));
        }
        let bytes = encode(&get, b"");
        assert_eq!(String::from_utf8_lossy(&bytes), format!("{}\n", texts[2]));
        assert_eq!(decode(&bytes), Ok((get, &b""[..])));
    }

    #[test]
    fn other_messages_are_errors() {
        for text in ["", "{\"extension\":\"get\"}", "{\"extension\":\"new\"}\n", "x\n", "\n"] {
            assert!(decode::<HubMessage>(text.as_bytes()).is_err(), "{text}");
        }
        assert!(!is_extension(b"{\n\"version\": 0}"));
    }
}
