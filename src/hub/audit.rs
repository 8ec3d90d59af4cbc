//! The audit log `audit.log` in `state_dir`: one JSON object per line for every command, every node that an operator has removed, and
//! every refusal of an operator. The file is opened for each entry, so it can be rotated by renaming it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::http::request::RequestHead;
use crate::hub::core::messages::message_time;
use crate::util::error::reason;

pub struct Audit {
    path: PathBuf,
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
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a AuditEntry<'a>,
}

impl Audit {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("audit.log") }
    }

    /// Appends an entry and waits until it is on disk.
    pub fn write(&self, entry: &AuditEntry<'_>) -> io::Result<()> {
        let line = Line { time: message_time(SystemTime::now()), entry };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Notes a request that was refused.
    pub fn refused(&self, operator: &str, head: &RequestHead<'_>, why: &str) {
        let text = format!("{} {}", head.method, head.path);
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
