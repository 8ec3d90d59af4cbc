//! The main thread's side of the thread that reads extras. It waits for them only for a short time, and not at all while
//! an earlier request is outstanding.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use gpu_probe::gpu::{DriverState, Gpu, Values};
use gpu_probe::nvidia::SlowCall;
use gpu_probe::protocol::ProbeFailure;
use nvml_wrapper::Nvml;

use crate::extras::{self, Extras, ExtrasMsg, ExtrasRequest};

/// How long a reply waits for the extras, at most a fifth of the agent's timeout. Eight GPUs take a few milliseconds.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// How long to wait until they are freed.
const STOP_TIMEOUT: Duration = Duration::from_millis(100);

/// For [`stop`], which any thread may call.
static REQUESTS: OnceLock<Sender<ExtrasMsg>> = OnceLock::new();

pub struct ExtrasLink {
    requests: Sender<ExtrasMsg>,
    replies: Receiver<Vec<Extras>>,
    reply_timeout: Duration,
    /// When the outstanding request was sent.
    outstanding: Option<Instant>,
    /// What arrived since the last round began.
    latest: Vec<Extras>,
}

impl ExtrasLink {
    pub fn start(nvml: &'static Nvml, timeout: Duration) -> Result<Self, ProbeFailure> {
        let (requests, rounds) = channel();
        let (sender, replies) = channel();
        let run = move || extras::run(nvml, &rounds, |found| sender.send(found).is_ok());
        let thread = std::thread::Builder::new().name("extras".into());
        thread.spawn(run).map_err(|error| ProbeFailure {
            state: DriverState::Unavailable,
            message: format!("start thread extras: {error}"),
        })?;
        REQUESTS.get_or_init(|| requests.clone());
        Ok(Self {
            requests,
            replies,
            reply_timeout: REPLY_TIMEOUT.min(timeout / 5),
            outstanding: None,
            latest: Vec::new(),
        })
    }

    /// Requests the extras of these GPUs.
    pub fn query(&mut self, gpus: Vec<ExtrasRequest>) {
        self.latest.clear();
        if self.outstanding.is_some() {
            // A late reply is used until there is a newer one.
            match self.replies.try_recv() {
                Ok(found) => self.on_reply(found),
                Err(_) => return,
            }
        }
        if self.requests.send(ExtrasMsg::Round(gpus)).is_ok() {
            self.outstanding = Some(Instant::now());
            if let Ok(found) = self.replies.recv_timeout(self.reply_timeout) {
                self.on_reply(found);
            }
        }
    }

    fn on_reply(&mut self, found: Vec<Extras>) {
        (self.latest, self.outstanding) = (found, None);
    }

    /// Adds the extras of a GPU that has values.
    pub fn add(&self, slot: usize, gpu: &mut Gpu) {
        if gpu.values == Values::default() {
            return;
        }
        let mut slow: Vec<SlowCall> = self.outstanding_call().into_iter().collect();
        if let Some(extras) = self.latest.iter().find(|extras| extras.slot == slot) {
            if let Some(health) = &extras.health {
                health.add_to(&mut gpu.values);
            }
            gpu.values.profiling.clone_from(&extras.profiling);
            for instance in gpu.values.mig_instances.iter_mut().flatten() {
                let all = &extras.instances;
                let own = all.iter().find(|(id, _)| Some(*id) == instance.gpu_instance);
                instance.profiling = own.map(|(_, profiling)| profiling.clone());
            }
            slow.extend(extras.slow_calls.iter().cloned());
        }
        if !slow.is_empty() {
            gpu.values.slow_calls.get_or_insert_default().extend(slow);
        }
    }

    fn outstanding_call(&self) -> Option<SlowCall> {
        self.outstanding.map(|since| SlowCall {
            calls: "profiling_and_health".to_owned(),
            seconds: since.elapsed().as_secs_f64(),
            interval_seconds: None,
        })
    }
}

/// Has the thread free what it holds in the driver. A thread that hangs is not waited for.
pub fn stop() {
    let Some(requests) = REQUESTS.get() else { return };
    let (sender, stopped) = channel();
    if requests.send(ExtrasMsg::Stop(sender)).is_ok() {
        // Without a reply the process exits anyway, and the driver frees them.
        let _ = stopped.recv_timeout(STOP_TIMEOUT);
    }
}
