//! How slow the machine is while a test measures time. A test that compares with a fixed limit fails on a busy machine, and one
//! with room for a busy machine does not fail elsewhere. So limits are multiplied by what a control thread experiences.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use super::sleep_for;

/// CPU time of one measurement: longer than the time slices of the scheduler.
const MEASUREMENT: Duration = Duration::from_millis(30);
const PAUSE: Duration = Duration::from_millis(270);

/// A thread that needs the processor a tenth of the time, and measures how long it has to wait for it.
pub struct Control {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// When each measurement ended, and its duration divided by the CPU time that it took.
    measured: Arc<Mutex<Vec<(Instant, f64)>>>,
}

impl Control {
    pub fn start() -> Self {
        let mut control = Self { stopping: Arc::default(), thread: None, measured: Arc::default() };
        let (stopping, measured) = (control.stopping.clone(), control.measured.clone());
        control.thread = Some(std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let slowdown = measure();
                measured.lock().unwrap().push((Instant::now(), slowdown));
                sleep_for(PAUSE);
            }
        }));
        control
    }

    /// The largest slowdown since `start`, 1 on an idle machine.
    pub fn slowdown_since(&self, start: Instant) -> f64 {
        let measured = self.measured.lock().unwrap();
        let since = measured.iter().rev().take_while(|(at, _)| *at > start);
        since.map(|(_, slowdown)| *slowdown).fold(1.0, f64::max)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn measure() -> f64 {
    let cpu_time = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let (start, cpu_start) = (Instant::now(), cpu_time());
    loop {
        let used = cpu_time() - cpu_start;
        if used >= MEASUREMENT {
            return start.elapsed().as_secs_f64() / used.as_secs_f64();
        }
    }
}

/// Measures until a duration is below `limit`, multiplied by the slowdown meanwhile, at most five times. A busy machine makes
/// some measurements slower; a fault of the agent makes each of them slower.
pub fn assert_in_time(limit: Duration, mut measure: impl FnMut() -> Duration) {
    let control = Control::start();
    let mut measured = Vec::new();
    while measured.len() < 5 {
        let start = Instant::now();
        let (took, slowdown) = (measure(), control.slowdown_since(start));
        if took < limit.mul_f64(slowdown) {
            return;
        }
        measured.push((took, slowdown));
    }
    panic!("{measured:?}: never less than {limit:?} times the slowdown");
}
