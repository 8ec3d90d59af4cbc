//! `/metrics/prometheus` of the hm port: the gauges of the published server. Its labels `job` and `instance` are kept, so a Prometheus
//! without `honor_labels` renames them, as it does with the published server.

use std::fmt::Write;
use std::sync::Arc;

use crate::hub::hm::messages::MachineInfo;

/// The numbers of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuUsage {
    pub utilization_gpu: i64,
    pub memory_total: i64,
    pub memory_used: i64,
}

impl From<&MachineInfo> for GpuUsage {
    fn from(info: &MachineInfo) -> Self {
        let MachineInfo { utilization_gpu, memory_total, memory_used, .. } = *info;
        Self { utilization_gpu, memory_total, memory_used }
    }
}

type Gauge = fn(&GpuUsage) -> i64;

const GAUGES: [(&str, &str, Gauge); 3] = [
    ("utilization_gpu", "GPU utilization in percent.", |info| info.utilization_gpu),
    ("memory_total", "Total GPU memory in MiB.", |info| info.memory_total),
    ("memory_used", "Used GPU memory in MiB.", |info| info.memory_used),
];

/// Renders the last reports of the connected nodes.
pub fn render(job: &str, reports: &mut [(Arc<str>, GpuUsage)]) -> String {
    reports.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let job = escape_label(job);
    let mut text = String::new();
    for (name, help, value) in GAUGES {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (node_id, report) in &*reports {
            let instance = escape_label(node_id);
            let value = value(report);
            let _ = writeln!(text, "{name}{{instance=\"{instance}\",job=\"{job}\"}} {value}");
        }
    }
    text
}

fn escape_label(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_gauges_sorted_by_node() {
        let info =
            |memory_used| GpuUsage { utilization_gpu: 30, memory_total: 24_564, memory_used };
        let mut reports = [("b\"\\\n".into(), info(2)), ("a".into(), info(1))];
        let expected = "# HELP utilization_gpu GPU utilization in percent.
# TYPE utilization_gpu gauge
utilization_gpu{instance=\"a\",job=\"hm\"} 30
utilization_gpu{instance=\"b\\\"\\\\\\n\",job=\"hm\"} 30
# HELP memory_total Total GPU memory in MiB.
# TYPE memory_total gauge
memory_total{instance=\"a\",job=\"hm\"} 24564
memory_total{instance=\"b\\\"\\\\\\n\",job=\"hm\"} 24564
# HELP memory_used Used GPU memory in MiB.
# TYPE memory_used gauge
memory_used{instance=\"a\",job=\"hm\"} 1
memory_used{instance=\"b\\\"\\\\\\n\",job=\"hm\"} 2
";
        assert_eq!(render("hm", &mut reports), expected);
    }
}
