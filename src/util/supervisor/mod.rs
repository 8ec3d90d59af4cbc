//! Programs that the agent starts: commands of Core, hooks, ssh, and the GPU probe. Each runs below a supervisor process, which
//! enforces a timeout, and kills all of the program's descendants when the program or the agent ends, daemonized ones too.
//!
//! The supervisor is the agent's own program with a hidden subcommand, and single-threaded. It ends as the program does: with
//! the same exit code or by the same signal.

mod control_group;
mod descendants;
mod orphans;
pub mod process;

use std::ffi::OsStr;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sys::process::{inherit_in, send_signal};
use crate::sys::users::User;
use crate::util::child_env;

/// The hidden subcommand. Only the agent uses it.
pub const SUBCOMMAND: &str = "__supervise-command";

/// Time from SIGTERM to SIGKILL, after a command's timeout.
pub const TERM_GRACE: Duration = Duration::from_secs(2);
/// How long killed descendants are waited for. The kernel kills a process that is blocked in a driver or on a dead filesystem
/// when that call returns.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Exit codes that are not the program's own, as in timeout(1), env(1) and shells.
pub mod exit {
    pub const TIMEOUT: i32 = 124;
    /// The agent stopped.
    pub const INTERRUPTED: i32 = 125;
    /// Rejected, or cannot be executed.
    pub const NOT_RUN: i32 = 126;
    pub const NOT_FOUND: i32 = 127;
}

/// How a program is supervised.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Supervision {
    /// PID of the agent, with which the program ends; `None`: it may outlive the agent.
    agent: Option<u32>,
    /// uid and name, because several users with different groups may have the same uid; `None`: the agent's own user.
    user: Option<(u32, String)>,
    timeout: Option<Duration>,
    /// Time from SIGTERM to SIGKILL after the timeout, and after a request to stop.
    timeout_grace: Duration,
    stop_grace: Duration,
    /// The name that ps(1) shows; `None`: the program's path.
    program_name: Option<String>,
    /// Descriptor for a [`Report`]; `None`: errors are written to standard error.
    report_fd: Option<i32>,
}

impl Supervision {
    /// The program ends when the thread that starts it does.
    pub fn until_agent_ends() -> Self {
        Self { agent: Some(std::process::id()), ..Self::default() }
    }

    /// The program may outlive the agent. When a service manager stops both, it has time to react.
    pub fn with_timeout(timeout: Duration) -> Self {
        Self { timeout: Some(timeout), stop_grace: TERM_GRACE, ..Self::default() }
    }

    /// For a command of Core, which writes to the same standard error as its supervisor.
    pub fn of_command(user: &User, timeout: Duration, stop_grace: Duration) -> Self {
        Self {
            user: Some((user.uid, user.name.clone())),
            timeout: Some(timeout),
            timeout_grace: TERM_GRACE,
            stop_grace,
            ..Self::until_agent_ends()
        }
    }

    /// When it is stopped, the program has this time to exit after SIGTERM.
    pub fn with_stop_grace(self, stop_grace: Duration) -> Self {
        Self { stop_grace, ..self }
    }

    pub fn named(self, name: &str) -> Self {
        Self { program_name: Some(name.to_owned()), ..self }
    }

    /// The supervisor process for a program. The caller adds arguments, and what the program shall inherit.
    pub fn command(&self, program: &OsStr) -> io::Result<Command> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("hm-agent").arg(SUBCOMMAND).arg(serde_json::to_string(self)?).arg(program);
        command.process_group(0);
        child_env::clear_agent_env(&mut command);
        Ok(command)
    }

    /// Starts a program below a supervisor. Fails as [`Command::spawn`] does without one.
    pub fn spawn(
        mut self,
        program: &OsStr,
        configure: impl FnOnce(&mut Command),
    ) -> io::Result<SupervisedChild> {
        let (reader, writer) = io::pipe()?;
        self.report_fd = Some(writer.as_raw_fd());
        let mut command = self.command(program)?;
        configure(&mut command);
        inherit_in(&mut command, &writer);
        let mut child = command.spawn()?;
        drop(writer);
        match Report::read(reader).and_then(Report::into_result) {
            Ok(pid) => Ok(SupervisedChild { child, pid }),
            Err(error) => {
                // It exits after such a report.
                child.wait()?;
                Err(error)
            }
        }
    }
}

/// A program and its supervisor.
pub struct SupervisedChild {
    /// The supervisor.
    pub child: Child,
    /// PID of the program.
    pub pid: u32,
}

impl SupervisedChild {
    /// How the program has ended, once that is known and nothing of it is left.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        status.inspect(after_exit);
        Ok(status)
    }

    /// Waits until nothing of the program is left.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        after_exit(&status);
        Ok(status)
    }

    /// Has the supervisor kill the program, and everything that it has started.
    pub fn kill(&self) {
        send_signal(self.child.id(), libc::SIGTERM);
    }
}

/// Must be called after a supervisor has exited: it may have been killed itself.
pub fn after_exit(status: &ExitStatus) {
    if status.signal().is_some() {
        orphans::kill();
    }
}

/// What the supervisor reports about the start of the program: a number of errno(3), and the PID.
struct Report {
    errno: i32,
    pid: u32,
}

impl Report {
    fn read(mut pipe: PipeReader) -> io::Result<Self> {
        let mut bytes = [[0; 4]; 2];
        pipe.read_exact(bytes.as_flattened_mut())?;
        Ok(Self { errno: i32::from_ne_bytes(bytes[0]), pid: u32::from_ne_bytes(bytes[1]) })
    }

    fn into_result(self) -> io::Result<u32> {
        match self.errno {
            0 => Ok(self.pid),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn to_bytes(&self) -> [u8; 8] {
        let mut bytes = [[0; 4]; 2];
        bytes[0] = self.errno.to_ne_bytes();
        bytes[1] = self.pid.to_ne_bytes();
        bytes.as_flattened().try_into().unwrap_or_default()
    }
}
