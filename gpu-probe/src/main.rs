//! The GPU probe: reads values through NVML in a process of its own, so that the agent can kill it.
//!
//! For each line on stdin it writes one line of JSON ([`gpu_probe::protocol`]). It exits when stdin
//! closes, even if other threads are blocked in driver calls. The agent decides how long it waits for a line before it
//! considers the driver hung.

mod extras;
mod extras_link;
mod fields;
mod health;
mod measure;
mod nvlink;
mod nvml;
mod pacing;
mod process;
mod profiler;
mod profiling;
mod slot;
mod worker;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::extras_link::ExtrasLink;
use crate::process::{
    exit_immediately, ignore_sigterm, redirect_stdout_to_stderr, set_thread_name,
};
use crate::slot::{Slot, hang_timeout};
use crate::worker::{Target, WorkerMsg, WorkerReply};
use gpu_probe::gpu::{DriverState, Gpu};
use gpu_probe::protocol::{ProbeFailure, ProbeReply, VERSION};
use lexopt::prelude::{Long, ValueExt};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

/// NVML's library in the loader's search path and where it is on WSL, NixOS and with Kubernetes device plugins.
const LIBRARIES: [&str; 4] = [
    "libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/run/opengl-driver/lib/libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
];

#[derive(Default)]
struct Options {
    /// `--library`: tried instead of [`LIBRARIES`].
    library: Option<OsString>,
    /// `--only`: PCI addresses of the GPUs to query. If empty, all that NVML lists.
    only: Vec<String>,
    /// `--timeout` in milliseconds: when the agent considers the driver hung.
    timeout: Option<Duration>,
    /// `--without-extras`: leaves out the values that the module `extras` reads.
    without_extras: bool,
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(error) => {
            // If stderr cannot be written to, the exit code still reports the error.
            let _ = writeln!(std::io::stderr(), "gpu-probe: {error}");
            return ExitCode::from(2);
        }
    };
    set_thread_name(c"gpu-probe");
    // The agent closes stdin when it stops the probe.
    ignore_sigterm();
    if let Err(error) = reserve_stdout() {
        let _ = writeln!(std::io::stderr(), "gpu-probe: {error}");
        return ExitCode::FAILURE;
    }
    let requests = match read_requests() {
        Ok(requests) => requests,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "gpu-probe: start thread requests: {error}");
            return ExitCode::FAILURE;
        }
    };
    match Probe::new(&options) {
        Ok(probe) => probe.run(&requests),
        Err(failure) => {
            if requests.recv().is_ok() {
                write(&ProbeReply {
                    version: VERSION,
                    failure: Some(failure),
                    ..ProbeReply::default()
                });
            }
        }
    }
    exit()
}

/// Exits after what is held in the driver was freed.
fn exit() -> ! {
    extras_link::stop();
    exit_immediately(0)
}

fn parse() -> Result<Options, lexopt::Error> {
    let mut options = Options::default();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("library") => options.library = Some(arguments.value()?),
            Long("only") => options.only.push(arguments.value()?.string()?),
            Long("timeout") => {
                options.timeout = Some(Duration::from_millis(arguments.value()?.parse()?));
            }
            Long("without-extras") => options.without_extras = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

/// Reads stdin in a thread, which exits the process at the end of input.
fn read_requests() -> std::io::Result<Receiver<()>> {
    let (sender, requests) = channel();
    let read = move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(()).is_err() {
                break;
            }
        }
        exit()
    };
    std::thread::Builder::new().name("requests".into()).spawn(read)?;
    Ok(requests)
}

/// The original stdout.
static OUTPUT: OnceLock<File> = OnceLock::new();

/// Reserves stdout for replies: output of libraries goes to stderr.
fn reserve_stdout() -> std::io::Result<()> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    redirect_stdout_to_stderr()?;
    OUTPUT.get_or_init(|| File::from(stdout));
    Ok(())
}

fn write(reply: &ProbeReply) {
    // Serialization cannot fail, because the type has no maps with non-string keys.
    let mut line = serde_json::to_vec(reply).unwrap_or_default();
    line.push(b'\n');
    let written = OUTPUT.get().map(|mut output| output.write_all(&line));
    // The agent closed the pipe.
    if !matches!(written, Some(Ok(()))) {
        exit();
    }
}

struct Probe {
    driver_version: Option<String>,
    cuda_version: Option<String>,
    slots: Vec<Slot>,
    messages: Receiver<WorkerMsg>,
    /// `None` with `--without-extras`.
    extras: Option<ExtrasLink>,
    timeout: Duration,
}

impl Probe {
    fn new(options: &Options) -> Result<Self, ProbeFailure> {
        // Leaked: workers use it until the process exits, and nvmlShutdown may hang.
        let nvml: &'static Nvml = Box::leak(Box::new(load(options)?));
        let count = nvml.device_count().map_err(|error| failure(&error))?;
        let targets: Vec<Target> = match options.only.is_empty() {
            true => (0..count).map(Target::Index).collect(),
            false => options.only.iter().cloned().map(Target::Address).collect(),
        };
        let timeout = options.timeout.unwrap_or(Duration::from_secs(10));
        let (sender, messages) = channel();
        let slots = targets.into_iter().enumerate().map(|(slot, target)| {
            let (requests, rounds) = channel();
            let (sender, worker_target) = (sender.clone(), target.clone());
            let name = format!("gpu-{slot}");
            let failed = |error| ProbeFailure {
                state: DriverState::Unavailable,
                message: format!("start thread {name}: {error}"),
            };
            let run = move || worker::run(nvml, slot, &worker_target, &rounds, &sender);
            std::thread::Builder::new().name(name.clone()).spawn(run).map_err(failed)?;
            Ok(Slot::new(target, requests))
        });
        let slots = slots.collect::<Result<_, _>>()?;
        Ok(Self {
            driver_version: nvml.sys_driver_version().ok(),
            cuda_version: nvml::cuda_driver_version(nvml)
                .ok()
                .map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
            slots,
            messages,
            extras: match options.without_extras {
                true => None,
                false => Some(ExtrasLink::start(nvml, timeout)?),
            },
            timeout,
        })
    }

    fn run(mut self, requests: &Receiver<()>) {
        for round in 0.. {
            if requests.recv().is_err() {
                return;
            }
            self.query(round);
            if let Some(extras) = &mut self.extras {
                let slots = self.slots.iter().enumerate();
                extras.query(slots.filter_map(|(at, slot)| slot.extras_request(at)).collect());
            }
            write(&self.build_reply(unix_seconds()));
        }
    }

    /// Queries all GPUs. A GPU that becomes slow delays the reply once, by at most a fifth of the timeout; until it has replied, later
    /// rounds do not wait for it.
    fn query(&mut self, round: u64) {
        // Before the first reply of a GPU, the driver may have to initialize it.
        let all_initialized = self.slots.iter().all(|slot| slot.has_replied || slot.busy);
        let timeout = if all_initialized { self.timeout / 5 } else { hang_timeout(self.timeout) };
        let mut outstanding = 0;
        for slot in &mut self.slots {
            slot.reply = None;
            outstanding += usize::from(slot.request(round));
        }
        // The deadline starts after the last request, so that a late GPU has had the whole timeout.
        let deadline = Instant::now() + timeout;
        let mut has_reply = self.slots.is_empty();
        while outstanding > 0 || !has_reply {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = match self.messages.recv_timeout(left) {
                Ok(message) => message,
                Err(_) if has_reply => return,
                // If no GPU replies, the probe does not reply either, and the agent considers the driver hung. XIDs
                // reported before must reach the agent nevertheless.
                Err(_) => {
                    self.write_xids();
                    let Ok(message) = self.messages.recv() else { return };
                    message
                }
            };
            let slot = &mut self.slots[message.slot];
            match message.reply {
                WorkerReply::Xids(xids) => slot.xids.extend(xids),
                WorkerReply::Gpu(reply_round, gpu) => {
                    has_reply = true;
                    slot.on_reply(gpu.map(|gpu| *gpu), reply_round == round, self.timeout);
                    match reply_round == round {
                        true => outstanding -= 1,
                        false => outstanding += usize::from(slot.request(round)),
                    }
                }
            }
        }
    }

    fn write_xids(&mut self) {
        let (now, timeout) = (unix_seconds(), self.timeout);
        let with_xids = self.slots.iter_mut().filter(|slot| !slot.xids.is_empty());
        let gpus: Vec<Gpu> = with_xids.filter_map(|slot| slot.report(now, timeout)).collect();
        if !gpus.is_empty() {
            write(&ProbeReply { version: VERSION, partial: true, gpus, ..ProbeReply::default() });
        }
    }

    fn build_reply(&mut self, now: u64) -> ProbeReply {
        let timeout = self.timeout;
        let denied = self.slots.iter().filter(|slot| matches!(slot.reply, Some(None))).count();
        let slots = self.slots.iter_mut().enumerate();
        let gpus = slots.filter_map(|(at, slot)| {
            let mut gpu = slot.report(now, timeout)?;
            if let Some(extras) = &self.extras {
                extras.add(at, &mut gpu);
            }
            Some(gpu)
        });
        ProbeReply {
            version: VERSION,
            failure: None,
            partial: false,
            driver_version: self.driver_version.clone(),
            cuda_version: self.cuda_version.clone(),
            denied,
            gpus: gpus.collect(),
        }
    }
}

/// Loads and initializes NVML from `--library` or from the first of [`LIBRARIES`] that works.
fn load(options: &Options) -> Result<Nvml, ProbeFailure> {
    let candidates = match &options.library {
        Some(path) => vec![path.clone()],
        None => LIBRARIES.map(OsString::from).to_vec(),
    };
    // The first candidate uses the loader's search path, so its error is reported, unless another one has no driver.
    let mut last_error = None;
    for path in &candidates {
        match Nvml::builder().lib_path(path).init() {
            // Another candidate may have a driver: on WSL, the distribution's library may be installed too.
            Err(
                error @ (NvmlError::LibloadingError(_)
                | NvmlError::LibraryNotFound
                | NvmlError::DriverNotLoaded),
            ) => last_error = most_useful(last_error, error),
            found => return found.map_err(|error| failure(&error)),
        }
    }
    Err(failure(&last_error.unwrap_or(NvmlError::LibraryNotFound)))
}

/// The first error, unless it is only that the library was not found and a later candidate has no driver.
fn most_useful(first: Option<NvmlError>, next: NvmlError) -> Option<NvmlError> {
    match (&first, &next) {
        (Some(NvmlError::LibloadingError(_)), NvmlError::DriverNotLoaded) | (None, _) => Some(next),
        _ => first,
    }
}

fn failure(error: &NvmlError) -> ProbeFailure {
    let state = match error {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded => {
            DriverState::NoDriver
        }
        NvmlError::LibRmVersionMismatch => DriverState::VersionMismatch,
        _ => DriverState::Unavailable,
    };
    let message = match error {
        // Without the prefix of nvml-wrapper: the loader's message names the file.
        NvmlError::LibloadingError(error) => error.to_string(),
        error => error.to_string(),
    };
    ProbeFailure { state, message }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
