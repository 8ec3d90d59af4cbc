//! The GPU probe: asks NVIDIA's library what the GPUs do, in a process that can be killed.
//!
//! For each line on standard input it writes one line of JSON ([`hm_agent::collector::gpu::nvidia::protocol`]). It ends when
//! standard input closes, whatever its other threads are doing, and when the agent's thread that started it
//! is gone. The agent decides when a missing line means that the driver hangs.

mod measure;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use hm_agent::collector::gpu::nvidia::protocol::{ProbeFailure, ProbeReply, VERSION};
use hm_agent::model::gpu::{DriverState, Gpu, Problem, Values, Xid};
use hm_agent::sys::nvml;
use hm_agent::sys::process::{
    exit_immediately, exit_with_parent, redirect_stdout_to_stderr, set_thread_name,
};
use hm_agent::util::logger::unix_seconds;
use lexopt::prelude::{Long, ValueExt};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use worker::{Said, Target, Word};

/// Where the driver's library is, if not in the loader's path: WSL, NixOS, and what Kubernetes' device
/// plugins mount.
const LIBRARIES: [&str; 4] = [
    "libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/run/opengl-driver/lib/libnvidia-ml.so.1",
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
];

/// How the agent wants it.
#[derive(Default)]
struct Options {
    /// `--library`: the only one to try.
    library: Option<OsString>,
    /// `--only`: PCI addresses of the GPUs to look at; none: all that NVML lists.
    only: Vec<String>,
    /// `--timeout`: after so many milliseconds the agent takes the driver for hung.
    timeout: Option<Duration>,
    /// `--parent`: whose end is this process' end, too.
    parent: Option<u32>,
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(error) => {
            // Nothing is left to tell if this cannot be written; the exit code still says it.
            let _ = writeln!(std::io::stderr(), "gpu-probe: {error}");
            return ExitCode::from(2);
        }
    };
    set_thread_name(c"gpu-probe");
    if let Some(parent) = options.parent {
        exit_with_parent(parent);
    }
    if let Err(error) = keep_stdout() {
        let _ = writeln!(std::io::stderr(), "gpu-probe: {error}");
        return ExitCode::FAILURE;
    }
    let questions = listen();
    match Probe::new(&options) {
        Ok(probe) => probe.run(&questions),
        Err(failure) => {
            if questions.recv().is_ok() {
                write(&ProbeReply {
                    version: VERSION,
                    failure: Some(failure),
                    ..ProbeReply::default()
                });
            }
        }
    }
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
            Long("parent") => options.parent = Some(arguments.value()?.parse()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(options)
}

/// Reads standard input in a thread of its own, which ends the process with it.
fn listen() -> Receiver<()> {
    let (asked, questions) = channel();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            if asked.send(()).is_err() {
                break;
            }
        }
        exit_immediately(0)
    });
    questions
}

/// Where lines go.
static LINES: OnceLock<File> = OnceLock::new();

/// Keeps standard output for lines: what a library prints there goes to standard error.
fn keep_stdout() -> std::io::Result<()> {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    redirect_stdout_to_stderr()?;
    LINES.get_or_init(|| File::from(stdout));
    Ok(())
}

fn write(line: &ProbeReply) {
    // Serialising it cannot fail: no maps with odd keys. Nobody to write to: nobody to work for.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    let written = LINES.get().map(|mut lines| lines.write_all(&text));
    if !matches!(written, Some(Ok(()))) {
        exit_immediately(0);
    }
}

/// A GPU's worker, seen from here.
struct Slot {
    target: Target,
    rounds: Sender<u64>,
    busy: bool,
    /// Since when it is.
    asked: Instant,
    /// What it said in this round.
    answer: Option<Option<Gpu>>,
    /// What it said to the question before, too late for that.
    late: Option<Gpu>,
    /// What it was like last.
    known: Option<Gpu>,
    /// It has said something.
    heard: bool,
    /// Errors that are not reported yet.
    xids: Vec<u64>,
}

struct Probe {
    driver_version: Option<String>,
    cuda_version: Option<String>,
    slots: Vec<Slot>,
    words: Receiver<Word>,
    timeout: Duration,
}

impl Probe {
    fn new(options: &Options) -> Result<Self, ProbeFailure> {
        // Never given back: workers use it to the end, and shutting NVML down may hang.
        let nvml: &'static Nvml = Box::leak(Box::new(load(options)?));
        let count = nvml.device_count().map_err(|error| failure(&error))?;
        let targets: Vec<Target> = match options.only.is_empty() {
            true => (0..count).map(Target::Index).collect(),
            false => options.only.iter().cloned().map(Target::Address).collect(),
        };
        let (word, words) = channel();
        let slots = targets.into_iter().enumerate().map(|(slot, target)| {
            let (rounds, waiting) = channel();
            let (word, asked) = (word.clone(), target.clone());
            std::thread::spawn(move || worker::work(nvml, slot, &asked, &waiting, &word));
            Slot {
                target,
                rounds,
                busy: false,
                asked: Instant::now(),
                answer: None,
                late: None,
                known: None,
                heard: false,
                xids: Vec::new(),
            }
        });
        Ok(Self {
            driver_version: nvml.sys_driver_version().ok(),
            cuda_version: nvml::cuda_driver_version(nvml)
                .ok()
                .map(|version| format!("{}.{}", version / 1000, version % 1000 / 10)),
            slots: slots.collect(),
            words,
            timeout: options.timeout.unwrap_or(Duration::from_secs(10)),
        })
    }

    fn run(mut self, questions: &Receiver<()>) {
        for round in 0.. {
            if questions.recv().is_err() {
                return;
            }
            self.ask(round);
            write(&self.line(unix_seconds()));
        }
    }

    /// Has every GPU looked at. One that is slow does not keep the others: what it says later is in the next
    /// line, and it is not waited for again until then.
    fn ask(&mut self, round: u64) {
        // Until a GPU has answered once, the driver may have to wake it first.
        let all_known = self.slots.iter().all(|slot| slot.heard || slot.busy);
        let patience = if all_known { self.timeout / 5 } else { patience(self.timeout) };
        let mut waiting = 0;
        for slot in &mut self.slots {
            slot.answer = None;
            waiting += usize::from(slot.ask(round));
        }
        // From now, when all have been asked: whoever is late then has been so for all of it.
        let deadline = Instant::now() + patience;
        let mut answered = self.slots.is_empty();
        while waiting > 0 || !answered {
            let left = deadline.saturating_duration_since(Instant::now());
            let word = match self.words.recv_timeout(left) {
                Ok(word) => word,
                Err(_) if answered => return,
                // If nobody answers at all, neither does the probe: the agent knows what that means. But it
                // must hear of errors that were reported before.
                Err(_) => {
                    self.write_errors();
                    let Ok(word) = self.words.recv() else { return };
                    word
                }
            };
            let slot = &mut self.slots[word.slot];
            match word.said {
                Said::Xids(xids) => slot.xids.extend(xids),
                Said::Answer(of, gpu) => {
                    (slot.busy, slot.heard) = (false, true);
                    slot.known = gpu.as_deref().cloned();
                    let gpu = gpu.map(|gpu| *gpu);
                    answered = true;
                    if of == round {
                        slot.answer = Some(gpu);
                        waiting -= 1;
                    } else {
                        // Good enough if it is not too old, and better than nothing until it says more.
                        let young = slot.asked.elapsed() < self.timeout;
                        slot.late = gpu.filter(|_| young);
                        waiting += usize::from(slot.ask(round));
                    }
                }
            }
        }
    }

    fn write_errors(&mut self) {
        let (now, timeout) = (unix_seconds(), self.timeout);
        let with_errors = self.slots.iter_mut().filter(|slot| !slot.xids.is_empty());
        let gpus: Vec<Gpu> = with_errors.filter_map(|slot| slot.report(now, timeout)).collect();
        if !gpus.is_empty() {
            write(&ProbeReply { version: VERSION, partial: true, gpus, ..ProbeReply::default() });
        }
    }

    fn line(&mut self, now: u64) -> ProbeReply {
        let timeout = self.timeout;
        ProbeReply {
            version: VERSION,
            failure: None,
            partial: false,
            driver_version: self.driver_version.clone(),
            cuda_version: self.cuda_version.clone(),
            denied: self.slots.iter().filter(|slot| matches!(slot.answer, Some(None))).count(),
            gpus: self.slots.iter_mut().filter_map(|slot| slot.report(now, timeout)).collect(),
        }
    }
}

/// A GPU that has not answered for so long hangs: a little less than that of the agent, which is to hear it.
fn patience(timeout: Duration) -> Duration {
    timeout * 4 / 5
}

impl Slot {
    /// Asks it, if it is not still at work; says whether an answer is to come.
    fn ask(&mut self, round: u64) -> bool {
        let asked = !self.busy && self.rounds.send(round).is_ok();
        if asked {
            (self.busy, self.asked) = (true, Instant::now());
        }
        asked
    }

    /// The GPU as it is now, with its errors of `now`; `None`: it is not for us to see. One that has not
    /// answered for most of `timeout` hangs; before, it has no values, or late ones.
    fn report(&mut self, now: u64, timeout: Duration) -> Option<Gpu> {
        // Late words are good for one line: who then hangs must not go on with them.
        let mut gpu = match (self.answer.take(), self.late.take()) {
            (Some(gpu), _) => gpu?,
            (None, Some(late)) => late,
            (None, None) => {
                let known = self.known.clone().unwrap_or_else(|| worker::unknown(&self.target));
                let hangs = self.asked.elapsed() >= patience(timeout);
                Gpu {
                    values: Values::default(),
                    problem: hangs.then_some(Problem::Hung),
                    message: hangs.then(|| "the driver does not answer".to_owned()),
                    ..known
                }
            }
        };
        gpu.xids = count(&std::mem::take(&mut self.xids), now);
        Some(gpu)
    }
}

/// Loads the library: the one that the agent names, else the first that is there.
fn load(options: &Options) -> Result<Nvml, ProbeFailure> {
    let candidates = match &options.library {
        Some(path) => vec![path.clone()],
        None => LIBRARIES.map(OsString::from).to_vec(),
    };
    // The first place is the loader's own path; why nothing is there says most.
    let mut nowhere = None;
    for path in &candidates {
        match Nvml::builder().lib_path(path).init() {
            // A library without its driver may be one of several: a distribution's beside that of WSL.
            Err(
                error @ (NvmlError::LibloadingError(_)
                | NvmlError::LibraryNotFound
                | NvmlError::DriverNotLoaded),
            ) => nowhere = worse(nowhere, error),
            found => return found.map_err(|error| failure(&error)),
        }
    }
    Err(failure(&nowhere.unwrap_or(NvmlError::LibraryNotFound)))
}

/// Which of two failures says more: the first, unless that is only a library that is not there.
fn worse(first: Option<NvmlError>, next: NvmlError) -> Option<NvmlError> {
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
        NvmlError::LibloadingError(error) => error.to_string(),
        error => error.to_string(),
    };
    ProbeFailure { state, message }
}

/// How often each code comes.
fn count(codes: &[u64], now: u64) -> Vec<Xid> {
    let mut counts = BTreeMap::new();
    for code in codes {
        *counts.entry(*code).or_default() += 1;
    }
    counts.into_iter().map(|(code, count)| Xid { code, count, last_unix_seconds: now }).collect()
}
