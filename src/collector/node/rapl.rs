//! Energy counters of processors, from `/sys/class/powercap` (kernel `Documentation/power/powercap/powercap.rst`). Since 2020 only root
//! can read them, because they reveal what other processes compute; zones that cannot be read are left out.

use std::collections::HashMap;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::rapl::{Rapl, RaplZone};
use crate::util::text::parse_decimal;

/// A processor has up to five.
const MAX_ZONES: usize = 128;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let parent = host.sys("class/powercap");
    let mut directories = host.names(&parent, "");
    directories.truncate(MAX_ZONES);
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut zones = Vec::new();
    for directory in directories {
        let path = parent.join(&directory);
        let Some(name) = host.line(&path.join("name")) else { continue };
        let (name, number) = split_name(&name);
        let index = number.unwrap_or_else(|| counts.get(name).copied().unwrap_or_default());
        counts.insert(name.to_owned(), index.saturating_add(1));
        let energy = host.line(&path.join("energy_uj"));
        let Some(energy_microjoules) = energy.and_then(|text| parse_decimal(text.as_bytes()))
        else {
            continue;
        };
        zones.push(RaplZone { directory, name: name.to_owned(), index, energy_microjoules });
    }
    (!zones.is_empty()).then_some(Measurement::Rapl(Rapl { zones }))
}

/// `package-1` is package 1; `dram` and `package-0-die-1` have no number of their own.
fn split_name(name: &str) -> (&str, Option<u64>) {
    match name.split_once('-') {
        Some((first, number)) => match parse_decimal(number.as_bytes()) {
            Some(number) => (first, Some(number)),
            None => (name, None),
        },
        None => (name, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_number_from_name() {
        assert_eq!(split_name("package-10"), ("package", Some(10)));
        for name in ["dram", "package-0-die-1", "package-", "psys"] {
            assert_eq!(split_name(name), (name, None));
        }
    }
}
