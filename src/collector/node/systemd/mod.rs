//! States of systemd's units, and how often it has restarted services, from systemd itself over the system bus (D-Bus): no file has
//! them.
//!
//! The client is part of the agent, because the crates that exist for D-Bus bring an asynchronous runtime (zbus), a C library (dbus),
//! or have not been maintained for years (rustbus), and this collector needs few of its types.

mod bus;
pub mod message;
pub mod units;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::collector::host_files::{HostFiles, is_absent};
use crate::collector::node::Collector;
use crate::collector::node::systemd::bus::{Bus, CallError};
use crate::collector::node::systemd::message::{MethodCall, Value};
use crate::collector::node::systemd::units::{ListedUnit, Listing, Services};
use crate::model::node::Measurement;
use crate::model::node::systemd::{SocketConnections, Systemd, Unit};
use crate::util::error::Error;

/// Shorter than `STUCK_TIMEOUT`, so that a systemd that hangs does not cost the worker's thread. It responds within milliseconds unless it is frozen or stopped.
const RUN_TIMEOUT: Duration = Duration::from_secs(2);

/// Each has five series. Servers have 100 to 300 beside those that are left out.
const MAX_UNITS: usize = 512;

/// Services that are queried in one run. This limits the load on PID 1.
const MAX_SERVICES_PER_RUN: usize = 128;

/// Sockets and timers whose properties are queried, of each kind. Servers have about 15.
const MAX_SOCKETS: usize = 64;
const MAX_TIMERS: usize = 64;

/// Errors of a bus to which systemd is not connected.
const ABSENT: [&str; 2] =
    ["org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.ServiceUnknown"];

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

const LIST_UNITS: MethodCall<'static> = MethodCall {
    destination: DESTINATION,
    path: MANAGER_PATH,
    interface: MANAGER,
    member: "ListUnits",
    arguments: &[],
};

#[derive(Default)]
pub(super) struct SystemdCollector {
    bus: Option<Bus>,
    services: Services,
}

impl Collector for SystemdCollector {
    fn collect(&mut self, host: &mut HostFiles) -> Option<Measurement> {
        let path = host.root("run/dbus/system_bus_socket");
        let deadline = Instant::now() + RUN_TIMEOUT;
        let listing = match self.list_units(&path, deadline) {
            Ok(listing) => listing?,
            Err(error) => {
                self.bus = None;
                host.fail(Error::system("list the units of systemd", error));
                return None;
            }
        };
        let mut systemd = Systemd { units_by_state: listing.by_state, ..Systemd::default() };
        let units = select(listing.units, &mut systemd);
        if let Err(error) = self.query(&units, &mut systemd) {
            self.bus = None;
            host.fail(Error::system("query the units of systemd", error));
        }
        Some(Measurement::Systemd(systemd))
    }
}

impl SystemdCollector {
    /// `None`: there is no bus, or systemd is not connected to it.
    fn list_units(&mut self, path: &Path, deadline: Instant) -> io::Result<Option<Listing>> {
        if let Some(bus) = &mut self.bus {
            bus.set_deadline(deadline);
            match list_units(bus) {
                // The bus may have been restarted.
                Err(CallError::Io(error)) if error.kind() != io::ErrorKind::TimedOut => {}
                result => return present(result),
            }
        }
        self.bus = None;
        let mut bus = match Bus::connect(path, deadline) {
            Err(CallError::Io(error)) if is_absent(error.raw_os_error()) => return Ok(None),
            result => result.map_err(into_io)?,
        };
        let listing = present(list_units(&mut bus))?;
        self.bus = listing.is_some().then_some(bus);
        Ok(listing)
    }

    /// Adds the units and the properties of systemd. After an error, those of the units are incomplete.
    fn query(&mut self, units: &[ListedUnit], systemd: &mut Systemd) -> io::Result<()> {
        let mut details = Details::default();
        let result = self.query_all(units, systemd, &mut details);
        let unit = |listed: &ListedUnit| {
            let service = self.services.get(&listed.name);
            let service_type = service.and_then(|service| service.service_type.clone());
            Unit {
                name: listed.name.clone(),
                active_state: listed.active_state.clone(),
                service_type: service_type.unwrap_or_default(),
                restarts: service.and_then(|service| service.restarts),
                connections: details.connections.get(&listed.name).copied(),
                last_trigger_microseconds: details.last_triggers.get(&listed.name).copied(),
            }
        };
        systemd.units = units.iter().map(unit).collect();
        result
    }

    fn query_all(
        &mut self,
        units: &[ListedUnit],
        systemd: &mut Systemd,
        details: &mut Details,
    ) -> io::Result<()> {
        let Self { bus: Some(bus), services } = self else { return Ok(()) };
        systemd.version = text(bus, MANAGER_PATH, MANAGER, "Version")?;
        systemd.system_state = text(bus, MANAGER_PATH, MANAGER, "SystemState")?;
        for unit in services.next(units, MAX_SERVICES_PER_RUN) {
            let interface = "org.freedesktop.systemd1.Service";
            let service_type = match services.has_changed(unit) {
                true => text(bus, &unit.path, interface, "Type")?,
                false => None,
            };
            let restarts = number(bus, &unit.path, interface, "NRestarts")?;
            services.set(unit, service_type, restarts);
        }
        for unit in of_kind(units, ".socket", MAX_SOCKETS, systemd) {
            let mut count = |name| number(bus, &unit.path, "org.freedesktop.systemd1.Socket", name);
            let connections = SocketConnections {
                accepted: count("NAccepted")?,
                current: count("NConnections")?,
                refused: count("NRefused")?,
            };
            details.connections.insert(unit.name.clone(), connections);
        }
        for unit in of_kind(units, ".timer", MAX_TIMERS, systemd) {
            let interface = "org.freedesktop.systemd1.Timer";
            if let Some(time) = number(bus, &unit.path, interface, "LastTriggerUSec")? {
                details.last_triggers.insert(unit.name.clone(), time);
            }
        }
        Ok(())
    }
}

/// Properties of units other than services, by name.
#[derive(Default)]
struct Details {
    connections: BTreeMap<String, SocketConnections>,
    last_triggers: BTreeMap<String, u64>,
}

/// The units that are shown. If there are too many, those that failed or change their state come first.
fn select(mut units: Vec<ListedUnit>, systemd: &mut Systemd) -> Vec<ListedUnit> {
    if units.len() > MAX_UNITS {
        systemd.truncated = units.len() - MAX_UNITS;
        units.sort_by_key(ListedUnit::is_settled);
        units.truncate(MAX_UNITS);
        units.sort_by(|a, b| a.name.cmp(&b.name));
    }
    units
}

/// The first `max` units of a kind. The others are counted.
fn of_kind<'a>(
    units: &'a [ListedUnit],
    kind: &str,
    max: usize,
    systemd: &mut Systemd,
) -> Vec<&'a ListedUnit> {
    let of_kind = units.iter().filter(|unit| unit.name.ends_with(kind));
    let mut of_kind: Vec<&ListedUnit> = of_kind.collect();
    systemd.truncated += of_kind.len().saturating_sub(max);
    of_kind.truncate(max);
    of_kind
}

fn list_units(bus: &mut Bus) -> Result<Listing, CallError> {
    Ok(units::parse(bus.call(&LIST_UNITS, units::SIGNATURE)?)?)
}

fn present(result: Result<Listing, CallError>) -> io::Result<Option<Listing>> {
    match result {
        Err(CallError::Returned(name)) if ABSENT.contains(&&*name) => Ok(None),
        result => result.map(Some).map_err(into_io),
    }
}

fn into_io(error: CallError) -> io::Error {
    match error {
        CallError::Io(error) => error,
        CallError::Returned(name) => io::Error::other(name),
    }
}

fn text(bus: &mut Bus, path: &str, interface: &str, name: &str) -> io::Result<Option<String>> {
    property(bus, path, interface, name, |value| match value {
        Value::Text(text) => Some(text.to_owned()),
        Value::Number(_) => None,
    })
}

fn number(bus: &mut Bus, path: &str, interface: &str, name: &str) -> io::Result<Option<u64>> {
    property(bus, path, interface, name, |value| match value {
        Value::Number(number) => Some(number),
        Value::Text(_) => None,
    })
}

/// `None` if this version of systemd does not have the property, or if the unit has gone.
fn property<T>(
    bus: &mut Bus,
    path: &str,
    interface: &str,
    name: &str,
    convert: impl Fn(Value<'_>) -> Option<T>,
) -> io::Result<Option<T>> {
    let call = MethodCall {
        destination: DESTINATION,
        path,
        interface: "org.freedesktop.DBus.Properties",
        member: "Get",
        arguments: &[interface, name],
    };
    let value = bus.call(&call, "v").and_then(|mut reply| Ok(convert(reply.variant()?)));
    match value {
        Err(CallError::Returned(_)) => Ok(None),
        value => value.map_err(into_io),
    }
}
