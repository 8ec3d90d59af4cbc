//! A Core in its own process, so that it can be stopped, killed, and run in another network namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::core::Core;
use super::core_wire::{fresh_id, message};

const ADDRESS: &str = "HM_TEST_CORE_ADDRESS";
const RECORD: &str = "HM_TEST_CORE_RECORD";

#[test]
#[ignore = "the Core of other tests"]
fn core_process() {
    CoreProcess::main();
}

/// Ends with this process.
pub struct CoreProcess {
    child: Child,
    stdin: ChildStdin,
    /// Kept open without reading: the test harness fails when its output pipe is closed.
    _stdout: ChildStdout,
}

impl CoreProcess {
    /// Runs this test program again, and there `core_process`. `command` ends with the program.
    pub fn start(mut command: Command, address: &str, record: &Path) -> Self {
        let command = command.args([
            "--exact",
            "support::core_process::core_process",
            "--ignored",
            "--nocapture",
        ]);
        let command = command.env(ADDRESS, address).env(RECORD, record);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a Core");
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut core = Self { child, stdin, _stdout: stdout };
        let mut lines = BufReader::new(&mut core._stdout).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with("Core listens")), "Core has ended");
        core
    }

    /// Runs that process. Returns at once unless [`CoreProcess::start`] has started it.
    fn main() {
        let variable = |name| std::env::var(name).ok();
        let (Some(address), Some(record)) = (variable(ADDRESS), variable(RECORD)) else { return };
        let core = Core::on(address.parse().unwrap());
        core.record(File::options().append(true).create(true).open(record).unwrap());
        println!("Core listens");
        for line in std::io::stdin().lines() {
            let order: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if let Some(text) = order["push"].as_str() {
                core.push(text);
            }
            if let Some(kinds) = order["withhold"].as_array() {
                let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
                core.ignore_kinds(&kinds);
            }
            if order["shut_down"] == true {
                core.shut_down();
                break;
            }
        }
        // Without the test harness' output, for which there is no reader.
        std::process::exit(0);
    }

    fn send_order(&mut self, order: &Value) {
        self.stdin.write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    pub fn execute(&mut self, command_id: &str, text: &str, timeout: u64) {
        let data = json!({"command_id": command_id, "command_text": text, "timeout": timeout});
        let text = message("execute_command", &fresh_id(), &data).to_string();
        self.send_order(&json!({"push": text}));
    }

    /// Does not answer messages of these types from now on.
    pub fn ignore_kinds(&mut self, kinds: &[&str]) {
        self.send_order(&json!({"withhold": kinds}));
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops with close frames.
    pub fn shut_down(mut self) {
        self.send_order(&json!({"shut_down": true}));
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for CoreProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line that a Core has recorded.
#[derive(Debug, Clone)]
pub enum CoreRecord {
    Seen(Value),
    /// The id of a result.
    Acknowledged(String),
}

/// The lines of all Cores in this file, with process and connection.
pub fn core_records(record: &Path) -> Vec<((u64, u64), CoreRecord)> {
    let text = std::fs::read_to_string(record).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let read = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let connection = (line["core"].as_u64().unwrap(), line["connection"].as_u64().unwrap());
        let noted = match line["what"]["acknowledged"].as_str() {
            Some(id) => CoreRecord::Acknowledged(id.to_owned()),
            None => CoreRecord::Seen(line["what"]["seen"].clone()),
        };
        (connection, noted)
    };
    whole.lines().filter(|line| !line.is_empty()).map(read).collect()
}

/// The messages of one type.
pub fn messages(record: &Path, kind: &str) -> Vec<((u64, u64), Value)> {
    let seen = core_records(record).into_iter().filter_map(|(connection, noted)| match noted {
        CoreRecord::Seen(message) if message["type"] == kind => Some((connection, message)),
        _ => None,
    });
    seen.collect()
}
