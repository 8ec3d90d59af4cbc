//! Processes that the OOM killer ends: mm/oom_kill.c. Real lines:
//!
//! ```text
//! oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=…,mems_allowed=0-1,oom_memcg=/kubepods…,task_memcg=/kubepods…,task=python,pid=12345,uid=0
//! Memory cgroup out of memory: Killed process 12345 (python) total-vm:1234kB, anon-rss:5678kB, …
//! Out of memory: Killed process 123 (name) total-vm:…
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};

/// The class of lines that name the control group.
pub(super) const WITH_CGROUP: &str = "cgroup";

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let event = |name: &str, pid: &str, class| {
        let is_pid = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
        is_pid.then(|| {
            let subject = format!("{name}[{pid}]");
            KernelEvent::new(EventKind::OomKill, EventSeverity::Warning, subject).class(class)
        })
    };
    if let Some(rest) = text.strip_prefix("oom-kill:constraint=") {
        // A name of a control group or process may contain commas.
        let (before, _uid) = rest.rsplit_once(",uid=")?;
        let (before, pid) = before.rsplit_once(",pid=")?;
        let (_, name) = before.rsplit_once(",task=")?;
        return event(name, pid, WITH_CGROUP);
    }
    let rest = ["Memory cgroup out of memory: ", "Out of memory: "]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .unwrap_or(text);
    // Before Linux 5.2 the line has no prefix. The one before it has one, and "Kill", for the process that is going to be killed.
    let rest = rest.strip_prefix("Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    let (name, _) = rest.rsplit_once(") total-vm:")?;
    event(name, pid, "killed")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_killed_process() {
        let (kind, severity) = ("oom_kill", "warning");
        assert_events(
            classify,
            &[
                (
                    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=cri-containerd-1.scope,mems_allowed=0-1,oom_memcg=/kubepods.slice/a,task_memcg=/kubepods.slice/a/b,task=python,pid=12345,uid=0",
                    kind,
                    severity,
                    "python[12345]",
                ),
                (
                    "Killed process 12345 (python) total-vm:1234kB, anon-rss:5678kB, file-rss:0kB",
                    kind,
                    severity,
                    "python[12345]",
                ),
                (
                    "Memory cgroup out of memory: Killed process 12345 (python) total-vm:1234kB, anon-rss:5678kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:96kB oom_score_adj:996",
                    kind,
                    severity,
                    "python[12345]",
                ),
                (
                    "Out of memory: Killed process 123 (a (b),c) total-vm:1kB, anon-rss:1kB, file-rss:0kB",
                    kind,
                    severity,
                    "a (b),c[123]",
                ),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=996",
                "oom_reaper: reaped process 12345 (python), now anon-rss:0kB, file-rss:0kB",
                "Out of memory: Kill process 123 (name) score 999 or sacrifice child",
                "Out of memory: Killed process x (name) total-vm:1kB",
                "Tasks state (memory values in pages):",
                "oom-kill:constraint=CONSTRAINT_NONE",
            ],
        );
    }
}
