//! Parts without a feature of their own: errors, log, files in the state directory, synchronization.

pub mod backoff;
pub mod child_env;
pub mod deadline_stream;
pub mod error;
pub mod journal;
pub mod liveness;
pub mod logger;
pub mod percent;
pub mod programs;
pub mod random;
pub mod redact;
pub mod render_cache;
pub mod shell_words;
pub mod state_dir;
pub mod state_io;
pub mod supervisor;
pub mod sync;
pub mod text;
pub mod thread;
pub mod threads;
