//! The collectors that do not run: the setting `collectors.disable`.

use crate::collector::node::COLLECTORS;

/// Collectors beside those of [`COLLECTORS`] that may be disabled.
const OPTIONAL: [&str; 10] = [
    "diskstats",
    "filefd",
    "filesystem",
    "hwmon",
    "loadavg",
    "netclass",
    "netdev",
    "pressure",
    "thermal_zone",
    "vmstat",
];

/// `/usage` and the health check need their values. `zoneinfo` is read where the kernel has no `MemAvailable`.
const REQUIRED: [&str; 5] = ["cpu", "meminfo", "stat", "uptime", "zoneinfo"];

/// Names of collectors, as in `node_scrape_collector_success`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisabledCollectors(Vec<&'static str>);

impl DisabledCollectors {
    /// Fails if a name is not that of a collector that may be disabled.
    pub fn new(names: &[String]) -> Result<Self, String> {
        names.iter().map(|name| find(name)).collect::<Result<_, _>>().map(Self)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(&name)
    }
}

fn find(name: &str) -> Result<&'static str, String> {
    if REQUIRED.contains(&name) {
        return Err(format!("{name} cannot be disabled, because /usage needs it"));
    }
    let known = OPTIONAL.into_iter().chain(COLLECTORS.iter().map(|entry| entry.name));
    let mut known: Vec<&str> = known.filter(|each| !REQUIRED.contains(each)).collect();
    known.sort_unstable();
    // Two collectors of some names run at different paces.
    known.dedup();
    let found = known.iter().find(|each| **each == name).copied();
    found.ok_or_else(|| {
        format!("there is no collector \"{}\"; known are {}", name.escape_debug(), known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(names: &[&str]) -> Result<DisabledCollectors, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        DisabledCollectors::new(&names)
    }

    #[test]
    fn accepts_every_collector_that_usage_does_not_need() {
        let disabled = parse(&["conntrack", "hwmon"]).unwrap();
        assert!(disabled.contains("conntrack") && disabled.contains("hwmon"));
        assert!(!disabled.contains("netdev"));
        assert_eq!(parse(&[]).unwrap(), DisabledCollectors::default());
        assert_eq!(
            parse(&["netdev", "stat"]).unwrap_err(),
            "stat cannot be disabled, because /usage needs it"
        );
    }

    #[test]
    fn error_lists_the_known_collectors() {
        let error = parse(&["con\ntrack"]).unwrap_err();
        assert!(error.starts_with("there is no collector \"con\\ntrack\"; known are "), "{error}");
        let (_, known) = error.rsplit_once(" are ").unwrap();
        let known: Vec<&str> = known.split(", ").collect();
        assert!(known.contains(&"conntrack") && known.contains(&"vmstat"), "{error}");
        assert!(known.is_sorted_by(|a, b| a < b), "{error}");
        assert!(parse(&known).is_ok());
    }
}
