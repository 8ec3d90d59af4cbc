//! Messages of hm, the central health monitor: what is reported to it, and what it answers.
//!
//! Format: `specs/hm.md`, and what its published server does. Text frames of JSON; `body`, `pub_key` and `sign`
//! are bytes in base64. A request's timestamp is Unix milliseconds, an answer's Unix seconds. Memory is in MiB,
//! utilisation a whole percentage.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::model::Snapshot;
use crate::model::primary_gpu::{Primary, primary_gpu};

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This connection is that node's.
    Online,
    /// Models and GPU use.
    MachineInfo,
}

impl Kind {
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

/// A request as it goes over the wire. `body` is JSON.
pub fn request(kind: Kind, id: u64, unix_milliseconds: u64, body: &str) -> String {
    let request = Request {
        version: 0,
        timestamp: unix_milliseconds,
        id,
        r#type: kind.number(),
        pub_key: "",
        sign: "",
        body: BASE64.encode(body.as_bytes()),
    };
    // Serialising it cannot fail: no maps with odd keys, no foreign implementations.
    serde_json::to_string(&request).unwrap_or_default()
}

/// What the hub says to a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// The request's.
    #[serde(default)]
    pub id: u64,
    /// 0: done; anything else is one of [`Code`]'s.
    #[serde(default)]
    pub code: u32,
    /// For a person.
    #[serde(default)]
    pub message: String,
}

impl Answer {
    /// Reads an answer. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}

/// What an answer's code asks of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It is done.
    Done,
    /// The hub will never take this (1 parameter, 2 parse, 3 signature).
    Malformed,
    /// The hub cannot do it now (4 database, and codes that nobody knows yet).
    Later,
    /// The node is online on another connection, which must expire first (5).
    AlreadyOnline,
    /// This connection is not online (6).
    NotOnline,
}

impl Code {
    /// The meaning of a number.
    pub fn of(number: u32) -> Self {
        match number {
            0 => Self::Done,
            1..=3 => Self::Malformed,
            5 => Self::AlreadyOnline,
            6 => Self::NotOnline,
            _ => Self::Later,
        }
    }
}

#[derive(Serialize)]
struct Online<'a> {
    node_id: &'a str,
}

/// The body of a request of [`Kind::Online`].
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

/// The body of a request of [`Kind::MachineInfo`]. The message has room for one GPU; what is not known of it
/// is zero, as the document's types demand.
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
    fn a_request_as_the_published_server_accepts_it() {
        assert_eq!(
            request(Kind::Online, 1, 1_795_216_252_000, &online("n1")),
            r#"{"version":0,"timestamp":1795216252000,"id":1,"type":1,"pub_key":"","sign":"","body":"eyJub2RlX2lkIjoibjEifQ=="}"#
        );
    }

    #[test]
    fn the_documents_report() {
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
    fn answers_and_their_codes() {
        let text = r#"{"version":0,"timestamp":1795216252,"id":1,"type":1,"pub_key":"","sign":"","code":0,"message":"ok","body":""}"#;
        let answer = Answer::parse(text).unwrap();
        assert_eq!((answer.id, answer.code, answer.message.as_str()), (1, 0, "ok"));
        assert!(Answer::parse("{}").is_ok() && Answer::parse("[]x").is_err());
        let codes = [0, 1, 2, 3, 4, 5, 6, 7].map(Code::of);
        use Code::{AlreadyOnline, Done, Later, Malformed, NotOnline};
        assert_eq!(
            codes,
            [Done, Malformed, Malformed, Malformed, Later, AlreadyOnline, NotOnline, Later]
        );
    }
}
