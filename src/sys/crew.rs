//! Threads without std; to be removed when unused.

use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::sys::process;

/// Starts a thread that nobody joins, with a stack of at least so many bytes.
///
/// Not `std::thread`: that maps a second stack for signals with each thread, four mappings instead of two
/// of the 65 530 a process may have, and panics when there is no room for it. Here a thread for which
/// there is no room is an error.
pub fn start_thread(
    name: &'static CStr,
    stack_bytes: usize,
    work: Box<dyn FnOnce() + Send>,
) -> io::Result<()> {
    extern "C" fn run(start: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: `start` is the pointer that `start_thread` made of a box, given to this thread alone.
        let Start { name, work } = *unsafe { Box::from_raw(start.cast::<Start>()) };
        process::set_thread_name(name);
        work();
        std::ptr::null_mut()
    }
    struct Start {
        name: &'static CStr,
        work: Box<dyn FnOnce() + Send>,
    }
    if cfg!(miri) {
        // It knows no threads but those.
        return std::thread::Builder::new().spawn(work).map(drop);
    }
    // These functions return the error instead of setting errno.
    let check = |error| if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) };
    let start = Box::into_raw(Box::new(Start { name, work }));
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::uninit();
    let mut thread = MaybeUninit::<libc::pthread_t>::uninit();
    // SAFETY: the attributes are initialised by the first call before the others use and destroy them;
    // `run` has the signature that pthread_create asks for and gets the pointer it expects.
    let started = unsafe {
        let attributes = attributes.as_mut_ptr();
        check(libc::pthread_attr_init(attributes)).and_then(|()| {
            let started = check(libc::pthread_attr_setstacksize(attributes, stack_bytes))
                .and_then(|()| {
                    let detached = libc::PTHREAD_CREATE_DETACHED;
                    check(libc::pthread_attr_setdetachstate(attributes, detached))
                })
                .and_then(|()| {
                    check(libc::pthread_create(thread.as_mut_ptr(), attributes, run, start.cast()))
                });
            libc::pthread_attr_destroy(attributes);
            started
        })
    };
    if started.is_err() {
        // SAFETY: no thread was started, so the box is still ours.
        drop(unsafe { Box::from_raw(start) });
    }
    started
}

/// Threads that may borrow what outlives `'env`: [`crew`] does not return before the last one has ended.
pub struct Crew<'env> {
    at_work: Arc<AtWork>,
    // Invariant in 'env, as in std::thread::scope: what is borrowed must not be shortened.
    env: PhantomData<&'env mut &'env ()>,
}

/// How many of a crew have not ended yet.
#[derive(Default)]
struct AtWork {
    count: Mutex<usize>,
    changed: Condvar,
}

impl AtWork {
    fn change(&self, by: isize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_add_signed(by);
        self.changed.notify_all();
    }

    fn wait_for_all(&self) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(count, |count| *count > 0));
    }
}

/// Does something for the crew when it is dropped.
struct AtEnd(Arc<AtWork>, fn(&AtWork));

impl Drop for AtEnd {
    fn drop(&mut self) {
        (self.1)(&self.0);
    }
}

/// Runs `lead` with a crew and waits for everybody whom it started.
pub fn crew<'env, R>(lead: impl FnOnce(&Crew<'env>) -> R) -> R {
    let crew = Crew { at_work: Arc::default(), env: PhantomData };
    // Dropped also when `lead` panics.
    let _wait = AtEnd(crew.at_work.clone(), AtWork::wait_for_all);
    lead(&crew)
}

impl<'env> Crew<'env> {
    /// Starts a thread. If there is no room for one, `work` is dropped and the error says why.
    pub fn start(
        &self,
        name: &'static CStr,
        stack_bytes: usize,
        work: impl FnOnce() + Send + 'env,
    ) -> io::Result<()> {
        self.at_work.change(1);
        let leave = AtEnd(self.at_work.clone(), |at_work| at_work.change(-1));
        let work: Box<dyn FnOnce() + Send + 'env> = Box::new(move || {
            // Moved in here first, so it is dropped after all that `work` has borrowed.
            let _leave = leave;
            work();
        });
        // SAFETY: only the lifetime changes. `crew` returns, and 'env can end, when every `leave` has been
        // dropped: by the thread after `work`, or with the box if no thread was started.
        let work: Box<dyn FnOnce() + Send> = unsafe { std::mem::transmute(work) };
        start_thread(name, stack_bytes, work)
    }
}
