//! Messages of `/usage`.
//!
//! Format: the "GPU Monitoring WebSocket API Specification" 1.0. Client to server: bare text. Server to client: JSON. MB are
//! MiB, rounded down; percentages have one decimal; GPU fields without a value are omitted. The detailed form only adds
//! fields.

use serde::Serialize;

use crate::collector::latest::PublishedSample;
use crate::http::frame;
use crate::model::Snapshot;
use crate::model::gpu::Gpu;
use crate::model::host_info::HostInfo;
use crate::model::primary_gpu::{Primary, PrimaryGpu, primary_gpu};
use crate::telemetry::detail::{UsageDetail, one_decimal, usage_detail};
use crate::util::render_cache::Rendering;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// `usage_update` as a WebSocket frame, rendered once per sample.
pub fn update_frame(
    sample: &PublishedSample,
    primary: impl FnOnce() -> Primary,
    detailed: bool,
) -> &[u8] {
    let rendering = if detailed { Rendering::DetailedUpdate } else { Rendering::Update };
    let render = || frame::text(&usage_update(&sample.snapshot, primary(), detailed)).into();
    sample.rendered.get_or_render(rendering, render)
}

/// Requests of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientRequest {
    /// Updates as specified.
    Subscribe,
    /// Updates with the fields of [`UsageDetail`].
    SubscribeDetail,
    Unsubscribe,
}

/// A message that is no known request, escaped.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownRequest {
    escaped: String,
}

impl ClientRequest {
    /// Parses a message. Surrounding white space is ignored: websocat appends a line end.
    pub fn parse(text: &str) -> Result<Self, UnknownRequest> {
        match text.trim_ascii() {
            "subscribe:usage" => Ok(Self::Subscribe),
            "subscribe:detail" => Ok(Self::SubscribeDetail),
            "unsubscribe:usage" => Ok(Self::Unsubscribe),
            other => Err(UnknownRequest { escaped: escape_for_log(other, EXCERPT_CHARS) }),
        }
    }
}

pub const SUBSCRIBED: &str = r#"{"status":"subscribed"}"#;
pub const UNSUBSCRIBED: &str = r#"{"status":"unsubscribed"}"#;

#[derive(Serialize)]
struct ErrorMessage<'a> {
    status: &'a str,
    message: &'a str,
}

impl UnknownRequest {
    /// The answer, which lists the known requests.
    pub fn message(&self) -> String {
        let message = format!(
            "unknown request \"{}\"; send subscribe:usage, subscribe:detail or unsubscribe:usage",
            self.escaped
        );
        json(&ErrorMessage { status: "error", message: &message })
    }
}

#[derive(Serialize)]
struct SystemInfo<'a> {
    r#type: &'a str,
    cpu_count: usize,
    cpu_model: &'a str,
    ram_total_mb: u64,
    gpu_count: usize,
    gpus: Vec<GpuInfo<'a>>,
    hostname: &'a str,
    timestamp: u64,
    #[serde(flatten)]
    detail: Option<SystemDetail<'a>>,
}

#[derive(Serialize)]
struct GpuInfo<'a> {
    index: u32,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_mb: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct SystemDetail<'a> {
    agent: &'a str,
    architecture: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    os: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<&'a str>,
}

/// Renders `system_info` with the timestamp `unix_seconds`.
pub fn system_info(
    host: &HostInfo,
    snapshot: &Snapshot,
    detailed: bool,
    unix_seconds: u64,
) -> String {
    json(&SystemInfo {
        r#type: "system_info",
        cpu_count: snapshot.cpu.as_ref().map_or(0, |cpu| cpu.each_percent.len()),
        cpu_model: &host.cpu_model,
        ram_total_mb: snapshot.memory.map_or(0, |memory| mib(memory.total_bytes)),
        gpu_count: snapshot.gpus.each.len(),
        gpus: snapshot.gpus.each.iter().map(gpu_info).collect(),
        hostname: snapshot.hostname.as_deref().unwrap_or_default(),
        timestamp: unix_seconds,
        detail: detailed.then(|| system_detail(host)),
    })
}

pub(super) fn system_detail(host: &HostInfo) -> SystemDetail<'_> {
    SystemDetail {
        agent: env!("CARGO_PKG_VERSION"),
        architecture: std::env::consts::ARCH,
        os: host.os.as_deref(),
        kernel: host.kernel.as_deref(),
    }
}

fn gpu_info(gpu: &Gpu) -> GpuInfo<'_> {
    let memory_mb = gpu.values.memory_total_bytes.map(mib);
    GpuInfo { index: gpu.index, name: &gpu.name, memory_mb }
}

#[derive(Serialize)]
pub(super) struct UsageUpdate<'a> {
    pub r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_used_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_total_mb: Option<u64>,
    #[serde(flatten)]
    pub gpu: PrimaryGpu,
    pub timestamp: u64,
    #[serde(flatten)]
    pub detail: Option<UsageDetail<'a>>,
}

/// Renders `usage_update`.
pub fn usage_update(snapshot: &Snapshot, primary: Primary, detailed: bool) -> String {
    json(&update(snapshot, primary, detailed))
}

pub(super) fn update(snapshot: &Snapshot, primary: Primary, detailed: bool) -> UsageUpdate<'_> {
    let memory = snapshot.memory;
    let used = memory.and_then(|memory| Some((memory.used_bytes?, memory.total_bytes)));
    UsageUpdate {
        r#type: "usage_update",
        cpu_percent: snapshot.cpu.as_ref().map(|cpu| one_decimal(cpu.percent)),
        ram_percent: used.map(|(used, total)| one_decimal(percent(used, total))),
        ram_used_mb: used.map(|(used, _)| mib(used)),
        ram_total_mb: memory.map(|memory| mib(memory.total_bytes)),
        gpu: primary_gpu(&snapshot.gpus.each, primary),
        timestamp: snapshot.unix_seconds,
        detail: detailed.then(|| usage_detail(snapshot)),
    }
}

/// Both detailed messages in one object, for `hm-agent sample --json`.
pub fn sample(host: &HostInfo, snapshot: &Snapshot, primary: Primary) -> String {
    let system_info = system_info(host, snapshot, true, snapshot.unix_seconds);
    let usage_update = usage_update(snapshot, primary, true);
    format!(r#"{{"system_info":{system_info},"usage_update":{usage_update}}}"#)
}

/// Serializing these structures cannot fail: all map keys are strings, and all implementations are derived.
pub(super) fn json(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn percent(part: u64, total: u64) -> f64 {
    if total == 0 { 0.0 } else { 100.0 * part as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::Gpus;
    use crate::model::gpu::Values;
    use crate::model::{Cpu, Memory};
    use std::sync::Arc;

    fn gpus(each: Vec<Gpu>) -> Arc<Gpus> {
        Arc::new(Gpus { nvidia: None, each })
    }

    fn specification_snapshot() -> Snapshot {
        let gpu = |index, name: &str, memory_mib: u64, used_mib: u64, percent| Gpu {
            index,
            name: name.into(),
            values: Values {
                memory_total_bytes: Some(memory_mib << 20),
                memory_used_bytes: Some(used_mib << 20),
                utilization_percent: Some(percent),
                ..Default::default()
            },
            ..Default::default()
        };
        Snapshot {
            unix_seconds: 1678901244,
            hostname: Some("gpu-server-01".into()),
            cpu: Some(Cpu {
                percent: 45.26,
                each_percent: (0..16).map(|cpu| (cpu, 1.0)).collect(),
            }),
            memory: Some(Memory {
                total_bytes: 32768 << 20,
                used_bytes: Some((20582 << 20) + 1048575),
                swap_total_bytes: Some(0),
                swap_used_bytes: Some(0),
            }),
            gpus: gpus(vec![
                gpu(0, "NVIDIA GeForce RTX 3090", 24576, 18432, 87),
                gpu(1, "NVIDIA GeForce RTX 3080", 10240, 1000, 12),
            ]),
            ..Default::default()
        }
    }

    #[test]
    fn renders_examples_of_the_specification() {
        let host = HostInfo {
            cpu_model: "AMD Ryzen 9 5950X 16-Core Processor".into(),
            ..Default::default()
        };
        let snapshot = specification_snapshot();
        assert_eq!(
            system_info(&host, &snapshot, false, 1678901234),
            r#"{"type":"system_info","cpu_count":16,"cpu_model":"AMD Ryzen 9 5950X 16-Core Processor","ram_total_mb":32768,"gpu_count":2,"gpus":[{"index":0,"name":"NVIDIA GeForce RTX 3090","memory_mb":24576},{"index":1,"name":"NVIDIA GeForce RTX 3080","memory_mb":10240}],"hostname":"gpu-server-01","timestamp":1678901234}"#
        );
        assert_eq!(
            usage_update(&snapshot, Primary::Index(0), false),
            r#"{"type":"usage_update","cpu_percent":45.3,"ram_percent":62.8,"ram_used_mb":20582,"ram_total_mb":32768,"gpu_percent":87,"gpu_mem_used_mb":18432,"gpu_mem_total_mb":24576,"timestamp":1678901244}"#
        );
    }

    #[test]
    fn omits_gpu_fields_without_gpu() {
        let snapshot = Snapshot { gpus: gpus(vec![]), ..specification_snapshot() };
        for primary in [Primary::Index(0), Primary::Aggregate] {
            assert_eq!(
                usage_update(&snapshot, primary, false),
                r#"{"type":"usage_update","cpu_percent":45.3,"ram_percent":62.8,"ram_used_mb":20582,"ram_total_mb":32768,"timestamp":1678901244}"#
            );
        }
        assert!(
            system_info(&HostInfo::default(), &snapshot, false, 0)
                .contains(r#""gpu_count":0,"gpus":[],"#)
        );
    }

    #[test]
    fn aggregate_averages_utilization_and_sums_memory() {
        let update = usage_update(&specification_snapshot(), Primary::Aggregate, false);
        let gpu = r#""gpu_percent":50,"gpu_mem_used_mb":19432,"gpu_mem_total_mb":34816"#;
        assert!(update.contains(gpu), "{update}");
    }

    #[test]
    fn parses_requests_with_or_without_line_end() {
        assert_eq!(ClientRequest::parse("subscribe:usage"), Ok(ClientRequest::Subscribe));
        assert_eq!(ClientRequest::parse("subscribe:usage\r\n"), Ok(ClientRequest::Subscribe));
        assert_eq!(ClientRequest::parse("subscribe:detail"), Ok(ClientRequest::SubscribeDetail));
        assert_eq!(ClientRequest::parse("unsubscribe:usage"), Ok(ClientRequest::Unsubscribe));
        for bad in ["", "Subscribe:Usage", "subscribe", "{\"type\":\"subscribe\"}"] {
            assert!(ClientRequest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answer_to_unknown_request_is_escaped_and_short() {
        let message = ClientRequest::parse("\"\u{1b}[2J<script>").unwrap_err().message();
        let value: serde_json::Value = serde_json::from_str(&message).unwrap();
        assert_eq!(value["status"], "error");
        assert!(
            value["message"]
                .as_str()
                .unwrap()
                .starts_with(r#"unknown request "\"\x1b[2J<script>""#)
        );
        assert!(ClientRequest::parse(&"x".repeat(4096)).unwrap_err().message().len() < 250);
    }

    #[test]
    fn detailed_update_only_adds_fields() {
        let plain: serde_json::Map<_, _> = serde_json::from_str(&usage_update(
            &specification_snapshot(),
            Primary::Index(0),
            false,
        ))
        .unwrap();
        let detail: serde_json::Map<_, _> =
            serde_json::from_str(&usage_update(&specification_snapshot(), Primary::Index(0), true))
                .unwrap();
        for (key, value) in &plain {
            assert_eq!(detail.get(key), Some(value));
        }
        assert!(detail.len() > plain.len());
    }
}
