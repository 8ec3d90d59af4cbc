//! The clients of many agents report for a while to a hub that is killed, stopped, frozen, and out of disk space.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hm_agent::sys;

use crate::support::full_disk::FullDisk;
use crate::support::hm_clients::HmClients;
use crate::support::hub::{Hub, backup_command, stored};
use crate::support::netns::taken;
use crate::support::rng::Rng;
use crate::support::{TempDir, reserve_address, sleep_for};

/// Time to deliver what was kept during the last fault. After a freeze, a client may wait for an answer (20 s) and then for its next
/// attempt (60 s).
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(180);

/// The environment variable `name`; `default` is for a short test.
fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

struct Fleet<'a> {
    disk: &'a FullDisk,
    state: &'a TempDir,
    address: SocketAddr,
    /// `None` while it is down.
    hub: Option<Hub>,
    rng: Rng,
}

impl Fleet<'_> {
    fn start_hub(&mut self) {
        let command = Hub::command(self.state, &self.address.to_string(), &[]);
        self.hub = Some(Hub::spawn(self.disk.run_inside(&command)));
    }

    fn hub(&self) -> &Hub {
        self.hub.as_ref().unwrap()
    }

    fn sleep_up_to(&mut self, limit: Duration) {
        sleep_for(Duration::from_millis(self.rng.below(limit.as_millis() as u64)));
    }

    fn inject_fault(&mut self) {
        match self.rng.below(4) {
            0 => {
                println!("kill");
                self.hub.take().unwrap().kill();
                self.sleep_up_to(Duration::from_secs(3));
                self.start_hub();
            }
            1 => {
                println!("stop");
                self.hub.take().unwrap().stop();
                self.sleep_up_to(Duration::from_secs(3));
                self.start_hub();
            }
            2 => {
                println!("freeze");
                self.hub().signal("-STOP");
                // Sometimes longer than clients wait for an answer.
                self.sleep_up_to(Duration::from_secs(25));
                self.hub().signal("-CONT");
            }
            _ => {
                println!("full disk");
                self.disk.fill();
                self.sleep_up_to(Duration::from_secs(5));
                self.disk.empty();
            }
        }
    }
}

#[test]
#[ignore = "needs root; half a minute, ten in tests/soak/run hub"]
fn every_report_is_stored_once_whatever_happens_to_the_hub() {
    sys::raise_descriptor_limit().unwrap();
    let nodes = variable("HM_HUB_NODES", 20) as usize;
    let time = Duration::from_secs(variable("HM_SOAK_SECONDS", 20));
    let (disk, clients_state) = (FullDisk::of_mebibytes(64), TempDir::new("fleet"));
    let state = TempDir(disk.directory.0.join("state"));
    let rng = Rng::new();
    println!("{nodes} nodes, HM_SEED={}", rng.seed);
    let mut fleet =
        Fleet { disk: &disk, state: &state, address: reserve_address(), hub: None, rng };
    fleet.start_hub();
    let clients = HmClients::new(fleet.address, nodes, Duration::from_secs(1), &clients_state);
    let mut reports = vec![BTreeSet::new(); nodes];
    // An agent's journal keeps delivered reports for a few minutes only.
    let read_journals = |reports: &mut Vec<BTreeSet<i64>>| {
        for (number, reports) in reports.iter_mut().enumerate() {
            let journal = taken(&clients_state.0.join(number.to_string()));
            reports.extend(journal.iter().map(|at| *at as i64));
        }
    };
    std::thread::scope(|scope| {
        let _running = clients.start(scope);
        let start = Instant::now();
        while start.elapsed() < time {
            fleet.sleep_up_to(Duration::from_secs(10));
            fleet.inject_fault();
            read_journals(&mut reports);
        }
        let over = Instant::now();
        loop {
            // What is in the journals now is stored when nothing is left to deliver afterwards.
            read_journals(&mut reports);
            if clients.have_delivered() {
                break;
            }
            assert!(over.elapsed() < DELIVERY_TIMEOUT, "{:#?}", fleet.hub().log());
            sleep_for(Duration::from_millis(20));
        }
        println!("all delivered {:.1?} after the last fault", over.elapsed());
    });
    let delivered = reports.clone();
    read_journals(&mut reports);
    let copy = TempDir::new("hub-copy");
    let backup = disk.run_inside(&backup_command(&state, &copy)).output().unwrap();
    assert!(backup.status.success(), "{backup:?}");
    for (number, (delivered, taken)) in delivered.into_iter().zip(reports).enumerate() {
        let found = stored(&copy, &format!("n{number}"));
        let once: BTreeSet<i64> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "n{number}: a report is stored twice");
        let lost: Vec<_> = delivered.difference(&once).collect();
        assert!(lost.is_empty(), "n{number}: {lost:?}");
        let unknown: Vec<_> = once.difference(&taken).collect();
        assert!(unknown.is_empty(), "n{number}: {unknown:?}");
        let enough = time.as_secs() * 3 / 4;
        assert!(once.len() as u64 >= enough, "n{number}: {} reports", once.len());
    }
    fleet.hub.take().unwrap().stop();
}
