//! Starts threads whose number or time of start clients, commands or hung mounts determine.
//!
//! std maps a signal stack in each new thread, and panics there, which aborts the process, if that fails. Therefore memory
//! for the whole thread is probed first, and only one thread starts at a time, so that none takes what another has probed.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, Scope};

use crate::sys;
use crate::util::sync::lock;

/// Memory that must be left besides a new thread's stack: for its signal stack, with guard pages, and for the allocations of
/// all threads, since a failed allocation aborts the process too.
const HEADROOM_BYTES: usize = 1 << 20;

/// Held from the probe until the new thread has mapped its signal stack.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a thread that is not joined. Fails if memory is short.
pub fn spawn_detached(
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    start(name, stack_bytes, |thread, started| {
        let work = move || run(&started, work);
        thread.spawn(work).map(drop)
    })
}

/// Starts a thread that `scope` joins. Fails if memory is short.
pub fn spawn_scoped<'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    stack_bytes: usize,
    work: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    start(name, stack_bytes, |thread, started| {
        let work = move || run(&started, work);
        thread.spawn_scoped(scope, work).map(drop)
    })
}

fn start(
    name: &str,
    stack_bytes: usize,
    spawn: impl FnOnce(Builder, Sender<()>) -> io::Result<()>,
) -> io::Result<()> {
    let _starting = lock(&STARTING);
    sys::check_mappable(stack_bytes + HEADROOM_BYTES)?;
    let (started, running) = channel();
    spawn(Builder::new().name(name.to_owned()).stack_size(stack_bytes), started)?;
    // The thread sends before it works, so this does not fail.
    let _ = running.recv();
    Ok(())
}

fn run(started: &Sender<()>, work: impl FnOnce()) {
    // The receiver waits in `start`.
    let _ = started.send(());
    work();
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
