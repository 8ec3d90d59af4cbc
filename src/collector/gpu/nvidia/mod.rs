//! NVIDIA GPUs. NVML runs in the GPU probe, a child process, because its calls can hang or crash;
//! [`probe_supervisor::ProbeSupervisor`] starts, polls, kills and restarts it.

mod driver_log;
pub(crate) mod embedded_probe;
mod event_window;
mod extras_policy;
mod inventory;
mod pci;
mod pci_scan;
mod probe_process;
mod probe_reply;
mod probe_state;
pub(crate) mod probe_supervisor;

pub use gpu_probe::protocol;
