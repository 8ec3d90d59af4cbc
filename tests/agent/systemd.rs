//! The collector systemd, with a bus that misbehaves.

use std::time::{Duration, Instant};

use crate::support::TEST_TIMEOUT;
use crate::support::gpu_server::GpuServer;
use crate::support::gpu_server::bus::{self, Reply};
use crate::support::gpu_server::kernel::statvfs;
use crate::support::gpu_server::sources::{BUS, systemd};
use hm_agent::collector::sampler::Sampler;
use hm_agent::model::RawSample;
use hm_agent::model::node::Measurement;
use hm_agent::model::node::systemd::Systemd;

fn server(answer: impl Fn(&[u8]) -> Option<Reply> + Send + 'static) -> GpuServer {
    let server = GpuServer::new();
    server.remove(BUS);
    bus::serve(&server.path().join(BUS), answer);
    server
}

fn sampler(server: &GpuServer) -> Sampler {
    Sampler::new(server.roots(), &server.collectors(), statvfs)
}

/// What the collector has measured, and whether it succeeded; `None`: it has nothing to show.
fn result(sample: &RawSample) -> Option<(Option<Systemd>, bool)> {
    let status = sample.collectors.iter().find(|collector| collector.name == "systemd")?;
    let systemd = sample.measurements.iter().find_map(|measurement| match &**measurement {
        Measurement::Systemd(systemd) => Some(systemd.clone()),
        _ => None,
    });
    Some((systemd, status.success))
}

/// The result of the first run, also if that takes longer than the first sample waits.
fn first_result(server: &GpuServer) -> Option<(Option<Systemd>, bool)> {
    let mut sampler = sampler(server);
    let mut sample = sampler.collect_first(TEST_TIMEOUT).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while result(&sample).is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        sample = sampler.collect(None);
    }
    result(&sample)
}

fn has(call: &[u8], text: &str) -> bool {
    call.windows(text.len()).any(|part| part == text.as_bytes())
}

#[test]
fn machine_without_system_bus_has_no_series_and_no_failure() {
    let server = GpuServer::new();
    server.remove(BUS);
    assert_eq!(result(&sampler(&server).collect_first(TEST_TIMEOUT).unwrap()), None);
}

#[test]
fn bus_without_systemd_has_no_series_and_no_failure() {
    let server = server(|call| match has(call, "Hello") {
        true => Some(bus::unique_name()),
        false => Some(("!NameHasNoOwner", Vec::new())),
    });
    assert_eq!(result(&sampler(&server).collect_first(TEST_TIMEOUT).unwrap()), None);
}

#[test]
fn silent_bus_makes_only_its_collector_fail() {
    let server = server(|call| {
        if has(call, "ListUnits") {
            std::thread::sleep(Duration::from_secs(60));
        }
        systemd(call)
    });
    assert_eq!(first_result(&server), Some((None, false)));
}

#[test]
fn units_are_shown_when_their_properties_cannot_be_read() {
    let server = server(|call| if has(call, "NRestarts") { None } else { systemd(call) });
    let (systemd, success) = first_result(&server).unwrap();
    let systemd = systemd.unwrap();
    assert_eq!((systemd.units.len(), systemd.version.is_some(), success), (5, true, false));
    assert!(systemd.units.iter().all(|unit| unit.restarts.is_none()));
}

#[test]
fn malformed_reply_is_a_failure() {
    let garbage = server(|call| match has(call, "ListUnits") {
        true => Some(("a(ssssssouso)", vec![0xff; 64])),
        false => systemd(call),
    });
    assert_eq!(first_result(&garbage), Some((None, false)));
    let other =
        server(|call| if has(call, "ListUnits") { Some(bus::number(1)) } else { systemd(call) });
    assert_eq!(first_result(&other), Some((None, false)));
}

#[test]
fn limits_units_and_prefers_those_that_failed() {
    let server = server(|call| {
        if !has(call, "ListUnits") {
            return systemd(call);
        }
        let names: Vec<String> = (0..2000).map(|number| format!("a{number}.service")).collect();
        let running = |name| [name, "loaded", "active", "running"];
        let mut units: Vec<[&str; 4]> = names.iter().map(|name| running(name.as_str())).collect();
        units.push(["z.service", "loaded", "failed", "failed"]);
        Some(bus::units(&units))
    });
    let systemd = first_result(&server).unwrap().0.unwrap();
    assert_eq!((systemd.units.len(), systemd.truncated), (512, 1489));
    assert_eq!(systemd.units_by_state[1], ("active", 2000));
    assert_eq!(systemd.units[511].name, "z.service");
    let known = systemd.units.iter().filter(|unit| unit.restarts.is_some()).count();
    assert_eq!((known, systemd.units[511].restarts), (128, Some(41)));
}
