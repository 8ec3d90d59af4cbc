//! `hm-agent health`: a Nagios plugin that prints the findings of the running agent, and acknowledges them.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::telemetry;
use crate::config::{Config, UsageConfig};
use crate::health::{SPOOL, is_id};
use crate::model::finding::{Action, Finding, HealthReport, HealthStatus};
use crate::model::health_problem::Severity;
use crate::util::error::Error;
use crate::util::logger::utc;
use crate::util::state_dir;
use crate::util::text::escape_for_terminal;

/// As Nagios calls it.
const UNKNOWN: u8 = 3;
/// The agent reads acknowledgements with a sample, and no less than every two seconds.
const TAKEN_TIMEOUT: Duration = Duration::from_secs(10);

pub fn fetch(usage: &UsageConfig) -> Result<HealthReport, String> {
    telemetry::get(usage, "/health", "")
}

/// The line for Nagios with its performance data, a line for each finding, and the exit code.
pub fn to_text(report: &Result<HealthReport, String>) -> (String, u8) {
    let report = match report {
        Ok(report) => report,
        Err(why) => return (format!("UNKNOWN - {}\n", line(why)), UNKNOWN),
    };
    let (state, code) = match report.status {
        HealthStatus::Ok => ("OK", 0),
        HealthStatus::Warning => ("WARNING", 1),
        HealthStatus::Critical => ("CRITICAL", 2),
        HealthStatus::Unknown => ("UNKNOWN", UNKNOWN),
    };
    let count = |severity| report.open().filter(|it| it.severity == severity).count();
    let (critical, warning) = (count(Severity::Critical), count(Severity::Warning));
    let nothing = match report.status {
        HealthStatus::Unknown => "the agent has no current sample",
        _ => "no findings",
    };
    let worst = report.open().next().map_or(nothing.to_owned(), advice);
    let more = match critical + warning {
        0 | 1 => String::new(),
        all => format!(" (and {} more)", all - 1),
    };
    let first = line(&format!("{state} - {worst}{more}"));
    let mut text = format!("{first} | critical={critical};;0 warning={warning};0\n");
    for finding in &report.findings {
        text += &(line(&describe(finding)) + "\n");
    }
    (text, code)
}

fn advice(finding: &Finding) -> String {
    let action = match finding.action {
        Action::None => return finding.text(),
        Action::RestartApplication => "restart the application".to_owned(),
        Action::RestartService => {
            format!("restart {}", finding.service.as_deref().unwrap_or("the service"))
        }
        Action::ResetGpu => "reset the GPU".to_owned(),
        Action::Drain => "drain the node, then reset".to_owned(),
        Action::Reboot => "reboot".to_owned(),
        Action::InspectHardware => "inspect the hardware".to_owned(),
    };
    format!("{}; {action}", finding.text())
}

fn describe(finding: &Finding) -> String {
    let state = match finding.acknowledged {
        Some(at) => format!("acknowledged {}", utc(at)),
        None => finding.severity.name().to_owned(),
    };
    let evidence: Vec<&str> = finding.evidence.iter().map(|it| it.text.as_str()).collect();
    let evidence = match evidence.as_slice() {
        [] => String::new(),
        all => format!(" [{}]", all.join("; ")),
    };
    format!(
        "{state}: {}{evidence} (since {}, id {})",
        advice(finding),
        utc(finding.since),
        finding.id
    )
}

/// One line without what Nagios takes for the start of performance data.
fn line(text: &str) -> String {
    escape_for_terminal(text).replace('|', "/")
}

/// Acknowledges a finding through the state directory, which only root and the agent's user can write to.
pub fn acknowledge(config: &Config, id: &str) -> Result<(), Error> {
    let failed = |why: String| Error::system(format!("acknowledge {id}"), io::Error::other(why));
    let find = || {
        let report = fetch(&config.usage).map_err(failed)?;
        let found = report.findings.into_iter().find(|finding| finding.id == id);
        found.ok_or_else(|| failed("there is no such finding".to_owned()))
    };
    if !is_id(id) {
        return Err(Error::Arguments("--acknowledge needs the id of a finding".to_owned()));
    }
    let before = find()?.acknowledged;
    let deadline = Instant::now() + TAKEN_TIMEOUT + config.interval;
    write_spool(&config.state_dir, id)?;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
        let now = find()?.acknowledged;
        if now.is_some() && now > before {
            return Ok(());
        }
    }
    let directory = config.state_dir.display();
    Err(failed(format!("the agent does not read {directory}/{SPOOL}: is this its state_dir?")))
}

/// Replaces the file as a whole. The agent may not have taken the last one: each command waits until its id is acknowledged.
fn write_spool(state_dir: &Path, id: &str) -> Result<(), Error> {
    let spool = state_dir.join(SPOOL);
    let draft = state_dir.join(format!("{SPOOL}.{}", std::process::id()));
    let write = || {
        let mut file = state_dir::create_file(&draft, 0o600)?;
        writeln!(file, "{id}")?;
        std::fs::rename(&draft, &spool)
    };
    write().map_err(|error| {
        // It may not exist.
        let _ = std::fs::remove_file(&draft);
        let hint = "only root and the agent's user can acknowledge findings";
        Error::system(format!("write {}", spool.display()), error).with_hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::finding::Component;

    fn report(findings: Vec<Finding>) -> Result<HealthReport, String> {
        Ok(HealthReport::new(1_795_216_253, findings))
    }

    #[test]
    fn healthy_node_and_missing_agent_have_their_lines() {
        let (text, code) = to_text(&report(Vec::new()));
        assert_eq!((text.as_str(), code), ("OK - no findings | critical=0;;0 warning=0;0\n", 0));
        let (text, code) = to_text(&Err("http://127.0.0.1:33931: refused".to_owned()));
        assert_eq!((text.as_str(), code), ("UNKNOWN - http://127.0.0.1:33931: refused\n", 3));
        assert_eq!(to_text(&Ok(HealthReport::unknown())).1, 3);
    }

    #[test]
    fn worst_finding_is_in_the_first_line_and_all_follow() {
        let xid = Finding::new(Component::Gpu, Severity::Critical, "xid79", "XID 79, a | b\u{1b}");
        let xid = xid.of("GPU 5").action(Action::Reboot).evidence(Some(1), "NVRM: Xid");
        let acknowledged = Finding {
            acknowledged: Some(1_795_216_253),
            ..Finding::new(Component::Clock, Severity::Warning, "sync", "not synchronized")
        };
        let full = Finding::new(Component::FileSystem, Severity::Warning, "full", "91 % full");
        let (text, code) = to_text(&report(vec![full.of("/data"), acknowledged, xid]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "CRITICAL - GPU 5: XID 79, a / b\\u{1b}; reboot (and 1 more) | critical=1;;0 warning=1;0",
                "critical: GPU 5: XID 79, a / b\\u{1b}; reboot [NVRM: Xid] (since 1970-01-01T00:00:00Z, id gpu-xid79-gpu_5)",
                "warning: /data: 91 % full (since 1970-01-01T00:00:00Z, id filesystem-full-_data)",
                "acknowledged 2026-11-20T23:10:53Z: not synchronized (since 1970-01-01T00:00:00Z, id clock-sync)",
            ]
        );
        assert_eq!(code, 2);
    }
}
