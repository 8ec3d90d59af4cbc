//! The hm clients of many agents in this process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::Scope;
use std::time::Duration;

use hm_agent::collector::latest::LatestSample;
use hm_agent::config::{Config, CurrentConfig, HmConfig, Settings, Sources};
use hm_agent::hm_client::client::HmClient;
use hm_agent::hub_extension::messages::{AgentInfo, GetRequest};
use hm_agent::hub_extension::node::{NodeResources, NodeResponse};
use hm_agent::hub_extension::status::NodeStatus;
use hm_agent::metrics::Format;
use hm_agent::model::RawSample;
use hm_agent::net::credentials::HubCredentials;
use hm_agent::sys::EventFd;
use hm_agent::util::state_io::StateIo;
use hm_agent::util::sync::Shutdown;

use super::TempDir;

/// Clients of nodes `n0`, `n1` and so on. Each sends reports without measured values and keeps its journal below a state directory.
pub struct HmClients {
    pub each: Vec<HmClient>,
    config: CurrentConfig,
    latest: LatestSample,
    gpus_ready: EventFd,
    stop: Shutdown,
}

impl HmClients {
    pub fn new(
        server: SocketAddr,
        count: usize,
        report_interval: Duration,
        state: &TempDir,
    ) -> Self {
        let config = HmConfig {
            url: format!("ws://{server}/websocket"),
            token: None,
            project: String::new(),
            models: Vec::new(),
            report_interval,
            ping_interval: Duration::from_secs(10),
        };
        let client = |number: usize| {
            let state = StateIo::start(&state.0.join(number.to_string())).unwrap();
            let node_id = format!("n{number}");
            let credentials = Arc::new(HubCredentials::open(&state, &node_id));
            HmClient::new(config.clone(), node_id, &state, None, &credentials).unwrap()
        };
        let each = (0..count).map(client).collect();
        let settings = Settings::load(&Sources::default()).unwrap();
        let gpus_ready = EventFd::new().unwrap();
        gpus_ready.notify();
        Self {
            each,
            config: CurrentConfig::new(Config::new(&settings).unwrap()),
            latest: LatestSample::new(RawSample::default()).unwrap(),
            gpus_ready,
            stop: Shutdown::new().unwrap(),
        }
    }

    /// Starts their threads, which end when the result is dropped.
    pub fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> RunningClients<'scope> {
        for client in &self.each {
            scope.spawn(|| client.run(&SimulatedResources, &self.stop));
            scope.spawn(|| {
                client.run_reports(&self.config, &self.latest, &self.gpus_ready, &self.stop);
            });
        }
        RunningClients(&self.stop)
    }

    /// Whether all are connected and have delivered their reports.
    pub fn have_delivered(&self) -> bool {
        self.each.iter().all(has_delivered)
    }
}

/// Whether a client is connected and has delivered its reports.
pub fn has_delivered(client: &HmClient) -> bool {
    let status = client.status();
    status.backlog == 0 && status.state == "online"
}

/// What hm-hub learns of these nodes.
pub struct SimulatedResources;

impl NodeResources for SimulatedResources {
    fn agent_info(&self) -> Option<AgentInfo> {
        Some(AgentInfo { hostname: "simulated".to_owned(), ..AgentInfo::default() })
    }

    fn status(&self) -> NodeStatus {
        NodeStatus::default()
    }

    fn get(&self, _: &GetRequest) -> NodeResponse {
        let body = b"simulated 1\n"[..].into();
        let content_type = Format::Prometheus.content_type();
        NodeResponse { status: 200, content_type, is_gzip: false, body }
    }
}

/// Stops the clients, also when a test fails.
pub struct RunningClients<'a>(&'a Shutdown);

impl Drop for RunningClients<'_> {
    fn drop(&mut self) {
        self.0.trigger();
    }
}
