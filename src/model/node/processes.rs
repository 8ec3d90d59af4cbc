//! Number of processes and threads.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// All threads of all processes.
    pub threads: Option<u64>,
    pub max_threads: Option<u64>,
    /// Highest process id. Threads have one too.
    pub max_pids: Option<u64>,
    /// `None` if the agent does not see those of other users.
    pub pids: Option<u64>,
    /// Number of processes in each state that occurs, such as `R` (running) and `D` (uninterruptible sleep). Empty if there are too
    /// many processes, or they are not visible.
    pub states: Vec<(char, u64)>,
}
