//! Software RAID arrays. The files do not exist unless the kernel's module md_mod is loaded.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::mdadm::{MdMembers, Mdadm};
use crate::procfs::{ParseError, fields, mdstat, number};

/// As many as [`mdstat`] keeps.
const MAX_ARRAYS: usize = 256;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let arrays = host.parse(&host.proc("mdstat"), mdstat::parse)?;
    let mut devices = host.names(&host.sys("block"), "md");
    devices.truncate(MAX_ARRAYS);
    let members = devices.into_iter().filter_map(|device| read_members(host, device)).collect();
    Some(Measurement::Mdadm(Mdadm { arrays, members }))
}

fn read_members(host: &mut HostFiles, device: String) -> Option<MdMembers> {
    let directory = host.sys("block").join(&device).join("md");
    // Empty while the array is assembled. A container of IMSM or DDF metadata has no members itself; its arrays have.
    let level = host.line(&directory.join("level"))?;
    let is_container = ["container", "imsm", "ddf"].contains(&&*level);
    let raid_disks = directory.join("raid_disks");
    let raid_disks = if is_container { None } else { host.parse(&raid_disks, parse_raid_disks) };
    let degraded_disks = host.number(&directory.join("degraded"));
    Some(MdMembers { device, raid_disks, degraded_disks })
}

/// `4`, or `5 (4)` while the array is reshaped.
fn parse_raid_disks(text: &[u8]) -> Result<u64, ParseError> {
    number(1, fields(text.trim_ascii()).next())
}
