//! Something that is read by a thread of its own, because reading may take long, or for ever: a driver in the
//! kernel that hangs holds whoever asks. No thread can be killed, so nobody waits for this one.

use std::ffi::CStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::error::reason;
use crate::limits;
use crate::sync::lock;
use crate::sys;

/// The end of who wants to know. Dropping it ends the thread, as soon as that can.
pub struct Aside<T> {
    name: &'static CStr,
    /// Until the thread is started.
    read: Option<Box<dyn FnMut() -> T + Send>>,
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    /// Counts questions.
    asked: u64,
    /// The last answer, and the question that it answers.
    found: Option<(u64, Arc<T>)>,
    stopped: bool,
}

impl<T: Send + Sync + 'static> Aside<T> {
    /// Will read with `read`, in a thread of this name.
    pub fn new(name: &'static CStr, read: impl FnMut() -> T + Send + 'static) -> Self {
        let state = Mutex::new(State { asked: 0, found: None, stopped: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        Self { name, read: Some(Box::new(read)), shared }
    }

    /// Asks for a new reading.
    pub fn ask(&mut self) {
        lock(&self.shared.state).asked += 1;
        self.shared.changed.notify_all();
        let Some(read) = self.read.take() else { return };
        let shared = self.shared.clone();
        let work = Box::new(move || keep_reading(&shared, read));
        if let Err(error) = sys::start_thread(self.name, limits::SERVICE_STACK_BYTES, work) {
            log::warn!("start the thread {}: {}", self.name.to_string_lossy(), reason(&error));
        }
    }

    /// The answer to the last question, if it comes within `patience`, or else to the one before. `None`: reading
    /// takes longer than that.
    pub fn answer(&self, patience: Duration) -> Option<Arc<T>> {
        let is_late = |state: &mut State<T>| {
            state.found.as_ref().is_none_or(|(answered, _)| *answered < state.asked)
        };
        let state = lock(&self.shared.state);
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, patience, is_late)
            .unwrap_or_else(PoisonError::into_inner);
        let (answered, found) = state.found.as_ref()?;
        (*answered + 1 >= state.asked).then(|| found.clone())
    }
}

impl<T> Drop for Aside<T> {
    fn drop(&mut self) {
        lock(&self.shared.state).stopped = true;
        self.shared.changed.notify_all();
    }
}

/// The thread's life.
fn keep_reading<T>(shared: &Shared<T>, mut read: Box<dyn FnMut() -> T + Send>) {
    let mut state = lock(&shared.state);
    let mut answered = 0;
    while !state.stopped {
        if state.asked == answered {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        answered = state.asked;
        drop(state);
        let found = Arc::new(read());
        state = lock(&shared.state);
        state.found = Some((answered, found));
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn an_answer_is_to_the_last_question_or_the_one_before() {
        let (release, hanging) = sync_channel::<u32>(2);
        let mut aside = Aside::new(c"test", move || hanging.recv().unwrap_or_default());
        aside.ask();
        assert_eq!(aside.answer(Duration::ZERO), None, "it hangs");
        release.send(1).unwrap();
        assert_eq!(aside.answer(LONG).as_deref(), Some(&1));
        aside.ask();
        assert_eq!(aside.answer(Duration::ZERO).as_deref(), Some(&1), "the one before");
        aside.ask();
        assert_eq!(aside.answer(Duration::ZERO), None, "that is too old");
        // Whether it has read once or twice by then: it may have been about to read when it was asked again.
        release.send(2).unwrap();
        release.send(2).unwrap();
        assert_eq!(aside.answer(LONG).as_deref(), Some(&2));
    }

    #[test]
    fn who_asks_no_more_leaves_no_thread() {
        let held = Arc::new(());
        let watched = Arc::downgrade(&held);
        let mut aside = Aside::new(c"test", move || drop(held.clone()));
        aside.ask();
        assert!(aside.answer(LONG).is_some());
        drop(aside);
        let until = std::time::Instant::now() + LONG;
        while watched.upgrade().is_some() {
            assert!(std::time::Instant::now() < until, "the thread is still there");
            std::thread::yield_now();
        }
    }
}
