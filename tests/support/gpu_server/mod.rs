//! The `/proc`, `/sys` and `/etc` of a GPU server with hardware that test machines lack: InfiniBand, software RAID, bonds, memory
//! controllers, and so on. Written by hand after the kernel's documentation and source, with values that differ from each other.

pub mod bus;
mod hardware;
mod infiniband;
pub mod kernel;
mod network;
mod processors;
mod sensors;
pub mod sources;
mod storage;

use std::path::Path;

use super::TempDir;
use hm_agent::config::{CollectorsConfig, Roots};

pub struct GpuServer(TempDir);

impl GpuServer {
    pub fn new() -> Self {
        let server = Self(TempDir::new("gpu-server"));
        server.write("proc/stat", "cpu  900 0 300 5000 70 0 8 0 0 0\ncpu0 900 0 300 5000 70 0 8 0 0 0\nbtime 1795000000\n");
        server.write("proc/meminfo", "MemTotal:       2113531420 kB\nMemFree:        1800000000 kB\nMemAvailable:   1900000000 kB\n");
        kernel::write(&server);
        infiniband::write(&server);
        hardware::write(&server);
        network::write(&server);
        processors::write(&server);
        sensors::write(&server);
        storage::write(&server);
        sources::write(&server);
        server
    }

    /// Writes a file below the directory, such as `proc/net/sockstat`.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.0.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Creates a directory. Where a file is expected, reads of it fail.
    pub fn directory(&self, path: &str) {
        std::fs::create_dir_all(self.0.0.join(path)).unwrap();
    }

    /// Creates a symbolic link below the directory.
    pub fn link(&self, path: &str, target: &str) {
        let path = self.0.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.0.0.join(path)).unwrap();
    }

    pub fn path(&self) -> &Path {
        &self.0.0
    }

    pub fn roots(&self) -> Roots {
        let below = |name: &str| self.0.0.join(name);
        Roots { proc: below("proc"), sys: below("sys"), root: below("root") }
    }

    pub fn collectors(&self) -> CollectorsConfig {
        let textfile_directory = Some(self.0.0.join("textfile"));
        CollectorsConfig { textfile_directory, ..CollectorsConfig::default() }
    }
}
