//! hm-agent monitors a GPU node and serves, pushes and streams what it measures.
//!
//! ```text
//! /proc /sys ──▶ collector ──▶ Snapshot ──┬─▶ telemetry: /usage, /metrics, dashboard   :33931
//! GPU probe  ──▶ (sampler)                ├─▶ hm_client ────▶ hm
//!  (a process)                            └─▶ core_client ──▶ Core ──▶ commands (a process each)
//! /dev/kmsg  ──▶ history: event log ──▶ /events
//! applications ──▶ heartbeat: status, hooks                                            :8888
//! other hosts ◀── ssh (a process and a thread each) ◀── remote: /monitor               :9097
//! ```
//!
//! Each folder is a feature with its protocol, state, server or client, and tests. [`model`] and [`procfs`] are plain
//! data; features use [`http`], [`net`], [`metrics`], [`collector`] and [`util`] and do not import each other; [`agent`]
//! wires them.
//! Unsafe code is in [`sys`] alone.

pub mod agent; // starts the threads, handles signals
pub mod cli; // command line
pub mod collector; // reads this machine
pub mod config; // settings: table, sources, validation
pub mod core_client; // Core protocol: reports, commands
pub mod health; // problems of this machine
pub mod heartbeat; // port 8888: heartbeats of applications
pub mod history; // event log
pub mod hm_client; // hm protocol: reports
pub mod http; // inbound connections: listener, limits, requests, responses, WebSocket upgrade
#[cfg(feature = "hub")]
pub mod hub; // hm-hub: the server of hm nodes
pub mod hub_extension; // messages between hm-agent and hm-hub that other peers never see
pub mod metrics; // Prometheus and OpenMetrics exposition
pub mod model; // plain data: RawSample, Snapshot, GPUs
pub mod net; // outbound connections: URL, proxy, TLS, WebSocket client, reconnect
pub mod procfs; // kernel text -> data, one file per kernel file
pub mod remote; // port 9097 /monitor: other hosts over SSH
pub mod sys; // the only unsafe code
pub mod telemetry; // port 33931: /usage, /metrics, /snapshot, dashboard
pub mod util; // errors, log, files in state_dir, small shared things
