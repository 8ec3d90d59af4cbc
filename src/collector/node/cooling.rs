//! Cooling devices (kernel `Documentation/driver-api/thermal/sysfs-api.rst`), which node_exporter has in its collector thermal_zone.
//! Zones are read with every sample by [`crate::collector::sysfs`].

use crate::collector::host_files::HostFiles;
use crate::collector::node::{MAX_CPUS, limit};
use crate::model::node::Measurement;
use crate::model::node::cooling::{Cooling, CoolingDevice};

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("class/thermal");
    let mut cooling = Cooling::default();
    let mut numbers = host.numbers(&directory, "cooling_device");
    // Many machines have one for each CPU.
    limit(&mut numbers, MAX_CPUS, &mut cooling.truncated);
    let read = |number| {
        let path = directory.join(format!("cooling_device{number}"));
        Some(CoolingDevice {
            number,
            device_type: host.line(&path.join("type"))?,
            current_state: host.integer(&path.join("cur_state")),
            max_state: host.integer(&path.join("max_state")),
        })
    };
    cooling.devices = numbers.into_iter().filter_map(read).collect();
    (!cooling.devices.is_empty()).then_some(Measurement::Cooling(cooling))
}
