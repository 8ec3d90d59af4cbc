//! The supervisor process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::sys::users::{self, User};
use crate::sys::{children, process, service};
use crate::util::error::reason;
use crate::util::supervisor::control_group::ControlGroup;
use crate::util::supervisor::orphans::SUPERVISOR_NAME;
use crate::util::supervisor::{Report, Supervision, descendants, exit};

/// The hidden subcommand, with the arguments from [`Supervision::command`]. Returns the exit code, unless a signal has ended
/// the program.
pub fn run(arguments: &[OsString]) -> u8 {
    let supervision = arguments.first().and_then(|json| json.to_str());
    let supervision = supervision.and_then(|json| serde_json::from_str(json).ok());
    let (Some(supervision), Some(program)) = (supervision, arguments.get(1)) else {
        eprint_line("for internal use: SUPERVISION PROGRAM ARGUMENT...");
        return 2;
    };
    let code = match start(&supervision, program, &arguments[2..]) {
        Ok(supervised) => supervised.wait_and_reap(&supervision),
        Err((code, why)) => {
            if let Some(why) = why {
                eprint_line(&why);
            }
            code
        }
    };
    u8::try_from(code).unwrap_or(1)
}

/// An exit code, and the reason unless it was reported.
type Failure = (i32, Option<String>);

fn start(
    supervision: &Supervision,
    program: &OsStr,
    arguments: &[OsString],
) -> Result<Supervised, Failure> {
    let is_orphan = !handle_signals(supervision);
    let mut report = supervision.report_fd.map(process::inherited_file);
    let started = process::set_cloexec_on_inherited_fds()
        .and_then(|()| children::set_child_subreaper())
        .map_err(|error| (exit::NOT_RUN, "prepare the supervisor".to_owned(), error))
        .and_then(|()| match is_orphan {
            true => Ok(None),
            false => spawn(supervision, program, arguments).map(Some),
        });
    match (started, &mut report) {
        (Ok(None), _) => Err((exit::INTERRUPTED, None)),
        (Ok(Some(supervised)), Some(report)) => {
            send(report, 0, supervised.child.id());
            release_stdio();
            Ok(supervised)
        }
        (Ok(Some(supervised)), None) => Ok(supervised),
        (Err((code, _, error)), Some(report)) => {
            send(report, error.raw_os_error().unwrap_or(libc::EIO), 0);
            Err((code, None))
        }
        (Err((code, what, error)), None) => {
            Err((code, Some(format!("{what}: {}", reason(&error)))))
        }
    }
}

/// The supervisor waits for signals: the agent's end (SIGTERM) and the program's (SIGCHLD). Returns false if the agent has
/// ended already.
fn handle_signals(supervision: &Supervision) -> bool {
    process::set_thread_name(SUPERVISOR_NAME);
    children::reset_signal_handlers();
    children::block_command_supervisor_signals();
    supervision.agent.is_none_or(children::set_parent_death_signal)
}

/// Starts the program. The error is an exit code, what failed, and why.
fn spawn(
    supervision: &Supervision,
    program: &OsStr,
    arguments: &[OsString],
) -> Result<Supervised, (i32, String, io::Error)> {
    let user = supervision.user.as_ref().map(|(uid, name)| verify_user(*uid, name));
    let user =
        user.transpose().map_err(|error| (exit::NOT_RUN, "look up the user".to_owned(), error))?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(name) = &supervision.program_name {
        command.arg0(name);
    }
    if let Some(user) = &user {
        set_user_env(&mut command, user);
    }
    let group = ControlGroup::create();
    if let Some(group) = &group {
        group.enter_in(&mut command);
    }
    children::isolate(&mut command, user.as_ref());
    let child = command.spawn().map_err(|error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => exit::NOT_FOUND,
            _ => exit::NOT_RUN,
        };
        (code, format!("run {}", program.display()), error)
    })?;
    Ok(Supervised { child, group })
}

/// Reports the start. The agent may have ended meanwhile; its death signal is handled afterwards.
fn send(report: &mut File, errno: i32, pid: u32) {
    let _ = report.write_all(&Report { errno, pid }.to_bytes());
}

/// The agent waits for the end of the program's output, and must not wait for this process.
fn release_stdio() {
    if let Err(error) =
        service::redirect_stdio_to_null().and_then(|()| service::redirect_stderr_to_stdout())
    {
        eprint_line(&format!("open /dev/null: {}", reason(&error)));
    }
}

/// Looks up the user again. If it has changed since the agent started, nothing is run.
fn verify_user(uid: u32, name: &str) -> io::Result<User> {
    match users::user_by_name(name)? {
        Some(user) if user.uid == uid => Ok(user),
        // Without an entry in the user database, but this process' own uid: no privileges change.
        None if uid == users::effective_uid() => Ok(User::from_uid(uid)),
        _ => Err(io::Error::other(format!("user {name} with uid {uid} no longer exists"))),
    }
}

/// Sets what a login sets, and nothing of the agent's environment.
fn set_user_env(command: &mut Command, user: &User) {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command.env_clear().envs([("PATH", path), ("LANG", "C.UTF-8"), ("SHELL", "/bin/sh")]);
    command.envs([("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)]);
    command.current_dir("/").stdin(Stdio::null());
}

struct Supervised {
    child: Child,
    group: Option<ControlGroup>,
}

impl Supervised {
    /// Waits until the program ends, or ends it. No descendant of it is left afterwards. Returns an exit code if the program
    /// was not run to its end.
    fn wait_and_reap(mut self, supervision: &Supervision) -> i32 {
        let deadline = supervision.timeout.map(|timeout| Instant::now() + timeout);
        let code = match self.wait_until(deadline) {
            WaitEnd::Exited => None,
            WaitEnd::Timeout => {
                self.terminate(supervision.timeout_grace);
                if supervision.report_fd.is_none() {
                    eprint_line("COMMAND_TIMEOUT: command timed out and was terminated");
                }
                Some(exit::TIMEOUT)
            }
            WaitEnd::Interrupted => {
                self.terminate(supervision.stop_grace);
                // The agent knows whether it has requested the end, and may do so while the program ends by itself.
                supervision.report_fd.is_none().then_some(exit::INTERRUPTED)
            }
        };
        if let Some(group) = &self.group {
            group.kill();
        }
        // The child is not reaped yet, so its pid and process group cannot be reused.
        process::kill_process_group(self.child.id());
        let status = self.child.wait();
        if !descendants::kill() && supervision.report_fd.is_none() {
            eprint_line("some processes of the command cannot be killed");
        }
        drop(self.group);
        match (code, status) {
            (None, Ok(status)) => end_as(status, supervision),
            (code, _) => code.unwrap_or(exit::NOT_RUN),
        }
    }

    fn wait_until(&self, deadline: Option<Instant>) -> WaitEnd {
        loop {
            if children::has_exited(self.child.id()) {
                return WaitEnd::Exited;
            }
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return WaitEnd::Timeout;
            }
            if children::wait_child_or_stop(left) {
                return WaitEnd::Interrupted;
            }
        }
    }

    /// Sends SIGTERM and waits at most `grace`.
    fn terminate(&self, grace: Duration) {
        if grace.is_zero() {
            return;
        }
        children::terminate_process_group(self.child.id());
        let deadline = Instant::now() + grace;
        while !children::has_exited(self.child.id()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            children::wait_child_or_stop(Some(left));
        }
    }
}

enum WaitEnd {
    Exited,
    Timeout,
    /// A signal requests the end, or the agent has exited.
    Interrupted,
}

/// Ends this process as the program has ended. For Core, a signal is an exit code, as in shells.
fn end_as(status: ExitStatus, supervision: &Supervision) -> i32 {
    match status.signal() {
        Some(signal) if supervision.report_fd.is_none() => 128 + signal,
        _ => children::exit_like(status),
    }
}

/// Writes to standard error, which is the command's too.
fn eprint_line(text: &str) {
    // If standard error is closed, there is nowhere to report that.
    let _ = writeln!(io::stderr(), "hm-agent: {text}");
}
