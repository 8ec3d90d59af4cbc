//! What happened, and when: faults, what they excuse, and what was wrong.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So long after a fault is over, what it excuses may still come of it.
const AFTERMATH: Duration = Duration::from_secs(5);

/// The agent does nothing.
pub const STOPPED: &str = "agent stopped (SIGSTOP)";
/// The agent may open no more files.
pub const DESCRIPTORS: &str = "no descriptors left (RLIMIT_NOFILE)";

struct Window {
    kind: &'static str,
    from: Instant,
    to: Option<Instant>,
}

/// Shared by all threads of a soak.
#[derive(Default)]
pub struct Story {
    windows: Mutex<Vec<Window>>,
    wrong: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// The load is to go.
    pub over: AtomicBool,
    /// How often all subscribers have vanished at once.
    pub rushes: AtomicU64,
    pub subscribers: AtomicU64,
}

impl Story {
    /// Does something to the agent; until it returns, and a while longer, that excuses what it excuses.
    pub fn during<R>(&self, kind: &'static str, act: impl FnOnce() -> R) -> R {
        let number = {
            let mut windows = self.windows.lock().unwrap();
            windows.push(Window { kind, from: Instant::now(), to: None });
            windows.len() - 1
        };
        let result = act();
        self.windows.lock().unwrap()[number].to = Some(Instant::now());
        result
    }

    /// Whether something of this kind went on between two moments.
    pub fn had(&self, kind: &str, from: Instant, to: Instant) -> bool {
        let windows = self.windows.lock().unwrap();
        let overlaps = |window: &Window| {
            window.from <= to && window.to.is_none_or(|end| end + AFTERMATH >= from)
        };
        windows.iter().any(|window| window.kind == kind && overlaps(window))
    }

    /// How often each kind of thing happened, and for how long altogether.
    pub fn faults(&self) -> BTreeMap<&'static str, (usize, Duration)> {
        let mut faults = BTreeMap::<_, (usize, Duration)>::new();
        for window in &*self.windows.lock().unwrap() {
            let (count, time) = faults.entry(window.kind).or_default();
            *count += 1;
            *time += window.to.unwrap_or_else(Instant::now) - window.from;
        }
        faults
    }

    /// How long the agent stood still.
    pub fn stopped(&self) -> (u32, Duration) {
        let faults = self.faults();
        let (count, time) = faults.get(STOPPED).copied().unwrap_or_default();
        (count as u32, time)
    }

    pub fn wrong(&self, what: String) {
        eprintln!("soak: wrong: {what}");
        self.wrong.lock().unwrap().push(what);
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }

    pub fn count(&self, what: &'static str, more: u64) {
        *self.counts.lock().unwrap().entry(what).or_default() += more;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// So long, or until it is over.
    pub fn pass(&self, time: Duration) {
        let start = Instant::now();
        while !self.is_over()
            && let Some(left) = time.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
        {
            std::thread::park_timeout(left.min(Duration::from_millis(100)));
        }
    }
}
