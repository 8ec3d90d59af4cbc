//! hm-hub as a whole: each test runs the program.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod change_hook;
mod cluster;
mod cluster_commands;
mod cluster_database;
mod cluster_failover;
mod cluster_faults;
mod cluster_removals;
mod cluster_requests;
mod cluster_versions;
mod core;
mod enrolment;
mod fleet;
mod fleet_api;
mod fleet_scale;
mod hm;
mod kills;
mod links;
mod operation;
mod page;
mod postgres;
mod prometheus;
mod proxy;
mod reports;
mod requests;
mod sessions;
mod store;
mod store_postgres;
mod subcommands;
mod tls;
mod tls_files;
mod tokens;
