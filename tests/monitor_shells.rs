//! `/monitor`: hosts with other shells, with little on them, and with GPUs.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::json;
use support::monitor::{Monitor, Watcher};
use support::sshd::{CC, PASSWORD, Sshd, User, sh};

/// The host is watched as any other.
fn is_watched(sshd: &Sshd, user: &str) -> Watcher {
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host(user, Some(PASSWORD))]);
    let key = sshd.key(user);
    for event in ["cpu_info", "process", "cpu_performance", "memory_performance", "net_dev", "disk"]
    {
        watcher.event(event, &key);
    }
    // The agent may go; what came is kept.
    watcher
}

#[test]
fn login_shells_of_other_families() {
    let users = [
        User { name: "fish", shell: "/usr/bin/fish", ..CC },
        User { name: "csh", shell: "/bin/csh", ..CC },
        User { name: "bash", shell: "/bin/bash", ..CC },
    ];
    let sshd = Sshd::start(&users);
    for user in users {
        assert!(Path::new(user.shell).exists(), "{} is not installed", user.shell);
        is_watched(&sshd, user.name);
    }
}

#[test]
fn a_shell_that_talks_at_login() {
    let noise = "#!/bin/sh\necho 'Last login: yesterday'\nhead -c 100000 /dev/urandom\nhead -c 9000 /dev/urandom >&2\nexec /bin/sh \"$@\"\n";
    let (_directory, shell) = Sshd::script("noise", noise);
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    is_watched(&sshd, "cc");
}

#[test]
fn a_shell_that_talks_without_end_is_given_up() {
    let (_directory, shell) = Sshd::script("endless", "#!/bin/sh\nexec cat /dev/zero\n");
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let error = monitor.connect().refused(&sshd.host("cc", Some(PASSWORD)));
    assert!(error.ends_with("the host prints more than it may"), "{error}");
    assert!(monitor.agent.status("VmHWM") < 64 << 10, "{} kB", monitor.agent.status("VmHWM"));
}

#[test]
fn a_host_with_busybox_only() {
    let (directory, shell) = Sshd::script("busybox", "");
    let bin = directory.0.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let bin = bin.display();
    assert!(sh(&format!(
        "cp $(command -v busybox) {bin}/ && cd {bin} && for name in $(./busybox --list); do [ $name = busybox ] || ln -s busybox $name; done"
    )));
    let text = format!("#!{bin}/sh\nPATH={bin}\nexport PATH\nexec {bin}/sh \"$@\"\n");
    std::fs::write(&shell, text).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let mut watcher = is_watched(&sshd, "cc");
    let _ = &mut watcher;
}

#[test]
fn gpus_of_a_host_have_the_fields_of_our_own() {
    let (directory, shell) = Sshd::script("gpus", "");
    let line = "0, NVIDIA A100-SXM4-40GB, GPU-8f6d2a10, 00000000:41:00.0, 40960, 1024, 39322, 37, 12, 45, [N/A], 61.23, 400.00, 1410, 1215, P0, [N/A]";
    let smi = directory.write(
        "nvidia-smi",
        &format!("#!/bin/sh\ncase \"$*\" in --query-gpu=index,*--format=csv,noheader,nounits) echo '{line}' ;; esac\n"),
    );
    assert!(sh(&format!("chmod 755 {smi}")));
    let path = directory.0.display();
    std::fs::write(&shell, format!("#!/bin/sh\nPATH=$PATH:{path} exec /bin/sh \"$@\"\n")).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    let event = watcher.event("gpu", &sshd.key("cc"));
    let expected = json!([{
        "index": 0, "vendor": "nvidia", "name": "NVIDIA A100-SXM4-40GB", "uuid": "GPU-8f6d2a10", "pci_address": "0000:41:00.0",
        "memory_total_bytes": 40960_u64 << 20, "memory_used_bytes": 1024_u64 << 20, "memory_free_bytes": 39322_u64 << 20,
        "utilization_percent": 37, "memory_utilization_percent": 12, "temperature_celsius": 45, "power_watts": 61.23,
        "power_limit_watts": 400.0, "sm_clock_mhz": 1410, "memory_clock_mhz": 1215, "performance_state": 0,
    }]);
    assert_eq!(event["gpus"], expected);
}

#[test]
fn a_driver_or_a_disk_that_hangs_holds_up_nothing_else() {
    let (directory, shell) = Sshd::script("hangs", "");
    let path = directory.0.display();
    for name in ["nvidia-smi", "df"] {
        let file = directory.write(name, "#!/bin/sh\nexec sleep 1000\n");
        assert!(sh(&format!("chmod 755 {file}")));
    }
    std::fs::write(&shell, format!("#!/bin/sh\nPATH={path}:$PATH exec /bin/sh \"$@\"\n")).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    for _ in 0..8 {
        watcher.event("uptime", &sshd.key("cc"));
    }
    assert_eq!(sshd.processes().iter().filter(|one| one.contains("sleep 1000")).count(), 2);
    drop(watcher);
    support::wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
}
