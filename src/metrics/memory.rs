//! `/proc/meminfo` and `/proc/vmstat` under node_exporter's names.

use crate::metrics::encoder::{Encoder, MetricType};
use crate::model::RawSample;

pub(super) fn encode(encoder: &mut Encoder, sample: &RawSample) {
    let lines = sample.meminfo.as_ref().map_or(&[][..], |info| &info.lines);
    for line in lines {
        let Some(name) = metric_name(&line.name, line.is_bytes) else { continue };
        encoder.gauge(&name, "Field of /proc/meminfo. Sizes are in bytes.").sample("", line.value);
    }
    vmstat(encoder, sample);
}

/// The fields that node_exporter exposes by default.
fn vmstat(encoder: &mut Encoder, sample: &RawSample) {
    let Some(vmstat) = sample.vmstat else { return };
    for (name, value) in [
        ("node_vmstat_oom_kill", vmstat.oom_kill),
        ("node_vmstat_pgfault", vmstat.pgfault),
        ("node_vmstat_pgmajfault", vmstat.pgmajfault),
        ("node_vmstat_pgpgin", vmstat.pgpgin),
        ("node_vmstat_pgpgout", vmstat.pgpgout),
        ("node_vmstat_pswpin", vmstat.pswpin),
        ("node_vmstat_pswpout", vmstat.pswpout),
    ] {
        encoder
            .family(name, MetricType::Untyped, "Field of /proc/vmstat, counted since boot.")
            .sample_if("", value);
    }
}

/// `Active(anon)` becomes `node_memory_Active_anon_bytes`. `None` if the field has characters that a metric name must
/// not contain.
fn metric_name(field: &str, is_bytes: bool) -> Option<String> {
    let mut name = "node_memory_".to_owned();
    for char in field.chars() {
        match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => name.push(char),
            '(' => name.push('_'),
            ')' => {}
            _ => return None,
        }
    }
    if is_bytes {
        name.push_str("_bytes");
    }
    (!field.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derives_node_exporter_names_from_meminfo_fields() {
        let name = |field, is_bytes| metric_name(field, is_bytes).unwrap_or_default();
        assert_eq!(name("Active(anon)", true), "node_memory_Active_anon_bytes");
        assert_eq!(name("HugePages_Total", false), "node_memory_HugePages_Total");
        assert_eq!(name("DirectMap1G", true), "node_memory_DirectMap1G_bytes");
        assert_eq!((name("a b", true), name("", true)), (String::new(), String::new()));
    }
}
