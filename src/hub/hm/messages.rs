//! Messages of hm, as the published server reads and writes them.
//!
//! A request is a JSON object with `version`, `timestamp` (Unix milliseconds), `id`, `type`, `pub_key`, `sign` and `body`; the last three
//! are base64, and `body` contains another JSON object. Go's encoding/json reads them: keys match without regard to case, unknown keys
//! are ignored, missing and null values are zero, the last of several equal keys wins unless it is null, numbers must be integers of their type. A response has
//! the `id` and `type` of its request, a timestamp in Unix seconds, `code`, `message` and `body`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// `type` of a request.
pub const ONLINE: u32 = 1;
pub const MACHINE_INFO: u32 = 2;

/// A request whose body is not parsed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HmRequest {
    pub version: u32,
    /// Unix milliseconds, as sent.
    pub timestamp: i64,
    pub id: u64,
    pub kind: u32,
    /// Decoded.
    pub body: Vec<u8>,
}

impl HmRequest {
    pub fn parse(message: &[u8]) -> Result<Self, String> {
        let mut raw = RawRequest::default();
        parse_object(message, &mut raw)?;
        // Go rejects a request in which they are not base64.
        for (key, value) in [("pub_key", &raw.pub_key), ("sign", &raw.sign)] {
            decode_base64(value).map_err(|error| format!("{key}: {error}"))?;
        }
        let body = decode_base64(&raw.body).map_err(|error| format!("body: {error}"))?;
        let RawRequest { version, timestamp, id, kind, .. } = raw;
        Ok(Self { version, timestamp, id, kind, body })
    }
}

/// Body of an [`ONLINE`] request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Online {
    pub node_id: String,
}

impl Online {
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let mut online = Self::default();
        parse_object(body, &mut online)?;
        Ok(online)
    }
}

/// Body of a [`MACHINE_INFO`] request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct MachineInfo {
    pub project: String,
    pub models: Vec<String>,
    pub gpu_name: String,
    /// Percent.
    pub utilization_gpu: i64,
    /// In the unit of the sender, MiB.
    pub memory_total: i64,
    pub memory_used: i64,
}

impl MachineInfo {
    /// Approximate size of its texts in memory.
    pub fn size(&self) -> usize {
        let models = self.models.iter().map(|model| size_of::<String>() + model.len());
        self.project.len() + self.gpu_name.len() + models.sum::<usize>()
    }

    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let mut info = Self::default();
        parse_object(body, &mut info)?;
        Ok(info)
    }
}

/// `code` and `message` of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    MalformedRequest,
    UnknownType,
    MalformedOnline,
    MalformedMachineInfo,
    /// A report was not stored.
    NotStored,
    /// The node was refused: no other code makes nodes retry.
    NotOnlined,
    /// A second `online` on one connection.
    AlreadyOnlineHere,
    /// The node is online on another connection.
    AlreadyOnlineElsewhere,
    NotOnline,
}

impl Outcome {
    pub fn code(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::MalformedRequest
            | Self::UnknownType
            | Self::MalformedOnline
            | Self::MalformedMachineInfo => 1,
            Self::NotStored | Self::NotOnlined => 4,
            Self::AlreadyOnlineHere | Self::AlreadyOnlineElsewhere => 5,
            Self::NotOnline => 6,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::MalformedRequest => "parse request failed",
            Self::UnknownType => "unknowned request message type",
            Self::MalformedOnline => "parse online request failed",
            Self::MalformedMachineInfo => "parse machine info request failed",
            Self::NotStored => "update database failed",
            Self::NotOnlined => "insert online database failed",
            Self::AlreadyOnlineHere => "device has been online, repeated requests",
            Self::AlreadyOnlineElsewhere => "device has been online, repeated connection",
            Self::NotOnline => "node id is empty, need send online device first",
        }
    }
}

/// A response. `body` is encoded here; the published server always sends an empty one.
pub fn response(kind: u32, id: u64, outcome: Outcome, unix_seconds: u64, body: &str) -> String {
    let (code, message) = (outcome.code(), outcome.message());
    let body = data_encoding::BASE64.encode(body.as_bytes());
    format!(
        r#"{{"version":0,"timestamp":{unix_seconds},"id":{id},"type":{kind},"pub_key":"","sign":"","code":{code},"message":"{message}","body":"{body}"}}"#
    )
}

#[derive(Default)]
struct RawRequest {
    version: u32,
    timestamp: i64,
    id: u64,
    kind: u32,
    pub_key: String,
    sign: String,
    body: String,
}

impl Fields for RawRequest {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error> {
        match key {
            "version" => set(&mut self.version, map)?,
            "timestamp" => set(&mut self.timestamp, map)?,
            "id" => set(&mut self.id, map)?,
            "type" => set(&mut self.kind, map)?,
            "pub_key" => set(&mut self.pub_key, map)?,
            "sign" => set(&mut self.sign, map)?,
            "body" => set(&mut self.body, map)?,
            _ => ignore(map)?,
        }
        Ok(())
    }
}

impl Fields for Online {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error> {
        match key {
            "node_id" => set(&mut self.node_id, map)?,
            _ => ignore(map)?,
        }
        Ok(())
    }
}

impl Fields for MachineInfo {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error> {
        match key {
            "project" => set(&mut self.project, map)?,
            "models" => {
                if let Some(models) = map.next_value::<Option<Vec<Option<Object<Model>>>>>()? {
                    let name = |model: Option<Object<Model>>| model.unwrap_or_default().0.0;
                    self.models = models.into_iter().map(name).collect();
                }
            }
            "gpu_name" => set(&mut self.gpu_name, map)?,
            "utilization_gpu" => set(&mut self.utilization_gpu, map)?,
            "memory_total" => set(&mut self.memory_total, map)?,
            "memory_used" => set(&mut self.memory_used, map)?,
            _ => ignore(map)?,
        }
        Ok(())
    }
}

/// `{"model": …}`.
#[derive(Default)]
struct Model(String);

impl Fields for Model {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error> {
        match key {
            "model" => set(&mut self.0, map)?,
            _ => ignore(map)?,
        }
        Ok(())
    }
}

/// An object whose fields are read one after the other. `key` is in lower case.
trait Fields: Default {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error>;
}

/// Reads a value. Null leaves the field unchanged, as in Go.
fn set<'de, M: MapAccess<'de>, T: Deserialize<'de>>(
    field: &mut T,
    map: &mut M,
) -> Result<(), M::Error> {
    if let Some(value) = map.next_value::<Option<T>>()? {
        *field = value;
    }
    Ok(())
}

fn ignore<'de, M: MapAccess<'de>>(map: &mut M) -> Result<(), M::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

/// Reads one JSON object, or null, which leaves `fields` unchanged. Nothing may follow it.
fn parse_object<F: Fields>(json: &[u8], fields: &mut F) -> Result<(), String> {
    let text = String::from_utf8_lossy(json);
    let object: Option<Object<F>> =
        serde_json::from_str(&text).map_err(|error| error.to_string())?;
    *fields = object.unwrap_or_default().0;
    Ok(())
}

#[derive(Default)]
struct Object<F>(F);

impl<'de, F: Fields> Deserialize<'de> for Object<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<F>(PhantomData<F>);

impl<'de, F: Fields> Visitor<'de> for ObjectVisitor<F> {
    type Value = Object<F>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = F::default();
        while let Some(key) = map.next_key::<String>()? {
            fields.read(&key.to_ascii_lowercase(), &mut map)?;
        }
        Ok(Object(fields))
    }
}

/// Standard base64 in which line ends are ignored, as Go decodes it.
fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let compact: String;
    let text = if text.contains(['\r', '\n']) {
        compact = text.replace(['\r', '\n'], "");
        &compact
    } else {
        text
    };
    data_encoding::BASE64.decode(text.as_bytes()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HmRequest, String> {
        HmRequest::parse(text.as_bytes())
    }

    #[test]
    fn reads_the_request_of_the_published_document() {
        let text = r#"{"version":0,"timestamp":1718000000123,"id":18446744073709551615,"type":1,"pub_key":"","sign":null,"body":"eyJub2RlX2lkIjoiMTIzNDU2Nzg5In0="}"#;
        let request = parse(text).unwrap();
        assert_eq!((request.timestamp, request.id), (1_718_000_000_123, u64::MAX));
        assert_eq!(Online::parse(&request.body).unwrap().node_id, "123456789");
    }

    #[test]
    fn reads_requests_as_go_does() {
        for (text, expected) in [
            ("{}", Some(HmRequest::default())),
            ("null", Some(HmRequest::default())),
            (r#"{"ID":7,"Type":2}"#, Some(HmRequest { id: 7, kind: 2, ..Default::default() })),
            (r#"{"id":1,"id":2}"#, Some(HmRequest { id: 2, ..Default::default() })),
            (r#"{"id":1,"ID":null,"x":[{}]}"#, Some(HmRequest { id: 1, ..Default::default() })),
            (
                r#"{"body":"YQ\r\n=="}"#,
                Some(HmRequest { body: b"a".to_vec(), ..Default::default() }),
            ),
            ("", None),
            ("[]", None),
            ("{} {}", None),
            (r#"{"id":-1}"#, None),
            (r#"{"id":1.0}"#, None),
            (r#"{"id":"1"}"#, None),
            (r#"{"id":18446744073709551616}"#, None),
            (r#"{"version":4294967296}"#, None),
            (r#"{"body":"_-=="}"#, None),
            (r#"{"body":"YQ"}"#, None),
            (r#"{"sign":"?"}"#, None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn requests_cut_anywhere_are_errors() {
        let text =
            r#"{"version":0,"timestamp":1,"id":2,"type":1,"pub_key":"","sign":"","body":"e30="}"#;
        for end in 0..text.len() {
            assert!(parse(&text[..end]).is_err(), "{}", &text[..end]);
        }
    }

    #[test]
    fn reads_machine_info_of_the_published_document() {
        let body = r#"{"project":"DecentralGPT","models":[{"model":"Codestral-22B-v0.1"}],"gpu_name":"NVIDIA RTX A5000","utilization_gpu":30,"memory_total":24564,"memory_used":22128}"#;
        let info = MachineInfo::parse(body.as_bytes()).unwrap();
        let expected = MachineInfo {
            project: "DecentralGPT".into(),
            models: vec!["Codestral-22B-v0.1".into()],
            gpu_name: "NVIDIA RTX A5000".into(),
            utilization_gpu: 30,
            memory_total: 24_564,
            memory_used: 22_128,
        };
        assert_eq!(info, expected);
    }

    #[test]
    fn machine_info_needs_integers_and_lists() {
        for (body, valid) in [
            ("{}", true),
            (r#"{"models":null,"utilization_gpu":null}"#, true),
            (r#"{"models":[null,{"Model":"a"},{}]}"#, true),
            (r#"{"utilization_gpu":-5}"#, true),
            (r#"{"utilization_gpu":30.5}"#, false),
            (r#"{"memory_used":9223372036854775808}"#, false),
            (r#"{"models":{}}"#, false),
            (r#"{"models":["a"]}"#, false),
            ("", false),
        ] {
            assert_eq!(MachineInfo::parse(body.as_bytes()).is_ok(), valid, "{body}");
        }
    }

    #[test]
    fn response_has_every_field() {
        let text = response(2, u64::MAX, Outcome::NotOnline, 1_718_000_000, "");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "version": 0, "timestamp": 1_718_000_000, "id": u64::MAX, "type": 2, "pub_key": "", "sign": "",
            "code": 6, "message": "node id is empty, need send online device first", "body": "",
        });
        assert_eq!(value, expected);
    }
}
