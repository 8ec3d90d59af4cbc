//! Units of systemd.

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Systemd {
    /// `252.39-1~deb12u2`.
    pub version: Option<String>,
    /// `running`, `degraded`, `starting`, …
    pub system_state: Option<String>,
    /// How many units are in each state, of all units that systemd has in memory.
    pub units_by_state: Vec<(&'static str, u64)>,
    /// Without those that other collectors or other units show: automounts, devices, mounts, scopes and slices.
    pub units: Vec<Unit>,
    /// Number of units that are not in `units`, or without some of their values, because there are too many.
    pub truncated: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// `nvidia-persistenced.service`.
    pub name: String,
    /// `active`, `activating`, `deactivating`, `failed`, `inactive`, `reloading` or `maintenance`.
    pub active_state: String,
    /// `simple`, `oneshot`, …; empty if it is not a service, or not known yet.
    pub service_type: String,
    /// How often `Restart=` has started the service again.
    pub restarts: Option<u64>,
    /// Of a socket.
    pub connections: Option<SocketConnections>,
    /// When a timer last started its unit, since 1970; 0: never.
    pub last_trigger_microseconds: Option<u64>,
}

/// `None`: this version of systemd does not count them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketConnections {
    pub accepted: Option<u64>,
    pub current: Option<u64>,
    pub refused: Option<u64>,
}
