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
use crate::hub::nodes::fleet::ReportedChange;
use crate::hub::store::{QueuedWrite, Write as StoreWrite, WriteOrigin};
use crate::util::error::reason;
use crate::util::state_dir;
use crate::util::supervisor::{Supervision, exit};
use crate::util::sync::lock;

/// Changes within this are reported by one run: a switch takes many nodes with it.
const COALESCE: Duration = Duration::from_secs(5);
/// A program that runs longer is killed together with its child processes.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Interval between checks whether the program has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A line of the program's standard input.
#[derive(Serialize)]
struct Line<'a> {
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
        while !hub.shutdown.wait(COALESCE) {
            let changes = lock(&hub.nodes).take_unreported();
            if changes.is_empty() {
                continue;
            }
            for change in &changes {
                let (node_id, state) = (change.node_id.clone(), change.to);
                let write = StoreWrite::Reported { node_id, state };
                hub.store.add(QueuedWrite { write, origin: WriteOrigin::Hub });
            }
            if let Some((name, arguments)) = self.program.split_first()
                && let Err(error) = self.report(hub, name, arguments, &changes)
            {
                log::error!("fleet.on_change: run {name}: {}", reason(&error));
            }
        }
    }

    fn report(
        &self,
        hub: &Hub,
        name: &str,
        arguments: &[String],
        changes: &[ReportedChange],
    ) -> io::Result<()> {
        let input = self.input(changes)?;
        let count = |to| changes.iter().filter(|change| change.to == to).count().to_string();
        let supervision = Supervision::with_timeout(TIMEOUT);
        let mut child = supervision.spawn(OsStr::new(name), |command| {
            command
                .args(arguments)
                .env("FLEET_ONLINE", count(Presence::Online))
                .env("FLEET_OFFLINE", count(Presence::Offline))
                .stdin(input)
                .stdout(Stdio::null());
        })?;
        while !hub.shutdown.wait(POLL_INTERVAL) {
            let Some(status) = child.try_wait()? else { continue };
            match status.code() {
                Some(0) => {}
                Some(exit::TIMEOUT) => {
                    log::warn!(
                        "fleet.on_change: {name}: timeout ({} s), killed",
                        TIMEOUT.as_secs()
                    );
                }
                _ => log::warn!("fleet.on_change: {name}: {status}"),
            }
            return Ok(());
        }
        // The program may outlive the hub.
        Ok(())
    }

    /// A file with a line per change, which has no name any more.
    fn input(&self, changes: &[ReportedChange]) -> io::Result<File> {
        let time = unix_ms(SystemTime::now()) / 1000;
        let mut text = Vec::new();
        for ReportedChange { node_id, from, to, info } in changes {
            let hostname = info.agent.as_ref().map(|agent| agent.hostname.as_str());
            let line = Line {
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
