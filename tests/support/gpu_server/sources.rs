//! What other programs tell of the server: files for the collector textfile.

use std::time::{Duration, SystemTime};

use super::GpuServer;

pub fn write(server: &GpuServer) {
    textfile(server);
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
