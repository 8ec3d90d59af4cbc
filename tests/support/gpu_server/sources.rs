//! What other programs tell of the server: systemd, and files for the collector textfile.

use std::time::{Duration, SystemTime};

use super::{GpuServer, bus};

/// Where the socket of the system bus is.
pub const BUS: &str = "root/run/dbus/system_bus_socket";

pub fn write(server: &GpuServer) {
    textfile(server);
    bus::serve(&server.path().join(BUS), systemd);
}

/// After smartmon.sh, ipmitool_sensor.awk and a prolog script of Slurm.
fn textfile(server: &GpuServer) {
    let files = [
        (
            "ipmi.prom",
            1_795_216_200,
            "# HELP node_ipmi_speed_rpm Fan speed measurement reported by the IPMI sensors
# TYPE node_ipmi_speed_rpm gauge
node_ipmi_speed_rpm{sensor=\"FAN1\"} 8260
node_ipmi_speed_rpm{sensor=\"FAN2\"} 8120
",
        ),
        (
            "slurm.prom",
            1_795_216_230,
            "# TYPE slurm_prolog_seconds histogram
slurm_prolog_seconds_bucket{le=\"1\"} 40
slurm_prolog_seconds_bucket{le=\"10\"} 57
slurm_prolog_seconds_bucket{le=\"+Inf\"} 58
slurm_prolog_seconds_sum 93.25
slurm_prolog_seconds_count 58
# TYPE slurm_jobs_total counter
slurm_jobs_total{state=\"failed\"} 3
slurm_jobs_total{partition=\"h200\",state=\"completed\"} 1.2e3
",
        ),
        ("smart.prom", 1_795_215_600, "smartmon_smartctl_run{disk=\"/dev/nvme0\"} 1795215600\n"),
        ("smart.prom.tmp", 1_795_216_240, "smartmon_smartctl_run{dis"),
    ];
    for (name, modified, text) in files {
        let path = format!("textfile/{name}");
        server.write(&path, text);
        let file = std::fs::File::options().write(true).open(server.path().join(&path)).unwrap();
        let modified = Duration::from_secs(modified) + Duration::from_millis(250);
        file.set_modified(SystemTime::UNIX_EPOCH + modified).unwrap();
    }
}

/// A node whose fabric manager has failed, and whose Slurm daemon is restarted again and again.
pub fn systemd(call: &[u8]) -> Option<bus::Reply> {
    let has = |text: &str| call.windows(text.len()).any(|part| part == text.as_bytes());
    Some(match () {
        () if has("Hello") => bus::unique_name(),
        () if has("ListUnits") => bus::units(&[
            ["-.mount", "loaded", "active", "mounted"],
            ["auditd.service", "not-found", "inactive", "dead"],
            ["logrotate.timer", "loaded", "active", "waiting"],
            ["multi-user.target", "loaded", "active", "active"],
            ["nvidia-fabricmanager.service", "loaded", "failed", "failed"],
            ["slurmd.service", "loaded", "activating", "auto-restart"],
            ["sshd.socket", "loaded", "active", "listening"],
            ["system.slice", "loaded", "active", "active"],
        ]),
        () if has("SystemState") => bus::text("degraded"),
        () if has("Version") => bus::text("255.4-1ubuntu8.12"),
        () if has("fabricmanager") && has("Type") => bus::text("forking"),
        () if has("Type") => bus::text("notify"),
        () if has("fabricmanager") && has("NRestarts") => bus::number(5),
        () if has("NRestarts") => bus::number(41),
        () if has("NAccepted") => bus::number(17),
        () if has("NConnections") => bus::number(2),
        () if has("NRefused") => bus::number(3),
        () if has("LastTriggerUSec") => bus::long_number(1_795_132_801_234_567),
        // Properties that a version does not have.
        () => ("", Vec::new()),
    })
}
