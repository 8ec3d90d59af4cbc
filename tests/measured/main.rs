//! hm-agent under load, with browsers, and beside its peers. These tests measure time or memory, or take all of the processor, so
//! `tests/run` runs them one at a time.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod adversarial;
mod core_adversarial;
mod flood;
mod flood_servers;
mod footprint;
mod gpu_cost;
mod heartbeat_clients;
mod heartbeat_load;
mod metrics_dashboards;
mod metrics_peers;
mod metrics_systemd;
mod monitor_many;
mod page;
mod page_gpus;
mod page_incident;
mod scale;
mod static_binary;
mod survivors;
