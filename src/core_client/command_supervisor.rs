//! A process between the agent and one command. It starts the command as another user, enforces the timeout, and kills all
//! of the command's descendants, including daemonized ones. It does so also when the agent is killed.
//!
//! It is the agent's own program with a hidden subcommand, and single-threaded. The command writes directly to the agent's
//! pipes; the exit code is the command's.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::procfs::pid_stat;
use crate::sys;
use crate::sys::children;
use crate::sys::users;
use crate::sys::users::User;
use crate::util::child_env;
use crate::util::error::reason;

/// The hidden subcommand. Only the agent uses it.
pub const SUBCOMMAND: &str = "__supervise-command";

/// Time from SIGTERM to SIGKILL, after a command's timeout.
pub const TERM_GRACE: Duration = Duration::from_secs(2);
/// The same when the agent stops: it has less time.
pub const INTERRUPT_GRACE: Duration = Duration::from_millis(700);
/// How long descendants are killed repeatedly before the supervisor gives up.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Exit codes that are not the command's own, as in timeout(1), env(1) and shells.
pub mod exit {
    pub const TIMEOUT: i32 = 124;
    /// The agent stopped.
    pub const INTERRUPTED: i32 = 125;
    /// Rejected, or cannot be executed.
    pub const NOT_RUN: i32 = 126;
    pub const NOT_FOUND: i32 = 127;
}

/// The supervisor process for the command `words`.
pub fn command(words: &[String], user: &User, timeout: Duration) -> Command {
    let mut command = Command::new("/proc/self/exe");
    child_env::isolate(&mut command);
    command.arg0("hm-agent").arg(SUBCOMMAND).arg(std::process::id().to_string());
    // With the name, because several users with different groups may have the same uid.
    command.args([user.uid.to_string(), user.name.clone()]);
    command.arg(timeout.as_millis().to_string()).args(words);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The hidden subcommand, with the arguments from [`command`]. Returns the exit code.
pub fn run(arguments: &[OsString]) -> u8 {
    let number = |at: usize| -> Option<u64> { arguments.get(at)?.to_str()?.parse().ok() };
    let (Some(parent), Some(uid), Some(name), Some(timeout), Some(program)) =
        (number(0), number(1), arguments.get(2), number(3), arguments.get(4))
    else {
        eprint_line("for internal use: PARENT UID NAME MILLISECONDS COMMAND...");
        return 2;
    };
    // The supervisor waits for these signals: the agent's end (SIGTERM) and the command's (SIGCHLD).
    sys::reset_sigchld();
    children::block_command_supervisor_signals();
    let orphaned = !children::set_parent_death_signal(parent as u32);
    if let Err(error) = children::set_child_subreaper() {
        eprint_line(&format!("become a child subreaper: {}", reason(&error)));
        return exit::NOT_RUN as u8;
    }
    if orphaned {
        return exit::INTERRUPTED as u8;
    }
    let user = match verify_user(uid as u32, &name.to_string_lossy()) {
        Ok(user) => user,
        Err(why) => {
            eprint_line(&why);
            return exit::NOT_RUN as u8;
        }
    };
    let mut command = Command::new(program);
    command.args(&arguments[5..]).stdin(Stdio::null());
    set_user_and_env(&mut command, &user);
    let start = Instant::now();
    match command.spawn() {
        Ok(child) => Supervised { child }.wait_and_reap(start + Duration::from_millis(timeout)),
        Err(error) => {
            eprint_line(&format!("run {}: {}", program.display(), reason(&error)));
            let code = match error.kind() {
                io::ErrorKind::NotFound => exit::NOT_FOUND,
                _ => exit::NOT_RUN,
            };
            code as u8
        }
    }
}

/// Looks up the user again. If it has changed since the agent started, nothing is run.
fn verify_user(uid: u32, name: &str) -> Result<User, String> {
    match users::user_by_name(name) {
        Ok(Some(user)) if user.uid == uid => Ok(user),
        // Without an entry in the user database, but this process' own uid: no privileges change.
        Ok(None) if uid == users::effective_uid() => Ok(User::from_uid(uid)),
        Ok(_) => Err(format!("user {name} with uid {uid} no longer exists")),
        Err(error) => Err(format!("look up user {name}: {}", reason(&error))),
    }
}

/// Sets what a login sets, and nothing of the agent's environment.
fn set_user_and_env(command: &mut Command, user: &User) {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command.env_clear().envs([("PATH", path), ("LANG", "C.UTF-8"), ("SHELL", "/bin/sh")]);
    command.envs([("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)]);
    command.current_dir("/");
    children::run_as_user(command, user);
}

struct Supervised {
    child: Child,
}

impl Supervised {
    /// Waits until the command ends, or ends it. No descendant of it is left afterwards.
    fn wait_and_reap(mut self, deadline: Instant) -> u8 {
        let code = match self.wait_until(deadline) {
            WaitEnd::Exited => None,
            WaitEnd::Timeout => {
                self.terminate(TERM_GRACE);
                eprint_line("COMMAND_TIMEOUT: command timed out and was terminated");
                Some(exit::TIMEOUT)
            }
            WaitEnd::Interrupted => {
                self.terminate(INTERRUPT_GRACE);
                Some(exit::INTERRUPTED)
            }
        };
        // The child is not reaped yet, so its pid and process group cannot be reused.
        sys::process::kill_process_group(self.child.id());
        let status = self.child.wait();
        self.kill_descendants();
        let code = code.unwrap_or_else(|| status.map_or(exit::NOT_RUN, exit_code));
        u8::try_from(code).unwrap_or(1)
    }

    fn wait_until(&self, deadline: Instant) -> WaitEnd {
        loop {
            if children::has_exited(self.child.id()) {
                return WaitEnd::Exited;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return WaitEnd::Timeout;
            }
            if children::wait_child_or_stop(left) {
                return WaitEnd::Interrupted;
            }
        }
    }

    /// Sends SIGTERM and waits at most `grace`.
    fn terminate(&self, grace: Duration) {
        children::terminate_process_group(self.child.id());
        let deadline = Instant::now() + grace;
        while !children::has_exited(self.child.id()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            children::wait_child_or_stop(left);
        }
    }

    /// Descendants that left the process group: this process is their subreaper, so they have become its children.
    fn kill_descendants(&self) {
        let deadline = Instant::now() + KILL_TIMEOUT;
        while children::reap_children() {
            for process in child_pids() {
                children::kill_with_group(process);
            }
            if Instant::now() >= deadline {
                eprint_line("some processes of the command cannot be killed");
                return;
            }
            children::wait_child_or_stop(Duration::from_millis(10));
        }
    }
}

enum WaitEnd {
    Exited,
    Timeout,
    /// A signal requests the end, or the agent has exited.
    Interrupted,
}

fn exit_code(status: ExitStatus) -> i32 {
    let signal = status.signal().map(|signal| 128 + signal);
    status.code().or(signal).unwrap_or(exit::NOT_RUN)
}

/// PIDs of the children of this process.
fn child_pids() -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_pid(*pid) == Some(own)).collect()
}

fn parent_pid(pid: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    Some(pid_stat::parse(&stat).ok()?.parent_pid)
}

/// Writes to the command's standard error.
fn eprint_line(text: &str) {
    // If standard error is closed, there is nowhere to report that.
    let _ = writeln!(io::stderr(), "hm-agent: {text}");
}
