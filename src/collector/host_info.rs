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
    let configured = if is_mounted {
        configured_hostname(files, &roots.root.join("etc/hostname"))
    } else {
        None
    };
    // The same as the kernel's file below /proc.
    let system_call = || if roots.proc == Path::new("/proc") { process::hostname() } else { None };
    configured
        .or_else(system_call)
        .or_else(|| files.read_line(&roots.proc.join("sys/kernel/hostname")))
}

/// hostname(5): the first line that is neither empty nor a comment.
fn configured_hostname(files: &mut FileReader, path: &Path) -> Option<String> {
    let text = files.read(path).ok()?;
    let mut lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"))?;
    Some(String::from_utf8_lossy(line).into_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_comments_in_etc_hostname() {
        let path = std::env::temp_dir().join(format!("hm-agent-hostname-{}", std::process::id()));
        let found = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let name = configured_hostname(&mut FileReader::default(), &path);
            std::fs::remove_file(&path).unwrap();
            name
        };
        assert_eq!(found("node-7\n").as_deref(), Some("node-7"));
        assert_eq!(
            found("# set by the installer\n\n  node-7 \nnode-8\n").as_deref(),
            Some("node-7")
        );
        assert_eq!(found("# only a comment\n"), None);
        assert_eq!(found(""), None);
    }
}
