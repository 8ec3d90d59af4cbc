//! Messages of hm: text frames of JSON, where `body`, `pub_key` and `sign` are base64.
//!
//! Source: `specs/hm.md` and the behavior of the published server. A request's timestamp is in Unix milliseconds, a
//! response's in Unix seconds. Memory is in MiB, utilization in whole percent.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::hub_extension::messages::{Announcement, HubInfo};
use crate::model::Snapshot;
use crate::model::primary_gpu::{Primary, primary_gpu};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Assigns this connection to a node.
    Online,
    /// Models and GPU utilization.
    MachineInfo,
}

impl RequestKind {
    fn number(self) -> u32 {
        match self {
            Self::Online => 1,
            Self::MachineInfo => 2,
        }
    }
}

#[derive(Serialize)]
struct Request<'a> {
    version: u32,
    timestamp: u64,
    id: u64,
    r#type: u32,
    pub_key: &'a str,
    sign: &'a str,
    body: String,
}

/// A request with the JSON `body`.
pub fn request(kind: RequestKind, id: u64, unix_milliseconds: u64, body: &str) -> String {
    let request = Request {
        version: 0,
        timestamp: unix_milliseconds,
        id,
        r#type: kind.number(),
        pub_key: "",
        sign: "",
        body: BASE64.encode(body.as_bytes()),
    };
    // Serialization cannot fail: the type has neither maps nor custom implementations.
    serde_json::to_string(&request).unwrap_or_default()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HmResponse {
    /// Number of the request that is answered.
    pub id: u64,
    /// See [`ResponseCode`].
    pub code: u32,
    pub message: String,
    /// What hm-hub announces in its answer to "online".
    pub hub: Option<HubInfo>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Received {
    id: u64,
    code: u32,
    message: String,
    body: Option<Box<RawValue>>,
}

impl HmResponse {
    pub fn parse(text: &str) -> Result<Self, String> {
        let Received { id, code, message, body } =
            serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self { id, code, message, hub: body.and_then(|body| announced(&body)) })
    }
}

/// A server that is not hm-hub may send any body.
fn announced(body: &RawValue) -> Option<HubInfo> {
    let base64: String = serde_json::from_str(body.get()).ok()?;
    let json = BASE64.decode(base64.as_bytes()).ok()?;
    Announcement::parse(std::str::from_utf8(&json).ok()?).map(|Announcement { hub }| hub)
}

/// What the client does about a response's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseCode {
    /// 0.
    Done,
    /// 1 parameter, 2 parse, 3 signature: the server will never accept this request.
    Malformed,
    /// 4 database, and unknown codes: the server cannot process the request now.
    RetryLater,
    /// 5: the node is online on another connection, which must expire first.
    AlreadyOnline,
    /// 6: this connection is not online.
    NotOnline,
}

impl ResponseCode {
    pub fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Done,
            1..=3 => Self::Malformed,
            5 => Self::AlreadyOnline,
            6 => Self::NotOnline,
            _ => Self::RetryLater,
        }
    }
}

#[derive(Serialize)]
struct Online<'a> {
    node_id: &'a str,
}

/// The body of a [`RequestKind::Online`] request.
pub fn online(node_id: &str) -> String {
    serde_json::to_string(&Online { node_id }).unwrap_or_default()
}

#[derive(Serialize)]
struct MachineInfo<'a> {
    project: &'a str,
    models: Vec<Model<'a>>,
    gpu_name: &'a str,
    utilization_gpu: u32,
    memory_total: u64,
    memory_used: u64,
}

#[derive(Serialize)]
struct Model<'a> {
    model: &'a str,
}

/// The body of a [`RequestKind::MachineInfo`] request. It describes one GPU; unknown values are 0, because the protocol's
/// types have no null.
pub fn machine_info(
    project: &str,
    models: &[String],
    snapshot: &Snapshot,
    primary: Primary,
) -> String {
    let gpus = &snapshot.gpus.each;
    let name = match primary {
        Primary::Index(index) => gpus.iter().find(|gpu| gpu.index == index),
        Primary::Aggregate => gpus.first(),
    };
    let gpu = primary_gpu(gpus, primary);
    let info = MachineInfo {
        project,
        models: models.iter().map(|model| Model { model }).collect(),
        gpu_name: name.map_or("", |gpu| &gpu.name),
        utilization_gpu: gpu.gpu_percent.unwrap_or(0),
        memory_total: gpu.gpu_mem_total_mb.unwrap_or(0),
        memory_used: gpu.gpu_mem_used_mb.unwrap_or(0),
    };
    serde_json::to_string(&info).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::{Gpu, Gpus, Values};
    use std::sync::Arc;

    #[test]
    fn request_has_the_published_format() {
        assert_eq!(
            request(RequestKind::Online, 1, 1_795_216_252_000, &online("n1")),
            r#"{"version":0,"timestamp":1795216252000,"id":1,"type":1,"pub_key":"","sign":"","body":"eyJub2RlX2lkIjoibjEifQ=="}"#
        );
    }

    #[test]
    fn report_matches_the_specification() {
        let gpu = Gpu {
            name: "NVIDIA RTX A5000".into(),
            values: Values {
                utilization_percent: Some(30),
                memory_total_bytes: Some(24564 << 20),
                memory_used_bytes: Some(22128 << 20),
                ..Values::default()
            },
            ..Gpu::default()
        };
        let gpus = Arc::new(Gpus { nvidia: None, each: vec![gpu] });
        let snapshot = Snapshot { gpus, ..Snapshot::default() };
        let models = ["Codestral-22B-v0.1".to_owned()];
        assert_eq!(
            machine_info("DecentralGPT", &models, &snapshot, Primary::Index(0)),
            r#"{"project":"DecentralGPT","models":[{"model":"Codestral-22B-v0.1"}],"gpu_name":"NVIDIA RTX A5000","utilization_gpu":30,"memory_total":24564,"memory_used":22128}"#
        );
        assert_eq!(
            machine_info("", &[], &Snapshot::default(), Primary::Index(0)),
            r#"{"project":"","models":[],"gpu_name":"","utilization_gpu":0,"memory_total":0,"memory_used":0}"#
        );
    }

    #[test]
    fn parses_responses_and_their_codes() {
        let text = r#"{"version":0,"timestamp":1795216252,"id":1,"type":1,"pub_key":"","sign":"","code":0,"message":"ok","body":""}"#;
        let response = HmResponse::parse(text).unwrap();
        assert_eq!((response.id, response.code, response.message.as_str()), (1, 0, "ok"));
        assert!(HmResponse::parse("{}").is_ok() && HmResponse::parse("[]x").is_err());
        let codes = [0, 1, 2, 3, 4, 5, 6, 7].map(ResponseCode::from_number);
        use ResponseCode::{AlreadyOnline, Done, Malformed, NotOnline, RetryLater};
        assert_eq!(
            codes,
            [
                Done,
                Malformed,
                Malformed,
                Malformed,
                RetryLater,
                AlreadyOnline,
                NotOnline,
                RetryLater
            ]
        );
    }
}
