//! The thread `state-io` does all I/O on the files in `state_dir`, because a disk may hang: threads that detect overdue
//! applications or talk to servers enqueue what is to be written and never wait for the disk.
//!
//! The directory is locked, because a second agent would replace the files of the first. An agent that finds it locked runs
//! without state.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;

use crate::util::error::{Error, reason};
use crate::util::state_dir;
use crate::util::sync::lock;

/// A disk that takes longer hangs. One that has to spin up takes seconds.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(10);
/// Serializing the heartbeat table takes a fraction of it.
const STACK_BYTES: usize = 128 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// Handle of the thread, which exits after the last handle is dropped and the last job is done.
#[derive(Clone)]
pub struct StateIo {
    shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

struct Shared {
    directory: PathBuf,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Held until the process ends. Only the thread locks it.
    directory_lock: Mutex<Option<Flock<File>>>,
    /// Why nothing is read or written.
    unusable: OnceLock<&'static str>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    busy_since: Option<Instant>,
    logged_hang: bool,
    closing: bool,
}

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        lock(&self.0.queue).closing = true;
        self.0.changed.notify_all();
    }
}

impl StateIo {
    /// Starts the thread. The directory is created and locked when it is first used.
    pub fn start(directory: &Path) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            queue: Mutex::default(),
            changed: Condvar::new(),
            directory_lock: Mutex::default(),
            unusable: OnceLock::new(),
        });
        let context = shared.clone();
        let thread = Builder::new().name("state-io".to_owned()).stack_size(STACK_BYTES);
        thread
            .spawn(move || {
                state_dir::warn_if_world_writable(&context.directory);
                context.run();
            })
            .map_err(|error| Error::system("start thread state-io", error))?;
        Ok(Self { shared: shared.clone(), _owner: Arc::new(Owner(shared)) })
    }

    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// Why nothing is read or written: another agent uses the directory, or it did not respond when the agent started.
    pub fn unusable(&self) -> Option<&'static str> {
        self.shared.unusable.get().copied()
    }

    /// Enqueues `job`, which gets the result of creating and locking the directory.
    pub fn submit(&self, job: impl FnOnce(io::Result<()>) + Send + 'static) {
        self.warn_if_hung();
        let context = self.shared.clone();
        lock(&self.shared.queue).jobs.push_back(Box::new(move || job(context.prepare())));
        self.shared.changed.notify_all();
    }

    /// Does `job` on the thread and waits for its result. If the disk hangs, the agent runs without state.
    pub fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if let Some(why) = self.unusable() {
            return Err(unusable_error(why));
        }
        let (sender, receiver) = sync_channel(1);
        self.submit(move |prepared| {
            // The receiver is gone if the disk took too long.
            let _ = sender.send(prepared.and_then(|()| job()));
        });
        receiver
            .recv_timeout(DISK_TIMEOUT)
            .unwrap_or_else(|_| Err(unusable_error(self.shared.give_up("does not respond"))))
    }

    /// Renames a file whose content cannot be used, so that it is not lost. Returns whether that failed: then it must not be
    /// replaced. `fault` and `contents` are for the log.
    pub fn set_aside(&self, path: &Path, fault: &str, contents: &str) -> bool {
        let from = path.to_owned();
        let renamed = self.read(move || state_dir::set_aside(&from));
        let what = match &renamed {
            Ok(kept) => format!("renamed to {}", kept.display()),
            Err(error) => format!("which cannot be renamed: {}", reason(error)),
        };
        log::warn!("{} {fault}, {what}; starting without saved {contents}", path.display());
        renamed.is_err()
    }

    /// Logs a disk that hangs, once. Returns when to check again.
    pub fn warn_if_hung(&self) -> Option<Duration> {
        let mut queue = lock(&self.shared.queue);
        let remaining = DISK_TIMEOUT.saturating_sub(queue.busy_since?.elapsed());
        if !remaining.is_zero() || queue.logged_hang {
            return Some(remaining).filter(|time| !time.is_zero());
        }
        queue.logged_hang = true;
        let directory = self.shared.directory.display();
        log::warn!("state_dir {directory} is not responding; state is kept in memory only");
        None
    }

    /// Waits until everything is written. Returns false after `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let queue = lock(&self.shared.queue);
        let is_busy = |queue: &mut Queue| queue.busy_since.is_some() || !queue.jobs.is_empty();
        let waited = self.shared.changed.wait_timeout_while(queue, timeout, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                queue.busy_since = Some(Instant::now());
                drop(queue);
                job();
                queue = lock(&self.queue);
                queue.busy_since = None;
                if std::mem::take(&mut queue.logged_hang) {
                    log::info!("state_dir {} recovered", self.directory.display());
                }
                self.changed.notify_all();
            } else if queue.closing {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Creates and locks the directory.
    fn prepare(&self) -> io::Result<()> {
        if let Some(why) = self.unusable.get() {
            return Err(unusable_error(why));
        }
        let mut directory_lock = lock(&self.directory_lock);
        if directory_lock.as_ref().is_some_and(|file| state_dir::is_linked(file)) {
            return Ok(());
        }
        state_dir::create_dir(&self.directory).or_else(|error| {
            // If something else has that name, creating a file in it gives the better error.
            if self.directory.exists() { Ok(()) } else { Err(error) }
        })?;
        match state_dir::lock_dir(&self.directory) {
            Ok(Some(file)) => *directory_lock = Some(file),
            Ok(None) => return Err(unusable_error(self.give_up("is used by another hm-agent"))),
            // A directory that cannot be written needs no lock. Its state can still be read.
            Err(error) => log::debug!("lock {}: {}", self.directory.display(), reason(&error)),
        }
        Ok(())
    }

    fn give_up(&self, why: &'static str) -> &'static str {
        if self.unusable.set(why).is_ok() {
            log::warn!("state_dir {} {why}; running without state", self.directory.display());
        }
        why
    }
}

fn unusable_error(why: &str) -> io::Error {
    io::Error::other(format!("state_dir {why}"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    /// A state directory, removed when this is dropped.
    pub struct Dir {
        pub path: PathBuf,
        pub state: StateIo,
    }

    impl Dir {
        pub fn new(name: &str) -> Self {
            // Tests of several modules may choose the same name.
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let name = format!("hm-state-io-{name}-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            let state = StateIo::start(&path).unwrap();
            Self { path, state }
        }

        pub fn flush(&self) {
            assert!(self.state.flush(DISK_TIMEOUT));
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            self.state.flush(DISK_TIMEOUT);
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    #[test]
    fn second_agent_on_a_directory_reads_and_writes_nothing() {
        let dir = Dir::new("second");
        assert!(dir.state.read(|| Ok(())).is_ok());
        let second = StateIo::start(&dir.path).unwrap();
        let error = second.read(|| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "state_dir is used by another hm-agent");
        // It stays that way when the first has exited, because the second does not know what the first has written.
        drop(dir);
        let (sender, receiver) = channel();
        second.submit(move |prepared| sender.send(prepared.is_ok()).unwrap());
        assert_eq!(receiver.recv(), Ok(false));
    }

    #[test]
    fn submit_does_not_wait_for_a_disk_that_hangs() {
        let dir = Dir::new("hangs");
        let (release, hang) = channel::<()>();
        dir.state.submit(move |_| hang.recv().unwrap());
        let (sender, receiver) = channel();
        dir.state.submit(move |_| sender.send(()).unwrap());
        assert!(!dir.state.flush(Duration::from_millis(1)));
        assert!(receiver.try_recv().is_err());
        release.send(()).unwrap();
        receiver.recv().unwrap();
        dir.flush();
    }
}
