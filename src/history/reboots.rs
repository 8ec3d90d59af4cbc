//! Reboots of the machine, found when the agent starts, and why they happened.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Roots;
use crate::history::event_log::Run;
use crate::model::event::{EventKind, EventSeverity, NewEvent};
use crate::util::text::escape_for_log;

/// An agent that was stopped this long before the machine started was stopped by a shutdown.
const MAX_SHUTDOWN_SECONDS: u64 = 600;
/// What pstore keeps of a crash, below the host's `/sys` and `/`: systemd moves it at boot.
const PSTORE: &str = "fs/pstore";
const SYSTEMD_PSTORE: &str = "var/lib/systemd/pstore";
/// Firmware stores a crash in parts of some kilobytes.
const MAX_FILES: usize = 64;
const MAX_FILE_BYTES: u64 = 64 << 10;
const PANIC: &str = "Kernel panic - not syncing: ";
const MAX_PANIC_CHARS: usize = 160;

/// What happened between the agent before this one and now: a reboot, or the end of an agent that was not stopped. `booted`: when the
/// machine started, if that is known; `panic`: what its kernel logged last.
pub fn events_at_start(
    previous: Option<&Run>,
    boot_id: &str,
    booted: Option<u64>,
    panic: Option<String>,
) -> Vec<NewEvent> {
    let version = env!("CARGO_PKG_VERSION");
    let started = format!("hm-agent {version} started");
    let agent = |severity, text| NewEvent::new(EventKind::Agent, severity, text);
    let Some(previous) = previous else { return vec![agent(EventSeverity::Info, started)] };
    let is_reboot =
        !boot_id.is_empty() && !previous.boot_id.is_empty() && previous.boot_id != boot_id;
    if is_reboot {
        let reboot = reboot(previous, booted, panic);
        return vec![reboot, agent(EventSeverity::Info, started)];
    }
    vec![match previous.stopped {
        Some(_) => agent(EventSeverity::Info, started),
        None => agent(EventSeverity::Warning, format!("{started}; the one before was not stopped")),
    }]
}

fn reboot(previous: &Run, booted: Option<u64>, panic: Option<String>) -> NewEvent {
    let was_stopped_by_shutdown = |stopped: u64| {
        booted.is_none_or(|booted| booted.saturating_sub(stopped) <= MAX_SHUTDOWN_SECONDS)
    };
    let (severity, text) = match (panic, previous.stopped) {
        (Some(panic), _) => (EventSeverity::Critical, format!("host rebooted: {panic}")),
        (None, None) => {
            let text = "host rebooted without a clean shutdown: power loss, reset or kernel crash";
            (EventSeverity::Critical, text.to_owned())
        }
        (None, Some(stopped)) if was_stopped_by_shutdown(stopped) => {
            (EventSeverity::Info, "host rebooted after a clean shutdown".to_owned())
        }
        (None, Some(_)) => {
            let text = "host rebooted while no agent was running";
            (EventSeverity::Info, text.to_owned())
        }
    };
    let event = NewEvent::new(EventKind::Reboot, severity, text);
    NewEvent { unix_seconds: booted, ..event }
}

/// The panic that pstore has of the time since `since`, in Unix seconds. Only root can read it, usually.
pub fn stored_panic(roots: &Roots, since: u64) -> Option<String> {
    let directories = [roots.sys.join(PSTORE), roots.root.join(SYSTEMD_PSTORE)];
    directories.iter().flat_map(|directory| files(directory, 1)).take(MAX_FILES).find_map(|path| {
        let text = read_since(&path, since).ok()??;
        find_panic(&text)
    })
}

/// The files of a crash. systemd creates a directory for each.
fn files(directory: &Path, depth: usize) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files = Vec::new();
    for entry in entries.take(MAX_FILES) {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 {
            files.extend(self::files(&entry.path(), depth - 1));
        } else if kind.is_file() && entry.file_name().to_string_lossy().starts_with("dmesg") {
            files.push(entry.path());
        }
    }
    files
}

/// `None`: it is of a crash before.
fn read_since(path: &Path, since: u64) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    let modified = file.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let modified = modified.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    if modified < since {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut text)?;
    Ok(Some(text))
}

/// The line of the panic without the time in front.
fn find_panic(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().find_map(|line| Some(&line[line.find(PANIC)?..]))?;
    Some(escape_for_log(line.trim_end(), MAX_PANIC_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTED: u64 = 1_718_000_000;

    fn run(boot_id: &str, stopped: Option<u64>) -> Run {
        Run { boot_id: boot_id.into(), started: BOOTED - 5000, stopped }
    }

    fn texts(previous: &Run, panic: Option<&str>) -> Vec<String> {
        let panic = panic.map(str::to_owned);
        let events = events_at_start(Some(previous), "new", Some(BOOTED), panic);
        events
            .into_iter()
            .map(|event| format!("{} {}", event.severity.name(), event.text))
            .collect()
    }

    #[test]
    fn first_start_and_restarts_are_no_reboots() {
        let first = events_at_start(None, "new", Some(BOOTED), None);
        assert_eq!((first.len(), first[0].severity), (1, EventSeverity::Info));
        assert_eq!(texts(&run("new", Some(BOOTED + 5)), None).len(), 1);
        assert!(texts(&run("new", None), None)[0].ends_with("the one before was not stopped"));
        assert_eq!(texts(&run("", None), None).len(), 1, "the boot before is unknown");
    }

    #[test]
    fn reboot_has_the_reason_that_is_known() {
        for (stopped, panic, text) in [
            (Some(BOOTED - 30), None, "info host rebooted after a clean shutdown"),
            (Some(BOOTED - 4000), None, "info host rebooted while no agent was running"),
            (
                None,
                None,
                "critical host rebooted without a clean shutdown: power loss, reset or kernel crash",
            ),
            (
                None,
                Some("Kernel panic - not syncing: Fatal exception"),
                "critical host rebooted: Kernel panic - not syncing: Fatal exception",
            ),
        ] {
            let found = texts(&run("old", stopped), panic);
            assert_eq!((found.len(), &*found[0]), (2, text));
        }
        let events = events_at_start(Some(&run("old", None)), "new", Some(BOOTED), None);
        assert_eq!(events[0].unix_seconds, Some(BOOTED));
    }

    #[test]
    fn finds_panic_in_pstore_and_where_systemd_moves_it() {
        let root = std::env::temp_dir().join(format!("hm-agent-pstore-{}", std::process::id()));
        let roots = Roots { proc: root.join("proc"), sys: root.join("sys"), root: root.clone() };
        assert_eq!(stored_panic(&roots, 0), None);
        let text = "Panic#1 Part1\n<6>[   12.000000] a\n<0>[   12.500000] Kernel panic - not syncing: Fatal exception in interrupt\n";
        for path in ["sys/fs/pstore/dmesg-efi-1", "var/lib/systemd/pstore/17/dmesg.txt"] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            let found = stored_panic(&roots, 0);
            let panic = "Kernel panic - not syncing: Fatal exception in interrupt";
            assert_eq!(found.as_deref(), Some(panic));
            assert_eq!(stored_panic(&roots, u64::MAX), None, "an old one");
            std::fs::write(&path, "Oops#1 Part1\n<6>[   12.000000] a\n").unwrap();
            assert_eq!(stored_panic(&roots, 0), None);
        }
        std::fs::remove_dir_all(&root).unwrap();
    }
}
