//! Misbehaving servers at the other end of both upstreams, each kind with an agent of its own. Local clients are served, memory
//! stays bounded, and a correct server that takes over receives every report.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::attack::Attacker;
use crate::support::bystanders::{APP, Bystanders};
use crate::support::core::Core;
use crate::support::core_wire::TOKEN;
use crate::support::hm_server::HmServer;
use crate::support::netns::taken;
use crate::support::{Agent, TempDir, hm_agent, reserve_port, sleep_for, wait_until};

/// `SERVERS` in `tests/peers/flood.py`.
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
    "unread",
];
/// Longer than the handshake timeout.
const DURATION: Duration = Duration::from_secs(12);
/// The program without optimisation, a message of 4 MiB from each server, and what parsing it takes.
const MAX_MEMORY_KB: u64 = 48 << 10;

#[test]
#[ignore = "needs python; uses two CPUs for 12 s"]
fn misbehaving_servers_delay_only_their_own_connection() {
    let fixtures: Vec<_> = KINDS.iter().map(|kind| Fixture::new(kind)).collect();
    let start = Instant::now();
    sleep_for(DURATION);
    fixtures.iter().for_each(|fixture| fixture.assert_clients_served(start));
    std::thread::scope(|scope| {
        fixtures.into_iter().for_each(|fixture| drop(scope.spawn(|| fixture.replace_servers())));
    });
}

struct Fixture {
    kind: &'static str,
    state_dir: TempDir,
    agent: Agent,
    clients: Bystanders,
    ports: [u16; 2],
    servers: [Attacker; 2],
}

impl Fixture {
    fn new(kind: &'static str) -> Self {
        let ports = [reserve_port(), reserve_port()];
        let servers = ports.map(|port| Attacker::serve(kind, port));
        let state_dir = TempDir::new("servers");
        let agent = start_agent(&state_dir, ports);
        let clients = Bystanders::start(&agent, None);
        Self { kind, state_dir, agent, clients, ports, servers }
    }

    fn assert_clients_served(&self, start: Instant) {
        let (waits, kb) = (self.clients.since(start), self.agent.status("VmHWM"));
        self.clients.assert_all_served(&self.agent);
        println!("{}: clients {waits:.0?}; {kb} kB at most", self.kind);
        assert!(kb < MAX_MEMORY_KB, "{}: {kb} kB", self.kind);
        // Fourteen agents share the machine with as many pairs of servers.
        assert!(waits.update < waits.scaled(Duration::from_secs(4)), "{}: {waits:?}", self.kind);
    }

    fn replace_servers(self) {
        let Self { kind, state_dir, agent, clients, ports, servers } = self;
        for server in servers {
            assert!(server.finish()["connections"] > 0, "{kind}");
        }
        clients.stop();
        assert_eq!(agent.count_log(&format!("[{APP}] is ")), 0, "{:#?}", agent.log());
        // Invalid messages are logged at a limited rate, one a second and some at once.
        let max_lines = 40 + 2 * agent.started.elapsed().as_secs() as usize;
        let log = agent.stop();
        assert!(log.len() < max_lines, "{kind}: {log:#?}");
        let queued: BTreeSet<u64> = taken(&state_dir.0).into_iter().collect();
        assert!(queued.len() >= 5, "{kind}: {} reports", queued.len());
        let hub = HmServer::on(([127, 0, 0, 1], ports[0]).into(), true, Duration::from_secs(30));
        let _core = Core::on(([127, 0, 0, 1], ports[1]).into());
        let agent = start_agent(&state_dir, ports);
        agent.wait_log(" registered as ");
        wait_until("all reports", || {
            let delivered: BTreeSet<u64> = hub.reports().into_iter().collect();
            queued.is_subset(&delivered).then_some(())
        });
        agent.stop();
    }
}

fn start_agent(state_dir: &TempDir, [hub, core]: [u16; 2]) -> Agent {
    let mut command = hm_agent();
    // glibc gives each thread a heap of its own and keeps what is free in it.
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
