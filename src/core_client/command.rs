//! Runs one command: starts its supervisor, collects the output, returns the result.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::core_client::messages::CommandResult;
use crate::sys;
use crate::sys::process;
use crate::sys::users::User;
use crate::util::error::reason;
use crate::util::supervisor::{self, KILL_TIMEOUT, Supervision, TERM_GRACE, exit};
use crate::util::sync::Shutdown;
use crate::util::thread::spawn_detached;

/// Time from SIGTERM to SIGKILL when the agent stops, which has less time than a timeout.
const INTERRUPT_GRACE: Duration = Duration::from_millis(700);

const REAPER_STACK_BYTES: usize = 64 << 10;

/// Kept of each of a command's two streams: half of it from the start, half from the end.
pub const MAX_OUTPUT_BYTES: usize = 256 << 10;
const HALF: usize = MAX_OUTPUT_BYTES / 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandJob {
    pub command_id: String,
    /// Id of the message that requested the command.
    pub request_id: String,
    /// The command line.
    pub text: String,
    pub timeout: Duration,
}

/// Returns when the command has ended, or when the agent stops.
pub fn run(
    command_id: String,
    words: Vec<String>,
    timeout: Duration,
    user: &User,
    shutdown: &Shutdown,
) -> CommandResult {
    let start = Instant::now();
    let mut result = CommandResult {
        command_id,
        exit_code: exit::NOT_RUN,
        stdout: String::new(),
        stderr: String::new(),
        execution_time_ms: 0,
    };
    // The words may take megabytes, and the command an hour.
    let spawned = spawn(&words, user, timeout);
    drop(words);
    match spawned {
        Ok(child) => collect(child, timeout, shutdown, &mut result),
        Err(error) => result.stderr = format!("hm-agent: start supervisor: {}", reason(&error)),
    }
    result.execution_time_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    result
}

/// The command writes directly to the pipes of its supervisor; the exit code is the command's.
fn spawn(words: &[String], user: &User, timeout: Duration) -> io::Result<Child> {
    let supervision = Supervision::of_command(user, timeout, INTERRUPT_GRACE);
    let (program, arguments) =
        words.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = supervision.command(program.as_ref())?;
    command.args(arguments).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
}

/// Reads the output until no process has it open for writing.
fn collect(mut child: Child, timeout: Duration, shutdown: &Shutdown, result: &mut CommandResult) {
    let mut stdout = Pipe::new(child.stdout.take());
    let mut stderr = Pipe::new(child.stderr.take());
    // The supervisor ends the command and exits within this time, unless a process is blocked in the kernel.
    let mut deadline = Instant::now() + timeout + TERM_GRACE + 2 * KILL_TIMEOUT;
    let mut interrupted = false;
    let mut abandoned = false;
    while stdout.is_open() || stderr.is_open() {
        if shutdown.is_triggered() && !interrupted {
            interrupted = true;
            process::send_signal(child.id(), libc::SIGTERM);
            deadline = Instant::now() + 2 * INTERRUPT_GRACE;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The supervisor continues without the agent and kills the command's processes; if it were killed instead, they
            // would be left behind. SIGCONT in case it is stopped.
            process::send_signal(child.id(), libc::SIGCONT);
            abandoned = true;
            break;
        }
        wait(&stdout, &stderr, (!interrupted).then_some(shutdown), left);
        stdout.read();
        stderr.read();
    }
    (result.stdout, result.stderr) = (stdout.buffer.into_text(), stderr.buffer.into_text());
    if interrupted {
        result.exit_code = exit::INTERRUPTED;
        end_line(&mut result.stderr);
        result.stderr += "hm-agent: interrupted: the agent was stopped\n";
        return;
    }
    if abandoned {
        result.exit_code = exit::TIMEOUT;
        end_line(&mut result.stderr);
        result.stderr += "hm-agent: the command's processes are still being killed\n";
        reap_later(child);
        return;
    }
    result.exit_code = match child.wait().inspect(supervisor::after_exit) {
        Ok(status) => status.code().or(status.signal().map(|signal| 128 + signal)),
        Err(_) => None,
    }
    .unwrap_or(exit::NOT_RUN);
}

/// Waits for a supervisor in a thread, so that it does not remain as a zombie.
fn reap_later(mut child: Child) {
    let wait = move || {
        // wait(2) fails only if the process is not a child of this one.
        let _ = child.wait().inspect(supervisor::after_exit);
    };
    if let Err(error) = spawn_detached("core-reaper", REAPER_STACK_BYTES, wait) {
        log::warn!("core: start thread core-reaper: {}", reason(&error));
    }
}

fn wait(
    stdout: &Pipe<ChildStdout>,
    stderr: &Pipe<ChildStderr>,
    shutdown: Option<&Shutdown>,
    timeout: Duration,
) {
    let shutdown = shutdown.map(AsFd::as_fd);
    let mut fds = [stdout.fd(), stderr.fd(), shutdown].into_iter().flatten();
    match (fds.next(), fds.next(), fds.next()) {
        (Some(one), Some(two), Some(three)) => {
            sys::wait_readable([one, two, three], Some(timeout));
        }
        (Some(one), Some(two), None) => {
            sys::wait_readable([one, two], Some(timeout));
        }
        (Some(one), ..) => {
            sys::wait_readable([one], Some(timeout));
        }
        (None, ..) => {}
    }
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// Standard output or standard error of the supervisor, which the command inherits.
struct Pipe<P> {
    /// `None` after end of file.
    reader: Option<P>,
    buffer: HeadTailBuffer,
}

impl<P: Read + AsFd> Pipe<P> {
    fn new(reader: Option<P>) -> Self {
        Self { reader, buffer: HeadTailBuffer::default() }
    }

    fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.reader.as_ref().map(AsFd::as_fd)
    }

    /// Reads once, if that does not block.
    fn read(&mut self) {
        let Some(reader) = &mut self.reader else { return };
        let [readable] = sys::wait_readable([reader.as_fd()], Some(Duration::ZERO));
        if !readable {
            return;
        }
        let mut chunk = [0; 16 << 10];
        match reader.read(&mut chunk) {
            Ok(0) => self.reader = None,
            Ok(length) => self.buffer.push(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.reader = None,
        }
    }
}

/// Keeps the start and the end of a stream, each up to [`HALF`] bytes.
#[derive(Default)]
struct HeadTailBuffer {
    head: Vec<u8>,
    /// A ring once it is full.
    tail: Vec<u8>,
    /// Position of the oldest byte in the full ring.
    oldest: usize,
    omitted_bytes: u64,
}

impl HeadTailBuffer {
    fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HALF - self.head.len()));
        self.head.extend_from_slice(head);
        let free = HALF - self.tail.len();
        let (tail, overflow) = rest.split_at(rest.len().min(free));
        self.tail.extend_from_slice(tail);
        self.omitted_bytes += overflow.len() as u64;
        for chunk in overflow.chunks(HALF) {
            // Overwrites the oldest bytes, which may wrap around.
            let (to_end, from_start) = chunk.split_at(chunk.len().min(HALF - self.oldest));
            self.tail[self.oldest..self.oldest + to_end.len()].copy_from_slice(to_end);
            self.tail[..from_start.len()].copy_from_slice(from_start);
            self.oldest = (self.oldest + chunk.len()) % HALF;
        }
    }

    /// As text; invalid UTF-8 is replaced.
    fn into_text(mut self) -> String {
        self.tail.rotate_left(self.oldest);
        if self.omitted_bytes == 0 {
            self.head.append(&mut self.tail);
            return String::from_utf8_lossy(&self.head).into_owned();
        }
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        end_line(&mut text);
        text += &format!("[… {} bytes omitted …]\n", self.omitted_bytes);
        text + &String::from_utf8_lossy(&self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_and_tail(bytes: &[u8], chunk: usize) -> String {
        let mut buffer = HeadTailBuffer::default();
        bytes.chunks(chunk).for_each(|chunk| buffer.push(chunk));
        buffer.into_text()
    }

    #[test]
    fn keeps_output_that_fits() {
        assert_eq!(head_and_tail(b"", 1), "");
        let all: String = (0..40_000).map(|number| format!("{number}\n")).collect();
        let all = &all.as_bytes()[..MAX_OUTPUT_BYTES.min(all.len())];
        assert_eq!(head_and_tail(all, 1000).as_bytes(), all);
        assert_eq!(head_and_tail(b"a\xff\xfe\n", 1), "a\u{fffd}\u{fffd}\n");
    }

    #[test]
    fn keeps_head_and_tail_of_long_output() {
        let all: Vec<u8> = (0..1_000_003).map(|at: u32| b'a' + (at % 23) as u8).collect();
        for chunk in [1, 1000, 16 << 10, HALF + 1, 1 << 20] {
            let text = head_and_tail(&all, chunk);
            let omitted = all.len() - 2 * HALF;
            let line = format!("\n[… {omitted} bytes omitted …]\n");
            let (head, tail) = text.split_once(&line).unwrap_or_else(|| panic!("chunk {chunk}"));
            assert_eq!(head.as_bytes(), &all[..HALF], "chunk {chunk}");
            assert_eq!(tail.as_bytes(), &all[all.len() - HALF..], "chunk {chunk}");
        }
    }
}
