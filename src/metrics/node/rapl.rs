//! Energy of processors: the collector rapl.

use std::collections::BTreeMap;

use crate::metrics::encoder::{Encoder, Number, labels};
use crate::model::node::rapl::{Rapl, RaplZone};
use crate::util::text::sanitize_name;

pub(super) fn encode(encoder: &mut Encoder, rapl: &Rapl) {
    let mut families: BTreeMap<String, Vec<&RaplZone>> = BTreeMap::new();
    for zone in &rapl.zones {
        families.entry(sanitize_name(&zone.name)).or_default().push(zone);
    }
    for (name, zones) in families {
        let name = format!("node_rapl_{name}_joules_total");
        encoder.counter(&name, "Energy used, in joules; starts again at 0 after an overflow.");
        for zone in zones {
            let path = format!("/sys/class/powercap/{}", zone.directory);
            let labels = labels(&[("index", &zone.index.to_string()), ("path", &path)]);
            encoder.sample(&labels, Number::Decimal(zone.energy_microjoules, 6));
        }
    }
}
