//! The reply of `ListUnits`, and which services are queried next. No I/O.

use std::collections::BTreeMap;

use crate::collector::node::systemd::message::{Malformed, Reader};

/// Types of the reply: name, description, load state, active state, sub state, followed unit, object path, then number, type and
/// path of the job.
pub const SIGNATURE: &str = "a(ssssssouso)";

/// The first of these states are shown also if no unit is in them.
const ALWAYS_SHOWN: usize = 5;
const STATES: [&str; 7] =
    ["activating", "active", "deactivating", "failed", "inactive", "maintenance", "reloading"];

/// Kinds that node_exporter leaves out, too.
const HIDDEN_KINDS: [&str; 5] = [".automount", ".device", ".mount", ".scope", ".slice"];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub by_state: Vec<(&'static str, u64)>,
    /// Units that are loaded, without those of [`HIDDEN_KINDS`], sorted by name.
    pub units: Vec<ListedUnit>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUnit {
    pub name: String,
    pub active_state: String,
    pub sub_state: String,
    /// Of its D-Bus object.
    pub path: String,
}

impl ListedUnit {
    /// Whether it will stay in its state, as far as systemd is concerned.
    pub fn is_settled(&self) -> bool {
        matches!(&*self.active_state, "active" | "inactive")
    }
}

pub fn parse(mut reader: Reader<'_>) -> Result<Listing, Malformed> {
    let mut counts = STATES.map(|state| (state, 0));
    let mut units = Vec::new();
    let end = reader.array_end()?;
    while reader.is_before(end) {
        reader.align(8)?;
        let (name, _description, load_state) = (reader.text()?, reader.text()?, reader.text()?);
        let (active_state, sub_state) = (reader.text()?, reader.text()?);
        let (_followed, path) = (reader.text()?, reader.text()?);
        let _job = (reader.number()?, reader.text()?, reader.text()?);
        if let Some((_, count)) = counts.iter_mut().find(|(state, _)| *state == active_state) {
            *count += 1;
        }
        if load_state == "loaded" && !HIDDEN_KINDS.iter().any(|kind| name.ends_with(kind)) {
            let [name, active_state, sub_state, path] =
                [name, active_state, sub_state, path].map(str::to_owned);
            units.push(ListedUnit { name, active_state, sub_state, path });
        }
    }
    units.sort_by(|a, b| a.name.cmp(&b.name));
    let (always, others) = counts.split_at(ALWAYS_SHOWN);
    let others = others.iter().filter(|(_, count)| *count > 0);
    Ok(Listing { by_state: always.iter().chain(others).copied().collect(), units })
}

/// What is known of a service beside its states.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    pub service_type: Option<String>,
    pub restarts: Option<u64>,
    /// When it was queried.
    sub_state: String,
    run: u64,
}

/// The services by name, with what is known of each.
#[derive(Debug, Default)]
pub struct Services {
    known: BTreeMap<String, Service>,
    run: u64,
}

impl Services {
    /// Returns the services that are queried in this run: first those that failed or change their state, then those that have
    /// changed it since they were queried, then the others in turn.
    pub fn next<'a>(&mut self, units: &'a [ListedUnit], max: usize) -> Vec<&'a ListedUnit> {
        self.run += 1;
        let services = units.iter().filter(|unit| unit.name.ends_with(".service"));
        let mut services: Vec<&ListedUnit> = services.collect();
        let listed = std::mem::take(&mut self.known);
        self.known = listed
            .into_iter()
            .filter(|(name, _)| {
                services.binary_search_by(|unit| unit.name.as_str().cmp(name)).is_ok()
            })
            .collect();
        services.sort_by_key(|unit| {
            let run = self.known.get(&unit.name).map_or(0, |known| known.run);
            (unit.is_settled(), !self.has_changed(unit), run)
        });
        services.truncate(max);
        services
    }

    /// Whether the state is another one than when the service was queried.
    pub fn has_changed(&self, unit: &ListedUnit) -> bool {
        self.known.get(&unit.name).is_none_or(|known| known.sub_state != unit.sub_state)
    }

    /// Stores what was queried; without `service_type`, that stays as it is.
    pub fn set(&mut self, unit: &ListedUnit, service_type: Option<String>, restarts: Option<u64>) {
        let known = self.known.entry(unit.name.clone()).or_default();
        known.service_type = service_type.or(known.service_type.take());
        known.restarts = restarts;
        known.sub_state.clone_from(&unit.sub_state);
        known.run = self.run;
    }

    pub fn get(&self, name: &str) -> Option<&Service> {
        self.known.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::node::systemd::message::Message;

    /// See `tests/fixtures/README.md`.
    const REAL: &[u8] = include_bytes!("../../../../tests/fixtures/systemd/list_units");

    fn parse_message(bytes: &[u8]) -> Result<Listing, Malformed> {
        parse(Message::decode(bytes)?.body(SIGNATURE)?)
    }

    #[test]
    fn parses_a_real_reply() {
        let listing = parse_message(REAL).unwrap();
        let states: Vec<u64> = listing.by_state.iter().map(|(_, count)| *count).collect();
        assert_eq!(states, [1, 13, 0, 1, 145]);
        let find = |name: &str| listing.units.iter().find(|unit| unit.name == name);
        let bad = find("bad.service").unwrap();
        assert_eq!((&*bad.active_state, &*bad.sub_state), ("failed", "failed"));
        assert_eq!(bad.path, "/org/freedesktop/systemd1/unit/bad_2eservice");
        assert!(find("run-shared.mount").is_none(), "left out");
        assert!(find("auditd.service").is_none(), "not found on this machine");
        assert!(listing.units.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn rejects_a_malformed_reply() {
        let body_at = REAL.len() - u32::from_le_bytes(REAL[4..8].try_into().unwrap()) as usize;
        for end in (body_at..REAL.len()).step_by(7) {
            let mut bytes = REAL[..end].to_vec();
            bytes[4..8].copy_from_slice(&((end - body_at) as u32).to_le_bytes());
            assert!(parse_message(&bytes).is_err(), "{end}");
        }
        for at in (0..REAL.len()).step_by(17) {
            let mut bytes = REAL.to_vec();
            bytes[at] ^= 0xff;
            let _ = parse_message(&bytes);
        }
    }

    fn unit(name: &str, active_state: &str, sub_state: &str) -> ListedUnit {
        let [name, active_state, sub_state] = [name, active_state, sub_state].map(str::to_owned);
        ListedUnit { name, active_state, sub_state, path: String::new() }
    }

    #[test]
    fn queries_changing_services_first_and_the_others_in_turn() {
        let mut services = Services::default();
        let mut units = vec![
            unit("a.service", "active", "running"),
            unit("b.service", "active", "running"),
            unit("c.service", "inactive", "dead"),
            unit("c.socket", "active", "listening"),
            unit("d.service", "failed", "failed"),
        ];
        let mut run = |units: &[ListedUnit]| {
            let next: Vec<ListedUnit> = services.next(units, 2).into_iter().cloned().collect();
            next.iter().for_each(|unit| services.set(unit, None, Some(1)));
            let known = services.known.len();
            (next.iter().map(|unit| unit.name.replace(".service", "")).collect::<String>(), known)
        };
        assert_eq!(run(&units), ("da".into(), 2), "d has failed");
        assert_eq!(run(&units), ("db".into(), 3));
        assert_eq!(run(&units), ("dc".into(), 4));
        assert_eq!(run(&units), ("da".into(), 4), "all are known");
        units[2] = unit("c.service", "active", "running");
        assert_eq!(run(&units), ("dc".into(), 4), "c has changed");
        assert_eq!(run(&units), ("db".into(), 4));
        units.truncate(1);
        assert_eq!(run(&units), ("a".into(), 1), "removed units are forgotten");
    }
}
