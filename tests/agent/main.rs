//! hm-agent as a whole: each test runs the program. What measures time or memory is in `tests/measured`.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod cli;
mod cli_servers;
mod conformance;
mod core_client;
mod crash_recovery;
mod dns;
mod events;
mod events_gpu;
mod events_restart;
mod faults;
mod faults_time;
mod golden;
mod gpu;
mod gpu_absent;
mod gpu_dcgm;
mod gpu_errors;
mod gpu_faults;
mod gpu_hangs;
mod gpu_held;
mod gpu_noexec;
mod gpu_probe;
mod gpu_profiling;
mod heartbeat;
mod heartbeat_action;
mod heartbeat_cli;
mod heartbeat_http;
mod heartbeat_life;
mod heartbeat_limits;
mod hm;
mod hm_backlog;
#[cfg(target_env = "gnu")] // It needs LD_PRELOAD.
mod hm_clock;
mod hm_faults;
mod hm_fleet;
mod hm_log;
mod hm_pongs;
mod http;
mod hung_disk;
mod interfaces;
mod lifecycle;
mod metrics;
mod monitor;
mod monitor_logins;
mod monitor_passwords;
mod monitor_requests;
mod monitor_shells;
mod monitor_values;
mod node_metrics;
mod node_scale;
mod notify;
mod packaging;
mod peers;
mod privileges;
mod secrets;
mod supervise;
mod systemd;
mod tls;
mod tls_authorities;
mod tls_peers;
mod upstreams;
mod usage;
