//! Faults of the machine: a full disk, unreadable kernel files, a read-only sandbox, out of memory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::core::Core;
use crate::support::core_fixture::{self, User, wrap};
use crate::support::fake_nvml::{self, Driver, assert_no_values, message, problems};
use crate::support::full_disk::FullDisk;
use crate::support::heartbeat::lines_of;
use crate::support::hm_server::HmServer;
use crate::support::{Agent, TempDir, hm_agent, wait_until};

fn start(disk: &FullDisk, core: &Core, hub: &HmServer, user: &User) -> Agent {
    let models = format!("hm.models=[\"{}\"]", "m".repeat(1500)); // makes reports large
    let settings = ["core.commands=any", "hm.report_interval=1", &models, &hub.setting()];
    let command = core_fixture::command(&core.setting(), &disk.directory, &settings);
    let agent = Agent::spawn(disk.run_inside(&user.with_user_database(&command)));
    agent.wait_log("registered as n1");
    agent
}

#[test]
#[ignore = "needs root"]
fn keeps_state_in_memory_while_disk_is_full() {
    let (disk, hub, core, user) = (FullDisk::new(), HmServer::start(), Core::start(), User::new());
    let marks = user.scratch();
    let mark = marks.0.join("ran");
    let mut agent = start(&disk, &core, &hub, &user);
    agent.get_ok("/hb_init?600000&appid=before");
    hub.wait_reports(2);
    disk.fill();
    let mut number = 0;
    // Number and exit code of a new command.
    let mut run = || {
        number += 1;
        let command = format!("c-{number}");
        let text =
            format!("echo {command} >> {}; head -c 4000 /dev/zero | tr '\\0' x", mark.display());
        core.execute(&command, &text, 30);
        let data = core.result(&command).data;
        let code = data["exit_code"].as_i64().unwrap();
        let reason = data["stderr"].as_str().unwrap();
        assert!(code == 0 || reason.contains("cannot be recorded: no space left"), "{data}");
        (number, code)
    };
    let mut recorded = BTreeMap::new();
    let in_memory = |agent: &Agent| agent.count_log(" are kept in memory only, see state_dir");
    wait_until("three warnings", || {
        let (number, code) = run();
        recorded.insert(number, code);
        agent.get_ok(&format!("/hb_init?600000&appid=during-{number}"));
        (in_memory(&agent) == 3).then_some(())
    });
    let (refused, code) = run();
    recorded.insert(refused, code);
    assert_eq!(code, 126, "a command that cannot be recorded");
    let reports = hub.reports().len();
    hub.wait_reports(reports + 3);
    disk.empty();
    wait_until("three writable files", || {
        let (number, code) = run();
        recorded.insert(number, code);
        agent.get_ok(&format!("/hb_init?600000&appid=after-{number}"));
        std::thread::park_timeout(std::time::Duration::from_millis(500));
        (agent.count_log("info write to ") == 3).then_some(())
    });
    assert_eq!(in_memory(&agent), 3, "one line each: {:#?}", agent.log());
    let (last, code) = run();
    recorded.insert(last, code);
    assert_eq!(code, 0, "the disk has space");
    let known = agent.list();
    assert!(known.len() > 1, "{known:?}");
    for file in ["heartbeat.json", "hm-reports", "core-commands"] {
        let mode = fs::metadata(disk.file(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    // The heartbeat table is saved one second after a change; a report is sent every second.
    hub.wait_reports(hub.reports().len() + 3);
    agent.signal("-KILL");
    agent.wait();
    let agent = start(&disk, &core, &hub, &user);
    assert_eq!(agent.list(), known);
    // The agent knows the commands that ran, and does not run them again.
    for again in [1, last] {
        let command = format!("c-{again}");
        let results = core.results(&command).len();
        core.execute(&command, "echo never", 30);
        wait_until("its result", || (core.results(&command).len() > results).then_some(()));
    }
    let ran = recorded.iter().filter(|(_, code)| **code == 0);
    let ran: Vec<_> = ran.map(|(number, _)| format!("c-{number}")).collect();
    assert_eq!(lines_of(&mark), ran);
    let log = agent.stop();
    assert!(!log.iter().any(|line| line.contains(" warn ")), "{log:#?}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => assert!(fs::copy(&from, &to).is_ok()),
        }
    }
}

/// Files that every sample reads, and their collectors.
const READ: [(&str, &str); 5] = [
    ("stat", "cpu"),
    ("meminfo", "meminfo"),
    ("loadavg", "loadavg"),
    ("pressure/cpu", "pressure"),
    ("self/mountinfo", "filesystem"),
];

#[test]
fn malformed_kernel_file_affects_only_its_collector() {
    let captured = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/x86");
    let tree = TempDir::new("kernel");
    copy(&captured.join("a"), &tree.0);
    let below = |name: &str| format!("path.{name}={}/{name}", tree.0.display());
    let roots = [below("proc"), below("sys"), below("root")];
    let settings: Vec<&str> = roots.iter().map(String::as_str).chain(["interval=1"]).collect();
    let agent = Agent::start(&settings);
    let mut client = agent.subscribe();
    let succeeds = |collector: &str| {
        let line = format!("node_scrape_collector_success{{collector=\"{collector}\"}} 1\n");
        agent.http("/metrics", "Connection: close\r\n").1.contains(&line)
    };
    for (file, collector) in READ {
        // Written in place, because the agent keeps the file open for times without a free descriptor.
        let path = tree.0.join("proc").join(file);
        for (content, what) in
            [(&b"rubbish"[..], "rubbish"), (b"", "nothing"), (&[0xff; 5 << 20], "5 MiB")]
        {
            fs::write(&path, content).unwrap();
            wait_until(&format!("{file}, {what}: no {collector}"), || {
                (!succeeds(collector)).then_some(())
            });
            for (other, others) in READ {
                assert_eq!(succeeds(others), other != file, "{file}, {what}: {others}");
            }
            assert_eq!(client.json()["type"], "usage_update");
        }
        fs::copy(captured.join("b/proc").join(file), &path).unwrap();
        wait_until(&format!("{collector} again"), || succeeds(collector).then_some(()));
    }
    let (lost, again) =
        (agent.count_log(" are omitted until it recovers"), agent.count_log(" recovered"));
    assert_eq!((lost, again), (READ.len(), READ.len()), "{:#?}", agent.log());
    agent.stop();
}

/// systemd's ProtectSystem=strict remounts the root like this.
#[test]
#[ignore = "needs root and unshare"]
fn reports_host_filesystem_as_writable_in_read_only_sandbox() {
    let script = "mount -o bind,remount,ro / && ! touch /hm-agent-test 2>&- && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", env!("CARGO_BIN_EXE_hm-agent")]);
    command.args(["-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
    let agent = Agent::spawn(command);
    agent.wait_log("started");
    let metrics = agent.http("/metrics", "Connection: close\r\n").1;
    let root = metrics.lines().find(|line| {
        line.starts_with("node_filesystem_readonly{") && line.contains("mountpoint=\"/\"")
    });
    assert!(root.unwrap().ends_with(" 0"), "{root:?}");
    agent.stop();
}

/// A name, and a function that makes the file at a path unreadable.
type Unreadable = (&'static str, fn(&Path));

const UNREADABLE: [Unreadable; 4] = [
    ("no permission", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap()),
    ("I/O error", |path| symlink("/proc/self/mem", path)), // reading address 0 fails with EIO
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("missing", |_| {}),
];

/// A series of each of [`READ`]. The captured mounts have none.
const VALUES: [&str; 5] =
    ["\nnode_cpu_", "\nnode_memory_MemTotal", "\nnode_load1 ", "\nnode_pressure_cpu_", ""];

fn symlink(to: &str, path: &Path) {
    std::os::unix::fs::symlink(to, path).unwrap();
}

#[test]
#[ignore = "needs root and setpriv"]
fn unreadable_kernel_file_affects_only_its_collector() {
    let captured = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/x86");
    let tree = TempDir::new("unreadable");
    copy(&captured.join("a"), &tree.0);
    let mut command = hm_agent();
    for name in ["proc", "sys", "root"] {
        command.args(["-s", &format!("path.{name}={}/{name}", tree.0.display())]);
    }
    command.args(["-s", "interval=1", "-s", "usage.listen=127.0.0.1:0", "-s", "gpu.source=none"]);
    // Without the capabilities that let root read every file.
    let without = "-dac_override,-dac_read_search";
    let (inherit, bound) = (format!("--inh-caps={without}"), format!("--bounding-set={without}"));
    let agent = Agent::spawn(wrap(&["setpriv", &inherit, &bound], &command));
    let mut client = agent.subscribe();
    let is_exported = |collector: &str, value: &str| {
        let success = format!("\nnode_scrape_collector_success{{collector=\"{collector}\"}} 1\n");
        let metrics = agent.http("/metrics", "Connection: close\r\n").1;
        metrics.contains(&success) && metrics.contains(value)
    };
    let read: Vec<_> = READ.into_iter().zip(VALUES).collect();
    for &((file, collector), value) in &read {
        let path = tree.0.join("proc").join(file);
        for (what, becomes) in UNREADABLE {
            if what != "no permission" {
                fs::remove_file(&path).unwrap();
            }
            becomes(&path);
            wait_until(&format!("{file}, {what}"), || {
                (!is_exported(collector, value)).then_some(())
            });
            for ((other, others), value) in read.iter().filter(|((other, _), _)| *other != file) {
                assert!(is_exported(others, value), "{file}, {what}: {other}");
            }
            assert_eq!(client.json()["type"], "usage_update");
            let _ = fs::remove_dir(&path);
            let _ = fs::remove_file(&path);
            fs::copy(captured.join("b/proc").join(file), &path).unwrap();
            wait_until(&format!("{file} after {what}"), || {
                is_exported(collector, value).then_some(())
            });
        }
    }
    let log = agent.stop();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    // Load, pressure and mounts are optional: some kernels and containers lack them, so a missing file is not logged.
    let silent = 3;
    let expected = READ.len() * UNREADABLE.len() - silent;
    let (lost, again) = (count(" are omitted until it recovers"), count(" recovered"));
    assert_eq!((lost, again), (expected, expected), "{log:#?}");
}

/// A memory cgroup with a limit of one page.
struct FullMemoryCgroup {
    directory: PathBuf,
    /// The file that counts kills.
    events: &'static str,
}

impl FullMemoryCgroup {
    /// `None` where memory cgroups cannot be created.
    fn new() -> Option<Self> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let (parent, limit, events) = match v1.join("memory.limit_in_bytes").exists() {
            true => (v1, "memory.limit_in_bytes", "memory.oom_control"),
            false => (v2, "memory.max", "memory.events"),
        };
        let directory = parent.join(format!("hm-agent-test-{}", std::process::id()));
        fs::create_dir(&directory).ok()?;
        let group = Self { directory, events };
        fs::write(group.directory.join(limit), "4096").ok().map(|()| group)
    }

    fn add(&self, pid: u32) {
        fs::write(self.directory.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn oom_kills(&self) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join(self.events)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }
}

impl Drop for FullMemoryCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.directory);
    }
}

#[test]
#[ignore = "needs root"]
fn restarts_gpu_probe_after_oom_kill() {
    let driver = Driver::new("");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    let pid = watched.probe();
    match FullMemoryCgroup::new() {
        Some(group) => {
            group.add(pid);
            // For more GPUs it allocates memory.
            driver.set_script("gpus = 64");
            wait_until("the kernel's kill", || (group.oom_kills()? == 1).then_some(()));
        }
        None => {
            eprintln!("no memory cgroup: the test kills the probe itself");
            fake_nvml::kill(pid);
        }
    }
    let update = watched.until_state("crashed");
    assert_no_values(&update);
    assert!(message(&update).contains("perhaps by the kernel's OOM killer"), "{update:#}");
    driver.set_script("gpus = 2");
    let update = watched.until_state("ok");
    assert_eq!(problems(&update), ["fine"; 2]);
    assert_ne!(watched.probe(), pid);
    let log = watched.stop();
    let lines = log.iter().filter(|line| line.contains("the GPU probe was killed"));
    assert_eq!(lines.count(), 1, "{log:#?}");
}
