//! Network interfaces and adapters. Real lines:
//!
//! ```text
//! mlx5_core 0000:1a:00.0 ens1f0np0: Link down
//! bnxt_en 0000:5e:00.0 eth0: NIC Link is Down
//! igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Down
//! bond0: (slave eth0): link status definitely down, disabling slave
//! bond1: link status definitely down for interface enp95s0f0, disabling it
//! NETDEV WATCHDOG: eth0 (mlx5_core): transmit queue 3 timed out
//! mlx5_core 0000:1a:00.0 eth0: NETDEV WATCHDOG: CPU: 12: transmit queue 3 timed out 5120 ms
//! mlx5_core 0000:5c:00.0: mlx5_pcie_event:301:(pid 268269): Detected insufficient power on the PCIe slot (27W).
//! mlx5_core 0000:d2:00.0: Port module event[error]: module 0, Cable error, High Temperature
//! mlx5_core 0000:1a:00.0: poll_health:739:(pid 0): device's health compromised - reached miss count
//! mlx5_core 0000:1a:00.0: print_health_info:391:(pid 0): assert_var[0] 0x00000001
//! ```

use super::{KernelEvent, of_pci_device, word};
use crate::model::event::{EventKind, EventSeverity};

const WATCHDOG: &str = "NETDEV WATCHDOG: ";
/// How messages on the state of a link begin, in lower case, behind the names of driver and interface.
const DOWN: [&str; 3] = ["nic link is down", "link is down", "link down"];
const UP: [&str; 3] = ["nic link is up", "link is up", "link up"];

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    if let Some(rest) = text.strip_prefix(WATCHDOG) {
        return rest.contains(" timed out").then(|| watchdog(word(rest)));
    }
    if text.starts_with("bond") || text.contains(" link status definitely ") {
        return bond(text);
    }
    let driver = text.split(' ').next()?;
    let (address, rest) = of_pci_device(text, driver)?;
    if driver == "mlx5_core"
        && let Some(class) = adapter_failure(rest)
    {
        let event = KernelEvent::new(EventKind::NetworkHardware, EventSeverity::Warning, address);
        return Some(event.class(class));
    }
    let (interface, message) = rest.split_once(": ")?;
    if interface.contains(' ') {
        return None;
    }
    if message.starts_with(WATCHDOG) && message.contains(" timed out") {
        return Some(watchdog(interface));
    }
    link(interface, message)
}

fn link(interface: &str, message: &str) -> Option<KernelEvent> {
    // The igb driver repeats its name and that of the interface.
    let message = message.split_once(": ").map_or(message, |(_, message)| message);
    let message = message.strip_prefix(interface).unwrap_or(message).trim_start();
    let message = message.to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|words| message.starts_with(words));
    let (severity, class) = if begins(&DOWN) {
        (EventSeverity::Warning, "down")
    } else if begins(&UP) {
        (EventSeverity::Info, "up")
    } else {
        return None;
    };
    Some(KernelEvent::new(EventKind::NetworkLink, severity, interface).class(class))
}

fn bond(text: &str) -> Option<KernelEvent> {
    let (bond, message) = text.split_once(": ")?;
    if bond != word(bond) {
        return None;
    }
    let (interface, message) = match message.strip_prefix("(slave ") {
        Some(rest) => rest.split_once("): ")?,
        None => (message.split_once(" for interface ").map_or("", |(_, name)| word(name)), message),
    };
    let state = message.strip_prefix("link status definitely ")?;
    let (severity, class) = match word(state) {
        "down" => (EventSeverity::Warning, "down"),
        "up" => (EventSeverity::Info, "up"),
        _ => return None,
    };
    let subject = format!("{bond} {interface}");
    Some(KernelEvent::new(EventKind::NetworkLink, severity, subject).class(class))
}

fn watchdog(interface: &str) -> KernelEvent {
    KernelEvent::new(EventKind::NetworkHardware, EventSeverity::Warning, interface).class("queue")
}

fn adapter_failure(rest: &str) -> Option<&'static str> {
    const FAILURES: [(&str, &str); 4] = [
        ("Detected insufficient power on the PCIe slot", "power"),
        ("Port module event[error]: ", "module"),
        ("device's health compromised", "health"),
        ("assert_var[0] ", "firmware"),
    ];
    // Most have the function, line and process in front.
    let (before, after) = rest.split_once("): ").unwrap_or(("", rest));
    let message = if before.contains(":(pid ") { after } else { rest };
    let found = FAILURES.iter().find(|(words, _)| message.starts_with(words));
    found.map(|(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_interfaces_whose_link_changes() {
        let (kind, down) = ("network_link", "warning");
        assert_events(
            classify,
            &[
                ("mlx5_core 0000:1a:00.0 ens1f0np0: Link down", kind, down, "ens1f0np0"),
                ("mlx5_core 0000:1a:00.0 ens1f0np0: Link up", kind, "info", "ens1f0np0"),
                ("bnxt_en 0000:5e:00.0 eth0: NIC Link is Down", kind, down, "eth0"),
                (
                    "bnxt_en 0000:5e:00.0 eth0: NIC Link is Up, 25000 Mbps full duplex",
                    kind,
                    "info",
                    "eth0",
                ),
                ("igb 0000:01:00.0 eth0: igb: eth0 NIC Link is Down", kind, down, "eth0"),
                ("tg3 0000:01:00.0 eno1: Link is down", kind, down, "eno1"),
                (
                    "bond0: (slave eth0): link status definitely down, disabling slave",
                    kind,
                    down,
                    "bond0 eth0",
                ),
                (
                    "bond1: link status definitely down for interface enp95s0f0, disabling it",
                    kind,
                    down,
                    "bond1 enp95s0f0",
                ),
                (
                    "bond0: (slave eth1): link status definitely up, 40000 Mbps full duplex",
                    kind,
                    "info",
                    "bond0 eth1",
                ),
            ],
        );
    }

    #[test]
    fn finds_failing_adapters() {
        let (kind, severity) = ("network_hardware", "warning");
        assert_events(
            classify,
            &[
                (
                    "NETDEV WATCHDOG: eth0 (mlx5_core): transmit queue 3 timed out",
                    kind,
                    severity,
                    "eth0",
                ),
                (
                    "mlx5_core 0000:1a:00.0 eth0: NETDEV WATCHDOG: CPU: 12: transmit queue 3 timed out 5120 ms",
                    kind,
                    severity,
                    "eth0",
                ),
                (
                    "mlx5_core 0000:5c:00.0: mlx5_pcie_event:301:(pid 268269): Detected insufficient power on the PCIe slot (27W).",
                    kind,
                    severity,
                    "0000:5c:00.0",
                ),
                (
                    "mlx5_core 0000:d2:00.0: Port module event[error]: module 0, Cable error, High Temperature",
                    kind,
                    severity,
                    "0000:d2:00.0",
                ),
                (
                    "mlx5_core 0000:1a:00.0: poll_health:739:(pid 0): device's health compromised - reached miss count",
                    kind,
                    severity,
                    "0000:1a:00.0",
                ),
                (
                    "mlx5_core 0000:1a:00.0: print_health_info:391:(pid 0): assert_var[0] 0x00000001",
                    kind,
                    severity,
                    "0000:1a:00.0",
                ),
            ],
        );
    }

    #[test]
    fn ignores_other_lines() {
        assert_none(
            classify,
            &[
                "mlx5_core 0000:1a:00.0: mlx5_cmd_out_err:838:(pid 1): ACCESS_REG(0x805) op_mod(0x1) failed, status bad parameter(0x3), syndrome (0x15c356), err(-22)",
                "mlx5_core 0000:1a:00.0: Port module event: module 0, Cable plugged",
                "mlx5_core 0000:1a:00.0: firmware version: 28.39.1002",
                "ata1: SATA link down (SStatus 0 SControl 300)",
                "bond0: (slave eth0): making interface the new active one",
                "bonding: bond0 is being created...",
                "e1000e 0000:00:1f.6 eno1: renamed from eth0",
                "IPv6: ADDRCONF(NETDEV_CHANGE): eth0: link becomes ready",
                "br0: port 4(s2) entered blocking state",
            ],
        );
    }
}
