//! Messages of hm, as the published server reads and writes them.
//!
//! A request is a JSON object with `version`, `timestamp` (Unix milliseconds), `id`, `type`, `pub_key`, `sign` and `body`; the last three
//! are base64, and `body` contains another JSON object. Go's encoding/json reads them: keys match without regard to case, unknown keys
//! are ignored, missing and null values are zero, the last of several equal keys wins, numbers must be integers of their type. A response has
//! the `id` and `type` of its request, a timestamp in Unix seconds, `code`, `message` and `body`.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// `type` of a request.
pub const ONLINE: u32 = 1;
pub const MACHINE_INFO: u32 = 2;

/// A request without its body's meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub version: u32,
    /// Unix milliseconds, as sent.
    pub timestamp: i64,
    pub id: u64,
    pub kind: u32,
    /// Decoded.
    pub body: Vec<u8>,
}

impl Request {
    pub fn parse(message: &[u8]) -> Result<Self, String> {
        let mut raw = RawRequest::default();
        parse_object(message, &mut raw)?;
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
    /// The store failed.
    NotStored,
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
            Self::NotStored => 4,
            Self::AlreadyOnlineHere | Self::AlreadyOnlineElsewhere => 5,
            Self::NotOnline => 6,
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::MalformedRequest => "parse request failed",
            Self::UnknownType => "unknown request message type",
            Self::MalformedOnline => "parse online request failed",
            Self::MalformedMachineInfo => "parse machine info request failed",
            Self::NotStored => "update database failed",
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
            "version" => self.version = value_or_zero(map)?,
            "timestamp" => self.timestamp = value_or_zero(map)?,
            "id" => self.id = value_or_zero(map)?,
            "type" => self.kind = value_or_zero(map)?,
            "pub_key" => self.pub_key = value_or_zero(map)?,
            "sign" => self.sign = value_or_zero(map)?,
            "body" => self.body = value_or_zero(map)?,
            _ => ignore(map)?,
        }
        Ok(())
    }
}

impl Fields for Online {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error> {
        match key {
            "node_id" => self.node_id = value_or_zero(map)?,
            _ => ignore(map)?,
        }
        Ok(())
    }
}

impl Fields for MachineInfo {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error> {
        match key {
            "project" => self.project = value_or_zero(map)?,
            "models" => {
                let models: Vec<Option<Object<Model>>> = value_or_zero(map)?;
                self.models =
                    models.into_iter().map(|model| model.unwrap_or_default().0.0).collect();
            }
            "gpu_name" => self.gpu_name = value_or_zero(map)?,
            "utilization_gpu" => self.utilization_gpu = value_or_zero(map)?,
            "memory_total" => self.memory_total = value_or_zero(map)?,
            "memory_used" => self.memory_used = value_or_zero(map)?,
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
            "model" => self.0 = value_or_zero(map)?,
            _ => ignore(map)?,
        }
        Ok(())
    }
}

/// An object whose fields are read one after the other. `key` is in lower case.
trait Fields: Default {
    fn read<'de, M: MapAccess<'de>>(&mut self, key: &str, map: &mut M) -> Result<(), M::Error>;
}

fn value_or_zero<'de, M: MapAccess<'de>, T: Deserialize<'de> + Default>(
    map: &mut M,
) -> Result<T, M::Error> {
    Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
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

    fn parse(text: &str) -> Result<Request, String> {
        Request::parse(text.as_bytes())
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
            ("{}", Some(Request::default())),
            ("null", Some(Request::default())),
            (r#"{"ID":7,"Type":2}"#, Some(Request { id: 7, kind: 2, ..Default::default() })),
            (r#"{"id":1,"id":2}"#, Some(Request { id: 2, ..Default::default() })),
            (r#"{"id":1,"ID":null,"x":[{}]}"#, Some(Request::default())),
            (r#"{"body":"YQ\r\n=="}"#, Some(Request { body: b"a".to_vec(), ..Default::default() })),
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
