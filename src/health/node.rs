//! Conditions of storage, memory, clock, network and services of a node.

use crate::health::conditions::{Condition, count_of, critical, warning, with_message};
use crate::health::nvidia::FABRIC_MANAGER;
use crate::model::finding::{Action, Component};
use crate::model::gpu::{Gpu, Gpus};
use crate::model::health_problem::Severity;
use crate::model::node::Measurement;
use crate::model::node::edac::Edac;
use crate::model::node::infiniband::{Infiniband, InfinibandPort};
use crate::model::node::mdadm::Mdadm;
use crate::model::node::systemd::{Systemd, Unit};
use crate::model::nvidia::FabricState;
use crate::model::{FailedFileSystem, FileSystem, RawSample};

/// From these shares of used space on, a filesystem is nearly full, and full.
const WARNING_USED_PERCENT: f64 = 90.0;
const CRITICAL_USED_PERCENT: f64 = 97.0;
/// State of an InfiniBand port that works.
const ACTIVE: u64 = 4;
/// A port may go down for a moment.
const PORT_HOLD_S: u64 = 240;
/// A time daemon needs minutes after a start.
const CLOCK_HOLD_S: u64 = 3600;
/// A mount may not respond for a moment.
const MOUNT_HOLD_S: u64 = 60;
/// Mounts of containers and other users may be closed to the agent.
const NO_PERMISSION: &str = "permission denied";
/// A unit that is started again may fail in between.
const UNIT_HOLD_S: u64 = 60;
/// Units that tell the kernel whether its clock is synchronized.
const TIME_DAEMONS: [&str; 6] = ["chronyd", "chrony", "ntpd", "ntp", "ntpsec", "systemd-timesyncd"];
/// Units without which GPUs do not work, and whether nothing works without them.
const UNITS: [(&str, bool); 4] = [
    (FABRIC_MANAGER, true),
    ("nvidia-imex", true),
    ("nvidia-persistenced", false),
    ("nvidia-dcgm", false),
];

/// `expected_ports`: number of InfiniBand ports of a healthy node. `worked`: names of the ports and services that have been active.
pub fn conditions(
    sample: &RawSample,
    expected_ports: Option<u64>,
    worked: &mut Vec<String>,
) -> Vec<Condition> {
    let mut found: Vec<Condition> = sample.file_systems.iter().filter_map(full).collect();
    let failed = sample.file_systems_failed.iter();
    found.extend(failed.filter(|it| it.reason != NO_PERMISSION).map(unreadable));
    // Without the driver, there is no measurement.
    let mut active_ports = 0;
    for measurement in &sample.measurements {
        match &**measurement {
            Measurement::Mdadm(raid) => found.extend(degraded(raid)),
            Measurement::Edac(edac) => found.extend(uncorrectable(edac)),
            Measurement::Timex(clock) if !clock.is_synchronized => {
                found.extend(time_daemon(sample).map(unsynchronized));
            }
            Measurement::Infiniband(infiniband) => {
                found.extend(ports_down(infiniband, worked));
                active_ports = infiniband.ports.iter().filter(|port| is_active(port)).count();
            }
            Measurement::Systemd(systemd) => {
                found.extend(failed_units(systemd, has_fabric(&sample.gpus), worked));
            }
            _ => {}
        }
    }
    found.extend(expected_ports.and_then(|expected| missing(active_ports, expected)));
    found
}

fn full(file_system: &FileSystem) -> Option<Condition> {
    if file_system.read_only {
        return None;
    }
    let files = file_system.files as f64;
    let inodes = 100.0 * (files - file_system.files_free as f64) / files.max(1.0);
    let bytes = file_system.used_percent().unwrap_or_default();
    let (used, what) =
        if inodes > bytes { (inodes, "of the inodes used") } else { (bytes, "full") };
    let found = match used {
        CRITICAL_USED_PERCENT.. => {
            critical(Component::FileSystem, "full", format!("{used:.0} % {what}"))
        }
        WARNING_USED_PERCENT.. => {
            warning(Component::FileSystem, "full", format!("{used:.0} % {what}"))
        }
        _ => return None,
    };
    Some(found.of(&*file_system.mount_point))
}

/// A filesystem of a dead server, or of a broken disk.
fn unreadable(failed: &FailedFileSystem) -> Condition {
    let text = with_message("cannot be read", Some(&failed.reason));
    let found = warning(Component::FileSystem, "unreadable", text).evidence(&*failed.device);
    found.of(&*failed.mount_point).held_for(MOUNT_HOLD_S)
}

/// The time daemon that runs. Without one, the hypervisor may set the clock; daemons of PTP do not tell the kernel.
fn time_daemon(sample: &RawSample) -> Option<&'static str> {
    let systemd = sample.measurements.iter().find_map(|measurement| match &**measurement {
        Measurement::Systemd(systemd) => Some(systemd),
        _ => None,
    })?;
    let is_active = |name: &&&str| {
        let unit =
            systemd.units.iter().find(|unit| unit.name.strip_suffix(".service") == Some(**name));
        unit.is_some_and(|unit| unit.active_state == "active")
    };
    TIME_DAEMONS.iter().find(is_active).copied()
}

fn unsynchronized(daemon: &str) -> Condition {
    let text = "the clock is not synchronized";
    warning(Component::Clock, "sync", text).restart(daemon).held_for(CLOCK_HOLD_S)
}

fn degraded(raid: &Mdadm) -> impl Iterator<Item = Condition> {
    let lacking = raid.members.iter().filter_map(|array| Some((array, array.degraded_disks?)));
    lacking.filter(|(_, disks)| *disks > 0).map(|(array, disks)| {
        let text = format!("the array lacks {}", count_of(disks, "disk"));
        let found = critical(Component::Disk, "raid", text).of(&*array.device);
        found.action(Action::InspectHardware)
    })
}

fn uncorrectable(edac: &Edac) -> impl Iterator<Item = Condition> {
    let counts = edac.controllers.iter().filter_map(|it| Some((it, it.errors.uncorrectable?)));
    counts.filter(|(_, count)| *count > 0).map(|(controller, count)| {
        let text = count_of(count, "uncorrected memory error");
        let found = critical(Component::Memory, "ecc", text);
        found.of(format!("memory controller {}", controller.number)).action(Action::InspectHardware)
    })
}

fn ports_down<'a>(
    infiniband: &'a Infiniband,
    worked: &'a mut Vec<String>,
) -> impl Iterator<Item = Condition> + 'a {
    infiniband.ports.iter().filter_map(|port| {
        let name = format!("{} port {}", port.id.device, port.id.port);
        let was_up = worked.contains(&name);
        match is_active(port) {
            true if !was_up => worked.push(name),
            false if was_up => {
                let found = critical(Component::Infiniband, "down", "the port went down").of(name);
                return Some(found.action(Action::InspectHardware).held_for(PORT_HOLD_S));
            }
            _ => {}
        }
        None
    })
}

fn is_active(port: &InfinibandPort) -> bool {
    port.state.is_none_or(|state| state >= ACTIVE)
}

fn missing(count: usize, expected: u64) -> Option<Condition> {
    ((count as u64) < expected).then(|| {
        let text = format!("{count} of {} active", count_of(expected, "port"));
        let found = critical(Component::Infiniband, "missing", text);
        let found = found.evidence("health.expected_ib_ports").held_for(PORT_HOLD_S);
        found.action(Action::InspectHardware)
    })
}

/// Whether GPUs need the fabric manager.
fn has_fabric(gpus: &Gpus) -> bool {
    let state = |gpu: &Gpu| gpu.values.fabric.as_ref().and_then(|fabric| fabric.state);
    gpus.each.iter().filter_map(state).any(|state| state != FabricState::NotSupported)
}

/// A fabric manager that has not run on this node is not missed: in a virtual machine, and with the switches in another chassis, it runs
/// elsewhere. If it is needed here, the GPUs are not registered.
fn failed_units<'a>(
    systemd: &'a Systemd,
    has_fabric: bool,
    worked: &'a mut Vec<String>,
) -> impl Iterator<Item = Condition> + 'a {
    systemd.units.iter().filter_map(move |unit: &Unit| {
        let name = unit.name.strip_suffix(".service")?;
        let has_run = worked.iter().any(|known| known == name);
        if name == FABRIC_MANAGER && unit.active_state == "active" && !has_run {
            worked.push(name.to_owned());
        }
        let is_stopped = has_fabric && has_run && unit.active_state == "inactive";
        let what = match unit.active_state.as_str() {
            "failed" => "has failed",
            _ if is_stopped => "is stopped",
            _ => return None,
        };
        let (_, is_critical) = UNITS.iter().find(|(known, _)| *known == name)?;
        let severity = if *is_critical { Severity::Critical } else { Severity::Warning };
        let text = format!("the service {what}");
        let found = Condition::new(Component::Service, severity, "failed", text);
        Some(found.of(name).restart(name).held_for(UNIT_HOLD_S))
    })
}
