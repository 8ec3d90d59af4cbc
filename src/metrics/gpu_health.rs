//! The health of NVIDIA GPUs under dcgm-exporter's name, from the findings of the agent.

use crate::metrics::encoder::{Encoder, labels};
use crate::model::finding::{Component, Finding, HealthReport};
use crate::model::gpu::{Gpu, Vendor};
use crate::model::health_problem::Severity;

/// DCGM's names for what it watches, of those that the agent has findings for.
const WATCHES: [&str; 7] = ["PCIE", "MCU", "MEM", "NVLINK", "THERMAL", "POWER", "DRIVER"];

/// DCGM's values.
const PASS: u64 = 0;
const WARN: u64 = 10;
const FAIL: u64 = 20;

pub(super) fn encode(encoder: &mut Encoder, named: &[(String, &Gpu)], health: &HealthReport) {
    encoder.gauge(
        "DCGM_EXP_GPU_HEALTH_STATUS",
        "Health of the GPU by what is watched: 0 pass, 10 warn, 20 fail. From findings that are not acknowledged.",
    );
    for (of_gpu, gpu) in named.iter().filter(|(_, gpu)| gpu.vendor == Vendor::Nvidia) {
        let device = format!("GPU {}", gpu.index);
        let is_of_gpu = |finding: &&Finding| finding.device.as_deref() == Some(&device);
        let of_this: Vec<(&str, u64)> = health.open().filter(is_of_gpu).map(state).collect();
        for watch in WATCHES {
            let of_watch = of_this.iter().filter(|(name, _)| *name == watch);
            let value = of_watch.map(|(_, value)| *value).max().unwrap_or(PASS);
            encoder.sample(&format!("{of_gpu},{}", labels(&[("health_watch", watch)])), value);
        }
    }
}

/// Watch and value.
fn state(finding: &Finding) -> (&'static str, u64) {
    let value = match finding.severity {
        Severity::Critical => FAIL,
        Severity::Warning => WARN,
    };
    (watch(finding), value)
}

fn watch(finding: &Finding) -> &'static str {
    match finding.component {
        Component::NvLink | Component::Fabric => return "NVLINK",
        Component::Gpu => {}
        _ => return "DRIVER",
    }
    let is_power_brake = || finding.evidence.iter().any(|it| it.text.contains("power brake"));
    match finding.rule() {
        "lost" => "PCIE",
        "throttled" if is_power_brake() => "POWER",
        "throttled" => "THERMAL",
        "ecc" | "sram" | "remap-failed" | "remap-pending" | "bad-pages" | "spare-rows"
        | "retirement-pending" => "MEM",
        rule => rule.strip_prefix("xid").and_then(|code| code.parse().ok()).map_or("DRIVER", xid),
    }
}

/// The watch of an XID that is a finding.
fn xid(code: u32) -> &'static str {
    match code {
        48 | 64 | 95 | 140 => "MEM",
        54 => "POWER",
        62 | 119 | 120 => "MCU",
        74 | 144..=150 => "NVLINK",
        79 => "PCIE",
        _ => "DRIVER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_belong_to_watches() {
        let of = |component, rule: &str, evidence: &str| {
            let finding = Finding::new(component, Severity::Warning, rule, "x").of("GPU 5");
            watch(&finding.evidence(None, evidence))
        };
        let gpu = Component::Gpu;
        for (rule, expected) in [
            ("lost", "PCIE"),
            ("hung", "DRIVER"),
            ("remap-failed", "MEM"),
            ("recovery", "DRIVER"),
            ("xid79", "PCIE"),
            ("xid119", "MCU"),
            ("xid149", "NVLINK"),
            ("xid95", "MEM"),
            ("xid46", "DRIVER"),
        ] {
            assert_eq!(of(gpu, rule, ""), expected, "{rule}");
        }
        assert_eq!(of(gpu, "throttled", "hw thermal slowdown"), "THERMAL");
        assert_eq!(of(gpu, "throttled", "hw power brake slowdown"), "POWER");
        assert_eq!(of(Component::NvLink, "down", ""), "NVLINK");
        assert_eq!(of(Component::Fabric, "registration", ""), "NVLINK");
    }
}
