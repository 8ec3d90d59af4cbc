//! hm-agent: watches a GPU node, tells whoever asks.
//!
//! ```text
//! applications ──▶ serve: heartbeat ──▶ watchdog (watch) ──▶ status, actions   :8888
//! /proc /sys ──▶ source ──▶ Reading ──▶ Snapshot ──▶ feed ──▶ serve: /usage   :33931
//!   (one sampler, one aside)   (snapshot)          (a fan for all updates, a thread per connection)
//! GPU probe  ──▶ source::gpu ──▶ board ──▶ (the sampler, at its tick)
//!  (a process)   (its keeper)
//! feed ──▶ dial: hm (spool)        ──▶ uplink ──▶ a hub
//! feed ──▶ dial: core (ledger) ──▶ uplink ──▶ Core
//!                └─▶ commands ──▶ warden (a process each) ──▶ the command
//! other hosts ◀── ssh (a process and a thread each) ──▶ serve: /monitor          :9097
//! ```
//!
//! Arrows go one way: [`parse`], [`proto`], [`watch`] and [`snapshot`] know nothing of sockets, files or threads;
//! [`source`], [`serve`], [`dial`] and [`ssh`] use them; only [`agent`] knows everybody. Unsafe code is in [`sys`] alone.

pub mod agent; // starts and ends every thread, obeys signals
pub mod cli; // arguments -> Command
pub mod config; // every setting: default, range, where it came from
pub mod dial; // what the agent connects to
pub mod embedded; // what the agent carries with it
pub mod error; // one error type, messages a tired operator can act on
pub mod feed; // the current sample, shared, with a bell for the next one
pub mod limits; // every cap, deadline and interval that is not a setting
pub mod link; // reconnecting, keepalive: pure state machines
pub mod logger; // log lines on standard error
pub mod notify; // tells a service manager how it goes
pub mod parse; // bytes -> data, one file per kernel file
pub mod programs; // programs that the agent starts
pub mod proto; // every message of every peer
pub mod report; // a snapshot as text for a person
pub mod serve; // what others connect to
pub mod snapshot; // Reading and Snapshot: plain data, unit in the name, absent = None
pub mod source; // reads this machine
pub mod ssh; // reads other hosts: a session of the system's OpenSSH client each
pub mod state; // files that survive a restart
pub mod stream; // a socket with a deadline before every wait
pub mod supervise; // a process that keeps the agent alive where nobody else does
pub mod sync; // lock, stop, bucket
pub mod sys; // the only unsafe code
pub mod vital; // whether threads get on
pub mod warden; // a process that looks after one command of Core
pub mod watch; // the heartbeat table: pure state machine, `now` is a parameter
pub mod watchdog; // the same, shared, with a thread: logs, acts, survives restarts
