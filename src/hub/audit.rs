//! The audit log `audit.log` in `state_dir`: one JSON object per line for every command, every node that an operator has removed, and
//! every refusal of an operator. The file is opened for each entry, so it can be rotated by renaming it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use crate::http::request::RequestHead;
use crate::hub::core::messages::message_time;
use crate::util::error::reason;
use crate::util::state_dir;
use crate::util::sync::{TokenBucket, lock};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// Then one entry per second. More refusals are in the hub's log only, which is limited, too.
const MAX_REFUSALS_AT_ONCE: u32 = 30;

pub struct AuditLog {
    path: PathBuf,
    /// Limits the entries that an operator without the role can cause.
    refusals: Mutex<TokenBucket>,
}

/// An entry without its time.
#[derive(Debug, Serialize)]
pub struct AuditEntry<'a> {
    pub operator: &'a str,
    /// `command`, `forget` or `request`.
    pub action: &'a str,
    /// `accepted`, or `refused: ` and the reason.
    pub result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_id: Option<&'a str>,
    /// Text of the command, or method and path of a refused request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
}

#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a AuditEntry<'a>,
}

impl AuditLog {
    pub fn new(state_dir: &Path) -> Self {
        let refusals = Mutex::new(TokenBucket::new(MAX_REFUSALS_AT_ONCE));
        Self { path: state_dir.join("audit.log"), refusals }
    }

    /// Appends an entry and waits until it is on disk.
    pub fn write(&self, entry: &AuditEntry<'_>) -> io::Result<()> {
        let line = AuditLine { time: message_time(SystemTime::now()), entry };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        let is_new = !self.path.exists();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let length = file.metadata()?.len();
        if let Err(error) = file.write_all(&line) {
            // A part of a line would spoil the next one.
            file.set_len(length)?;
            return Err(error);
        }
        file.sync_data()?;
        match self.path.parent().filter(|_| is_new) {
            Some(directory) => state_dir::sync_dir(directory),
            None => Ok(()),
        }
    }

    /// Notes a request that was refused.
    pub fn record_refusal(&self, operator: &str, head: &RequestHead<'_>, why: &str) {
        if !lock(&self.refusals).take(Instant::now()) {
            return;
        }
        let path = escape_for_log(head.path, EXCERPT_CHARS);
        let text = format!("{} {path}", head.method);
        let result = format!("refused: {why}");
        let entry = AuditEntry {
            operator,
            action: "request",
            result: &result,
            node: None,
            command_id: None,
            text: Some(&text),
        };
        if let Err(error) = self.write(&entry) {
            log::error!("cannot write {}: {}", self.path.display(), reason(&error));
        }
    }
}
