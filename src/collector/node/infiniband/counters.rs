//! Counters of RDMA ports. Each read may be a query of the firmware, so they are read once a minute.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::collector::host_files::{HostFiles, is_absent};
use crate::collector::node::Collector;
use crate::collector::node::infiniband::{MAX_PORTS, devices, ports};
use crate::model::node::Measurement;
use crate::model::node::infiniband::{COUNTERS, InfinibandPortCounters};
use crate::procfs::infiniband;
use crate::util::error::Error;

/// Reads the counters of all ports.
///
/// On HGX B200 and similar servers, ports of the fabric manager refuse to be read, and the driver writes a line to the kernel's log for
/// each attempt. What was refused is therefore not read again until the device is removed and added.
#[derive(Default)]
pub struct InfinibandCounters {
    refusals: HashMap<String, Refusals>,
}

/// What a device refused to be read.
#[derive(Default)]
struct Refusals {
    /// The inode of the device's directory: another one if the device was added anew.
    inode: u64,
    /// Nothing can be read.
    all: bool,
    files: HashSet<PathBuf>,
}

impl Collector for InfinibandCounters {
    fn collect(&mut self, host: &mut HostFiles) -> Option<Measurement> {
        let devices = devices(host);
        self.forget_replaced_devices(host, &devices);
        let mut ports = ports(host, &devices);
        ports.truncate(MAX_PORTS);
        let counters = ports.into_iter().map(|(id, path)| {
            let refusals = self.refusals.entry(id.device.clone()).or_default();
            InfinibandPortCounters { values: refusals.read_port(host, &path), id }
        });
        let counters: Vec<InfinibandPortCounters> = counters.collect();
        (!counters.is_empty()).then_some(Measurement::InfinibandCounters(counters))
    }
}

impl InfinibandCounters {
    fn forget_replaced_devices(&mut self, host: &HostFiles, devices: &[String]) {
        self.refusals.retain(|name, _| devices.contains(name));
        for name in devices {
            let metadata = std::fs::metadata(host.sys("class/infiniband").join(name));
            let inode = metadata.map_or(0, |metadata| metadata.ino());
            let refusals = self.refusals.entry(name.clone()).or_default();
            if refusals.inode != inode {
                *refusals = Refusals { inode, ..Refusals::default() };
            }
        }
    }
}

impl Refusals {
    fn read_port(&mut self, host: &mut HostFiles, directory: &Path) -> Vec<Option<u64>> {
        let mut has_answered = false;
        let read = COUNTERS.iter().map(|counter| {
            let path = directory.join(counter.file);
            if self.all || self.files.contains(&path) {
                return None;
            }
            match host.read(&path, infiniband::parse_counter) {
                Ok(value) => {
                    has_answered = true;
                    value
                }
                Err(error) => {
                    self.on_error(host, path, error, has_answered);
                    None
                }
            }
        });
        read.collect()
    }

    /// If a port refuses a counter before any other counter of it was read, no counter of the device is read until it is added anew. Otherwise
    /// the port does not have this counter.
    fn on_error(&mut self, host: &mut HostFiles, path: PathBuf, error: Error, has_answered: bool) {
        if is_absent(error.raw_os_error()) {
            return;
        }
        if !is_refused(&error) {
            host.fail(error);
        } else if has_answered {
            log::info!("{error}; it is not read again until the device is added anew");
            self.files.insert(path);
        } else {
            log::info!("{error}; counters of the device are not read until it is added anew");
            self.all = true;
        }
    }
}

/// Whether the driver returned the error, and not the kernel on its own.
fn is_refused(error: &Error) -> bool {
    const NOT_OF_THE_DRIVER: [i32; 5] =
        [libc::EACCES, libc::EINTR, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| !NOT_OF_THE_DRIVER.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::file_reader::FileReader;
    use crate::config::Roots;

    /// A directory that stands for `/sys`, removed when dropped.
    struct SysTree(PathBuf);

    impl SysTree {
        fn new(name: &str) -> Self {
            let name = format!("hm-agent-infiniband-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_dir_all(&path);
            Self(path)
        }

        fn counter(&self, device: &str, name: &str) -> PathBuf {
            let path = self.0.join("class/infiniband").join(device).join("ports/1/counters");
            std::fs::create_dir_all(&path).unwrap();
            path.join(name)
        }

        fn write(&self, device: &str, name: &str, text: &str) {
            std::fs::write(self.counter(device, name), text).unwrap();
        }

        /// Makes reads of a counter fail: it is a directory.
        fn refuse(&self, device: &str, name: &str) {
            std::fs::create_dir(self.counter(device, name)).unwrap();
        }

        fn allow(&self, device: &str, name: &str, text: &str) {
            std::fs::remove_dir(self.counter(device, name)).unwrap();
            self.write(device, name, text);
        }
    }

    impl Drop for SysTree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// The counters of the first port that have a value, as in their files, and whether the collector failed.
    fn collect(collector: &mut InfinibandCounters, tree: &SysTree) -> (Vec<(String, u64)>, bool) {
        let roots = Roots { proc: tree.0.clone(), sys: tree.0.clone(), root: tree.0.clone() };
        let mut host = HostFiles::new(roots, FileReader::closing());
        let Some(Measurement::InfinibandCounters(ports)) = collector.collect(&mut host) else {
            panic!("no ports");
        };
        let values = COUNTERS.iter().zip(&ports[0].values);
        let present = values.filter_map(|(counter, value)| {
            Some((counter.file.strip_prefix("counters/")?.to_owned(), (*value)?))
        });
        (present.collect(), host.take_failure().is_some())
    }

    fn counter(name: &str, value: u64) -> (String, u64) {
        (name.to_owned(), value)
    }

    #[test]
    fn stops_reading_device_that_refuses_until_it_is_added_anew() {
        let (tree, mut collector) = (SysTree::new("device"), InfinibandCounters::default());
        tree.refuse("mlx5_0", "port_rcv_data");
        tree.write("mlx5_0", "link_downed", "3\n");
        assert_eq!(collect(&mut collector, &tree), (vec![], false));
        tree.allow("mlx5_0", "port_rcv_data", "7\n");
        assert_eq!(collect(&mut collector, &tree), (vec![], false), "not read again");

        let directory = tree.0.join("class/infiniband");
        tree.write("new", "link_downed", "5\n");
        std::fs::remove_dir_all(directory.join("mlx5_0")).unwrap();
        std::fs::rename(directory.join("new"), directory.join("mlx5_0")).unwrap();
        let (values, _) = collect(&mut collector, &tree);
        assert_eq!(values, [counter("link_downed", 5)], "the device was added anew");
    }

    #[test]
    fn stops_reading_only_the_counter_that_a_device_refuses() {
        let (tree, mut collector) = (SysTree::new("counter"), InfinibandCounters::default());
        tree.write("mlx5_0", "port_rcv_data", "7\n");
        tree.write("mlx5_0", "link_error_recovery", "N/A (no PMA)\n");
        tree.refuse("mlx5_0", "VL15_dropped");
        let expected = [counter("port_rcv_data", 7)];
        assert_eq!(collect(&mut collector, &tree), (expected.to_vec(), false));
        tree.allow("mlx5_0", "VL15_dropped", "9\n");
        assert_eq!(collect(&mut collector, &tree).0, expected);
    }

    #[test]
    fn malformed_counter_makes_the_collector_fail_and_is_read_again() {
        let (tree, mut collector) = (SysTree::new("malformed"), InfinibandCounters::default());
        tree.write("mlx5_0", "port_rcv_data", "many\n");
        tree.write("mlx5_0", "link_downed", "3\n");
        let link_downed = counter("link_downed", 3);
        assert_eq!(collect(&mut collector, &tree), (vec![link_downed.clone()], true));
        tree.write("mlx5_0", "port_rcv_data", "8\n");
        let expected = vec![counter("port_rcv_data", 8), link_downed];
        assert_eq!(collect(&mut collector, &tree), (expected, false));
    }
}
