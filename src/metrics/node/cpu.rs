//! CPUs: the collector cpu, without the times of [`crate::metrics::host`].

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::cpu::{Cpu, Package};

pub(super) fn encode(encoder: &mut Encoder, cpu: &Cpu, truncation: &mut Truncation) {
    truncation.add("cpu_online", cpu.truncated);
    encoder.gauge("node_cpu_online", "Whether the CPU is online.");
    for (number, online) in &cpu.online {
        encoder.sample_with_label("", ("cpu", &number.to_string()), *online);
    }
    encoder.gauge("node_cpu_isolated", "CPU that the scheduler does not use by itself.");
    for number in &cpu.isolated {
        encoder.sample_with_label("", ("cpu", &number.to_string()), 1u64);
    }
    encoder.counter(
        "node_cpu_core_throttles_total",
        "Number of times the core was slowed down because of its temperature.",
    );
    for core in &cpu.core_throttles {
        let labels =
            labels(&[("core", &core.core.to_string()), ("package", &core.package.to_string())]);
        encoder.sample(&labels, core.count);
    }
    encoder.counter(
        "node_cpu_package_throttles_total",
        "Number of times the package was slowed down because of its temperature.",
    );
    for package in &cpu.package_throttles {
        encoder.sample_with_label("", ("package", &package.package.to_string()), package.count);
    }
    packages(encoder, &cpu.packages);
}

fn packages(encoder: &mut Encoder, packages: &[Package]) {
    encoder.gauge("node_cpu_info", "Model of the processor package. The value is always 1.");
    for package in packages {
        let labels = labels(&[
            ("cachesize", &package.cache_size),
            ("family", &package.family),
            ("microcode", &package.microcode),
            ("model", &package.model),
            ("model_name", &package.model_name),
            ("package", &package.number),
            ("stepping", &package.stepping),
            ("vendor", &package.vendor),
        ]);
        encoder.sample(&labels, 1u64);
    }
}
