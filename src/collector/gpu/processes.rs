//! Adds to processes that use a GPU their name, their user, and the container and pod that they run in.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::collector::file_reader::FileReader;
use crate::config::Roots;
use crate::model::gpu::{Gpu, GpuProcess};
use crate::procfs::container::{self, Container};
use crate::procfs::{passwd, pid_status, processes};

/// A process can change its user and its cgroup, which is rare.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);

pub(super) struct ProcessDirectory {
    proc: PathBuf,
    passwd: PathBuf,
    /// Does not keep files open, because processes come and go.
    files: FileReader,
    /// By PID.
    owners: HashMap<u32, Owner>,
}

struct Owner {
    /// Distinguishes processes that reuse a PID.
    start_ticks: u64,
    read_at: Instant,
    user: Option<String>,
    container: Container,
}

impl ProcessDirectory {
    pub(super) fn new(roots: &Roots) -> Self {
        Self {
            proc: roots.proc.clone(),
            passwd: roots.root.join("etc/passwd"),
            files: FileReader::closing(),
            owners: HashMap::new(),
        }
    }

    /// Describes the processes of all these GPUs.
    pub(super) fn describe(&mut self, gpus: &mut [Gpu], now: Instant) {
        let is_recent =
            |owner: &Owner| now.saturating_duration_since(owner.read_at) < REFRESH_INTERVAL;
        self.owners.retain(|_, owner| is_recent(owner));
        for process in gpus.iter_mut().flat_map(|gpu| gpu.values.processes.iter_mut().flatten()) {
            self.describe_process(process, now);
        }
    }

    fn describe_process(&mut self, process: &mut GpuProcess, now: Instant) {
        let stat = self.proc.join(process.pid.to_string()).join("stat");
        let found = self.files.read(&stat).ok().map(processes::parse);
        let Some(found) = found.and_then(|found| found.into_iter().next()) else {
            return;
        };
        let is_same = |owner: &Owner| owner.start_ticks == found.start_ticks;
        if !self.owners.get(&process.pid).is_some_and(is_same) {
            let owner = self.read_owner(process.pid, found.start_ticks, now);
            self.owners.insert(process.pid, owner);
        }
        let name = String::from_utf8_lossy(found.name.trim_ascii()).into_owned();
        process.name = Some(name).filter(|name| !name.is_empty());
        if let Some(owner) = self.owners.get(&process.pid) {
            process.user.clone_from(&owner.user);
            process.container_id.clone_from(&owner.container.container_id);
            process.pod_uid.clone_from(&owner.container.pod_uid);
        }
    }

    fn read_owner(&mut self, pid: u32, start_ticks: u64, now: Instant) -> Owner {
        let process = self.proc.join(pid.to_string());
        let uid = self.files.parse(&process.join("status"), pid_status::parse_uid).ok();
        let cgroup = self.files.read(&process.join("cgroup")).map(container::parse);
        let container = cgroup.unwrap_or_default();
        let user = uid.map(|uid| self.user_name(uid).unwrap_or_else(|| uid.to_string()));
        Owner { start_ticks, read_at: now, user, container }
    }

    fn user_name(&mut self, uid: u32) -> Option<String> {
        passwd::parse_name(self.files.read(&self.passwd).ok()?, uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::Values;

    const ID: &str = "7f0c3a5b91d2e8477f0c3a5b91d2e8477f0c3a5b91d2e8477f0c3a5b91d2e847";

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let tree = format!("hm-agent-processes-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(tree))
        }

        fn put(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn process(&self, name: &str, start_ticks: u64, uid: u32, cgroup: &str) {
            let numbers = "S 1 7 7 0 -1 4194560 9 0 0 0 7 9 0 0 20 0 64 0";
            self.put("proc/7/stat", &format!("7 ({name}) {numbers} {start_ticks} 1 1\n"));
            self.put("proc/7/status", &format!("Uid:\t{uid}\t0\t0\t0\n"));
            self.put("proc/7/cgroup", &format!("0::{cgroup}\n"));
        }

        fn directory(&self) -> ProcessDirectory {
            let below = |name: &str| self.0.join(name);
            let roots = Roots { proc: below("proc"), sys: below("sys"), root: below("root") };
            ProcessDirectory::new(&roots)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    /// Name, user and container.
    fn describe(directory: &mut ProcessDirectory, now: Instant) -> [Option<String>; 3] {
        let process = GpuProcess { pid: 7, ..GpuProcess::default() };
        let values = Values { processes: Some(vec![process]), ..Values::default() };
        let mut gpus = [Gpu { values, ..Gpu::default() }];
        directory.describe(&mut gpus, now);
        let process = gpus[0].values.processes.take().unwrap().remove(0);
        [process.name, process.user, process.container_id]
    }

    fn texts<const N: usize>(texts: [&str; N]) -> [Option<String>; N] {
        texts.map(|text| Some(text.to_owned()))
    }

    #[test]
    fn names_user_and_container() {
        let tree = Tree::new("names");
        tree.put("root/etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n");
        tree.process("python3", 100, 1000, &format!("/docker/{ID}"));
        let (mut directory, now) = (tree.directory(), Instant::now());
        assert_eq!(describe(&mut directory, now), texts(["python3", "alice", ID]));
        // Another process has taken the PID.
        tree.process("sh) S 1", 200, 4_000_000_000, "/");
        let found = describe(&mut directory, now);
        assert_eq!(found[..2], texts(["sh) S 1", "4000000000"]));
        assert_eq!(found[2], None);
    }

    #[test]
    fn reads_owner_again_after_a_minute() {
        let tree = Tree::new("again");
        tree.process("a", 100, 7, "/");
        let (mut directory, start) = (tree.directory(), Instant::now());
        describe(&mut directory, start);
        tree.process("b", 100, 8, "/");
        let at =
            |directory: &mut _, seconds| describe(directory, start + Duration::from_secs(seconds));
        assert_eq!(at(&mut directory, 59)[..2], texts(["b", "7"]));
        assert_eq!(at(&mut directory, 60)[..2], texts(["b", "8"]));
    }

    #[test]
    fn invisible_process_has_no_description() {
        let tree = Tree::new("invisible");
        assert_eq!(describe(&mut tree.directory(), Instant::now()), [None, None, None]);
        tree.put("proc/7/stat", "7 (a) S 1 7 7 0 -1 4194560 9 0 0 0 7 9 0 0 20 0 64 0 1 1 1\n");
        let found = describe(&mut tree.directory(), Instant::now());
        assert_eq!(found, [Some("a".to_owned()), None, None]);
    }
}
