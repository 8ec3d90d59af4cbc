//! One command of Core: run by a warden, its output read and cut, its end told.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdout};
use std::time::{Duration, Instant};

use crate::core_client::command_supervisor;
use crate::core_client::command_supervisor::exit;
use crate::core_client::messages::CommandResult;
use crate::limits;
use crate::sys;
use crate::sys::process;
use crate::sys::users::User;
use crate::util::error::reason;
use crate::util::sync::Shutdown;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Core's name for it.
    pub command_id: String,
    /// Of the message that asked for it.
    pub message_id: String,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Its time.
    pub timeout: Duration,
}

/// Runs it to its end, or to that of the agent.
pub fn run(job: &Job, user: &User, stop: &Shutdown) -> CommandResult {
    let start = Instant::now();
    let mut result = CommandResult {
        command_id: job.command_id.clone(),
        exit_code: exit::NOT_RUN,
        stdout: String::new(),
        stderr: String::new(),
        execution_time_ms: 0,
    };
    match command_supervisor::command(&job.words, user, job.timeout).spawn() {
        Ok(child) => watch(child, job.timeout, stop, &mut result),
        Err(error) => result.stderr = format!("hm-agent: run it: {}", reason(&error)),
    }
    result.execution_time_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    result
}

/// Reads what the command writes until nobody is left who could write.
fn watch(mut child: Child, timeout: Duration, stop: &Shutdown, result: &mut CommandResult) {
    let mut out = Pipe::new(child.stdout.take());
    let mut err = Pipe::new(child.stderr.take());
    // The warden ends the command and itself; should it not, it is ended.
    let mut deadline = Instant::now() + timeout + limits::COMMAND_GRACE + 2 * limits::COMMAND_REST;
    let mut asked = false;
    while out.is_open() || err.is_open() {
        if stop.is_triggered() && !asked {
            asked = true;
            process::send_signal(child.id(), libc::SIGTERM);
            deadline = Instant::now() + 2 * limits::INTERRUPTED_GRACE;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() && asked {
            // The agent has no more time. Its warden has, goes on without it, and leaves nobody behind; killed, it would
            // leave all. Should it have been stopped, it goes on now.
            process::send_signal(child.id(), libc::SIGCONT);
            break;
        }
        if left.is_zero() {
            process::kill_process_group(child.id());
            break;
        }
        wait(&out, &err, (!asked).then_some(stop), left);
        out.read();
        err.read();
    }
    (result.stdout, result.stderr) = (out.seen.text(), err.seen.text());
    if asked {
        result.exit_code = exit::INTERRUPTED;
        end_line(&mut result.stderr);
        result.stderr += "hm-agent: interrupted: the agent was stopped\n";
        return;
    }
    result.exit_code = match child.wait() {
        Ok(status) => status.code().or(status.signal().map(|signal| 128 + signal)),
        Err(_) => None,
    }
    .unwrap_or(exit::NOT_RUN);
}

fn wait(out: &Pipe<ChildStdout>, err: &Pipe<ChildStderr>, stop: Option<&Shutdown>, left: Duration) {
    let stop = stop.map(AsFd::as_fd);
    let mut fds = [out.fd(), err.fd(), stop].into_iter().flatten();
    match (fds.next(), fds.next(), fds.next()) {
        (Some(one), Some(two), Some(three)) => {
            sys::wait_readable([one, two, three], Some(left));
        }
        (Some(one), Some(two), None) => {
            sys::wait_readable([one, two], Some(left));
        }
        (Some(one), ..) => {
            sys::wait_readable([one], Some(left));
        }
        (None, ..) => {}
    }
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// One of the two streams.
struct Pipe<P> {
    end: Option<P>,
    seen: Excerpt,
}

impl<P: Read + AsFd> Pipe<P> {
    fn new(end: Option<P>) -> Self {
        Self { end, seen: Excerpt::default() }
    }

    fn is_open(&self) -> bool {
        self.end.is_some()
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.end.as_ref().map(AsFd::as_fd)
    }

    /// Reads once, if there is something or the end of it.
    fn read(&mut self) {
        let Some(end) = &mut self.end else { return };
        let [ready] = sys::wait_readable([end.as_fd()], Some(Duration::ZERO));
        if !ready {
            return;
        }
        let mut part = [0; 16 << 10];
        match end.read(&mut part) {
            Ok(0) => self.end = None,
            Ok(read) => self.seen.add(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.end = None,
        }
    }
}

/// The beginning and the end of what was written.
#[derive(Default)]
struct Excerpt {
    head: Vec<u8>,
    /// The last bytes, in turn: the oldest is at `at` once it is full.
    tail: Vec<u8>,
    at: usize,
    left_out: u64,
}

const HALF: usize = limits::OUTPUT_BYTES / 2;

impl Excerpt {
    fn add(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(HALF - self.head.len()));
        self.head.extend_from_slice(head);
        let room = HALF - self.tail.len();
        let (tail, over) = rest.split_at(rest.len().min(room));
        self.tail.extend_from_slice(tail);
        self.left_out += over.len() as u64;
        for part in over.chunks(HALF) {
            // Over the oldest, which may be at two places.
            let (to_end, from_start) = part.split_at(part.len().min(HALF - self.at));
            self.tail[self.at..self.at + to_end.len()].copy_from_slice(to_end);
            self.tail[..from_start.len()].copy_from_slice(from_start);
            self.at = (self.at + part.len()) % HALF;
        }
    }

    /// As text; what is no UTF-8 is replaced.
    fn text(mut self) -> String {
        self.tail.rotate_left(self.at);
        if self.left_out == 0 {
            self.head.append(&mut self.tail);
            return String::from_utf8_lossy(&self.head).into_owned();
        }
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        end_line(&mut text);
        text += &format!("[… {} bytes left out …]\n", self.left_out);
        text + &String::from_utf8_lossy(&self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(of: &[u8], step: usize) -> String {
        let mut excerpt = Excerpt::default();
        of.chunks(step).for_each(|part| excerpt.add(part));
        excerpt.text()
    }

    #[test]
    fn what_fits_is_kept_whole() {
        assert_eq!(excerpt(b"", 1), "");
        let all: String = (0..40_000).map(|number| format!("{number}\n")).collect();
        let all = &all.as_bytes()[..limits::OUTPUT_BYTES.min(all.len())];
        assert_eq!(excerpt(all, 1000).as_bytes(), all);
        assert_eq!(excerpt(b"a\xff\xfe\n", 1), "a\u{fffd}\u{fffd}\n");
    }

    #[test]
    fn what_does_not_has_a_beginning_and_an_end() {
        let all: Vec<u8> = (0..1_000_003).map(|at: u32| b'a' + (at % 23) as u8).collect();
        for step in [1, 1000, 16 << 10, HALF + 1, 1 << 20] {
            let text = excerpt(&all, step);
            let left_out = all.len() - 2 * HALF;
            let line = format!("\n[… {left_out} bytes left out …]\n");
            let (head, tail) = text.split_once(&line).unwrap_or_else(|| panic!("step {step}"));
            assert_eq!(head.as_bytes(), &all[..HALF], "step {step}");
            assert_eq!(tail.as_bytes(), &all[all.len() - HALF..], "step {step}");
        }
    }
}
