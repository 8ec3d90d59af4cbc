//! Identity of this host: names of processor, distribution and kernel, host name and node id.

use std::path::Path;

use crate::collector::file_reader::FileReader;
use crate::config::Roots;
use crate::model::host_info::HostInfo;
use crate::procfs::{cpuinfo, os_release};
use crate::sys::process;

/// Reads what does not change while the agent runs. An unknown processor is "unknown".
pub fn read(roots: &Roots) -> HostInfo {
    let mut files = FileReader::default();
    let os = [roots.root.join("etc/os-release"), roots.root.join("usr/lib/os-release")];
    let os = os.iter().find_map(|path| files.read(path).ok().map(os_release::parse));
    let os = os.unwrap_or_default();
    let mut kernel = |name: &str| files.read_line(&roots.proc.join("sys/kernel").join(name));
    let (release, version, domain) = (kernel("osrelease"), kernel("version"), kernel("domainname"));
    HostInfo {
        cpu_model: cpu_model(&mut files, roots).unwrap_or_else(|| "unknown".to_owned()),
        os: os.display_name(),
        os_release: os,
        kernel: release,
        kernel_version: version,
        domain_name: domain,
    }
}

/// The id under which this node reports to upstream servers: the configured one, else the machine id, else the host name.
pub fn node_id(configured: Option<&str>, roots: &Roots) -> Option<String> {
    let mut files = FileReader::default();
    configured
        .map(str::to_owned)
        .or_else(|| machine_id(&mut files, &roots.root.join("etc/machine-id")))
        .or_else(|| machine_id(&mut files, &roots.root.join("var/lib/dbus/machine-id")))
        .or_else(|| hostname(&mut files, roots))
}

/// The host name. In a container the kernel returns that of the container, so the host's `etc/hostname` is read first if
/// its root is mounted.
pub fn hostname(files: &mut FileReader, roots: &Roots) -> Option<String> {
    let is_mounted = roots.root != Path::new("/");
    let configured =
        if is_mounted { files.read_line(&roots.root.join("etc/hostname")) } else { None };
    // The same as the kernel's file below /proc.
    let system_call = || if roots.proc == Path::new("/proc") { process::hostname() } else { None };
    configured
        .or_else(system_call)
        .or_else(|| files.read_line(&roots.proc.join("sys/kernel/hostname")))
}

fn cpu_model(files: &mut FileReader, roots: &Roots) -> Option<String> {
    let model = files.read(&roots.proc.join("cpuinfo")).ok().and_then(cpuinfo::parse_model);
    // Arm boards without a name in cpuinfo have a device tree that names the board.
    model.or_else(|| files.read_line(&roots.sys.join("firmware/devicetree/base/model")))
}

/// machine-id(5): 32 hexadecimal digits; "uninitialized" in an image that never booted.
fn machine_id(files: &mut FileReader, path: &Path) -> Option<String> {
    files.read_line(path).filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}
