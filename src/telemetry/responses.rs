//! Responses of the telemetry port to plain requests. They are rendered from the latest sample, so a request never waits for a
//! driver, and once per sample, so all scrapes of a sample share one body. Values that are read when a body is rendered (the
//! time, the agent's own process and its connections) are therefore up to one interval old.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::collector::latest::{LatestSample, PublishedSample};
use crate::collector::process_stats;
use crate::collector::sampler_loop::FIRST_GPU_RESULT_TIMEOUT;
use crate::config::CurrentConfig;
use crate::health::Health;
use crate::history::event_log::{EventLog, EventQuery};
use crate::history::series::{Range, SeriesHistory};
use crate::http::gzip;
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response};
use crate::http::stats::ListenerStats;
use crate::metrics::{Exposition, Format, render};
use crate::model::finding::HealthReport;
use crate::model::host_info::HostInfo;
use crate::model::status::PortStatus;
use crate::sys;
use crate::sys::EventFd;
use crate::telemetry::dashboard;
use crate::telemetry::snapshot_json::{self, AgentStatus};
use crate::util::error::reason;
use crate::util::logger::unix_seconds;
use crate::util::render_cache::Rendering;
use crate::util::sync::Shutdown;

/// How long a request waits for the first samples with GPUs. The sampler stops waiting for the driver earlier, so this passes
/// only if the sampler hangs.
pub const GPUS_READY_TIMEOUT: Duration =
    FIRST_GPU_RESULT_TIMEOUT.saturating_add(Duration::from_secs(1));

/// The representations of a body without and with compression.
type Renderings = [Rendering; 2];
const PROMETHEUS: Renderings = [Rendering::Prometheus, Rendering::PrometheusGzip];
const OPENMETRICS: Renderings = [Rendering::OpenMetrics, Rendering::OpenMetricsGzip];
const SNAPSHOT: Renderings = [Rendering::Snapshot, Rendering::SnapshotGzip];

/// The text of a 503 until `gpus_ready`.
pub const NOT_READY: &str = "waiting for the first GPU sample";

/// Shared by all connections.
pub struct Responses<'a> {
    pub latest: &'a LatestSample,
    pub host_info: &'a HostInfo,
    pub config: &'a CurrentConfig,
    /// Readable once samples include the GPUs, or the time to wait for them is over.
    pub gpus_ready: &'a EventFd,
    pub shutdown: &'a Shutdown,
    /// Name and counters of each listening port.
    pub ports: Vec<(&'static str, &'a ListenerStats)>,
    pub events: &'a EventLog,
    pub series: &'a SeriesHistory,
    pub health: &'a Health,
}

/// Why there is no history.
pub enum NoHistory {
    BadQuery(String),
    Unreadable(String),
}

/// Paths that are answered without a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Dashboard,
    Metrics,
    Snapshot,
    Events,
    History,
    /// What is wrong with the node.
    Health,
    /// The agent works.
    Healthy,
    /// Samples include the GPUs.
    Ready,
}

impl Resource {
    pub fn from_path(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Dashboard),
            "/metrics" => Some(Self::Metrics),
            "/snapshot" => Some(Self::Snapshot),
            "/events" => Some(Self::Events),
            "/history" => Some(Self::History),
            "/health" => Some(Self::Health),
            "/-/healthy" | "/healthz" => Some(Self::Healthy),
            "/-/ready" => Some(Self::Ready),
            _ => None,
        }
    }

    /// Whether it needs no token, because it discloses nothing about the host. The dashboard asks its user for the token.
    pub fn is_public(self) -> bool {
        matches!(self, Self::Healthy | Self::Ready | Self::Dashboard)
    }
}

/// A body of one sample.
pub struct RenderedBody {
    pub content_type: &'static str,
    pub bytes: Arc<[u8]>,
    pub is_gzip: bool,
}

impl Responses<'_> {
    pub fn respond(
        &self,
        resource: Resource,
        head: &RequestHead<'_>,
    ) -> Result<Response, ErrorResponse> {
        let accepts_gzip = gzip::is_accepted(head.header_values("accept-encoding"));
        let body = match resource {
            Resource::Healthy | Resource::Ready => return Ok(self.liveness(resource)),
            Resource::Dashboard => return dashboard::response(accepts_gzip),
            Resource::Metrics => {
                let format = Format::negotiate(head.header_values("accept"));
                self.metrics_body(format, accepts_gzip)
            }
            Resource::Snapshot => self.snapshot_body(accepts_gzip),
            Resource::Health => self.health_body(accepts_gzip),
            Resource::Events => self
                .events_body(head.query, accepts_gzip)
                .map_err(|why| ErrorResponse::new("400 Bad Request", why))?,
            Resource::History => {
                self.history_body(head.query, accepts_gzip).map_err(|why| match why {
                    NoHistory::BadQuery(why) => ErrorResponse::new("400 Bad Request", why),
                    NoHistory::Unreadable(why) => ErrorResponse::service_unavailable(why),
                })?
            }
        };
        let response = Response::new(OK, body.content_type, body.bytes)
            .header("Vary: Accept, Accept-Encoding")
            .header("Cache-Control: no-store");
        Ok(match body.is_gzip {
            true => response.header("Content-Encoding: gzip"),
            false => response,
        })
    }

    pub fn metrics_body(&self, format: Format, accepts_gzip: bool) -> RenderedBody {
        let sample = self.latest.current();
        let renderings = match format {
            Format::Prometheus => PROMETHEUS,
            Format::OpenMetrics => OPENMETRICS,
        };
        let render = || self.metrics(&sample, format);
        rendered(&sample, renderings, format.content_type(), accepts_gzip, render)
    }

    pub fn snapshot_body(&self, accepts_gzip: bool) -> RenderedBody {
        let sample = self.latest.current();
        let render = || self.snapshot(&sample).into_bytes();
        rendered(&sample, SNAPSHOT, "application/json", accepts_gzip, render)
    }

    /// The events that a query requests. The error is why it is not valid.
    pub fn events_body(&self, query: &str, accepts_gzip: bool) -> Result<RenderedBody, String> {
        Ok(json_body(&self.events.page(EventQuery::parse(query)?), accepts_gzip))
    }

    /// The findings on this node.
    pub fn health_body(&self, accepts_gzip: bool) -> RenderedBody {
        json_body(&self.health_report(&self.latest.current()), accepts_gzip)
    }

    pub fn health_report(&self, sample: &PublishedSample) -> HealthReport {
        let (config, counts) = (self.config.get(), self.events.counts());
        if stale(sample.age(), config.interval).is_some() {
            return HealthReport::unknown();
        }
        let events = |since| self.events.since(since);
        self.health.check(&sample.raw, counts, events, &config.health, unix_seconds())
    }

    /// The series over the time that a query requests.
    pub fn history_body(&self, query: &str, accepts_gzip: bool) -> Result<RenderedBody, NoHistory> {
        let range = Range::parse(query).map_err(NoHistory::BadQuery)?;
        let (interval, sample) = (self.config.get().interval, self.latest.current());
        let history = self.series.read(range, interval, &sample.snapshot);
        Ok(json_body(&history.map_err(NoHistory::Unreadable)?, accepts_gzip))
    }

    /// Waits until samples include the GPUs, at most the first seconds after the start. Otherwise a client that requests data
    /// only once, or all dashboards when the agent is restarted, would miss them.
    pub fn wait_for_gpus(&self, timeout: Duration) -> Result<(), ErrorResponse> {
        let events = [self.shutdown.as_fd(), self.gpus_ready.as_fd()];
        match sys::wait_readable(events, Some(timeout)) {
            [false, false] => Err(ErrorResponse::service_unavailable(NOT_READY)),
            _ => Ok(()),
        }
    }

    /// Whether samples include the GPUs.
    pub fn are_gpus_ready(&self) -> bool {
        sys::wait_readable([self.gpus_ready.as_fd()], Some(Duration::ZERO)) == [true]
    }

    fn liveness(&self, resource: Resource) -> Response {
        let problem = match resource {
            Resource::Ready if !self.are_gpus_ready() => Some(NOT_READY.to_owned()),
            _ => stale(self.latest.current().age(), self.config.get().interval),
        };
        let response = match problem {
            None => Response::text(OK, "ok\n"),
            Some(problem) => Response::text("503 Service Unavailable", &format!("{problem}\n")),
        };
        response.header("Cache-Control: no-store")
    }

    fn metrics(&self, sample: &PublishedSample, format: Format) -> Vec<u8> {
        let config = self.config.get();
        let input = Exposition {
            sample: &sample.raw,
            host: self.host_info,
            now: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            interval: config.interval,
            samples: sample.tick() + 1,
            process: process_stats::self_stats(boot_time_seconds(sample)),
            ports: &self.port_statuses(),
            health: &self.health_report(sample),
            gpu_hostname_label: config.gpu.hostname_label,
        };
        render(&input, format).into_bytes()
    }

    fn snapshot(&self, sample: &PublishedSample) -> String {
        let primary = self.config.get().gpu.primary;
        let process = process_stats::self_stats(boot_time_seconds(sample));
        let own = AgentStatus { process, ports: &self.port_statuses() };
        snapshot_json::snapshot(self.host_info, &sample.raw, &sample.snapshot, primary, own)
    }

    fn port_statuses(&self) -> Vec<PortStatus> {
        self.ports.iter().map(|(name, stats)| stats.status(name)).collect()
    }
}

fn boot_time_seconds(sample: &PublishedSample) -> Option<u64> {
    sample.raw.stat.as_ref().and_then(|stat| stat.boot_time_seconds)
}

fn json_body(value: &impl Serialize, accepts_gzip: bool) -> RenderedBody {
    // Serialization cannot fail: the types have neither maps nor custom implementations.
    let plain = serde_json::to_vec(value).unwrap_or_default();
    let is_long = accepts_gzip && plain.len() >= gzip::MIN_COMPRESSED_BYTES;
    let compressed = is_long.then(|| gzip::compress(&plain).ok()).flatten();
    let (is_gzip, bytes) = (compressed.is_some(), compressed.unwrap_or(plain).into());
    RenderedBody { content_type: "application/json", bytes, is_gzip }
}

/// A body of this sample, compressed if it is long enough and the client accepts it.
fn rendered(
    sample: &PublishedSample,
    [plain, gzip]: Renderings,
    content_type: &'static str,
    accepts_gzip: bool,
    render: impl FnOnce() -> Vec<u8>,
) -> RenderedBody {
    let bytes = sample.rendered.get_or_render(plain, render);
    let uncompressed = || RenderedBody { content_type, bytes: bytes.clone(), is_gzip: false };
    if !accepts_gzip || bytes.len() < gzip::MIN_COMPRESSED_BYTES {
        return uncompressed();
    }
    let compress = || {
        gzip::compress(bytes).unwrap_or_else(|error| {
            log::warn!("usage: cannot compress a response: {}", reason(&error));
            Vec::new()
        })
    };
    match sample.rendered.get_or_render(gzip, compress) {
        compressed if compressed.is_empty() => uncompressed(),
        compressed => RenderedBody { content_type, bytes: compressed.clone(), is_gzip: true },
    }
}

/// Describes a sample that is older than three intervals: the sampler hangs, or the host is overloaded.
fn stale(age: Duration, interval: Duration) -> Option<String> {
    (age > interval * 3).then(|| {
        let (age, interval) = (age.as_secs(), interval.as_secs());
        format!("stale: last sample {age} s ago, interval {interval} s")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings, Sources};
    use crate::model::RawSample;
    use crate::util::state_io::tests::Dir;

    #[test]
    fn sample_is_stale_after_three_intervals() {
        let second = Duration::from_secs(1);
        assert_eq!(stale(second * 15, second * 5), None);
        let problem = stale(second * 16, second * 5).unwrap();
        assert_eq!(problem, "stale: last sample 16 s ago, interval 5 s");
    }

    #[test]
    fn rejects_request_when_sampler_never_reports_gpus() {
        let settings = Settings::load(&Sources::default()).unwrap();
        let stats = ListenerStats::default();
        let dir = Dir::new("responses");
        let responses = Responses {
            latest: &LatestSample::new(RawSample::default()).unwrap(),
            host_info: &HostInfo::default(),
            config: &CurrentConfig::new(Config::new(&settings).unwrap()),
            gpus_ready: &EventFd::new().unwrap(),
            shutdown: &Shutdown::new().unwrap(),
            ports: vec![("usage", &stats)],
            events: &EventLog::open(&dir.state),
            series: &SeriesHistory::open(&dir.state),
            health: &Health::open(&dir.state),
        };
        let error = responses.wait_for_gpus(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.status, "503 Service Unavailable");
        assert_eq!(responses.liveness(Resource::Ready).status, "503 Service Unavailable");
        responses.gpus_ready.notify();
        assert!(responses.wait_for_gpus(GPUS_READY_TIMEOUT).is_ok());
        assert_eq!(responses.liveness(Resource::Ready).status, OK);
    }

    #[test]
    fn renders_and_compresses_a_body_once_per_sample() {
        let latest = LatestSample::new(RawSample::default()).unwrap();
        let sample = latest.current();
        let text = vec![b'a'; gzip::MIN_COMPRESSED_BYTES];
        let plain = rendered(&sample, PROMETHEUS, "", false, || text.clone());
        let compressed = rendered(&sample, PROMETHEUS, "", true, || panic!("rendered twice"));
        assert!(!plain.is_gzip && compressed.is_gzip);
        assert!(compressed.bytes.len() < plain.bytes.len());
        let again = rendered(&sample, PROMETHEUS, "", true, || panic!("rendered twice"));
        assert!(Arc::ptr_eq(&again.bytes, &compressed.bytes));
        let short = rendered(&sample, SNAPSHOT, "", true, || b"short".to_vec());
        assert!(!short.is_gzip);
    }
}
