//! `/api/fleet`: totals, and every node or those that have changed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::http::gzip;
use crate::http::request::RequestHead;
use crate::http::response::{ErrorResponse, OK, Response};
use crate::hub::Hub;
use crate::hub::core::messages::unix_ms;
use crate::hub::nodes::Presence;
use crate::hub::nodes::fleet::{Fleet, FleetNode};
use crate::hub_extension::status::{GpuCondition, GpuStatus, NodeStatus};
use crate::model::health_problem::{HealthProblem, Severity};
use crate::util::error::reason;
use crate::util::sync::lock;

#[derive(Serialize)]
struct FleetMessage<'a> {
    /// To be passed as `after`. It begins with an id of this run of the hub.
    revision: String,
    /// Whether `nodes` are all; otherwise those that have changed since `after`.
    full: bool,
    /// Unix seconds of the hub's clock, as all times.
    time: i64,
    totals: Totals<'a>,
    nodes: Vec<NodeEntry<'a>>,
    /// Nodes that do not exist any more.
    removed: Vec<&'a str>,
    /// What the hub cannot do at present.
    notices: Vec<String>,
}

#[derive(Serialize)]
struct Totals<'a> {
    nodes: BTreeMap<&'static str, usize>,
    /// By model.
    gpus: BTreeMap<&'a str, usize>,
    gpu_states: BTreeMap<&'static str, usize>,
    /// By severity.
    problems: BTreeMap<&'static str, usize>,
    xids_last_24h: u32,
    /// The node that is not online for the longest time.
    oldest_silence: Option<Silence<'a>>,
}

#[derive(Serialize)]
struct Silence<'a> {
    node_id: &'a str,
    since: i64,
}

#[derive(Serialize)]
struct NodeEntry<'a> {
    node_id: &'a str,
    state: &'static str,
    /// When it came online, or was lost.
    since: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    protocols: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a str>,
    gpus: &'a [GpuStatus],
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_utilization_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_memory_used_percent: Option<u8>,
    problems: Vec<Cow<'a, HealthProblem>>,
    /// It has connected without proving which node it is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unauthenticated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_report: Option<i64>,
}

/// Both clocks at the time of a request.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    unix_ms: i64,
}

impl Clock {
    /// Unix seconds. Milliseconds are subtracted before the rounding, so that an instant is the same second in all answers.
    fn unix(self, instant: Instant) -> i64 {
        let age = self.instant.saturating_duration_since(instant).as_millis();
        (self.unix_ms - i64::try_from(age).unwrap_or_default()) / 1000
    }
}

pub fn response(hub: &Hub, head: &RequestHead<'_>) -> Result<Response, ErrorResponse> {
    let after = head.query_value("after").map(|value| String::from_utf8_lossy(&value).into_owned());
    let known = after.as_deref().and_then(|after| parse_revision(&hub.run_id, after));
    // Each answer has all nodes in memory, if only for its totals.
    let _one_at_a_time = lock(&hub.fleet_answers);
    let fleet = lock(&hub.nodes).fleet(known.unwrap_or_default());
    let clock = Clock { instant: Instant::now(), unix_ms: unix_ms(SystemTime::now()) };
    let notices = hub.failures();
    let message = FleetMessage { notices, ..message(&hub.run_id, &fleet, known, clock) };
    let text = serde_json::to_vec(&message);
    let text =
        text.map_err(|error| ErrorResponse::new("500 Internal Server Error", error.to_string()))?;
    let response = |body: Vec<u8>| {
        Response::new(OK, "application/json", body.into()).header("Vary: Accept-Encoding")
    };
    let accepts_gzip = gzip::is_accepted(head.header_values("accept-encoding"));
    if !accepts_gzip || text.len() < gzip::MIN_COMPRESSED_BYTES {
        return Ok(response(text));
    }
    match gzip::compress_large(&text) {
        Ok(compressed) => Ok(response(compressed).header("Content-Encoding: gzip")),
        Err(error) => {
            log::warn!("web: cannot compress a response: {}", reason(&error));
            Ok(response(text))
        }
    }
}

/// `None`: of another run of the hub.
fn parse_revision(run_id: &str, after: &str) -> Option<u64> {
    after.strip_prefix(run_id)?.strip_prefix('-')?.parse().ok()
}

fn message<'a>(
    run_id: &str,
    fleet: &'a Fleet,
    known: Option<u64>,
    clock: Clock,
) -> FleetMessage<'a> {
    let (known, removed) = match (known, &fleet.removed) {
        (Some(known), Some(removed)) => (known, removed.iter().map(|it| &**it).collect()),
        _ => (0, Vec::new()),
    };
    let changed = fleet.nodes.iter().filter(|node| known == 0 || node.revision > known);
    let mut changed: Vec<&FleetNode> = changed.collect();
    // Neighbours are alike, which compresses well.
    changed.sort_unstable_by(|a, b| a.node_id.cmp(&b.node_id));
    FleetMessage {
        revision: format!("{run_id}-{}", fleet.revision),
        full: known == 0,
        time: clock.unix_ms / 1000,
        totals: totals(&fleet.nodes, clock),
        nodes: changed.into_iter().map(|node| entry(node, clock)).collect(),
        removed,
        notices: Vec::new(),
    }
}

fn entry(node: &FleetNode, clock: Clock) -> NodeEntry<'_> {
    let info = &*node.info;
    let (agent, register) = (info.agent.as_ref(), info.register.as_ref());
    let hostname = agent.map(|agent| &agent.hostname);
    let status = info.status.as_ref().map(|received| &received.status);
    let names = [("hm", node.protocols.hm), ("core", node.protocols.core)];
    let project = agent.map(|agent| agent.project.as_str()).or(info.project.as_deref());
    NodeEntry {
        node_id: &node.node_id,
        state: node.presence.name(),
        since: since(node, clock),
        hostname: hostname.or(register.map(|register| &register.hostname)).map(String::as_str),
        address: node.address,
        protocols: names
            .into_iter()
            .filter(|(_, is_used)| *is_used)
            .map(|(name, _)| name)
            .collect(),
        agent_version: agent.map(|agent| agent.agent_version.as_str()),
        group: info.group.as_deref(),
        project: project.filter(|project| !project.is_empty()),
        gpus: status.map_or(&[], |status| &status.gpus),
        gpu_utilization_percent: status.and_then(|status| status.gpu_utilization_percent),
        gpu_memory_used_percent: status.and_then(|status| status.gpu_memory_used_percent),
        problems: problems(node),
        unauthenticated: node.is_unauthenticated,
        last_report: last_report(node, clock),
    }
}

/// Those that the node has sent, and what the hub knows.
fn problems(node: &FleetNode) -> Vec<Cow<'_, HealthProblem>> {
    let status = node.info.status.as_ref().map(|received| &received.status);
    let sent = status.into_iter().flat_map(|status| &status.problems).map(Cow::Borrowed);
    let refused_duplicate = node.refused_duplicate.map(|address| {
        let text = format!("refused a client at {address} that has this id but not the credential: reinstalled or cloned? See hm-hub node forget");
        Cow::Owned(HealthProblem { severity: Severity::Warning, text })
    });
    sent.chain(refused_duplicate).collect()
}

/// When the node came online or was lost; if it has not been online since the hub started, the time of its last stored data.
fn since(node: &FleetNode, clock: Clock) -> i64 {
    let stored = || last_report(node, clock).unwrap_or(node.info.updated_at / 1000);
    node.since.map_or_else(stored, |since| clock.unix(since))
}

fn last_report(node: &FleetNode, clock: Clock) -> Option<i64> {
    let status = node.info.status.as_ref().map(|received| received.at);
    let stored = || Some(status.max(node.info.last_heartbeat)? / 1000);
    node.last_message.map(|at| clock.unix(at)).or_else(stored)
}

fn totals(nodes: &[FleetNode], clock: Clock) -> Totals<'_> {
    let mut totals = Totals {
        nodes: [Presence::Online, Presence::Lost, Presence::Offline]
            .map(|it| (it.name(), 0))
            .into(),
        gpus: BTreeMap::new(),
        gpu_states: GpuCondition::ALL.map(|state| (state.name(), 0)).into(),
        problems: [Severity::Critical, Severity::Warning].map(|it| (it.name(), 0)).into(),
        xids_last_24h: 0,
        oldest_silence: None,
    };
    for node in nodes {
        *totals.nodes.entry(node.presence.name()).or_default() += 1;
        let silence = Silence { node_id: &node.node_id, since: since(node, clock) };
        let is_oldest = |oldest: &Silence<'_>| silence.since < oldest.since;
        if node.presence != Presence::Online && totals.oldest_silence.as_ref().is_none_or(is_oldest)
        {
            totals.oldest_silence = Some(silence);
        }
        // What an offline node had is not in use, and what it has sent is of another time.
        let is_offline = node.presence == Presence::Offline;
        let problems = problems(node).into_iter();
        for problem in problems.filter(|problem| !is_offline || matches!(problem, Cow::Owned(_))) {
            *totals.problems.entry(problem.severity.name()).or_default() += 1;
        }
        if let Some(received) = node.info.status.as_ref().filter(|_| !is_offline) {
            add_status(&mut totals, &received.status);
        }
    }
    totals
}

fn add_status<'a>(totals: &mut Totals<'a>, status: &'a NodeStatus) {
    for gpu in &status.gpus {
        *totals.gpus.entry(&gpu.model).or_default() += 1;
        *totals.gpu_states.entry(gpu.state.name()).or_default() += 1;
    }
    totals.xids_last_24h = totals.xids_last_24h.saturating_add(status.xids_last_24h);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::hub::nodes::info::{NodeInfo, ReceivedStatus};
    use crate::hub::nodes::node::Protocols;
    use crate::hub_extension::messages::AgentInfo;

    fn clock() -> Clock {
        Clock { instant: Instant::now(), unix_ms: 1_718_000_000_000 }
    }

    #[test]
    fn instant_is_the_same_second_in_all_answers() {
        let first = Clock { instant: Instant::now(), unix_ms: 1_718_000_000_200 };
        for later in (0..3000).step_by(100) {
            let instant = first.instant + Duration::from_millis(later);
            let clock = Clock { instant, unix_ms: first.unix_ms + i64::try_from(later).unwrap() };
            assert_eq!(clock.unix(first.instant), 1_718_000_000, "after {later} ms");
        }
    }

    fn node(node_id: &str, presence: Presence, revision: u64, info: NodeInfo) -> FleetNode {
        FleetNode {
            node_id: node_id.into(),
            presence,
            since: None,
            last_message: None,
            address: None,
            protocols: Protocols::default(),
            info: Arc::new(info),
            is_unauthenticated: false,
            refused_duplicate: None,
            revision,
        }
    }

    fn with_gpus(states: &[GpuCondition], at: i64) -> NodeInfo {
        let gpu = |state: &GpuCondition| GpuStatus { model: "M".into(), state: *state };
        let problem = HealthProblem { severity: Severity::Critical, text: "GPU 1 lost".into() };
        let status = NodeStatus {
            gpus: states.iter().map(gpu).collect(),
            gpu_utilization_percent: Some(50),
            problems: vec![problem],
            xids_last_24h: 2,
            ..NodeStatus::default()
        };
        let received = ReceivedStatus { status, at, ..ReceivedStatus::default() };
        NodeInfo { status: Some(Arc::new(received)), ..NodeInfo::default() }
    }

    fn json(fleet: &Fleet, known: Option<u64>, clock: Clock) -> serde_json::Value {
        serde_json::to_value(message("run", fleet, known, clock)).unwrap()
    }

    #[test]
    fn node_has_what_is_known_of_it() {
        let clock = clock();
        let agent = AgentInfo {
            agent_version: "0.1.0".into(),
            hostname: "h".into(),
            project: "p".into(),
            gpu_models: Vec::new(),
        };
        let info = NodeInfo {
            agent: Some(Arc::new(agent)),
            group: Some("blue".into()),
            ..with_gpus(&[GpuCondition::Active], 0)
        };
        let mut full = node("a", Presence::Online, 3, info);
        full.since = Some(clock.instant);
        full.last_message = Some(clock.instant);
        full.address = Some("192.0.2.7".parse().unwrap());
        full.protocols = Protocols { hm: true, core: true };
        let published = node("b", Presence::Lost, 4, NodeInfo::default());
        let fleet = Fleet { revision: 4, nodes: vec![full, published], removed: Some(Vec::new()) };
        let message = json(&fleet, None, clock);
        assert_eq!(
            message["nodes"],
            serde_json::json!([
                {"node_id": "a", "state": "online", "since": 1_718_000_000, "hostname": "h",
                 "address": "192.0.2.7", "protocols": ["hm", "core"], "agent_version": "0.1.0",
                 "group": "blue", "project": "p", "gpus": [{"model": "M", "state": "active"}],
                 "gpu_utilization_percent": 50,
                 "problems": [{"severity": "critical", "text": "GPU 1 lost"}],
                 "last_report": 1_718_000_000},
                {"node_id": "b", "state": "lost", "since": 0, "protocols": [], "gpus": [],
                 "problems": []},
            ])
        );
        assert_eq!((&message["revision"], &message["full"]), (&"run-4".into(), &true.into()));
    }

    #[test]
    fn totals_leave_out_what_offline_nodes_had() {
        use GpuCondition::{Active, IdleMemory, Lost};
        let nodes = vec![
            node("on", Presence::Online, 1, with_gpus(&[Active, Lost], 1)),
            node("lost", Presence::Lost, 1, with_gpus(&[IdleMemory], 2_000_000)),
            node("off", Presence::Offline, 1, with_gpus(&[Active], 1_000_000)),
        ];
        let fleet = Fleet { revision: 1, nodes, removed: Some(Vec::new()) };
        let totals = &json(&fleet, None, clock())["totals"];
        assert_eq!(totals["nodes"], serde_json::json!({"online": 1, "lost": 1, "offline": 1}));
        assert_eq!(totals["gpus"], serde_json::json!({"M": 3}));
        let states = &totals["gpu_states"];
        assert_eq!([&states["active"], &states["lost"], &states["idle_memory"]], [1, 1, 1]);
        assert_eq!(totals["problems"], serde_json::json!({"critical": 2, "warning": 0}));
        assert_eq!(totals["xids_last_24h"], 4);
        assert_eq!(totals["oldest_silence"], serde_json::json!({"node_id": "off", "since": 1000}));
    }

    #[test]
    fn changes_since_a_revision_or_everything() {
        let nodes = vec![
            node("old", Presence::Online, 0, NodeInfo::default()),
            node("new", Presence::Online, 7, NodeInfo::default()),
        ];
        let removed = Some(vec!["gone".into()]);
        let mut fleet = Fleet { revision: 7, nodes, removed };
        let ids = |message: &serde_json::Value| message["nodes"].as_array().unwrap().len();
        let changes = json(&fleet, Some(5), clock());
        assert_eq!((ids(&changes), &changes["full"]), (1, &false.into()));
        assert_eq!(changes["removed"], serde_json::json!(["gone"]));
        assert_eq!(ids(&json(&fleet, Some(7), clock())), 0);
        fleet.removed = None;
        let all = json(&fleet, Some(5), clock());
        assert_eq!(
            (ids(&all), &all["full"], &all["removed"]),
            (2, &true.into(), &serde_json::json!([]))
        );
        assert_eq!(parse_revision("run", "run-7"), Some(7));
        for other in ["run2-7", "run-", "7", ""] {
            assert_eq!(parse_revision("run", other), None, "{other}");
        }
    }
}
