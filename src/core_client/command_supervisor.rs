//! A process between the agent and one command: it starts the command as somebody else, ends it when its time is up, and
//! leaves nobody behind whom it has started, whatever they do to get away. It ends them also when the agent is killed.
//!
//! It is the agent's own program under another verb, with a thread of its own only. What the command writes goes straight
//! to the agent; the exit code is the command's.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::limits;
use crate::sys;
use crate::sys::children;
use crate::sys::users;
use crate::sys::users::User;
use crate::util::child_env;
use crate::util::error::reason;

/// The verb under which the agent's program is a warden. Not for people.
pub const VERB: &str = "run-command";

/// Exit codes that are not the command's own, as timeout(1), env(1) and shells have them.
pub mod exit {
    /// The agent, or whoever asked, ended it.
    pub const INTERRUPTED: i32 = 125;
    /// Its time was up.
    pub const TIMEOUT: i32 = 124;
    /// It was refused, or cannot be run.
    pub const NOT_RUN: i32 = 126;
    /// There is no such program.
    pub const NOT_FOUND: i32 = 127;
}

/// A warden for the command `words`, to be started by this process.
pub fn command(words: &[String], user: &User, timeout: Duration) -> Command {
    let mut command = Command::new("/proc/self/exe");
    child_env::prepare(&mut command);
    command.arg0("hm-agent").arg(VERB).arg(std::process::id().to_string());
    // The name, too: a number may have several, with other groups.
    command.args([user.uid.to_string(), user.name.clone()]);
    command.arg(timeout.as_millis().to_string()).args(words);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Is a warden, with the arguments that [`command`] gave it.
pub fn run(arguments: &[OsString]) -> u8 {
    let number = |at: usize| -> Option<u64> { arguments.get(at)?.to_str()?.parse().ok() };
    let (Some(parent), Some(uid), Some(name), Some(timeout), Some(program)) =
        (number(0), number(1), arguments.get(2), number(3), arguments.get(4))
    else {
        complain("this is for the agent alone: PARENT UID NAME MILLISECONDS COMMAND...");
        return 2;
    };
    // The agent's end is a signal, and so is that of the command.
    sys::reset_sigchld();
    children::block_supervisor_signals();
    let alone = !children::set_parent_death_signal(parent as u32);
    if let Err(error) = children::set_child_subreaper() {
        complain(&format!("adopt orphans: {}", reason(&error)));
        return exit::NOT_RUN as u8;
    }
    if alone {
        return exit::INTERRUPTED as u8;
    }
    let user = match user(uid as u32, &name.to_string_lossy()) {
        Ok(user) => user,
        Err(why) => {
            complain(&why);
            return exit::NOT_RUN as u8;
        }
    };
    let mut command = Command::new(program);
    command.args(&arguments[5..]).stdin(Stdio::null());
    prepare(&mut command, &user);
    let start = Instant::now();
    match command.spawn() {
        Ok(child) => Ward { child }.see_off(start + Duration::from_millis(timeout)),
        Err(error) => {
            complain(&format!("run {}: {}", program.display(), reason(&error)));
            let code = match error.kind() {
                io::ErrorKind::NotFound => exit::NOT_FOUND,
                _ => exit::NOT_RUN,
            };
            code as u8
        }
    }
}

/// The user that the agent found; it may be another one by now, and then nothing is run.
fn user(uid: u32, name: &str) -> Result<User, String> {
    match users::user_by_name(name) {
        Ok(Some(user)) if user.uid == uid => Ok(user),
        // Its own: nothing changes, whatever it is called.
        Ok(None) if uid == users::effective_uid() => Ok(User::from_uid(uid)),
        Ok(_) => Err(format!("the user {name} of number {uid} is not there any more")),
        Err(error) => Err(format!("look up the user {name}: {}", reason(&error))),
    }
}

/// What a login would set, and nothing of the agent's own.
fn prepare(command: &mut Command, user: &User) {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command.env_clear().envs([("PATH", path), ("LANG", "C.UTF-8"), ("SHELL", "/bin/sh")]);
    command.envs([("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)]);
    command.current_dir("/");
    children::run_as_user(command, user);
}

struct Ward {
    child: Child,
}

impl Ward {
    /// Waits for the command's end, or brings it about. Nobody whom it started is there any more then.
    fn see_off(mut self, deadline: Instant) -> u8 {
        let early = self.wait_until(deadline);
        let code = match early {
            Early::No => None,
            Early::Timeout => {
                self.end(limits::COMMAND_GRACE);
                complain("COMMAND_TIMEOUT: its time was up, so it was ended");
                Some(exit::TIMEOUT)
            }
            Early::Asked => {
                self.end(limits::INTERRUPTED_GRACE);
                Some(exit::INTERRUPTED)
            }
        };
        // It is not waited for yet, so its number, and that of its group, is its own.
        sys::process::kill_process_group(self.child.id());
        let status = self.child.wait();
        self.kill_the_rest();
        let code = code.unwrap_or_else(|| status.map_or(exit::NOT_RUN, exit_code));
        u8::try_from(code).unwrap_or(1)
    }

    fn wait_until(&self, deadline: Instant) -> Early {
        loop {
            if children::has_exited(self.child.id()) {
                return Early::No;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Early::Timeout;
            }
            if children::wait_child_or_stop(left) {
                return Early::Asked;
            }
        }
    }

    /// Asks it to end, and gives it that long to do so.
    fn end(&self, grace: Duration) {
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

    /// Whoever got away has become our child, as its parent is gone.
    fn kill_the_rest(&self) {
        let deadline = Instant::now() + limits::COMMAND_REST;
        while children::reap_children() {
            for process in own_children() {
                children::kill_with_group(process);
            }
            if Instant::now() >= deadline {
                complain("some processes of the command cannot be ended");
                return;
            }
            children::wait_child_or_stop(Duration::from_millis(10));
        }
    }
}

enum Early {
    No,
    Timeout,
    Asked,
}

fn exit_code(status: ExitStatus) -> i32 {
    let signal = status.signal().map(|signal| 128 + signal);
    status.code().or(signal).unwrap_or(exit::NOT_RUN)
}

/// Processes whose parent is this one; see proc_pid_stat(5).
fn own_children() -> Vec<u32> {
    let own = std::process::id();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|number| parent_of(*number) == Some(own)).collect()
}

fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    // Its name is in brackets and may hold anything, brackets among it.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// To where the command's own errors go.
fn complain(text: &str) {
    // Nobody is left to tell if nobody reads it.
    let _ = writeln!(io::stderr(), "hm-agent: {text}");
}
