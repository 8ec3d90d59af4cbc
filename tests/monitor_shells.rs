//! `/monitor`: hosts with other shells, with little on them, and with GPUs.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::Duration;

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
    let sshd = Sshd::start_with_busybox_only(&[CC], true);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    let key = sshd.key("cc");
    let shells = sshd.processes();
    assert!(shells.iter().any(|one| one.contains("sh")), "{shells:?}");
    for event in ["cpu_info", "process", "cpu_performance", "memory_performance", "net_stat"] {
        watcher.event(event, &key);
    }
    let net = watcher.event("net_dev", &key);
    assert!(net["net_dev"]["lo"]["ip"].as_array().unwrap().contains(&json!("127.0.0.1")), "{net}");
    // Whole disks at least: nothing on a device is mounted there.
    assert!(watcher.event("disk", &key)["disk_map"].is_object());
    drop(watcher);
    support::wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
}

#[test]
fn a_host_without_the_kernels_files_is_watched_all_the_same() {
    let sshd = Sshd::start_with_busybox_only(&[CC], false);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    let host = sshd.host("cc", Some(PASSWORD));
    watcher.start(std::slice::from_ref(&host));
    let events = watcher.gather(Duration::from_secs(5));
    assert!(events.iter().all(|(_, event)| event["event"] == "connection"), "{events:?}");
    assert_eq!(watcher.ask("ssh.start_rough_monitor", json!([host])), serde_json::Value::Null);
    let key = sshd.key("cc");
    assert_eq!(watcher.event("rough", &key), json!({"ssh_key": key}));
    assert_eq!(monitor.agent.count_log("logged in"), 1);
    drop(watcher);
    support::wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
}

/// As with Dropbear, whose shells are in the server's own group of processes.
#[test]
fn a_shell_that_leads_no_group_leaves_nothing_behind_either() {
    let (directory, shell) = Sshd::script("wrapper", "");
    let path = directory.0.display();
    for name in ["nvidia-smi", "df"] {
        let file = directory.write(name, "#!/bin/sh\nsleep 1000 &\nwait\n");
        assert!(sh(&format!("chmod 755 {file}")));
    }
    let wrapper = format!("#!/bin/sh\nPATH={path}:$PATH\nexport PATH\n/bin/sh \"$@\"\n:\n");
    std::fs::write(&shell, wrapper).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    for goes in ["the client", "the agent"] {
        let monitor = Monitor::start(&[]);
        let mut watcher = monitor.connect();
        watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
        let hang = || sshd.processes().iter().filter(|one| one.contains("sleep 1000")).count();
        support::wait_until("what hangs", || (hang() == 2).then_some(()));
        if goes == "the agent" {
            monitor.agent.signal("-KILL");
        }
        drop(watcher);
        support::wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
    }
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
fn a_driver_that_is_not_well_is_no_gpu() {
    let (directory, shell) = Sshd::script("unwell", "");
    let words = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.";
    let smi = directory.write("nvidia-smi", &format!("#!/bin/sh\necho \"{words}\"\nexit 9\n"));
    assert!(sh(&format!("chmod 755 {smi}")));
    let path = directory.0.display();
    std::fs::write(&shell, format!("#!/bin/sh\nPATH=$PATH:{path} exec /bin/sh \"$@\"\n")).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    watcher.start(&[sshd.host("cc", Some(PASSWORD))]);
    let events = watcher.gather(Duration::from_secs(6));
    let is = |name: &str| events.iter().any(|(_, event)| event["event"] == name);
    assert!(is("uptime") && !is("gpu"));
}

#[test]
fn a_driver_or_a_disk_that_hangs_holds_up_nothing_else() {
    let (directory, shell) = Sshd::script("hangs", "");
    let path = directory.0.display();
    for name in ["nvidia-smi", "df"] {
        let file = directory.write(name, "#!/bin/sh\nsleep 1000 &\nwait\n");
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

#[test]
fn a_host_that_prints_what_it_was_not_asked_for_is_left() {
    // The marker is in what it is told to run.
    let login = "#!/bin/sh\nwhile read -r line; do case $line in m=*) m=${line#m=} && break ;; esac; done\necho\necho \"$m hello\"\necho \"$m .\"\n";
    let talk = |forever: &str| format!("{login}while :; do {forever}; done\n");
    let kinds = [
        ("whole", talk("echo \"$m .\""), "the host says what it was not asked for"),
        ("parts", talk("echo \"$m stat\""), "the host prints more than it may"),
        (
            "gpus",
            talk("echo \"${m}g 0, A, B, C, 1\"; echo \"${m}g\""),
            "the host prints more than it may",
        ),
        (
            "bytes",
            format!("{login}echo \"$m stat\"\nexec yes x\n"),
            "the host prints more than it may",
        ),
        ("asides", format!("{login}exec yes \"${{m}}z x\"\n"), "the host prints more than it may"),
    ];
    let scripts: Vec<_> = kinds.iter().map(|(name, text, _)| Sshd::script(name, text)).collect();
    let users: Vec<User> = kinds
        .iter()
        .zip(&scripts)
        .map(|((name, ..), (_, shell))| User { name, shell, ..CC })
        .collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    let mut watcher = monitor.connect();
    for (name, _, reason) in kinds {
        let key = sshd.key(name);
        watcher.start(&[sshd.host(name, Some(PASSWORD))]);
        loop {
            let event = watcher.event("connection", &key);
            if event["state"] == "waiting" {
                assert_eq!(event["reason"], reason, "{name}");
                break;
            }
        }
        let stop = watcher.ask("ssh.stop_monitor", json!([sshd.host(name, None)]));
        assert!(stop.is_null());
    }
    assert!(monitor.agent.status("VmHWM") < 64 << 10, "{} kB", monitor.agent.status("VmHWM"));
    support::wait_until("the host's rest", || sshd.processes().is_empty().then_some(()));
}
