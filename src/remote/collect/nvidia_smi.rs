//! `nvidia-smi --query-gpu=… --format=csv,noheader,nounits`: the GPUs of a remote host, where the GPU probe cannot run.
//!
//! Format: `nvidia-smi --help-query-gpu`; a line for each GPU, with values in the order of the query. A value that the
//! GPU does not support is a text in brackets, or `N/A`. A line of an A100:
//!
//! ```text
//! 0, NVIDIA A100-SXM4-40GB, GPU-8f6d2a10-1b2c-4d5e-8f90-123456789abc, 00000000:41:00.0, 40960, 1024, 39322, 37, 12, 45, [N/A], 61.23, 400.00, 1410, 1215, P0, [N/A]
//! ```

use crate::model::gpu::{Gpu, Problem, Values};
use crate::procfs::{fraction, lines};
use crate::util::text::{EXCERPT_CHARS, escape_for_log, parse_decimal};

/// The queried fields, in the order in which they are parsed. Every driver since 470 has them.
pub const FIELDS: &str = "index,name,uuid,pci.bus_id,memory.total,memory.used,memory.free,utilization.gpu,utilization.memory,temperature.gpu,temperature.memory,power.draw,power.limit,clocks.sm,clocks.mem,pstate,fan.speed";

/// Parses the output. Lines that describe no GPU are skipped: a broken driver prints an error message there.
pub fn parse(text: &[u8]) -> Vec<Gpu> {
    lines(text).filter_map(|(_, line)| gpu(line)).collect()
}

fn gpu(line: &[u8]) -> Option<Gpu> {
    let mut fields = line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let problem = fields.clone().find_map(problem);
    let index = u32::try_from(parse_decimal(fields.next()?)?).ok()?;
    let mut text = || {
        let text = String::from_utf8_lossy(fields.next()?).into_owned();
        Some(text).filter(|text| !text.starts_with('[') && text != "N/A")
    };
    let (name, uuid, bus) = (text().unwrap_or_default(), text(), text());
    // The kernel writes the domain with four digits.
    let pci_address = bus.map(|bus| {
        let bus = bus.to_ascii_lowercase();
        bus.strip_prefix("0000").filter(|short| short.len() == 12).unwrap_or(&bus).to_owned()
    });
    let mut number = || fraction(0, Some(fields.next()?)).ok();
    let mib = |value: Option<f64>| value.map(|value| (value * 1_048_576.0) as u64);
    let whole = |value: Option<f64>| value.map(|value| value as u32);
    let degrees = |value: Option<f64>| value.map(|value| value as i32);
    let values = Values {
        memory_total_bytes: mib(number()),
        memory_used_bytes: mib(number()),
        memory_free_bytes: mib(number()),
        utilization_percent: whole(number()),
        memory_utilization_percent: whole(number()),
        temperature_celsius: degrees(number()),
        memory_temperature_celsius: degrees(number()),
        power_watts: number(),
        power_limit_watts: number(),
        sm_clock_mhz: whole(number()),
        memory_clock_mhz: whole(number()),
        ..Values::default()
    };
    let state = fields.next().and_then(|state| parse_decimal(state.strip_prefix(b"P")?));
    let performance_state = state.and_then(|state| u32::try_from(state).ok());
    let fan_percent = whole(fields.next().and_then(|fan| fraction(0, Some(fan)).ok()));
    let values = Values { performance_state, fan_percent, ..values };
    let (problem, message) = problem.unzip();
    Some(Gpu { index, name, uuid, pci_address, problem, message, values, ..Gpu::default() })
}

/// The problem that a value in brackets names: the text of an NVML error. Other texts mean that the GPU, or this user, does not have
/// the value: `[N/A]`, `[Not Supported]`, `[Insufficient Permissions]`.
fn problem(field: &[u8]) -> Option<(Problem, String)> {
    let text = field.strip_prefix(b"[")?.strip_suffix(b"]")?;
    let text = escape_for_log(text, EXCERPT_CHARS);
    let lower = text.to_ascii_lowercase();
    let contains = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let problem = if contains(&["lost", "fallen off"]) {
        Problem::Lost
    } else if contains(&["timeout", "timed out"]) {
        Problem::Hung
    } else if contains(&["reset", "error", "fail", "not loaded", "corrupt", "in use", "irq"]) {
        Problem::Failed
    } else {
        return None;
    };
    Some((problem, format!("nvidia-smi: {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"0, NVIDIA A100-SXM4-40GB, GPU-8f6d2a10-1b2c-4d5e-8f90-123456789abc, 00000000:41:00.0, 40960, 1024, 39322, 37, 12, 45, [N/A], 61.23, 400.00, 1410, 1215, P0, [N/A]
1, Tesla K80, GPU-1, 00000000:42:00.0, 11441, 0, 11441, 0, 0, 33, N/A, [Unknown Error], 149.00, 324, 324, P8, 40
";

    #[test]
    fn converts_values_to_units_of_the_model() {
        let gpus = parse(LINES);
        assert_eq!(gpus.len(), 2);
        let (gpu, values) = (&gpus[0], &gpus[0].values);
        assert_eq!((gpu.index, gpu.name.as_str()), (0, "NVIDIA A100-SXM4-40GB"));
        assert_eq!(gpu.pci_address.as_deref(), Some("0000:41:00.0"));
        assert_eq!(values.memory_total_bytes, Some(40960 << 20));
        assert_eq!((values.utilization_percent, values.temperature_celsius), (Some(37), Some(45)));
        assert_eq!((values.memory_temperature_celsius, values.power_watts), (None, Some(61.23)));
        assert_eq!((values.performance_state, values.fan_percent), (Some(0), None));
        assert_eq!((gpus[1].values.power_watts, gpus[1].values.fan_percent), (None, Some(40)));
    }

    #[test]
    fn error_texts_become_problems() {
        let found = |text: &str| {
            let line = format!("0, A100, GPU-1, 00000000:41:00.0, {text}, {text}, 1, 2\n");
            let gpu = parse(line.as_bytes()).remove(0);
            assert_eq!((gpu.name.as_str(), gpu.values.memory_total_bytes), ("A100", None));
            (gpu.problem, gpu.message)
        };
        for (text, problem) in [
            ("[GPU requires reset]", Problem::Failed),
            ("[Unknown Error]", Problem::Failed),
            ("[GPU is lost]", Problem::Lost),
            ("[Timeout]", Problem::Hung),
        ] {
            let message = format!("nvidia-smi: {}", text.trim_matches(['[', ']']));
            assert_eq!(found(text), (Some(problem), Some(message)));
        }
        for text in
            ["[N/A]", "N/A", "[Not Supported]", "[Insufficient Permissions]", "[Not Found]", "[]"]
        {
            assert_eq!(found(text), (None, None), "{text}");
        }
        assert_eq!(parse(LINES)[1].problem, Some(Problem::Failed), "one value is enough");
    }

    #[test]
    fn skips_driver_error_messages() {
        assert!(parse(b"No devices were found\n").is_empty());
        assert!(parse(b"Failed to initialize NVML: Driver/library version mismatch\n").is_empty());
        assert_eq!(parse(b"3\n").len(), 1, "missing values are absent");
        for end in 0..LINES.len() {
            assert!(parse(&LINES[..end]).len() <= 2);
        }
    }
}
