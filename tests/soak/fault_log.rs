//! Faults and when they were active, failures found, and counts. Shared by all threads of a soak.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For this long after a fault its consequences are still excused.
const RECOVERY_GRACE: Duration = Duration::from_secs(5);

pub const STOPPED: &str = "agent stopped (SIGSTOP)";
pub const NO_DESCRIPTORS: &str = "no descriptors left (RLIMIT_NOFILE)";

struct Window {
    fault: &'static str,
    from: Instant,
    to: Option<Instant>,
}

#[derive(Default)]
pub struct FaultLog {
    windows: Mutex<Vec<Window>>,
    failures: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Clients shall leave.
    pub stop: AtomicBool,
    /// Incremented when all subscribers shall vanish at once.
    pub vanish_generation: AtomicU64,
    pub subscribers: AtomicU64,
}

impl FaultLog {
    /// Runs `act`, during which the fault is active.
    pub fn during<R>(&self, fault: &'static str, act: impl FnOnce() -> R) -> R {
        let index = {
            let mut windows = self.windows.lock().unwrap();
            windows.push(Window { fault, from: Instant::now(), to: None });
            windows.len() - 1
        };
        let result = act();
        self.windows.lock().unwrap()[index].to = Some(Instant::now());
        result
    }

    /// Whether the fault, or its aftermath, overlaps this period.
    pub fn was_active(&self, fault: &str, from: Instant, to: Instant) -> bool {
        let overlaps = |window: &Window| {
            window.from <= to && window.to.is_none_or(|end| end + RECOVERY_GRACE >= from)
        };
        let windows = self.windows.lock().unwrap();
        windows.iter().any(|window| window.fault == fault && overlaps(window))
    }

    /// How many times each fault was active, and for how long in total.
    pub fn faults(&self) -> BTreeMap<&'static str, (usize, Duration)> {
        let mut faults = BTreeMap::<_, (usize, Duration)>::new();
        for window in &*self.windows.lock().unwrap() {
            let (count, time) = faults.entry(window.fault).or_default();
            *count += 1;
            *time += window.to.unwrap_or_else(Instant::now) - window.from;
        }
        faults
    }

    pub fn fail(&self, failure: String) {
        eprintln!("soak: failure: {failure}");
        self.failures.lock().unwrap().push(failure);
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    pub fn count(&self, what: &'static str, more: u64) {
        *self.counts.lock().unwrap().entry(what).or_default() += more;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits, at most until the clients shall leave.
    pub fn pause(&self, time: Duration) {
        let start = Instant::now();
        while !self.is_stopping()
            && let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
        {
            std::thread::park_timeout(left.min(Duration::from_millis(100)));
        }
    }
}
