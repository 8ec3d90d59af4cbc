//! The keeper of the GPU probe: starts it, asks it, kills it when the driver hangs, starts it again, and
//! says how it stands. Also has AMD's GPUs read, which need no probe.
//!
//! Runs in a thread of its own, so that whatever a driver does, the sampler's ticks go on. That thread also
//! is the one whose end the kernel takes for the agent's: a probe dies with it.

pub mod embedded_probe;
pub mod inventory;
pub mod messages;
pub mod pci;
pub mod pci_scan;
pub mod probe_process;
pub mod probe_state;
pub mod protocol;
pub mod result;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::collector::gpu::amd::Amd;
use crate::collector::gpu::nvidia::inventory::GpuInventory;
use crate::collector::gpu::nvidia::messages::explained;
use crate::collector::gpu::nvidia::pci_scan::Bus;
use crate::collector::gpu::nvidia::probe_process::{Heard, Probe};
use crate::collector::gpu::nvidia::probe_state::{Phase, Why, ask, ending};
use crate::collector::gpu::state::GpuState;
use crate::config::{Current, GpuSettings, GpuSource, Roots};
use crate::limits;
use crate::model::gpu::{DriverState, NvidiaDriver};
use crate::sys;
use crate::util::sync::Shutdown;

/// The driver's device, and that of Windows' GPUs in its Linux.
const NVIDIA_DEVICE: &str = "/dev/nvidiactl";
const WINDOWS_DEVICE: &str = "/dev/dxg";

/// Looks after the GPUs.
pub struct ProbeSupervisor<'a> {
    board: &'a GpuState,
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
    roster: GpuInventory,
    amd: Amd,
    has_amd: bool,
    nvidia: NvidiaDriver,
    /// Since when a GPU hangs while others answer.
    one_hangs: Option<Instant>,
    /// How often this probe has answered.
    answers: u32,
    /// How many probes in a row were killed before they had answered.
    stillborn: u32,
    /// A question came while the last one was not answered.
    asked_again: bool,
}

impl<'a> ProbeSupervisor<'a> {
    /// A keeper that starts `program`, and puts what it learns on the board.
    pub fn new(board: &'a GpuState, settings: &'a Current, program: &'static [u8]) -> Self {
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
            roster: GpuInventory::default(),
            amd: Amd::new(&config.roots),
            has_amd: false,
            nvidia: NvidiaDriver::default(),
            one_hangs: None,
            answers: 0,
            stillborn: 0,
            asked_again: false,
        }
    }

    /// Goes on until the agent stops. Then the probe is gone, if anything can make it go.
    pub fn run(mut self, stop: &Shutdown) {
        self.look_around(Instant::now());
        while !stop.is_triggered() {
            self.advance(Instant::now());
            let (asked, heard) = self.wait(stop);
            if asked {
                self.board.asked().reset();
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
    fn wait(&self, stop: &Shutdown) -> (bool, bool) {
        let now = Instant::now();
        let search = self.bus.searched.map_or(now, |at| at + limits::GPU_SEARCH);
        let until = match &self.phase {
            Phase::Off => search,
            Phase::Idle(probe) => {
                if probe.has_line() {
                    now
                } else {
                    search
                }
            }
            Phase::Resting(until) => *until,
            Phase::Asked(probe, since) => {
                if probe.has_line() {
                    now
                } else {
                    *since + self.patience()
                }
            }
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
                (asked, heard || probe.has_line())
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
        let patience = self.patience();
        self.phase = match std::mem::replace(&mut self.phase, Phase::Off) {
            Phase::Off if self.wants_probe() => self.start(now),
            Phase::Resting(_) if !self.wants_probe() => Phase::Off,
            Phase::Resting(until) if now >= until => self.start(now),
            // If we slept ourselves, the answer may be there already.
            Phase::Asked(probe, since) if now >= since + patience && !probe.has_spoken() => {
                let message = format!("it has not answered for {} s", patience.as_secs());
                self.fail(DriverState::Hung, message, now);
                log::debug!("killing the GPU probe, process {}", probe.pid());
                self.stillborn += u32::from(self.answers == 0);
                ending(probe, now, Why::Failed)
            }
            Phase::Idle(probe) if self.must_be_replaced(&probe, now) => {
                ending(probe, now, Why::Replaced)
            }
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
                        self.fail(DriverState::Hung, message, now);
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

    /// How long an answer is waited for. A driver that has to be woken first may take longer than any other
    /// answer: a probe that was killed for that is followed by one that gets twice the time.
    fn patience(&self) -> Duration {
        let timeout = self.settings.get().gpu.timeout;
        match self.answers {
            0 => (timeout * 2u32.pow(self.stillborn.min(6))).min(limits::GPU_START.max(timeout)),
            _ => timeout,
        }
    }

    /// Whether there is anything that a tick should ask for.
    fn wants_asking(&self) -> bool {
        let looked = self.gpu.source != GpuSource::Nothing;
        looked && (!matches!(self.phase, Phase::Off) || self.bus.all_asleep())
            || self.wants_amd() && self.has_amd
    }

    fn wants_amd(&self) -> bool {
        self.gpu.source == GpuSource::Auto
    }

    /// Whether there is something of NVIDIA that is awake.
    fn wants_probe(&self) -> bool {
        match self.gpu.source {
            GpuSource::Nothing => false,
            _ if self.bus.all_asleep() => false,
            GpuSource::Nvml => true,
            GpuSource::Auto => {
                let devices = [NVIDIA_DEVICE, WINDOWS_DEVICE];
                self.gpu.nvml_library.is_some()
                    || !self.bus.gpus.is_empty()
                    || devices.iter().any(|device| Path::new(device).exists())
            }
        }
    }

    /// Whether another probe, or none, should take the place of this one. One that the kernel holds would not
    /// go away, and no other would be started: then what it still says is better than nothing.
    fn must_be_replaced(&self, probe: &Probe, now: Instant) -> bool {
        let hangs = self.one_hangs.is_some_and(|since| now >= since + limits::HUNG_GPU_RETRY);
        !self.wants_probe() || (self.bus.has_changed() || hangs) && !probe.is_held()
    }

    fn start(&mut self, now: Instant) -> Phase {
        let config = self.settings.get();
        self.bus.at_start = self.bus.ours.clone();
        (self.one_hangs, self.answers, self.asked_again) = (None, 0, false);
        let timeout = config.gpu.timeout.as_millis().to_string();
        let mut arguments: Vec<OsString> = vec!["--timeout".into(), timeout.into()];
        if let Some(library) = &self.gpu.nvml_library {
            arguments.extend(["--library".into(), library.into()]);
        }
        if self.bus.ours.iter().any(|(_, asleep)| *asleep) {
            let awake = self.bus.ours.iter().filter(|(_, asleep)| !asleep);
            arguments
                .extend(awake.flat_map(|(gpu, _)| ["--only".into(), gpu.address.clone().into()]));
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
                self.fail(
                    DriverState::Unavailable,
                    format!("cannot run the GPU probe: {why}"),
                    now,
                );
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
                // A library that crashes does not end so.
                let who = match status.signal() {
                    Some(libc::SIGKILL) => {
                        "somebody killed the GPU probe, perhaps the kernel for want of memory"
                    }
                    _ => "the driver's library took the GPU probe with it",
                };
                let message = format!("{who}: {status}");
                self.fail(DriverState::Crashed, message, now);
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
        (self.rest, self.stillborn) = (limits::PROBE_REST.0, 0);
        // Whatever was known of the bus is old: nobody has looked while nothing was wanted.
        self.bus = Bus::default();
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
            self.bus = Bus::default();
            self.bus.searched = Some(now);
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
            Phase::Idle(probe) if !self.must_be_replaced(&probe, now) => ask(probe, now),
            Phase::Asked(probe, since) => {
                self.asked_again = true;
                Phase::Asked(probe, since)
            }
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
                self.fail(
                    DriverState::Crashed,
                    format!("the GPU probe wrote nonsense: {what}"),
                    now,
                );
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
                    let again = std::mem::take(&mut self.asked_again);
                    match again && !self.must_be_replaced(&probe, now) {
                        true => ask(probe, now),
                        false => Phase::Idle(probe),
                    }
                }
            },
        };
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
