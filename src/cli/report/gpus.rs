//! GPUs in the report of `hm-agent sample`: a line for each GPU, with the columns that at least one GPU has a value for.

use crate::cli::report::{Table, format_bytes, used_of_total};
use crate::health;
use crate::model::Snapshot;
use crate::model::gpu::{DriverState, Gpu, GpuProcess, Gpus, NvidiaDriver, Values};
use crate::model::nvidia::Profiling;

/// Processes listed per GPU.
const MAX_PROCESSES: usize = 8;

const HEADER: [&str; 9] = ["", "", "busy", "memory", "core", "hbm", "power", "clock", "fan"];
const COLUMNS: usize = HEADER.len();

pub(super) fn gpus(out: &mut Table, snapshot: &Snapshot) {
    let Gpus { nvidia, each } = &*snapshot.gpus;
    if let Some(nvidia) = nvidia {
        driver(out, nvidia);
    }
    if each.is_empty() {
        return;
    }
    let rows: Vec<[String; COLUMNS]> = each.iter().map(cells).collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        // Columns without values are hidden.
        if widest == 0 { 0 } else { widest.max(HEADER[column].chars().count()) }
    });
    out.line("gpu", &aligned(&HEADER.map(str::to_owned), &widths));
    for (gpu, row) in each.iter().zip(&rows) {
        let line = format!("{}  {}", aligned(row, &widths), notes(gpu).join(", "));
        out.line("", &line);
        details(out, &gpu.values);
    }
}

fn driver(out: &mut Table, nvidia: &NvidiaDriver) {
    let message = nvidia.message.as_deref().unwrap_or_default();
    match nvidia.state {
        DriverState::NoGpu => {}
        DriverState::Ok => {
            let version = nvidia.driver_version.as_deref().unwrap_or("(unknown version)");
            let cuda = nvidia.cuda_version.as_ref().map(|cuda| format!(", CUDA {cuda}"));
            out.line("nvidia", &format!("driver {version}{}", cuda.unwrap_or_default()));
        }
        DriverState::Suspended => out.line("nvidia", "all GPUs are suspended"),
        DriverState::Starting => out.line("nvidia", "no response from the driver yet"),
        DriverState::NoDriver => out.line("nvidia", &format!("no driver: {message}")),
        DriverState::VersionMismatch => out.line("nvidia", &format!("version mismatch: {message}")),
        DriverState::Hung => out.line("nvidia", &format!("the driver hangs: {message}")),
        DriverState::Crashed | DriverState::Unavailable => out.line("nvidia", message),
    }
}

fn aligned(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let shown = cells.iter().zip(widths).enumerate().filter(|(_, (_, width))| **width > 0);
    let padded = shown.map(|(column, (cell, width))| {
        let space = " ".repeat(width.saturating_sub(cell.chars().count()));
        // Names are left-aligned, numbers right-aligned.
        if column == 1 { format!("{cell}{space}") } else { format!("{space}{cell}") }
    });
    padded.collect::<Vec<_>>().join("  ")
}

fn cells(gpu: &Gpu) -> [String; COLUMNS] {
    fn cell<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
        value.map(text).unwrap_or_default()
    }
    let values = &gpu.values;
    let memory = values.memory_used_bytes.zip(values.memory_total_bytes);
    let power = match (values.power_watts, values.power_limit_watts) {
        (Some(now), Some(limit)) => format!("{now:.0} of {limit:.0} W"),
        (now, _) => cell(now, |now| format!("{now:.0} W")),
    };
    [
        gpu.index.to_string(),
        gpu.name.clone(),
        cell(values.utilization_percent, |percent| format!("{percent} %")),
        cell(memory, |(used, total)| used_of_total(used, total)),
        cell(values.temperature_celsius, |celsius| format!("{celsius} °C")),
        cell(values.memory_temperature_celsius, |celsius| format!("{celsius} °C")),
        power,
        cell(values.sm_clock_mhz, |mhz| format!("{mhz} MHz")),
        cell(values.fan_percent, |percent| format!("{percent} %")),
    ]
}

/// Problems, performance state, limits and error counts.
fn notes(gpu: &Gpu) -> Vec<String> {
    let values = &gpu.values;
    let mut notes = Vec::new();
    if let Some(problem) = gpu.problem {
        let problem = format!("{problem:?}").to_ascii_uppercase();
        notes.push(format!("{problem}: {}", gpu.message.as_deref().unwrap_or("no values")));
    }
    notes.extend(values.performance_state.map(|state| format!("P{state}")));
    let reasons = values.clock_event_reasons.iter().flatten();
    notes.extend(reasons.filter(|reason| *reason != "gpu_idle").cloned());
    let mut part = |what: &str, used: Option<u64>, total: Option<u64>| {
        notes.extend(
            used.zip(total).map(|(used, total)| format!("{what} {}", used_of_total(used, total))),
        );
    };
    part("VRAM", values.vram_used_bytes, values.vram_total_bytes);
    part("GTT", values.gtt_used_bytes, values.gtt_total_bytes);
    let mut count = |what: &str, number: Option<u64>| {
        notes.extend(number.filter(|number| *number > 0).map(|number| format!("{number} {what}")));
    };
    let ecc = values.ecc.unwrap_or_default();
    count("uncorrected ECC errors", ecc.volatile_uncorrected.or(ecc.aggregate_uncorrected));
    count("PCIe replays", values.pcie_replays);
    count("NVLinks lost", values.nvlink.and_then(|link| link.links_lost).map(u64::from));
    let pages = values.retired_pages.unwrap_or_default();
    count("retired pages", pages.double_bit);
    count("bad pages still in use", pages.failed);
    let modes = values.partitions.iter().filter(|partitions| partitions.count != Some(1));
    notes.extend(modes.filter_map(|partitions| partitions.compute_mode.clone()));
    if let Some(rows) = values.remapped_rows {
        notes.extend(rows.pending.then(|| "row remapping pending until GPU reset".to_owned()));
        notes.extend(rows.failed.then(|| "row remapping failed".to_owned()));
    }
    notes.extend(health::nvidia::conditions(values).into_iter().map(|found| found.finding.summary));
    notes.extend(gpu.xids.iter().map(|xid| format!("XID {} × {}", xid.code, xid.count)));
    notes
}

/// Profiling metrics, MIG instances and the processes that use most memory.
fn details(out: &mut Table, values: &Values) {
    if let Some(profiling) = values.profiling.as_ref().map(profile).filter(|line| !line.is_empty())
    {
        out.line("", &format!("     {profiling}"));
    }
    for instance in values.mig_instances.iter().flatten() {
        let name = instance.name.as_deref().unwrap_or("MIG instance");
        let memory = instance.memory_used_bytes.zip(instance.memory_total_bytes);
        let memory = memory.map(|(used, total)| format!("  {}", used_of_total(used, total)));
        let id = instance.gpu_instance.map(|id| format!(" (GPU instance {id})"));
        let (id, memory) = (id.unwrap_or_default(), memory.unwrap_or_default());
        out.line("", &format!("     {name}{id}{memory}"));
    }
    let mut processes: Vec<&GpuProcess> = values.processes.iter().flatten().collect();
    processes.sort_by_key(|process| std::cmp::Reverse(process.memory_used_bytes));
    for process in processes.iter().take(MAX_PROCESSES) {
        let name = process.name.as_deref().unwrap_or("?");
        let memory =
            process.memory_used_bytes.map_or(String::new(), |used| format_bytes(used as f64));
        out.line("", &format!("     {memory:>10}  {}{name} ({})", owner(process), process.pid));
    }
    if processes.len() > MAX_PROCESSES {
        out.line("", &format!("     and {} more processes", processes.len() - MAX_PROCESSES));
    }
}

/// E.g. `SM 41 %, tensor 25 %, DRAM 10 %, PCIe 5.0 MiB/s`.
fn profile(profiling: &Profiling) -> String {
    let ratio = |what: &str, ratio: Option<f64>| {
        ratio.map(|ratio| format!("{what} {:.0} %", 100.0 * ratio))
    };
    let rate = |what: &str, sent: Option<f64>, received: Option<f64>| {
        let total = sent.zip(received).map(|(sent, received)| sent + received);
        total.map(|bytes| format!("{what} {}/s", format_bytes(bytes)))
    };
    let parts = [
        ratio("SM", profiling.sm_active_ratio),
        ratio("occupancy", profiling.sm_occupancy_ratio),
        ratio("tensor", profiling.tensor_ratio),
        ratio("DRAM", profiling.dram_ratio),
        rate(
            "PCIe",
            profiling.pcie_transmitted_bytes_per_second,
            profiling.pcie_received_bytes_per_second,
        ),
        rate(
            "NVLink",
            profiling.nvlink_transmitted_bytes_per_second,
            profiling.nvlink_received_bytes_per_second,
        ),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// User, pod and container in front of the process.
fn owner(process: &GpuProcess) -> String {
    let pod = process.pod_uid.as_ref().map(|uid| format!("pod {uid}"));
    // As long as Docker's and the kubelet's tools print it.
    let container = process.container_id.as_ref().and_then(|id| id.get(..12));
    let container = container.map(|id| format!("container {id}"));
    let parts: Vec<String> = [process.user.clone(), pod, container].into_iter().flatten().collect();
    if parts.is_empty() { String::new() } else { format!("{}: ", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::Problem;
    use crate::model::host_info::HostInfo;
    use crate::model::nvidia::RecoveryAction;
    use std::sync::Arc;

    #[test]
    fn hides_columns_without_values() {
        let process = |pid, name: &str, gib: u64| GpuProcess {
            pid,
            name: Some(name.into()),
            memory_used_bytes: Some(gib << 30),
            ..GpuProcess::default()
        };
        let owned = GpuProcess {
            user: Some("alice".into()),
            container_id: Some("7f0c3a5b91d2e847".repeat(4)),
            pod_uid: Some("3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0e".into()),
            ..process(8, "train", 2)
        };
        let busy = Gpu {
            name: "NVIDIA L4".into(),
            values: Values {
                utilization_percent: Some(97),
                memory_used_bytes: Some(20 << 30),
                memory_total_bytes: Some(22 << 30),
                power_watts: Some(71.6),
                power_limit_watts: Some(72.0),
                performance_state: Some(0),
                clock_event_reasons: Some(vec!["sw_power_cap".into()]),
                recovery_action: Some(RecoveryAction::GpuReset),
                profiling: Some(Profiling {
                    sm_active_ratio: Some(0.406),
                    tensor_ratio: Some(0.25),
                    pcie_transmitted_bytes_per_second: Some(4_194_304.0),
                    pcie_received_bytes_per_second: Some(1_048_576.0),
                    ..Profiling::default()
                }),
                processes: Some(vec![process(9, "sh", 1), owned, process(7, "python3", 19)]),
                ..Values::default()
            },
            ..Gpu::default()
        };
        let lost = Gpu {
            index: 1,
            name: "NVIDIA L4".into(),
            problem: Some(Problem::Lost),
            message: Some("fell off the bus".into()),
            ..Gpu::default()
        };
        let nvidia = NvidiaDriver {
            state: DriverState::Ok,
            driver_version: Some("550.54.14".into()),
            cuda_version: Some("12.4".into()),
            ..NvidiaDriver::default()
        };
        let gpus = Arc::new(Gpus { nvidia: Some(nvidia), each: vec![busy, lost] });
        let snapshot = Snapshot { gpus, ..Snapshot::default() };
        let text = super::super::text(&HostInfo::default(), &snapshot);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "nvidia     driver 550.54.14, CUDA 12.4",
                "gpu                      busy                memory       power",
                "           0  NVIDIA L4  97 %  20.0 GiB of 22.0 GiB  72 of 72 W  P0, sw_power_cap, the driver recommends: GPU reset",
                "                SM 41 %, tensor 25 %, PCIe 5.0 MiB/s",
                "                  19.0 GiB  python3 (7)",
                "                   2.0 GiB  alice, pod 3c1d7a52-0e4f-4b8e-9d0a-5f6c7b8a9d0e, container 7f0c3a5b91d2: train (8)",
                "                   1.0 GiB  sh (9)",
                "           1  NVIDIA L4                                          LOST: fell off the bus",
            ]
        );
    }
}
