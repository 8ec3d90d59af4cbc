//! The keeper of the GPU probe: starts it, asks it, kills it when the driver hangs, starts it again, and
//! says how it stands. Also has AMD's GPUs read, which need no probe.
//!
//! Runs in a thread of its own, so that whatever a driver does, the sampler's ticks go on. That thread also
//! is the one whose end the kernel takes for the agent's: a probe dies with it.

pub mod board;
mod child;
mod pci;
mod roster;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::config::{Current, GpuSettings, GpuSource, Roots};
use crate::limits;
use crate::proto::probe::{Failure, Line};
use crate::snapshot::gpu::{Gpu, Nvidia, Problem, State};
use crate::source::amd::Amd;
use crate::sync::Stop;
use crate::sys;
use board::Board;
use child::{Ending, Heard, Probe};
use pci::PciGpu;
use roster::{OnBus, Roster};

/// Looks after the GPUs.
pub struct Keeper<'a> {
    board: &'a Board,
    settings: &'a Current,
    roots: Roots,
    /// The probe's program.
    program: &'static [u8],
    /// The settings that the probe was started with.
    gpu: GpuSettings,
    phase: Phase,
    /// How long the next probe that dies is mourned.
    rest: Duration,
    bus: Bus,
    roster: Roster,
    amd: Amd,
    has_amd: bool,
    nvidia: Nvidia,
    /// Since when a GPU hangs while others answer.
    one_hangs: Option<Instant>,
}

/// Where the probe is.
enum Phase {
    /// None is wanted.
    Off,
    /// The next one is started then.
    Resting(Instant),
    /// It was asked then, and has not answered yet.
    Asked(Probe, Instant),
    /// It has answered.
    Idle(Probe),
    /// It was killed then, or ended by itself, and is not gone yet.
    Ending { ending: Ending, since: Instant, why: Why, named: bool },
}

/// Why a probe ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Another one is to take its place, or none.
    Replaced,
    /// It did not answer, or has said itself why it cannot.
    Failed,
    /// Nobody told it to.
    Crashed,
}

/// NVIDIA's GPUs on the bus, as they were seen last.
#[derive(Default)]
struct Bus {
    gpus: Vec<PciGpu>,
    /// Addresses of those that sleep.
    asleep: Vec<String>,
    /// See [`pci::shown_by_driver`].
    shown: Option<Vec<String>>,
    searched: Option<Instant>,
    /// What was there, and what of it slept, when the probe was started.
    at_start: (Vec<String>, Vec<String>),
}

impl<'a> Keeper<'a> {
    /// A keeper that starts `program`, and puts what it learns on the board.
    pub fn new(board: &'a Board, settings: &'a Current, program: &'static [u8]) -> Self {
        let config = settings.get();
        Self {
            board,
            settings,
            roots: config.roots.clone(),
            program,
            gpu: config.gpu.clone(),
            phase: Phase::Off,
            rest: limits::PROBE_REST.0,
            bus: Bus::default(),
            roster: Roster::default(),
            amd: Amd::new(&config.roots),
            has_amd: false,
            nvidia: Nvidia::default(),
            one_hangs: None,
        }
    }

    /// Goes on until the agent stops. Then the probe is gone, if anything can make it go.
    pub fn run(mut self, stop: &Stop) {
        self.look_around(Instant::now());
        while !stop.is_rung() {
            self.advance(Instant::now());
            let (asked, heard) = self.wait(stop);
            if asked {
                self.board.asked().clear();
                self.follow_settings();
                self.look_around(Instant::now());
                self.ask(Instant::now());
            }
            if heard {
                self.hear(Instant::now());
            }
        }
        self.end();
    }

    /// Sleeps until something happens: a question, a word from the probe, a deadline.
    fn wait(&self, stop: &Stop) -> (bool, bool) {
        let now = Instant::now();
        let search = self.bus.searched.map_or(now, |at| at + limits::GPU_SEARCH);
        let until = match &self.phase {
            Phase::Off | Phase::Idle(_) => search,
            Phase::Resting(until) => *until,
            Phase::Asked(_, since) => *since + self.settings.get().gpu.timeout,
            // A process that is gone tells nobody but who asks: soon at first, then less often.
            Phase::Ending { since, .. } => {
                now + (now - *since).clamp(Duration::from_millis(2), Duration::from_secs(1))
            }
        };
        let timeout = Some(until.saturating_duration_since(now));
        let (stop, asked) = (stop.as_fd(), self.board.asked().as_fd());
        match &self.phase {
            Phase::Asked(probe, _) | Phase::Idle(probe) => {
                let [_, asked, heard] = sys::wait_readable([stop, asked, probe.as_fd()], timeout);
                (asked, heard)
            }
            _ => {
                let [_, asked] = sys::wait_readable([stop, asked], timeout);
                (asked, false)
            }
        }
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        if self.bus.searched.is_none_or(|at| now >= at + limits::GPU_SEARCH) {
            self.look_around(now);
        }
        let timeout = self.settings.get().gpu.timeout;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Off if self.wants_probe() => self.start(now),
            Phase::Resting(_) if !self.wants_probe() => Phase::Off,
            Phase::Resting(until) if now >= until => self.start(now),
            // If we slept ourselves, the answer may be there already.
            Phase::Asked(probe, since) if now >= since + timeout && !probe.has_spoken() => {
                let message = format!("it has not answered for {} s", timeout.as_secs());
                self.fail(State::Hung, message, now);
                log::debug!("killing the GPU probe, process {}", probe.pid());
                ending(probe, now, Why::Failed)
            }
            Phase::Idle(probe) if self.must_be_replaced(now) => ending(probe, now, Why::Replaced),
            Phase::Ending { mut ending, since, why, named } => match ending.status() {
                Some(status) => self.ended(why, status, now),
                None => {
                    let stuck = now - since >= limits::PROBE_KILL;
                    if stuck && !named {
                        let pid = ending.pid();
                        let message =
                            format!("process {pid} is held by the driver and cannot be killed");
                        log::warn!(
                            "the GPU probe, {message}; no other is started until it is gone"
                        );
                        self.fail(State::Hung, message, now);
                    }
                    Phase::Ending { ending, since, why, named: named || stuck }
                }
            },
            phase => phase,
        };
        if matches!(self.phase, Phase::Off) && !self.wants_probe() {
            self.say_why_off(now);
        }
        self.board.set_wanted(self.wants_asking());
    }

    /// Whether there is anything that a tick should ask for.
    fn wants_asking(&self) -> bool {
        let looked = self.gpu.source != GpuSource::Nothing;
        looked && (!matches!(self.phase, Phase::Off) || !self.bus.asleep.is_empty())
            || self.wants_amd() && self.has_amd
    }

    fn wants_amd(&self) -> bool {
        self.gpu.source == GpuSource::Auto
    }

    /// Whether there is something of NVIDIA that is awake.
    fn wants_probe(&self) -> bool {
        match self.gpu.source {
            GpuSource::Nothing => false,
            _ if self.all_asleep() => false,
            GpuSource::Nvml => true,
            GpuSource::Auto => {
                let devices = ["/dev/nvidiactl", "/dev/dxg"];
                self.gpu.nvml_library.is_some()
                    || !self.bus.gpus.is_empty()
                    || devices.iter().any(|device| Path::new(device).exists())
            }
        }
    }

    fn all_asleep(&self) -> bool {
        !self.bus.gpus.is_empty() && self.bus.asleep.len() == self.bus.gpus.len()
    }

    fn say_why_off(&mut self, now: Instant) {
        if self.all_asleep() {
            let gpus = self.roster.complete(Vec::new(), &self.bus.expected());
            self.nvidia.message = None;
            self.report(State::Suspended, gpus, now, Duration::ZERO);
        } else {
            self.roster.forget();
            self.nvidia = Nvidia { state: self.nvidia.state, ..Nvidia::default() };
            self.report(State::NoGpu, Vec::new(), now, Duration::ZERO);
        }
    }

    fn must_be_replaced(&self, now: Instant) -> bool {
        let hangs = self.one_hangs.is_some_and(|since| now >= since + limits::HUNG_GPU_RETRY);
        !self.wants_probe() || self.bus.has_changed() || hangs
    }

    fn start(&mut self, now: Instant) -> Phase {
        let config = self.settings.get();
        self.bus.at_start = (self.bus.addresses(), self.bus.asleep.clone());
        self.one_hangs = None;
        let timeout = config.gpu.timeout.as_millis().to_string();
        let mut arguments: Vec<OsString> = vec!["--timeout".into(), timeout.into()];
        if let Some(library) = &self.gpu.nvml_library {
            arguments.extend(["--library".into(), library.into()]);
        }
        if !self.bus.asleep.is_empty() {
            let awake = self.bus.gpus.iter().filter(|gpu| !self.bus.asleep.contains(&gpu.address));
            arguments.extend(awake.flat_map(|gpu| ["--only".into(), gpu.address.clone().into()]));
        }
        let started = match self.program {
            [] => Err("this build has none in it; see README".to_owned()),
            program => Probe::start(program, &arguments, &config.state_dir),
        };
        match started {
            Ok(probe) => {
                log::debug!("the GPU probe runs, process {}", probe.pid());
                ask(probe, now)
            }
            Err(why) => {
                self.fail(State::Unavailable, format!("cannot run the GPU probe: {why}"), now);
                self.rest(now)
            }
        }
    }

    /// A pause before the next probe is started, each time twice as long.
    fn rest(&mut self, now: Instant) -> Phase {
        let rest = self.rest;
        self.rest = (rest * 2).min(limits::PROBE_REST.1);
        Phase::Resting(now + rest)
    }

    fn ended(&mut self, why: Why, status: ExitStatus, now: Instant) -> Phase {
        match why {
            Why::Replaced => return Phase::Resting(now),
            Why::Failed => log::debug!("the GPU probe is gone: {status}"),
            Why::Crashed => {
                let message = format!("the driver's library took the GPU probe with it: {status}");
                self.fail(State::Crashed, message, now);
            }
        }
        self.rest(now)
    }

    /// New settings for the GPUs need a new probe.
    fn follow_settings(&mut self) {
        let new = self.settings.get().gpu.clone();
        let same = new.source == self.gpu.source
            && new.nvml_library == self.gpu.nvml_library
            && new.timeout == self.gpu.timeout;
        self.gpu = new;
        if same {
            return;
        }
        let now = Instant::now();
        self.rest = limits::PROBE_REST.0;
        if !self.wants_amd() {
            self.board.put_amd(Vec::new(), now);
        }
        self.phase = match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Asked(probe, _) | Phase::Idle(probe) => ending(probe, now, Why::Replaced),
            Phase::Resting(_) => Phase::Off,
            phase => phase,
        };
    }

    /// What is on the bus, and what of it sleeps; and AMD's GPUs.
    fn look_around(&mut self, now: Instant) {
        if self.gpu.source == GpuSource::Nothing {
            self.bus = Bus { searched: Some(now), ..Bus::default() };
            return;
        }
        self.bus.look(&self.roots, now);
        if self.wants_amd() {
            let gpus = self.amd.read(0);
            self.has_amd = !gpus.is_empty();
            self.board.put_amd(gpus, now);
        }
    }

    fn ask(&mut self, now: Instant) {
        self.phase = match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Idle(probe) if !self.must_be_replaced(now) => ask(probe, now),
            phase => phase,
        };
    }

    fn hear(&mut self, now: Instant) {
        let (mut probe, since) = match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Asked(probe, since) => (probe, since),
            Phase::Idle(probe) => (probe, now),
            phase => {
                self.phase = phase;
                return;
            }
        };
        self.phase = match probe.read() {
            Heard::Nothing => Phase::Asked(probe, since),
            Heard::End => ending(probe, now, Why::Crashed),
            Heard::Nonsense(what) => {
                self.fail(State::Crashed, format!("the GPU probe wrote nonsense: {what}"), now);
                ending(probe, now, Why::Failed)
            }
            Heard::Line(line) if line.partial => {
                self.roster.count_errors(line.gpus);
                Phase::Asked(probe, since)
            }
            Heard::Line(line) => match line.failure {
                Some(failure) => {
                    self.fail(failure.state, explained(&failure), now);
                    ending(probe, now, Why::Failed)
                }
                None => {
                    self.take(*line, since, now);
                    Phase::Idle(probe)
                }
            },
        };
    }

    /// A good answer.
    fn take(&mut self, line: Line, since: Instant, now: Instant) {
        self.rest = limits::PROBE_REST.0;
        let mut gpus = self.roster.complete(line.gpus, &self.bus.expected());
        for process in gpus.iter_mut().flat_map(|gpu| gpu.values.processes.iter_mut().flatten()) {
            process.name = command_name(&self.roots, process.pid);
        }
        match gpus.iter().any(|gpu| gpu.problem == Some(Problem::Hung)) {
            true => self.one_hangs = self.one_hangs.or(Some(now)),
            false => self.one_hangs = None,
        }
        self.nvidia.message = None;
        self.nvidia.driver_version = line.driver_version;
        self.nvidia.cuda_version = line.cuda_version;
        self.report(State::Ok, gpus, since, now - since);
    }

    /// The driver as a whole is of no use now.
    fn fail(&mut self, state: State, message: String, now: Instant) {
        let problem = if state == State::Hung { Problem::Hung } else { Problem::Failed };
        let gpus = self.roster.failed(problem, &message, &self.bus.expected());
        self.nvidia =
            Nvidia { state: self.nvidia.state, message: Some(message), ..Nvidia::default() };
        self.report(state, gpus, now, Duration::ZERO);
    }

    fn report(&mut self, state: State, gpus: Vec<Gpu>, at: Instant, took: Duration) {
        let before = std::mem::replace(&mut self.nvidia.state, state);
        if before != state {
            say(&self.nvidia, gpus.len());
        }
        let looked = self.gpu.source != GpuSource::Nothing;
        let nvidia = looked.then(|| self.nvidia.clone());
        let places = gpus.len().max(self.bus.gpus.len());
        self.board.put_nvidia(nvidia, gpus, places, at, took);
        self.board.set_known();
    }

    /// Kills the probe and waits a little for it to be gone.
    fn end(self) {
        let mut ending = match self.phase {
            Phase::Asked(probe, _) | Phase::Idle(probe) => probe.kill(),
            Phase::Ending { ending, .. } => ending,
            Phase::Off | Phase::Resting(_) => return,
        };
        let patience = Instant::now() + limits::SHUTDOWN / 4;
        while ending.status().is_none() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Bus {
    fn look(&mut self, roots: &Roots, now: Instant) {
        if self.searched.is_none_or(|at| now >= at + limits::GPU_SEARCH) {
            self.gpus = pci::gpus(roots);
            self.shown = pci::shown_by_driver(roots);
            self.searched = Some(now);
        }
        self.gpus.retain(PciGpu::is_there);
        let asleep = self.gpus.iter().filter(|gpu| gpu.is_suspended());
        self.asleep = asleep.map(|gpu| gpu.address.clone()).collect();
    }

    fn addresses(&self) -> Vec<String> {
        self.gpus.iter().map(|gpu| gpu.address.clone()).collect()
    }

    /// Whether the probe that runs was started for other GPUs than there are: some have come, fallen
    /// asleep or woken up. It cannot learn that: the driver's library lists GPUs once.
    fn has_changed(&self) -> bool {
        let (gpus, asleep) = &self.at_start;
        self.asleep != *asleep || self.gpus.iter().any(|gpu| !gpus.contains(&gpu.address))
    }

    /// Those that the driver should know.
    fn expected(&self) -> Vec<OnBus<'_>> {
        let shown =
            |gpu: &&PciGpu| self.shown.as_ref().is_none_or(|shown| shown.contains(&gpu.address));
        self.gpus
            .iter()
            .filter(|gpu| gpu.is_the_drivers())
            .filter(shown)
            .map(|gpu| OnBus { gpu, suspended: self.asleep.contains(&gpu.address) })
            .collect()
    }
}

fn ending(probe: Probe, now: Instant, why: Why) -> Phase {
    Phase::Ending { ending: probe.kill(), since: now, why, named: false }
}

fn ask(mut probe: Probe, now: Instant) -> Phase {
    match probe.ask() {
        Ok(()) => Phase::Asked(probe, now),
        Err(_) => ending(probe, now, Why::Crashed),
    }
}

/// What NVML says, and what to do about it.
fn explained(failure: &Failure) -> String {
    let hint = match failure.state {
        State::VersionMismatch => {
            "; the driver was upgraded: load its new kernel modules, or restart the machine"
        }
        State::NoDriver => "; is NVIDIA's driver installed and loaded?",
        _ => "",
    };
    format!("{}{hint}", failure.message)
}

/// A process' name, which the kernel keeps at most 15 letters long.
fn command_name(roots: &Roots, pid: u32) -> Option<String> {
    let mut name = Vec::new();
    let file = File::open(roots.proc.join(pid.to_string()).join("comm")).ok()?;
    file.take(64).read_to_end(&mut name).ok()?;
    let name = String::from_utf8_lossy(name.trim_ascii()).into_owned();
    (!name.is_empty()).then_some(name)
}

/// Into the log, when the state has changed.
fn say(nvidia: &Nvidia, gpus: usize) {
    let message = nvidia.message.as_deref().unwrap_or_default();
    let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "?".to_owned());
    match nvidia.state {
        State::Ok => log::info!(
            "NVIDIA driver {} (CUDA {}): {gpus} GPUs",
            version(&nvidia.driver_version),
            version(&nvidia.cuda_version)
        ),
        State::NoGpu => log::debug!("no NVIDIA GPU is here"),
        State::Suspended => log::info!("all NVIDIA GPUs sleep, and are not woken"),
        State::Starting => {}
        State::NoDriver => log::warn!("no NVIDIA driver: {message}"),
        State::VersionMismatch => log::warn!("NVIDIA driver and library do not match: {message}"),
        State::Hung => log::warn!("NVIDIA driver hangs: {message}"),
        State::Crashed => log::warn!("{message}"),
        State::Unavailable => log::warn!("NVIDIA GPUs cannot be asked: {message}"),
    }
}
