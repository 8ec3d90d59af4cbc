//! The program of `fleet.on_change`: run when nodes have come online or gone offline, once for all that have changed since the last run.
//!
//! What was reported is stored, so a restart of the hub reports nothing again. A node that is lost is not reported until it is offline.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::hub::Hub;
use crate::hub::core::messages::unix_ms;
use crate::hub::nodes::Presence;
use crate::hub::nodes::fleet::HookChange;
use crate::hub::store::{QueuedWrite, Write as StoreWrite, WriteOrigin};
use crate::util::error::reason;
use crate::util::state_dir;
use crate::util::supervisor::{SupervisedChild, Supervision, exit};
use crate::util::sync::lock;

/// Changes within this are reported by one run: a switch takes many nodes with it.
const COALESCE_INTERVAL: Duration = Duration::from_secs(5);
/// A program that runs longer is killed together with its child processes.
const HOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between checks whether the program has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A line of the program's standard input.
#[derive(Serialize)]
struct ChangeLine<'a> {
    node_id: &'a str,
    /// `null`: the node is new.
    from: Option<&'static str>,
    to: &'static str,
    hostname: Option<&'a str>,
    group: Option<&'a str>,
    /// Unix seconds of this report.
    time: i64,
}

pub struct ChangeHook {
    program: Vec<String>,
    /// For the file that is the program's standard input.
    state_dir: PathBuf,
}

impl ChangeHook {
    pub fn new(program: Vec<String>, state_dir: &Path) -> Self {
        Self { program, state_dir: state_dir.to_owned() }
    }

    /// The thread `change-hook`, until shutdown. Changes during a run are reported by the next one.
    pub fn run(&self, hub: &Hub) {
        while !hub.shutdown.wait(COALESCE_INTERVAL) {
            if !hub.is_leader() {
                continue;
            }
            let reporting = lock(&hub.hook_report);
            if hub.shutdown.is_triggered() {
                return;
            }
            let changes = lock(&hub.nodes).take_hook_changes();
            if changes.is_empty() {
                continue;
            }
            let Some((name, arguments)) = self.program.split_first() else { continue };
            let started = self.start(name, arguments, &changes);
            // Once it runs: a crash before may repeat a report, and loses none.
            store_states(hub, &changes);
            drop(reporting);
            if let Err(error) = started.and_then(|child| wait(hub, name, child)) {
                log::error!("fleet.on_change: run {name}: {}", reason(&error));
            }
        }
    }

    fn start(
        &self,
        name: &str,
        arguments: &[String],
        changes: &[HookChange],
    ) -> io::Result<SupervisedChild> {
        let input = self.input(changes)?;
        let count = |to| changes.iter().filter(|change| change.to == to).count().to_string();
        Supervision::with_timeout(HOOK_TIMEOUT).spawn(OsStr::new(name), |command| {
            command
                .args(arguments)
                .env("FLEET_ONLINE", count(Presence::Online))
                .env("FLEET_OFFLINE", count(Presence::Offline))
                .stdin(input)
                .stdout(Stdio::null());
        })
    }

    /// A file with a line per change, which has no name any more.
    fn input(&self, changes: &[HookChange]) -> io::Result<File> {
        let time = unix_ms(SystemTime::now()) / 1000;
        let mut text = Vec::new();
        for HookChange { node_id, from, to, info } in changes {
            let hostname = info.agent.as_ref().map(|agent| agent.hostname.as_str());
            let line = ChangeLine {
                node_id,
                from: from.map(Presence::name),
                to: to.name(),
                hostname: hostname.or(info.register.as_ref().map(|it| it.hostname.as_str())),
                group: info.group.as_deref(),
                time,
            };
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        let path = self.state_dir.join("changes.json");
        state_dir::create_file(&path, 0o600)?.write_all(&text)?;
        let file = File::open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}

fn store_states(hub: &Hub, changes: &[HookChange]) {
    let is_known = |change: &&HookChange| lock(&hub.nodes).info(&change.node_id).is_some();
    for change in changes.iter().filter(is_known) {
        let (node_id, state) = (change.node_id.clone(), change.to);
        let write = StoreWrite::HookState { node_id, state };
        hub.store.add(QueuedWrite { write, origin: WriteOrigin::Hub });
    }
}

/// Waits until the program has ended. It may outlive the hub.
fn wait(hub: &Hub, name: &str, mut child: SupervisedChild) -> io::Result<()> {
    while !hub.shutdown.wait(POLL_INTERVAL) {
        let Some(status) = child.try_wait()? else { continue };
        match status.code() {
            Some(0) => {}
            Some(exit::TIMEOUT) => {
                let seconds = HOOK_TIMEOUT.as_secs();
                log::warn!("fleet.on_change: {name}: timeout ({seconds} s), killed");
            }
            _ => log::warn!("fleet.on_change: {name}: {status}"),
        }
        return Ok(());
    }
    Ok(())
}
