//! Mains adapters and batteries, from `/sys/class/power_supply` (kernel `Documentation/ABI/testing/sysfs-class-power`). The power
//! supplies of servers are behind the management controller and not there.

use crate::collector::host_files::HostFiles;
use crate::collector::node::limit;
use crate::model::node::Measurement;
use crate::model::node::power_supply::{PowerSupplies, PowerSupply};
use crate::util::text::parse_signed;

/// Wireless mice and headsets have batteries too.
const MAX_SUPPLIES: usize = 64;
/// The class has some 80.
const MAX_ATTRIBUTES: usize = 128;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let mut names = host.names(&host.sys("class/power_supply"), "");
    let mut supplies = PowerSupplies::default();
    limit(&mut names, MAX_SUPPLIES, &mut supplies.truncated);
    supplies.supplies = names.into_iter().map(|name| read_supply(host, name)).collect();
    (!supplies.supplies.is_empty()).then_some(Measurement::PowerSupplies(supplies))
}

/// A battery that is not in place refuses to be read.
fn read_supply(host: &mut HostFiles, name: String) -> PowerSupply {
    let path = host.sys("class/power_supply").join(&name);
    let mut supply = PowerSupply { name, values: Vec::new(), texts: Vec::new() };
    let mut attributes = host.names(&path, "");
    attributes.truncate(MAX_ATTRIBUTES);
    for attribute in attributes {
        let Some(text) = host.line(&path.join(&attribute)) else { continue };
        supply.values.extend(parse_signed(text.as_bytes()).map(|value| (attribute.clone(), value)));
        supply.texts.push((attribute, text));
    }
    supply
}
