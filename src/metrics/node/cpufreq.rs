//! Clock frequencies: the collector cpufreq.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::cpufreq::{CpuFreq, CpuFrequency};

type Family = (&'static str, &'static str, fn(&CpuFrequency) -> Option<u64>);

const FREQUENCIES: [Family; 5] = [
    ("node_cpu_scaling_frequency_hertz", "Current frequency of the CPU.", |cpu| cpu.current_khz),
    (
        "node_cpu_scaling_frequency_min_hertz",
        "Lowest frequency that software allows the CPU.",
        |cpu| cpu.scaling_min_khz,
    ),
    (
        "node_cpu_scaling_frequency_max_hertz",
        "Highest frequency that software allows the CPU.",
        |cpu| cpu.scaling_max_khz,
    ),
    ("node_cpu_frequency_min_hertz", "Lowest frequency of the CPU.", |cpu| cpu.hardware_min_khz),
    ("node_cpu_frequency_max_hertz", "Highest frequency of the CPU.", |cpu| cpu.hardware_max_khz),
];

pub(super) fn encode(encoder: &mut Encoder, cpufreq: &CpuFreq, truncation: &mut Truncation) {
    truncation.add("cpufreq", cpufreq.truncated);
    for (name, help, khz) in FREQUENCIES {
        encoder.gauge(name, help);
        for cpu in &cpufreq.cpus {
            if let Some(khz) = khz(cpu) {
                let hertz = khz.saturating_mul(1000);
                encoder.sample_with_label("", ("cpu", &cpu.cpu.to_string()), hertz);
            }
        }
    }
    encoder.gauge(
        "node_cpu_scaling_governor",
        "Governor of the CPU's frequency: 1 for the current one, 0 for the others.",
    );
    for cpu in &cpufreq.cpus {
        let Some(current) = &cpu.governor else { continue };
        for governor in cpu.available_governors.split_ascii_whitespace() {
            let labels = labels(&[("cpu", &cpu.cpu.to_string()), ("governor", governor)]);
            encoder.sample(&labels, governor == current);
        }
    }
}
