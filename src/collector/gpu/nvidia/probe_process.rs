//! The probe's child process: started from memory, queried over a pipe, killed.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use flate2::read::ZlibDecoder;

use crate::collector::gpu::nvidia::protocol::{ProbeReply, VERSION};
use crate::procfs::pid_stat;
use crate::sys::process::{create_memfd, inherit_in};
use crate::sys::wait_readable;
use crate::util::error::reason;
use crate::util::state_dir;
use crate::util::supervisor::{SupervisedChild, Supervision};

/// Size limit of the uncompressed probe, which is 0.6 MB. Debug builds of the agent embed a release build too.
const MAX_PROBE_BYTES: u64 = 16 << 20;
/// Size limit of a reply. The longest ones list thousands of processes on eight GPUs.
const MAX_REPLY_BYTES: usize = 4 << 20;
/// How long a stopped probe has to free what it holds in the driver. It exits when its standard input is closed.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// A running probe.
pub(super) struct ProbeProcess {
    process: SupervisedChild,
    stdin: ChildStdin,
    stdout: ChildStdout,
    unread: Vec<u8>,
}

/// Result of reading from the probe.
pub(super) enum ProbeEvent {
    /// No complete line yet.
    Incomplete,
    Reply(Box<ProbeReply>),
    /// The probe closed its output.
    Eof,
    Malformed(String),
}

impl ProbeProcess {
    /// Starts `program`, which is in zlib format. Runs it from a memfd, or from a file in `state_dir` if the system does
    /// not allow executing a memfd.
    pub(super) fn start(
        program: &[u8],
        arguments: &[OsString],
        state_dir: &Path,
    ) -> Result<Self, String> {
        let program = decompress(program)
            .map_err(|error| format!("the embedded probe is damaged: {}", reason(&error)))?;
        let from_memory = match Self::from_memory(&program, arguments) {
            Ok(probe) => return Ok(probe),
            Err(error) => reason(&error),
        };
        Self::from_file(&program, arguments, state_dir).map_err(|error| {
            let from_file = reason(&error);
            let why =
                format!("from memory: {from_memory}; from {}: {from_file}", state_dir.display());
            match error.kind() {
                // The program exists, so the missing file is its ELF interpreter.
                io::ErrorKind::NotFound => {
                    format!("{why}; the probe needs glibc, as NVIDIA's library does")
                }
                _ => why,
            }
        })
    }

    fn from_memory(program: &[u8], arguments: &[OsString]) -> io::Result<Self> {
        let mut file = create_memfd(c"gpu-probe")?;
        file.write_all(program)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Self::spawn(path.as_ref(), arguments, |command| inherit_in(command, &file))
    }

    fn from_file(program: &[u8], arguments: &[OsString], state_dir: &Path) -> io::Result<Self> {
        state_dir::create_dir(state_dir)?;
        state_dir::check_exclusive(state_dir)?;
        let path = state_dir.join(format!("gpu-probe.{}", std::process::id()));
        // In containers, where the agent always has the same PID, a previous run may have left the file behind.
        let started = state_dir::create_file(&path, 0o700).and_then(|mut file| {
            file.write_all(program)?;
            drop(file);
            Self::spawn(path.as_os_str(), arguments, |_| {})
        });
        // Whether the probe runs or not, its file is not needed any more. It may not exist.
        let _ = std::fs::remove_file(&path);
        started
    }

    /// What NVIDIA's library starts (nvidia-modprobe) ends with the probe.
    fn spawn(
        program: &OsStr,
        arguments: &[OsString],
        configure: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let supervision =
            Supervision::until_agent_ends().named("gpu-probe").with_stop_grace(STOP_GRACE);
        let mut process = supervision.spawn(program, |command| {
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
            configure(command);
        })?;
        let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
        let stdin = process.child.stdin.take().ok_or_else(missing)?;
        let stdout = process.child.stdout.take().ok_or_else(missing)?;
        Ok(Self { process, stdin, stdout, unread: Vec::new() })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Requests a reply.
    pub(super) fn request(&mut self) -> io::Result<()> {
        self.stdin.write_all(b"\n")
    }

    /// Whether a complete line is buffered.
    pub(super) fn has_line(&self) -> bool {
        self.unread.contains(&b'\n')
    }

    /// Whether [`Self::read`] would return without blocking.
    pub(super) fn has_output(&self) -> bool {
        self.has_line() || wait_readable([self.as_fd()], Some(Duration::ZERO)) == [true]
    }

    /// Returns the next buffered line or reads once, which blocks until there is output.
    pub(super) fn read(&mut self) -> ProbeEvent {
        if self.has_line() {
            return self.next_line();
        }
        let mut chunk = [0; 16 << 10];
        match self.stdout.read(&mut chunk) {
            Ok(0) => ProbeEvent::Eof,
            Ok(length) => {
                self.unread.extend_from_slice(&chunk[..length]);
                self.next_line()
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => ProbeEvent::Incomplete,
            Err(error) => ProbeEvent::Malformed(reason(&error)),
        }
    }

    fn next_line(&mut self) -> ProbeEvent {
        let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') else {
            return match self.unread.len() > MAX_REPLY_BYTES {
                true => ProbeEvent::Malformed("line too long".to_owned()),
                false => ProbeEvent::Incomplete,
            };
        };
        let reply = serde_json::from_slice::<ProbeReply>(&self.unread[..end]);
        self.unread.drain(..=end);
        match reply {
            Ok(reply) if reply.version == VERSION => ProbeEvent::Reply(Box::new(reply)),
            Ok(reply) => ProbeEvent::Malformed(format!("unsupported version {}", reply.version)),
            Err(error) => ProbeEvent::Malformed(error.to_string()),
        }
    }

    /// Whether a thread of the probe is in uninterruptible sleep (state D), so that SIGKILL would have no effect.
    pub(super) fn is_uninterruptible(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.into_iter().flatten().flatten().any(|task| {
            let stat = std::fs::read(task.path().join("stat")).unwrap_or_default();
            pid_stat::parse(&stat).is_ok_and(|stat| stat.state == b'D')
        })
    }

    /// Closes the probe's input, and has the supervisor kill it if it does not exit then. The process may still have to be
    /// waited for.
    pub(super) fn kill(self) -> StoppingProcess {
        self.process.kill();
        StoppingProcess(self.process)
    }
}

impl AsFd for ProbeProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_fd()
    }
}

/// A killed probe. While a thread is blocked in a driver call, the process remains.
pub(super) struct StoppingProcess(SupervisedChild);

impl StoppingProcess {
    /// Exit status, once the process is reaped.
    pub(super) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.pid
    }
}

fn decompress(program: &[u8]) -> io::Result<Vec<u8>> {
    let mut decompressed = Vec::new();
    ZlibDecoder::new(program).take(MAX_PROBE_BYTES + 1).read_to_end(&mut decompressed)?;
    match decompressed.len() as u64 > MAX_PROBE_BYTES {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(decompressed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    #[test]
    fn rejects_damaged_embedded_probe() {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"\x7fELF program").unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(decompress(&packed).unwrap(), b"\x7fELF program");
        for length in 0..packed.len() {
            assert!(decompress(&packed[..length]).is_err(), "truncated to {length} bytes");
        }
        assert!(decompress(b"not zlib").is_err());
    }
}
