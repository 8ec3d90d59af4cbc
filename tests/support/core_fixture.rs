//! An agent that runs commands of Core as a dedicated user, whose processes can be counted.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::core::Core;
use super::core_wire::{TOKEN, fresh_id};
use super::{Agent, TempDir, hm_agent, wait_until};

/// A user that only the agent's mount namespace knows, with its own group and a second one. Without root it is the user that
/// runs the tests, whose processes cannot be distinguished.
pub struct User {
    pub id: u32,
    may_mount: bool,
    files: TempDir,
}

impl User {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Steps of two, because the second group has the next id.
        let id = 1_000_000_000 + std::process::id() % 4_194_304 * 200 + number * 2;
        // Root in a container may lack the right.
        let unshare = Command::new("unshare").args(["--mount", "true"]).output();
        let may_mount = unshare.is_ok_and(|output| output.status.success());
        let files = TempDir::new("user");
        let more = id + 1;
        // Another name with the same uid comes first, as with root and toor.
        files.write(
            "passwd",
            &format!(
                "root:x:0:0:root:/root:/bin/sh\nhmalias:x:{id}:7::/:/bin/sh\nhmtest:x:{id}:{id}:of a test:/tmp:/bin/sh\n"
            ),
        );
        files.write(
            "group",
            &format!("root:x:0:\nhmtest:x:{id}:\nhmmore:x:{more}:root,hmtest\nhmless:x:7:root\n"),
        );
        Self { id, may_mount, files }
    }

    pub fn is_dedicated(&self) -> bool {
        self.may_mount
    }

    /// Runs a command where this user is in /etc/passwd, with `core.run_as`.
    pub fn with_user_database(&self, command: &Command) -> Command {
        if !self.may_mount {
            let mut wrapped = wrap(&[], command);
            if is_root() {
                wrapped.args(["-s", "core.run_as=root"]);
            }
            return wrapped;
        }
        let script = "mount --bind \"$0\" /etc/passwd && mount --bind \"$1\" /etc/group && shift && exec \"$@\"";
        let file = |name| self.files.0.join(name).display().to_string();
        let (passwd, group) = (file("passwd"), file("group"));
        let before = ["unshare", "--mount", "sh", "-c", script, &passwd, &group];
        let mut wrapped = wrap(&before, command);
        wrapped.args(["-s", "core.run_as=hmtest"]);
        wrapped
    }

    /// A directory that this user can write to.
    pub fn scratch(&self) -> TempDir {
        let scratch = TempDir::new("command");
        let status = Command::new("chmod").arg("777").arg(&scratch.0).status();
        assert!(status.unwrap().success());
        scratch
    }

    /// Processes of this user: pid and command line.
    pub fn processes(&self) -> Vec<(u32, String)> {
        if !self.may_mount {
            return Vec::new();
        }
        let id = self.id.to_string();
        let is_ours = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
            uids.is_some_and(|uids| uids.split_whitespace().any(|uid| uid == id))
        };
        pids().filter(is_ours).map(|pid| (pid, command_line(pid))).collect()
    }

    /// Waits until this user has no processes.
    pub fn assert_no_processes(&self, what: &str) {
        let what = format!("the end of all processes of {what}");
        wait_until(&what, || self.processes().is_empty().then_some(()));
    }
}

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// Runs a command by another program, such as `unshare`.
pub fn wrap(before: &[&str], command: &Command) -> Command {
    let mut words = before.iter().map(OsStr::new).chain([command.get_program()]);
    let mut wrapped = Command::new(words.next().unwrap());
    wrapped.args(words).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// All processes of this machine.
fn pids() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

pub fn command_line(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Children of a process, including zombies.
pub fn children(parent: u32) -> Vec<(u32, String)> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit(") ").next().unwrap_or_default();
        after.split(' ').nth(1) == Some(parent.to_string().as_str())
    };
    pids().filter(is_child).map(|pid| (pid, command_line(pid))).collect()
}

/// An agent that connects to this Core and sends a heartbeat every second.
pub fn command(core: &str, state: &TempDir, settings: &[&str]) -> Command {
    let mut command = hm_agent();
    let state = format!("state_dir={}", state.0.display());
    let token = format!("core.token={TOKEN}");
    let own = ["usage.listen=127.0.0.1:0", "node_id=n1", "interval=1", "gpu.source=none"];
    let of_core = [core, &token, "core.heartbeat_interval=1", &state];
    for setting in own.iter().chain(&of_core).chain(settings) {
        command.args(["-s", setting]);
    }
    command
}

/// A registered agent that runs any command as `user`.
pub fn start(core: &Core, user: &User, state: &TempDir, settings: &[&str]) -> Agent {
    let settings = [&["core.commands=any"], settings].concat();
    let agent = Agent::spawn(user.with_user_database(&command(&core.setting(), state, &settings)));
    agent.wait_log("registered as n1");
    agent
}

/// A Core, and a registered agent that runs any command.
pub struct CoreFixture {
    // Ended in this order.
    pub agent: Agent,
    pub core: Core,
    pub user: User,
    pub state: TempDir,
}

impl CoreFixture {
    pub fn new(settings: &[&str]) -> Self {
        let (core, user, state) = (Core::start(), User::new(), TempDir::new("node"));
        let agent = start(&core, &user, &state, settings);
        Self { agent, core, user, state }
    }

    /// Runs a command with a unique id; returns its result.
    pub fn run(&self, text: &str, timeout: u64) -> Value {
        let id = format!("run-{}", fresh_id());
        self.core.execute(&id, text, timeout);
        self.core.result(&id).data
    }

    /// Waits until no process of any command is left.
    pub fn assert_no_processes(&self, what: &str) {
        self.user.assert_no_processes(what);
        let pid = self.agent.pid();
        wait_until("the end of the agent's children", || children(pid).is_empty().then_some(()));
    }
}
