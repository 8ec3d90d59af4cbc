//! Bonds, and how many of their interfaces work.
//!
//! `/sys/class/net/bonding_masters` and `<bond>/bonding/slaves` contain names separated by spaces, a page of them at
//! most, and
//! `<bond>/lower_<slave>/bonding_slave/mii_status` is `up` or `down`. Before Linux 3.12 it is below `slave_<slave>`.

use std::path::Path;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::bonding::Bond;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("class/net");
    // Does not exist unless the module bonding is loaded.
    let masters = host.parse(&directory.join("bonding_masters"), |text| Ok(names(text)))?;
    let bonds = masters.into_iter().filter_map(|master| bond(host, &directory, master));
    Some(Measurement::Bonding(bonds.collect()))
}

/// `None` if the bond was removed meanwhile.
fn bond(host: &mut HostFiles, directory: &Path, master: String) -> Option<Bond> {
    let directory = directory.join(&master);
    let slaves = host.parse(&directory.join("bonding/slaves"), |text| Ok(names(text)))?;
    let are_up: Vec<bool> =
        slaves.iter().filter_map(|slave| is_up(host, &directory, slave)).collect();
    let active = are_up.iter().filter(|is_up| **is_up).count();
    Some(Bond { master, slaves: are_up.len(), active })
}

/// `None` if the interface was removed from the bond meanwhile.
fn is_up(host: &mut HostFiles, bond: &Path, slave: &str) -> Option<bool> {
    ["lower_", "slave_"].into_iter().find_map(|prefix| {
        let path = bond.join(format!("{prefix}{slave}")).join("bonding_slave/mii_status");
        host.parse(&path, |text| Ok(text.trim_ascii() == b"up"))
    })
}

fn names(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text).split_ascii_whitespace().map(str::to_owned).collect()
}
