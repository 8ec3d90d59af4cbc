//! The probe as a child process: started from memory, asked, read, killed.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

use crate::collector::gpu::nvidia::protocol::{Line, VERSION};
use crate::limits;
use crate::sys::process::create_memfd;
use crate::sys::wait_readable;
use crate::util::child_env;
use crate::util::error::reason;
use crate::util::state_dir;

/// A probe that runs.
pub struct Probe {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    unread: Vec<u8>,
}

/// What came of reading.
pub enum Heard {
    /// Not a whole line yet.
    Nothing,
    /// A line.
    Line(Box<Line>),
    /// It is gone.
    End,
    /// It wrote something that is no answer.
    Nonsense(String),
}

impl Probe {
    /// Starts the program that is in `packed`, in zlib's form, from memory, or from a file in `state_dir` where memory
    /// cannot be run.
    pub fn start(
        packed: &'static [u8],
        arguments: &[OsString],
        state_dir: &Path,
    ) -> Result<Self, String> {
        let program = decompress_to_vec_zlib_with_limit(packed, limits::PROBE_BYTES)
            .map_err(|error| format!("the probe in this agent is damaged: {error}"))?;
        Self::start_anywhere(&program, arguments, state_dir)
    }

    fn start_anywhere(
        program: &[u8],
        arguments: &[OsString],
        state_dir: &Path,
    ) -> Result<Self, String> {
        let from_memory = Self::from_memory(program, arguments);
        let in_memory = match from_memory {
            Ok(probe) => return Ok(probe),
            Err(error) => reason(&error),
        };
        Self::from_file(program, arguments, state_dir).map_err(|error| {
            let on_disk = reason(&error);
            let why = format!("from memory: {in_memory}; from {}: {on_disk}", state_dir.display());
            match error.kind() {
                // The program is there; its loader is not.
                io::ErrorKind::NotFound => {
                    format!("{why}; it needs glibc, as NVIDIA's library does")
                }
                _ => why,
            }
        })
    }

    fn from_memory(program: &[u8], arguments: &[OsString]) -> io::Result<Self> {
        let mut file = create_memfd(c"gpu-probe")?;
        file.write_all(program)?;
        Self::spawn(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref(), arguments)
    }

    fn from_file(program: &[u8], arguments: &[OsString], state_dir: &Path) -> io::Result<Self> {
        state_dir::make(state_dir)?;
        state_dir::check_alone(state_dir)?;
        let path = state_dir.join(format!("gpu-probe.{}", std::process::id()));
        // An agent of the same number may have left one there, as they all have in containers.
        let started = state_dir::create(&path, 0o700).and_then(|mut file| {
            file.write_all(program)?;
            drop(file);
            Self::spawn(path.as_os_str(), arguments)
        });
        // It runs or it does not: nobody needs the name any more, nor one that was left there.
        let _ = std::fs::remove_file(&path);
        started
    }

    fn spawn(program: &OsStr, arguments: &[OsString]) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0("gpu-probe").args(["--parent", &std::process::id().to_string()]);
        command.args(arguments);
        child_env::prepare(&mut command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        Ok(Self { child, stdin, stdout, unread: Vec::new() })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for a line.
    pub fn ask(&mut self) -> io::Result<()> {
        self.stdin.write_all(b"\n")
    }

    /// Whether a whole line was read already that nobody has taken.
    pub fn has_line(&self) -> bool {
        self.unread.contains(&b'\n')
    }

    /// Whether there is something to read.
    pub fn has_spoken(&self) -> bool {
        self.has_line() || wait_readable([self.as_fd()], Some(Duration::ZERO)) == [true]
    }

    /// The next line, or what there is of it. Waits if nothing is there: poll first.
    pub fn read(&mut self) -> Heard {
        if self.has_line() {
            return self.take();
        }
        let mut part = [0; 16 << 10];
        match self.stdout.read(&mut part) {
            Ok(0) => Heard::End,
            Ok(length) => {
                self.unread.extend_from_slice(&part[..length]);
                self.take()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Heard::Nothing,
            Err(error) => Heard::Nonsense(reason(&error)),
        }
    }

    fn take(&mut self) -> Heard {
        let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') else {
            return match self.unread.len() > limits::PROBE_LINE_BYTES {
                true => Heard::Nonsense("a line without end".to_owned()),
                false => Heard::Nothing,
            };
        };
        let line = serde_json::from_slice::<Line>(&self.unread[..end]);
        self.unread.drain(..=end);
        match line {
            Ok(line) if line.version == VERSION => Heard::Line(Box::new(line)),
            Ok(line) => Heard::Nonsense(format!("a line of version {}", line.version)),
            Err(error) => Heard::Nonsense(error.to_string()),
        }
    }

    /// Whether the kernel holds one of its threads in a call, so that killing it would not end it.
    pub fn is_held(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.into_iter().flatten().flatten().any(|task| {
            let stat = std::fs::read(task.path().join("stat")).unwrap_or_default();
            // pid (name) state …; a name may hold anything.
            let after_name = stat.rsplit(|byte| *byte == b')').next();
            after_name.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"D"))
        })
    }

    /// Kills it. What is left can only be waited for.
    pub fn kill(mut self) -> Ending {
        // It fails only when the child is gone already.
        let _ = self.child.kill();
        Ending(self.child)
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}

/// A probe on its way out. One that a driver call holds stays until that returns.
pub struct Ending(Child);

impl Ending {
    /// How it ended, once it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}
