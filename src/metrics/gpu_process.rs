//! Processes that use a GPU, summed by user, container and pod. A series for each process would be a new one with every
//! start of a process, which a time-series database keeps for its whole retention; the processes are in `/snapshot`.

use std::collections::BTreeMap;

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::gpu::{Gpu, GpuProcess};

/// Users and containers of one GPU, those with most memory first.
const MAX_OWNERS: usize = 32;

/// GPU instance, user, container and pod.
type Owner<'a> = (Option<u32>, &'a str, &'a str, &'a str);

#[derive(Default)]
struct Use {
    processes: u64,
    memory_bytes: Option<u64>,
}

pub(super) fn encode(encoder: &mut Encoder, named: &[(String, &Gpu)], truncation: &mut Truncation) {
    let mut all = Vec::new();
    for (of_gpu, gpu) in named {
        let owners = owners(gpu);
        let shown = truncation.limit("gpu_process_owners", &owners, MAX_OWNERS);
        all.extend(
            shown.iter().map(|(owner, used)| {
                (owner_labels(of_gpu, owner), used.processes, used.memory_bytes)
            }),
        );
    }
    encoder.gauge(
        "hm_agent_gpu_processes",
        "Number of processes that use the GPU, by user, container and pod.",
    );
    for (labels, processes, _) in &all {
        encoder.sample(labels, *processes);
    }
    encoder.gauge(
        "hm_agent_gpu_process_memory_bytes",
        "GPU memory used by processes, by user, container and pod.",
    );
    for (labels, _, memory_bytes) in &all {
        encoder.sample_if(labels, *memory_bytes);
    }
}

fn owners(gpu: &Gpu) -> Vec<(Owner<'_>, Use)> {
    let mut owners: BTreeMap<Owner<'_>, Use> = BTreeMap::new();
    for process in gpu.values.processes.iter().flatten() {
        let used = owners.entry(owner(process)).or_default();
        used.processes += 1;
        let sums = [used.memory_bytes, process.memory_used_bytes];
        used.memory_bytes = sums.into_iter().flatten().reduce(u64::saturating_add);
    }
    let mut owners: Vec<_> = owners.into_iter().collect();
    owners.sort_by_key(|(_, used)| std::cmp::Reverse(used.memory_bytes));
    owners
}

fn owner(process: &GpuProcess) -> Owner<'_> {
    (
        process.gpu_instance,
        process.user.as_deref().unwrap_or_default(),
        process.container_id.as_deref().unwrap_or_default(),
        process.pod_uid.as_deref().unwrap_or_default(),
    )
}

fn owner_labels(of_gpu: &str, (instance, user, container_id, pod_uid): &Owner<'_>) -> String {
    let own = labels(&[("user", user), ("container_id", container_id), ("pod_uid", pod_uid)]);
    match instance {
        Some(instance) => format!("{of_gpu},GPU_I_ID=\"{instance}\",{own}"),
        None => format!("{of_gpu},{own}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::format::Format;
    use crate::model::gpu::Values;

    fn process(pid: u32, user: &str, container: Option<&str>, bytes: Option<u64>) -> GpuProcess {
        GpuProcess {
            pid,
            user: Some(user.to_owned()),
            container_id: container.map(str::to_owned),
            pod_uid: container.map(|_| "uid".to_owned()),
            memory_used_bytes: bytes,
            ..GpuProcess::default()
        }
    }

    fn lines(processes: Vec<GpuProcess>) -> (Vec<String>, Truncation) {
        let values = Values { processes: Some(processes), ..Values::default() };
        let gpu = Gpu { values, ..Gpu::default() };
        let (mut encoder, mut truncation) =
            (Encoder::new(Format::Prometheus), Truncation::default());
        encode(&mut encoder, &[("gpu=\"0\"".to_owned(), &gpu)], &mut truncation);
        let text = encoder.finish();
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
        (samples.collect(), truncation)
    }

    #[test]
    fn sums_processes_by_owner() {
        let instance = GpuProcess { gpu_instance: Some(3), ..process(5, "bob", None, None) };
        let (lines, _) = lines(vec![
            process(1, "root", Some("abc"), Some(100)),
            process(2, "root", Some("abc"), Some(20)),
            process(3, "al\"ice", None, Some(7)),
            process(4, "al\"ice", None, None),
            instance,
        ]);
        assert_eq!(
            lines,
            [
                r#"hm_agent_gpu_processes{gpu="0",user="root",container_id="abc",pod_uid="uid"} 2"#,
                r#"hm_agent_gpu_processes{gpu="0",user="al\"ice",container_id="",pod_uid=""} 2"#,
                r#"hm_agent_gpu_processes{gpu="0",GPU_I_ID="3",user="bob",container_id="",pod_uid=""} 1"#,
                r#"hm_agent_gpu_process_memory_bytes{gpu="0",user="root",container_id="abc",pod_uid="uid"} 120"#,
                r#"hm_agent_gpu_process_memory_bytes{gpu="0",user="al\"ice",container_id="",pod_uid=""} 7"#,
            ]
        );
    }

    #[test]
    fn shows_the_owners_with_most_memory() {
        let processes = (0..40u64).map(|at| process(7, &at.to_string(), None, Some(at)));
        let (lines, truncation) = lines(processes.collect());
        assert_eq!(lines.len(), 2 * MAX_OWNERS);
        assert!(lines[MAX_OWNERS].contains("user=\"39\""), "{}", lines[MAX_OWNERS]);
        assert_eq!(truncation.0, [("gpu_process_owners", 8)]);
    }
}
