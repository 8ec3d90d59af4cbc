//! Names and versions of the machine, its board and its firmware, from `/sys/class/dmi/id`. Only root can read serial numbers and the
//! UUID; they are left out for other users.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::dmi::Dmi;

/// Attributes that node_exporter exposes.
const ATTRIBUTES: [&str; 19] = [
    "bios_date",
    "bios_release",
    "bios_vendor",
    "bios_version",
    "board_asset_tag",
    "board_name",
    "board_serial",
    "board_vendor",
    "board_version",
    "chassis_asset_tag",
    "chassis_serial",
    "chassis_vendor",
    "chassis_version",
    "product_family",
    "product_name",
    "product_serial",
    "product_sku",
    "product_uuid",
    "product_version",
];

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("class/dmi/id");
    let mut read = |label: &'static str, file: &str| {
        host.line(&directory.join(file)).map(|value| (label, value))
    };
    let mut attributes: Vec<(&'static str, String)> =
        ATTRIBUTES.into_iter().filter_map(|name| read(name, name)).collect();
    attributes.extend(read("system_vendor", "sys_vendor"));
    (!attributes.is_empty()).then_some(Measurement::Dmi(Dmi { attributes }))
}
