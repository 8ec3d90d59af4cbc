//! What a subscriber of an agent with GPUs is told: each update on time, with what is not the GPUs'; and what of an
//! update is the GPUs'.

use std::io::ErrorKind;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::{Error, Message};

use super::{Agent, PATIENCE, wait_until};

/// Two updates of an agent with `interval=1` are not further apart, whatever a driver does.
const LARGEST_GAP: Duration = Duration::from_millis(1500);
/// A busy machine may be the reason for a gap that is no larger than this, in one of so many updates.
const GAP_OF_A_BUSY_MACHINE: Duration = Duration::from_secs(4);
const UPDATES_FOR_A_GAP: usize = 50;

/// What [`Updates::look_at`] has seen of all agents of this process: how many updates, and the ends of large gaps.
static LOOKED_AT: Mutex<(usize, Vec<Instant>)> = Mutex::new((0, Vec::new()));

/// The agent lets no client in before the first word on the GPUs, or before this has passed.
const FIRST_GPUS: Duration = Duration::from_secs(3);

/// What a subscriber gets, read by a thread that is always there to read.
pub struct Updates {
    /// The `system_info` that came first.
    pub info: Value,
    received: Receiver<(Instant, Value)>,
    last: Option<Instant>,
    socket: std::net::TcpStream,
    reader: Option<JoinHandle<()>>,
}

impl Updates {
    pub fn of(agent: &Agent) -> Self {
        let mut client = agent.connect();
        client.say("subscribe:detail");
        assert_eq!(client.json()["status"], "subscribed");
        let info = client.json();
        assert_eq!(info["type"], "system_info");
        let socket = client.0.get_ref().try_clone().unwrap();
        let (sender, received) = channel();
        let reader = std::thread::spawn(move || {
            loop {
                let text = match client.0.read() {
                    Ok(Message::Text(text)) => text,
                    // A process that was stopped for a while.
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

    /// The next update, which may have come a while ago.
    pub fn update(&mut self) -> Value {
        let received = self.received.recv_timeout(PATIENCE).unwrap();
        self.look_at(received)
    }

    /// Those that have come.
    pub fn seen(&mut self) -> Vec<Value> {
        let seen: Vec<_> = self.received.try_iter().collect();
        seen.into_iter().map(|received| self.look_at(received)).collect()
    }

    fn look_at(&mut self, (at, update): (Instant, Value)) -> Value {
        if let Some(last) = self.last.replace(at) {
            assert_on_time(last, at);
        }
        for key in ["cpu_percent", "ram_percent", "ram_total_mb", "uptime_seconds", "load"] {
            assert!(!update[key].is_null(), "no {key} in {update:#}");
        }
        update
    }

    /// The update that is to come: those that have come are let go, each looked at.
    pub fn next_update(&mut self) -> Value {
        let now = Instant::now();
        loop {
            let update = self.update();
            if self.last > Some(now) {
                return update;
            }
        }
    }

    /// The first update that was not looked at yet in which something is found.
    pub fn until<T>(&mut self, what: &str, mut found: impl FnMut(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
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

    /// The first of them in which the driver is in this state; if it is well, with values.
    pub fn until_state(&mut self, state: &str) -> Value {
        self.until(state, |update| {
            let found = self::state(update) == state && (state != "ok" || is_whole(update));
            found.then(|| update.clone())
        })
    }

    /// The update to come, or one of the next four: values that a busy machine had no time for are not in it.
    pub fn whole(&mut self) -> Value {
        let mut updates = (0..5).map(|_| self.next_update());
        updates.find(is_whole).expect("an update with values")
    }

    /// How many updates come until something is found in one; at the most ten.
    pub fn count_until(&mut self, found: impl Fn(&Value) -> bool) -> usize {
        (1..10).find(|_| found(&self.next_update())).unwrap_or(10)
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        self.reader.take().unwrap().join().unwrap();
    }
}

/// That an update came soon enough after the one before, or that the machine may be the reason.
fn assert_on_time(last: Instant, at: Instant) {
    let mut looked_at = LOOKED_AT.lock().unwrap();
    let (updates, gaps) = &mut *looked_at;
    *updates += 1;
    let gap = at - last;
    if gap < LARGEST_GAP {
        return;
    }
    // What holds up the whole machine lets go of all agents at once: that is one gap.
    let apart = |end: &Instant| at.max(*end) - at.min(*end);
    if !gaps.iter().any(|end| apart(end) < Duration::from_millis(200)) {
        gaps.push(at);
    }
    let (found, most) = (gaps.len(), 2 + *updates / UPDATES_FOR_A_GAP);
    drop(looked_at);
    let message = format!("an update came {gap:?} after the one before; {found} such");
    assert!(gap < GAP_OF_A_BUSY_MACHINE && found <= most, "{message}");
}

/// Waits until clients are told how it stands with the GPUs. The first one is, unless that takes a busy machine longer
/// than clients have to wait.
pub fn wait_first_word(agent: &Agent) {
    wait_until("the first word", || {
        let update = Updates::of(agent).update();
        let told = state(&update) != "starting";
        assert!(told || agent.started.elapsed() >= FIRST_GPUS, "not told: {update:#}");
        told.then_some(())
    });
}

/// Whether each GPU of an update has values, or a problem.
fn is_whole(update: &Value) -> bool {
    let gpus = update["gpus"].as_array().unwrap();
    gpus.iter().all(|gpu| !gpu["problem"].is_null() || !values(gpu).is_empty())
}

/// The state of NVIDIA's driver in an update; `absent` without one.
pub fn state(update: &Value) -> &str {
    update["nvidia"]["state"].as_str().unwrap_or("absent")
}

/// What is wrong with the driver.
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

/// What a GPU has besides values.
pub const IDENTITY: [&str; 8] =
    ["index", "message", "name", "pci_address", "problem", "uuid", "vendor", "xids"];

/// The keys of a GPU's values.
pub fn values(gpu: &Value) -> Vec<&str> {
    keys(gpu).into_iter().filter(|key| !IDENTITY.contains(key)).collect()
}

/// That nothing is said of what a GPU measures.
pub fn assert_no_values(update: &Value) {
    for key in ["gpu_percent", "gpu_mem_used_mb", "gpu_mem_total_mb"] {
        assert!(update[key].is_null(), "{key} in {update:#}");
    }
    for gpu in update["gpus"].as_array().unwrap() {
        assert_eq!(values(gpu), [""; 0], "{gpu:#}");
    }
}
