//! Starts threads whose number or time of start clients, commands or hung mounts determine.
//!
//! std maps a signal stack in each new thread, and panics there, which aborts the process, if that fails. Therefore memory
//! for the whole thread is probed first.

use std::io;
use std::sync::Mutex;
use std::thread::{Builder, Scope};

use crate::sys;
use crate::util::sync::lock;

/// Memory that must be left besides a new thread's stack: for its signal stack and those of some hundred
/// threads that have started but not run yet, four pages each, and for the allocations of all threads, since a failed allocation aborts the process too.
const HEADROOM_BYTES: usize = 4 << 20;

/// Held from the probe until the new thread's stack is mapped, so that no thread takes what another has probed. Not until the
/// new thread runs: on a busy host, an accept loop would wait for the scheduler for each connection.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a thread that is not joined. Fails if memory is short.
pub fn spawn_detached(
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    start(name, stack_bytes, |thread| thread.spawn(work).map(drop))
}

/// Starts a thread that `scope` joins. Fails if memory is short.
pub fn spawn_scoped<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    start(name, stack_bytes, |thread| thread.spawn_scoped(scope, work).map(drop))
}

/// Runs work that needs a larger stack than the threads of connections have, and waits for it. Fails if memory is short.
pub fn run_with_stack<R: Send>(
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() -> R + Send,
) -> io::Result<R> {
    let mut result = None;
    std::thread::scope(|scope| spawn_scoped(scope, name, stack_bytes, || result = Some(work())))?;
    // A panic of the thread is passed on by the scope.
    result.ok_or_else(|| io::Error::other("the thread has not run"))
}

fn start(
    name: &str,
    stack_bytes: usize,
    spawn: impl FnOnce(Builder) -> io::Result<()>,
) -> io::Result<()> {
    let _starting = lock(&STARTING);
    sys::check_mappable(stack_bytes + HEADROOM_BYTES)?;
    spawn(Builder::new().name(name.to_owned()).stack_size(stack_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_thread_unless_memory_for_its_stack_is_missing() {
        let mut ran = [false; 2];
        let [fits, exceeds] = &mut ran;
        std::thread::scope(|scope| {
            spawn_scoped(scope, "fits", 64 << 10, || *fits = true).unwrap();
            // More than a 64-bit process can address.
            let error = spawn_scoped(scope, "exceeds", 1 << 60, || *exceeds = true).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOMEM));
        });
        assert_eq!(ran, [true, false]);
    }
}
