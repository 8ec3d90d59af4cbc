//! A real systemd as process 1 of its own namespaces, with a few units and dbus-daemon. Needs root.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{TempDir, wait_until};

/// Runs in new namespaces. `$1` is the directory of the bus, which the test shares.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
mkdir -p /run/systemd/system /run/dbus
mount --bind "$1" /run/dbus
cd /run/systemd/system
unit() { printf '[Unit]\nDefaultDependencies=no\n%b\n' "$2" >"$1"; }
unit test.target 'Wants=dbus.service running.service failing.service restarting.service accepting.socket once.timer'
unit dbus.socket '[Socket]\nListenStream=/run/dbus/system_bus_socket'
unit dbus.service 'Requires=dbus.socket\n[Service]
ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only'
unit running.service '[Service]\nExecStart=/bin/sleep infinity'
unit failing.service '[Service]\nType=oneshot\nExecStart=/bin/false'
unit restarting.service 'StartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sleep 0.5\nRestart=always\nRestartSec=0'
unit accepting.socket '[Socket]\nListenStream=/run/dbus/accepting\nAccept=yes'
unit accepting@.service '[Service]\nExecStart=/bin/cat\nStandardInput=socket'
unit once.timer '[Timer]\nOnActiveSec=1\nUnit=failing.service'
exec env container=lxc /lib/systemd/systemd --system --unit=test.target --log-target=null
"#;

/// Ends, with all its units, when it is dropped.
pub struct SystemdHost {
    process: Child,
    /// Has `run/dbus/system_bus_socket`.
    pub root: TempDir,
    group: PathBuf,
}

impl SystemdHost {
    /// `None` where cgroups of version 2 cannot be created.
    pub fn new() -> Option<Self> {
        let root = TempDir::new("systemd");
        let bus = root.0.join("run/dbus");
        std::fs::create_dir_all(&bus).unwrap();
        let group = mounted_groups()?.join(root.0.file_name().unwrap());
        if let Err(error) = std::fs::create_dir(&group) {
            println!("skipped: {}: {error}", group.display());
            return None;
        }
        let mut command = Command::new("sh");
        // The cgroup is the root of those that systemd sees.
        command.args(["-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\""]).arg(&group);
        // It ends with this thread, also if the test is killed.
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        command.args(["unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc"]);
        command.args(["--net", "--cgroup", "sh", "-c", BOOT, "boot"]).arg(&bus);
        let output = std::fs::File::create(root.0.join("output")).unwrap();
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let host = Self { process: command.spawn().unwrap(), root, group };
        wait_until("the bus", || {
            let output = std::fs::read_to_string(host.root.0.join("output")).unwrap();
            assert!(output.is_empty(), "{output}");
            UnixStream::connect(host.path("system_bus_socket")).ok()
        });
        Some(host)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.0.join("run/dbus").join(name)
    }
}

impl Drop for SystemdHost {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Processes of a namespace whose process 1 is killed end a moment later.
        wait_until("the cgroups to be removed", || {
            remove_groups(&self.group);
            (!self.group.exists()).then_some(())
        });
    }
}

/// Where cgroups of version 2 are mounted.
fn mounted_groups() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
    if mount.is_none() {
        println!("skipped: cgroups of version 2 are not mounted");
    }
    Some(PathBuf::from(mount?.split(' ').nth(4)?))
}

fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}
