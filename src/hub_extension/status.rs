//! The status of a node for the fleet page.

use serde::{Deserialize, Serialize};

use crate::model::gpu::{Gpu, Gpus, Problem};
use crate::model::health_problem::HealthProblem;

/// Limits of a status; real ones are shorter.
const MAX_GPUS: usize = 64;
const MAX_PROBLEMS: usize = 16;
const MAX_MODEL_BYTES: usize = 64;
const MAX_PROBLEM_BYTES: usize = 200;
/// A GPU without utilization is idle. With more of its memory in use, a process holds it: the driver itself takes less.
const MAX_IDLE_MEMORY_PERCENT: u64 = 5;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Every GPU, sorted by index.
    pub gpus: Vec<GpuStatus>,
    /// Mean of the GPUs; `None`: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_utilization_percent: Option<u8>,
    /// Share of the memory of all GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_memory_used_percent: Option<u8>,
    /// Critical ones first.
    pub problems: Vec<HealthProblem>,
    /// Errors of GPUs within the last day: each code of each GPU once.
    #[serde(default)]
    pub xids_last_24h: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuStatus {
    pub model: String,
    pub state: GpuCondition,
}

/// What a GPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuCondition {
    Active,
    Idle,
    /// No utilization, but its memory is in use.
    IdleMemory,
    Suspended,
    Hung,
    Lost,
    Failed,
}

impl GpuCondition {
    pub const ALL: [Self; 7] = [
        Self::Active,
        Self::Idle,
        Self::IdleMemory,
        Self::Suspended,
        Self::Hung,
        Self::Lost,
        Self::Failed,
    ];

    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::IdleMemory => "idle_memory",
            Self::Suspended => "suspended",
            Self::Hung => "hung",
            Self::Lost => "lost",
            Self::Failed => "failed",
        }
    }

    fn of(gpu: &Gpu) -> Self {
        match gpu.problem {
            Some(Problem::Lost) => return Self::Lost,
            Some(Problem::Suspended) => return Self::Suspended,
            Some(Problem::Hung) => return Self::Hung,
            Some(Problem::Failed) => return Self::Failed,
            None => {}
        }
        let values = &gpu.values;
        let memory = values.memory_used_bytes.zip(values.memory_total_bytes);
        let holds_memory =
            memory.is_some_and(|(used, total)| percent(used, total) > MAX_IDLE_MEMORY_PERCENT);
        match values.utilization_percent {
            Some(0) if holds_memory => Self::IdleMemory,
            Some(0) => Self::Idle,
            _ => Self::Active,
        }
    }
}

impl NodeStatus {
    pub fn new(gpus: &Gpus, mut problems: Vec<HealthProblem>, xids_last_24h: usize) -> Self {
        let each = || gpus.each.iter().map(|gpu| &gpu.values);
        let utilizations: Vec<_> = each().filter_map(|values| values.utilization_percent).collect();
        let sum: u64 = utilizations.iter().copied().map(u64::from).sum();
        let memory = || each().filter_map(|it| it.memory_used_bytes.zip(it.memory_total_bytes));
        let (used, total) =
            memory().fold((0, 0), |sum: (u64, u64), it| (sum.0 + it.0, sum.1 + it.1));
        problems.truncate(MAX_PROBLEMS);
        let share = |part, whole| (whole > 0).then(|| percent(part, whole).min(100) as u8);
        Self {
            gpus: each_status(gpus).collect(),
            gpu_utilization_percent: share(sum, 100 * utilizations.len() as u64),
            gpu_memory_used_percent: share(used, total),
            problems,
            xids_last_24h: u32::try_from(xids_last_24h).unwrap_or(u32::MAX),
        }
        .truncate()
    }

    /// Approximate size in memory.
    pub fn size(&self) -> usize {
        let models = self.gpus.iter().map(|gpu| size_of::<GpuStatus>() + gpu.model.len());
        let problems = self.problems.iter().map(|it| size_of::<HealthProblem>() + it.text.len());
        models.sum::<usize>() + problems.sum::<usize>()
    }

    /// Cuts off what exceeds the limits, and replaces control characters, which JSON makes six times as long.
    pub fn truncate(mut self) -> Self {
        self.gpus.truncate(MAX_GPUS);
        self.problems.truncate(MAX_PROBLEMS);
        for gpu in &mut self.gpus {
            clean(&mut gpu.model, MAX_MODEL_BYTES);
        }
        for problem in &mut self.problems {
            clean(&mut problem.text, MAX_PROBLEM_BYTES);
        }
        self.gpu_utilization_percent = self.gpu_utilization_percent.map(|value| value.min(100));
        self.gpu_memory_used_percent = self.gpu_memory_used_percent.map(|value| value.min(100));
        self
    }
}

fn each_status(gpus: &Gpus) -> impl Iterator<Item = GpuStatus> + '_ {
    gpus.each.iter().map(|gpu| GpuStatus { model: gpu.name.clone(), state: GpuCondition::of(gpu) })
}

/// Rounded to the nearest.
fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 { 0 } else { (part as f64 / whole as f64 * 100.0).round() as u64 }
}

fn clean(text: &mut String, max_bytes: usize) {
    super::messages::cut(text, max_bytes);
    if text.contains(|c: char| c.is_control()) {
        *text = text.replace(|c: char| c.is_control(), " ");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::Values;
    use crate::model::health_problem::Severity;

    fn gpu(utilization: Option<u32>, used: u64, problem: Option<Problem>) -> Gpu {
        let values = Values {
            utilization_percent: utilization,
            memory_used_bytes: Some(used),
            memory_total_bytes: Some(80),
            ..Values::default()
        };
        Gpu { name: "M".into(), problem, values, ..Gpu::default() }
    }

    #[test]
    fn idle_gpu_that_holds_memory_is_idle_memory() {
        for (gpu, expected) in [
            (gpu(Some(1), 0, None), GpuCondition::Active),
            (gpu(None, 70, None), GpuCondition::Active),
            (gpu(Some(0), 4, None), GpuCondition::Idle),
            (gpu(Some(0), 70, None), GpuCondition::IdleMemory),
            (gpu(Some(0), 70, Some(Problem::Hung)), GpuCondition::Hung),
            (gpu(None, 0, Some(Problem::Lost)), GpuCondition::Lost),
        ] {
            assert_eq!(GpuCondition::of(&gpu), expected);
        }
    }

    #[test]
    fn names_are_those_of_json() {
        for state in GpuCondition::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
    }

    #[test]
    fn means_cover_the_gpus_that_have_values() {
        let lost = Gpu { problem: Some(Problem::Lost), ..Gpu::default() };
        let each = vec![gpu(Some(100), 80, None), gpu(Some(50), 0, None), lost];
        let status = NodeStatus::new(&Gpus { nvidia: None, each }, Vec::new(), 3);
        assert_eq!(status.gpu_utilization_percent, Some(75));
        assert_eq!(status.gpu_memory_used_percent, Some(50));
        assert_eq!(status.gpus.len(), 3);
        let none = NodeStatus::new(&Gpus::default(), Vec::new(), 0);
        assert_eq!(none, NodeStatus::default());
    }

    #[test]
    fn longest_status_fits_into_the_head_of_a_message() {
        let hostile = "\u{1}\"".repeat(1000);
        let problem = HealthProblem { severity: Severity::Critical, text: hostile.clone() };
        let status = NodeStatus {
            gpus: vec![GpuStatus { model: hostile, state: GpuCondition::IdleMemory }; 1000],
            problems: vec![problem; 1000],
            gpu_utilization_percent: Some(255),
            ..NodeStatus::default()
        };
        let status = status.truncate();
        assert_eq!(status.gpu_utilization_percent, Some(100));
        assert!(serde_json::to_vec(&status).unwrap().len() < 16 << 10);
    }
}
