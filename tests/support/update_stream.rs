//! A subscriber to `/usage` that checks each update: it must be on time and contain the values that do not depend on GPUs. And
//! accessors for the GPU part of an update.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::{Error, Message};

use super::{Agent, TEST_TIMEOUT, wait_until};

/// Two updates of an agent with `interval=1` must not be further apart, whatever a driver does.
const MAX_GAP: Duration = Duration::from_millis(1500);
/// A busy host may cause gaps up to this, one per [`UPDATES_PER_GAP`] updates.
const MAX_GAP_ON_BUSY_HOST: Duration = Duration::from_secs(4);
const UPDATES_PER_GAP: usize = 50;

/// What [`UpdateStream::look_at`] has seen of all agents of this process: how many updates, and the ends of large gaps.
static CHECKED: Mutex<(usize, Vec<Instant>)> = Mutex::new((0, Vec::new()));

/// The agent answers no client before the GPUs' state is known or this has passed.
const FIRST_GPU_TIMEOUT: Duration = Duration::from_secs(3);

/// The updates of a subscription, read by a thread so that arrival times are exact.
pub struct UpdateStream {
    pub info: Value,
    received: Receiver<(Instant, Value)>,
    last: Option<Instant>,
    socket: std::net::TcpStream,
    reader: Option<JoinHandle<()>>,
}

impl UpdateStream {
    pub fn subscribe(agent: &Agent) -> Self {
        let mut client = agent.connect();
        client.send_text("subscribe:detail");
        assert_eq!(client.json()["status"], "subscribed");
        let info = client.json();
        assert_eq!(info["type"], "system_info");
        let socket = client.0.get_ref().try_clone().unwrap();
        let (sender, received) = channel();
        let reader = std::thread::spawn(move || {
            loop {
                let text = match client.0.read() {
                    Ok(Message::Text(text)) => text,
                    // The process was stopped for a while.
                    Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => continue,
                    _ => return,
                };
                let update = serde_json::from_str(&text).unwrap();
                if sender.send((Instant::now(), update)).is_err() {
                    return;
                }
            }
        });
        Self { info, received, last: None, socket, reader: Some(reader) }
    }

    /// The next update, which may have been received earlier.
    pub fn update(&mut self) -> Value {
        let received = self.received.recv_timeout(TEST_TIMEOUT).unwrap();
        self.check(received)
    }

    /// The updates received since the last call.
    pub fn received(&mut self) -> Vec<Value> {
        let updates: Vec<_> = self.received.try_iter().collect();
        updates.into_iter().map(|received| self.check(received)).collect()
    }

    fn check(&mut self, (at, update): (Instant, Value)) -> Value {
        if let Some(last) = self.last.replace(at) {
            assert_on_time(last, at);
        }
        for key in ["cpu_percent", "ram_percent", "ram_total_mb", "uptime_seconds", "load"] {
            assert!(!update[key].is_null(), "no {key} in {update:#}");
        }
        update
    }

    /// The next update that is received from now on. Earlier ones are checked and dropped.
    pub fn next_update(&mut self) -> Value {
        let now = Instant::now();
        loop {
            let update = self.update();
            if self.last > Some(now) {
                return update;
            }
        }
    }

    /// The first update for which `found` returns something.
    pub fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let update = self.update();
            if let Some(found) = found(&update) {
                return found;
            }
            let late = Instant::now() > deadline;
            assert!(
                !late,
                "waited too long for {what}; {:#} {:#}",
                update["nvidia"], update["gpus"]
            );
        }
    }

    /// The first update in which the driver is in this state; for `ok`, with values.
    pub fn until_state(&mut self, state: &str) -> Value {
        self.until(state, |update| {
            let found = self::state(update) == state && (state != "ok" || is_complete(update));
            found.then(|| update.clone())
        })
    }

    /// One of the next five updates that has all GPU values: a busy host may omit them from some.
    pub fn complete_update(&mut self) -> Value {
        let mut updates = (0..5).map(|_| self.next_update());
        updates.find(is_complete).expect("an update with GPU values")
    }

    /// Number of the first update for which `found` is true, at most ten.
    pub fn count_until(&mut self, found: impl Fn(&Value) -> bool) -> usize {
        (1..10).find(|_| found(&self.next_update())).unwrap_or(10)
    }
}

impl Drop for UpdateStream {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.reader.take().unwrap().join().unwrap();
    }
}

/// Asserts that the gap between two updates is short, or can be explained by a busy host.
fn assert_on_time(last: Instant, at: Instant) {
    let mut checked = CHECKED.lock().unwrap();
    let (updates, gaps) = &mut *checked;
    *updates += 1;
    let gap = at - last;
    if gap < MAX_GAP {
        return;
    }
    // A delay of the whole host ends for all agents at once and counts as one gap.
    let apart = |end: &Instant| at.max(*end) - at.min(*end);
    if !gaps.iter().any(|end| apart(end) < Duration::from_millis(200)) {
        gaps.push(at);
    }
    let (found, max) = (gaps.len(), 2 + *updates / UPDATES_PER_GAP);
    drop(checked);
    let message = format!("{gap:?} between two updates; {found} such gaps");
    assert!(gap < MAX_GAP_ON_BUSY_HOST && found <= max, "{message}");
}

/// Waits until updates contain the GPUs' state. The first one must, unless a busy host takes longer than the agent lets clients
/// wait.
pub fn wait_first_gpu_state(agent: &Agent) {
    wait_until("the first GPU state", || {
        let update = UpdateStream::subscribe(agent).update();
        let known = state(&update) != "starting";
        assert!(known || agent.started.elapsed() >= FIRST_GPU_TIMEOUT, "no GPU state: {update:#}");
        known.then_some(())
    });
}

/// Whether each GPU of an update has values, or a problem.
fn is_complete(update: &Value) -> bool {
    let gpus = update["gpus"].as_array().unwrap();
    gpus.iter().all(|gpu| !gpu["problem"].is_null() || !values(gpu).is_empty())
}

/// The NVIDIA driver's state; `absent` without one.
pub fn state(update: &Value) -> &str {
    update["nvidia"]["state"].as_str().unwrap_or("absent")
}

/// The driver's error message.
pub fn message(update: &Value) -> &str {
    update["nvidia"]["message"].as_str().unwrap_or_default()
}

/// The problem of each GPU, or `fine`.
pub fn problems(update: &Value) -> Vec<&str> {
    let gpus = update["gpus"].as_array().unwrap();
    gpus.iter().map(|gpu| gpu["problem"].as_str().unwrap_or("fine")).collect()
}

/// An object's keys, sorted.
pub fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Keys of a GPU that are not values.
pub const IDENTITY: [&str; 9] = [
    "index",
    "last_5_minutes",
    "message",
    "name",
    "pci_address",
    "problem",
    "uuid",
    "vendor",
    "xids",
];

/// The keys of a GPU's values.
pub fn values(gpu: &Value) -> Vec<&str> {
    keys(gpu).into_iter().filter(|key| !IDENTITY.contains(key)).collect()
}

/// Asserts that the update contains no GPU values.
pub fn assert_no_values(update: &Value) {
    for key in ["gpu_percent", "gpu_mem_used_mb", "gpu_mem_total_mb"] {
        assert!(update[key].is_null(), "{key} in {update:#}");
    }
    for gpu in update["gpus"].as_array().unwrap() {
        assert_eq!(values(gpu), [""; 0], "{gpu:#}");
    }
}
