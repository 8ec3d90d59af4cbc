//! What does not change while the agent runs: the processor's name, the system's, and who this node is.

use std::path::Path;

use crate::collector::cached_file::Files;
use crate::config::Roots;
use crate::model::host_info::HostInfo;
use crate::procfs::{cpuinfo, os_release};
use crate::sys::process;

/// Reads the machine's names. What is not there is absent; a processor nobody names is "unknown".
pub fn read(roots: &Roots) -> HostInfo {
    let mut files = Files::default();
    let os = [roots.root.join("etc/os-release"), roots.root.join("usr/lib/os-release")];
    let os = os.iter().find_map(|path| files.read(path).ok().map(os_release::parse));
    let os = os.unwrap_or_default();
    let mut kernel = |name: &str| files.line(&roots.proc.join("sys/kernel").join(name));
    let (release, version, domain) = (kernel("osrelease"), kernel("version"), kernel("domainname"));
    HostInfo {
        cpu_model: cpu_model(&mut files, roots).unwrap_or_else(|| "unknown".to_owned()),
        os: os.name_for_people(),
        os_release: os,
        kernel: release,
        kernel_version: version,
        domain_name: domain,
    }
}

fn cpu_model(files: &mut Files, roots: &Roots) -> Option<String> {
    let named = files.read(&roots.proc.join("cpuinfo")).ok().and_then(cpuinfo::parse_model);
    // Boards without either in cpuinfo have a device tree that names the board.
    named.or_else(|| files.line(&roots.sys.join("firmware/devicetree/base/model")))
}

/// Who this node is to its masters: what the settings say, else the machine id, else the host name.
pub fn node_id(configured: Option<&str>, roots: &Roots) -> Option<String> {
    let mut files = Files::default();
    configured
        .map(str::to_owned)
        .or_else(|| machine_id(&mut files, &roots.root.join("etc/machine-id")))
        .or_else(|| machine_id(&mut files, &roots.root.join("var/lib/dbus/machine-id")))
        .or_else(|| hostname(&mut files, roots))
}

/// The machine's name. The kernel tells everybody the name of his own container; where the machine is
/// mounted somewhere else, its file is asked first.
pub fn hostname(files: &mut Files, roots: &Roots) -> Option<String> {
    let own = roots.root == Path::new("/");
    let file = if own { None } else { files.line(&roots.root.join("etc/hostname")) };
    // Which is what the kernel's file would say.
    let asked = || if roots.proc == Path::new("/proc") { process::hostname() } else { None };
    file.or_else(asked).or_else(|| files.line(&roots.proc.join("sys/kernel/hostname")))
}

/// machine-id(5): 32 hexadecimal digits; "uninitialized" in an image that never booted.
fn machine_id(files: &mut Files, path: &Path) -> Option<String> {
    files.line(path).filter(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()))
}
