//! Servers that mean harm at the other end of both links, each kind with an agent of its own: those who are inside are
//! served, the agent stays small, and when the real servers are back, they get all that was kept for them.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::attack::Attacker;
use support::cable::taken;
use support::core::Core;
use support::core_wire::TOKEN;
use support::hub::Hub;
use support::inside::{APP, Inside};
use support::{Agent, Scratch, hm_agent, lasting_port, pass, wait_until};

/// Every kind of server in `tests/peers/flood.py`.
const KINDS: [&str; 14] = [
    "nested",
    "silent",
    "close",
    "reset",
    "drip",
    "endless_head",
    "giant_frame",
    "long_message",
    "fragments",
    "empty_fragments",
    "pings",
    "compressed",
    "drip_frame",
    "deaf",
];
/// So long the servers do harm: longer than the handshake may take.
const HARM: Duration = Duration::from_secs(12);
/// What the agent ever takes: its program, without optimisation, a message of 4 MiB from each server, and what parsing that takes.
const MOST_KB: u64 = 48 << 10;

struct Scene {
    kind: &'static str,
    state_dir: Scratch,
    agent: Agent,
    inside: Inside,
    hub: (u16, Attacker),
    core: (u16, Attacker),
}

impl Scene {
    fn new(kind: &'static str) -> Self {
        let server = || {
            let port = lasting_port();
            (port, Attacker::serve(kind, port))
        };
        let (hub, core, state_dir) = (server(), server(), Scratch::new("servers"));
        let agent = agent_of(&state_dir, hub.0, core.0);
        let inside = Inside::of(&agent, None);
        Self { kind, state_dir, agent, inside, hub, core }
    }

    /// How it went, when its servers are gone, and the agent.
    fn judge(self, start: Instant) -> Survivor {
        let Self { kind, state_dir, agent, inside, hub, core } = self;
        let (waits, kb) = (inside.since(start), agent.status("VmHWM"));
        inside.assert_all_here(&agent);
        let said = (hub.1.end(), core.1.end());
        println!("{kind}: {said:?}; inside {waits:.0?}; {kb} kB at the most");
        assert!(said.0["connections"] > 0 && said.1["connections"] > 0);
        assert!(kb < MOST_KB, "{kb} kB");
        // Fourteen agents share the machine with as many pairs of servers.
        assert!(waits.update < Duration::from_secs(4), "{waits:?}");
        inside.leave();
        assert_eq!(agent.said(&format!("[{APP}] is ")), 0, "{:#?}", agent.log());
        let lines = agent.stop().len();
        assert!(lines < 100, "{lines} lines of log");
        let taken: BTreeSet<u64> = taken(&state_dir.0).into_iter().collect();
        assert!(taken.len() >= 5, "{} reports", taken.len());
        Survivor { state_dir, taken, ports: (hub.0, core.0) }
    }
}

/// What is left of an agent and its servers.
struct Survivor {
    state_dir: Scratch,
    taken: BTreeSet<u64>,
    ports: (u16, u16),
}

impl Survivor {
    /// With servers that keep to the protocols, where the others were.
    fn go_on(self) {
        let hub = Hub::on(([127, 0, 0, 1], self.ports.0).into(), true, Duration::from_secs(30));
        let _core = Core::on(([127, 0, 0, 1], self.ports.1).into());
        let agent = agent_of(&self.state_dir, self.ports.0, self.ports.1);
        agent.wait_log(" registered as ");
        wait_until("all reports", || {
            let delivered: BTreeSet<u64> = hub.reports().into_iter().collect();
            self.taken.is_subset(&delivered).then_some(())
        });
        agent.stop();
    }
}

fn agent_of(state_dir: &Scratch, hub: u16, core: u16) -> Agent {
    let mut command = hm_agent();
    // glibc gives threads heaps of their own and keeps what is free in them, as it comes.
    command.env("MALLOC_ARENA_MAX", "1").env("HM_AGENT_CORE_TOKEN", TOKEN);
    for setting in [
        "usage.listen=127.0.0.1:0",
        "interval=1",
        "gpu.source=none",
        "hm.report_interval=1",
        &format!("hm.url=ws://127.0.0.1:{hub}/websocket"),
        &format!("core.url=ws://127.0.0.1:{core}/api/v1/ws"),
        &format!("state_dir={}", state_dir.0.display()),
    ] {
        command.args(["-s", setting]);
    }
    Agent::spawn(command)
}

#[test]
#[ignore = "needs python; takes two processors for 12 s"]
fn servers_that_mean_harm_cost_the_link_and_nothing_else() {
    let scenes: Vec<_> = KINDS.iter().map(|kind| Scene::new(kind)).collect();
    let start = Instant::now();
    pass(HARM);
    let survivors: Vec<_> = scenes.into_iter().map(|scene| scene.judge(start)).collect();
    std::thread::scope(|scope| {
        survivors.into_iter().for_each(|survivor| drop(scope.spawn(|| survivor.go_on())));
    });
}
