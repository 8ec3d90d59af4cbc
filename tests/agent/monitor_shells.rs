//! `/monitor`: hosts with different shells, with only BusyBox, with GPUs, and with misbehaving programs.

use crate::support;
use std::path::Path;
use std::time::Duration;

use crate::support::monitor::Monitor;
use crate::support::sshd::{CC, PASSWORD, Sshd, User, sh};
use serde_json::json;

/// Asserts that every kind of event arrives.
fn assert_is_monitored(sshd: &Sshd, user: &str) {
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.start(&[sshd.host(user, Some(PASSWORD))]);
    let key = sshd.key(user);
    for event in ["cpu_info", "process", "cpu_performance", "memory_performance", "net_dev", "disk"]
    {
        client.wait_event(event, &key);
    }
}

#[test]
#[ignore = "needs root and sshd"]
fn monitors_users_with_fish_csh_and_bash() {
    let users = [
        User { name: "fish", shell: "/usr/bin/fish", ..CC },
        User { name: "csh", shell: "/bin/csh", ..CC },
        User { name: "bash", shell: "/bin/bash", ..CC },
    ];
    let sshd = Sshd::start(&users);
    for user in users {
        assert!(Path::new(user.shell).exists(), "{} is not installed", user.shell);
        assert_is_monitored(&sshd, user.name);
    }
}

#[test]
#[ignore = "needs root and sshd"]
fn ignores_output_of_login_shell() {
    let noise = "#!/bin/sh\necho 'Last login: yesterday'\nhead -c 100000 /dev/urandom\nhead -c 9000 /dev/urandom >&2\nexec /bin/sh \"$@\"\n";
    let (_directory, shell) = Sshd::write_shell("noise", noise);
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    assert_is_monitored(&sshd, "cc");
}

#[test]
#[ignore = "needs root and sshd"]
fn gives_up_on_endless_output_of_login_shell() {
    let (_directory, shell) = Sshd::write_shell("endless", "#!/bin/sh\nexec cat /dev/zero\n");
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let error = monitor.connect().start_error(&sshd.host("cc", Some(PASSWORD)));
    assert!(error.ends_with("the host's output exceeds the limit"), "{error}");
    assert!(monitor.agent.status("VmHWM") < 64 << 10, "{} kB", monitor.agent.status("VmHWM"));
}

#[test]
#[ignore = "needs root and sshd"]
fn monitors_host_with_only_busybox() {
    let sshd = Sshd::start_with_busybox_only(&[CC], true);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    let key = sshd.key("cc");
    let shells = sshd.processes();
    assert!(shells.iter().any(|process| process.contains("sh")), "{shells:?}");
    for event in ["cpu_info", "process", "cpu_performance", "memory_performance", "net_stat"] {
        client.wait_event(event, &key);
    }
    let net = client.wait_event("net_dev", &key);
    assert!(net["net_dev"]["lo"]["ip"].as_array().unwrap().contains(&json!("127.0.0.1")), "{net}");
    // Whole disks only: no device is mounted there.
    assert!(client.wait_event("disk", &key)["disk_map"].is_object());
    drop(client);
    support::wait_until("exit of the host's processes", || {
        sshd.processes().is_empty().then_some(())
    });
}

#[test]
#[ignore = "needs root and sshd"]
fn monitors_host_without_proc_and_sys() {
    let sshd = Sshd::start_with_busybox_only(&[CC], false);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    let host = sshd.host("cc", Some(PASSWORD));
    client.start(std::slice::from_ref(&host));
    let events = client.collect_events(Duration::from_secs(5));
    assert!(events.iter().all(|(_, event)| event["event"] == "connection"), "{events:?}");
    assert_eq!(client.request("ssh.start_rough_monitor", json!([host])), serde_json::Value::Null);
    let key = sshd.key("cc");
    assert_eq!(client.wait_event("rough", &key), json!({"ssh_key": key}));
    assert_eq!(monitor.agent.count_log("logged in"), 1);
    drop(client);
    support::wait_until("exit of the host's processes", || {
        sshd.processes().is_empty().then_some(())
    });
}

/// Dropbear's shells are in the process group of the server.
#[test]
#[ignore = "needs root and sshd"]
fn leaves_no_process_when_shell_leads_no_group() {
    let (directory, shell) = Sshd::write_shell("wrapper", "");
    let path = directory.0.display();
    for name in ["nvidia-smi", "df"] {
        let file = directory.write(name, "#!/bin/sh\nsleep 1000 &\nwait\n");
        assert!(sh(&format!("chmod 755 {file}")));
    }
    let wrapper = format!("#!/bin/sh\nPATH={path}:$PATH\nexport PATH\n/bin/sh \"$@\"\n:\n");
    std::fs::write(&shell, wrapper).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    for ending in ["client disconnects", "agent is killed"] {
        let monitor = Monitor::start(&[]);
        let mut client = monitor.connect();
        client.start(&[sshd.host("cc", Some(PASSWORD))]);
        let hanging =
            || sshd.processes().iter().filter(|process| process.contains("sleep 1000")).count();
        support::wait_until("hanging commands", || (hanging() == 2).then_some(()));
        if ending == "agent is killed" {
            monitor.agent.signal("-KILL");
        }
        drop(client);
        support::wait_until("exit of the host's processes", || {
            sshd.processes().is_empty().then_some(())
        });
    }
}

#[test]
#[ignore = "needs root and sshd"]
fn reports_gpus_of_host() {
    let (directory, shell) = Sshd::write_shell("gpus", "");
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
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    let event = client.wait_event("gpu", &sshd.key("cc"));
    let expected = json!([{
        "index": 0, "vendor": "nvidia", "name": "NVIDIA A100-SXM4-40GB", "uuid": "GPU-8f6d2a10", "pci_address": "0000:41:00.0",
        "memory_total_bytes": 40960_u64 << 20, "memory_used_bytes": 1024_u64 << 20, "memory_free_bytes": 39322_u64 << 20,
        "utilization_percent": 37, "memory_utilization_percent": 12, "temperature_celsius": 45, "power_watts": 61.23,
        "power_limit_watts": 400.0, "sm_clock_mhz": 1410, "memory_clock_mhz": 1215, "performance_state": 0,
    }]);
    assert_eq!(event["gpus"], expected);
}

#[test]
#[ignore = "needs root and sshd"]
fn reports_no_gpu_when_driver_fails() {
    let (directory, shell) = Sshd::write_shell("failing-driver", "");
    let message = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.";
    let smi = directory.write("nvidia-smi", &format!("#!/bin/sh\necho \"{message}\"\nexit 9\n"));
    assert!(sh(&format!("chmod 755 {smi}")));
    let path = directory.0.display();
    std::fs::write(&shell, format!("#!/bin/sh\nPATH=$PATH:{path} exec /bin/sh \"$@\"\n")).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    let has = |events: &[(_, serde_json::Value)], name: &str| {
        events.iter().any(|(_, event)| event["event"] == name)
    };
    support::wait_until("a sample", || {
        let events = client.collect_events(Duration::from_secs(6));
        assert!(!has(&events, "gpu"), "{events:?}");
        has(&events, "uptime").then_some(())
    });
}

#[test]
#[ignore = "needs root and sshd"]
fn hanging_driver_or_disk_does_not_delay_samples() {
    let (directory, shell) = Sshd::write_shell("hangs", "");
    let path = directory.0.display();
    for name in ["nvidia-smi", "df"] {
        let file = directory.write(name, "#!/bin/sh\nsleep 1000 &\nwait\n");
        assert!(sh(&format!("chmod 755 {file}")));
    }
    std::fs::write(&shell, format!("#!/bin/sh\nPATH={path}:$PATH exec /bin/sh \"$@\"\n")).unwrap();
    let sshd = Sshd::start(&[User { shell: &shell, ..CC }]);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    client.start(&[sshd.host("cc", Some(PASSWORD))]);
    for _ in 0..8 {
        client.wait_event("uptime", &sshd.key("cc"));
    }
    let hanging = sshd.processes().iter().filter(|process| process.contains("sleep 1000")).count();
    assert_eq!(hanging, 2);
    drop(client);
    support::wait_until("exit of the host's processes", || {
        sshd.processes().is_empty().then_some(())
    });
}

#[test]
#[ignore = "needs root and sshd"]
fn ends_session_when_host_prints_unrequested_output() {
    // The script on standard input contains the marker.
    let login = "#!/bin/sh\nwhile read -r line; do case $line in m=*) m=${line#m=} && break ;; esac; done\necho\necho \"$m page-size\"\necho \"$m .\"\n";
    let repeat = |command: &str| format!("{login}while :; do {command}; done\n");
    let kinds = [
        ("responses", repeat("echo \"$m .\""), "the host sent a response without a request"),
        ("sections", repeat("echo \"$m stat\""), "the host's output exceeds the limit"),
        (
            "gpus",
            repeat("echo \"${m}g 0, A, B, C, 1\"; echo \"${m}g\""),
            "the host's output exceeds the limit",
        ),
        (
            "bytes",
            format!("{login}echo \"$m stat\"\nexec yes x\n"),
            "the host's output exceeds the limit",
        ),
        (
            "async",
            format!("{login}exec yes \"${{m}}z x\"\n"),
            "the host's output exceeds the limit",
        ),
    ];
    let scripts: Vec<_> =
        kinds.iter().map(|(name, text, _)| Sshd::write_shell(name, text)).collect();
    let users: Vec<User> = kinds
        .iter()
        .zip(&scripts)
        .map(|((name, ..), (_, shell))| User { name, shell, ..CC })
        .collect();
    let sshd = Sshd::start(&users);
    let monitor = Monitor::start(&[]);
    let mut client = monitor.connect();
    for (name, _, reason) in kinds {
        let key = sshd.key(name);
        client.start(&[sshd.host(name, Some(PASSWORD))]);
        loop {
            let event = client.wait_event("connection", &key);
            if event["state"] == "waiting" {
                assert_eq!(event["reason"], reason, "{name}");
                break;
            }
        }
        let stop = client.request("ssh.stop_monitor", json!([sshd.host(name, None)]));
        assert!(stop.is_null());
    }
    assert!(monitor.agent.status("VmHWM") < 64 << 10, "{} kB", monitor.agent.status("VmHWM"));
    support::wait_until("exit of the host's processes", || {
        sshd.processes().is_empty().then_some(())
    });
}
