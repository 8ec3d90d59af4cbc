//! CPUs that are online or isolated, their thermal throttling, and the model of each package. Their times are those of
//! [`crate::procfs::stat`], which is read with every sample.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::collector::host_files::HostFiles;
use crate::collector::node::{MAX_CPUS, limit};
use crate::model::node::Measurement;
use crate::model::node::cpu::{CoreThrottles, Cpu, Package, PackageThrottles};
use crate::procfs::processors::Processor;
use crate::procfs::{cpu_list, processors};
use crate::util::text::parse_decimal;

/// The largest servers have 32; a virtual machine may have one for each CPU.
const MAX_PACKAGES: usize = 64;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("devices/system/cpu");
    let mut cpu = Cpu::default();
    let online = host.parse(&directory.join("online"), cpu_list::parse);
    let present = host.parse(&directory.join("present"), cpu_list::parse);
    if let (Some(online), Some(mut present)) = (online, present) {
        limit(&mut present, MAX_CPUS, &mut cpu.truncated);
        let online: BTreeSet<u32> = online.into_iter().collect();
        cpu.online = present.into_iter().map(|cpu| (cpu, online.contains(&cpu))).collect();
    }
    cpu.isolated = host.parse(&directory.join("isolated"), cpu_list::parse).unwrap_or_default();
    cpu.isolated.truncate(MAX_CPUS);
    read_throttles(host, &directory, &mut cpu);
    cpu.packages = packages(host);
    (cpu != Cpu::default()).then_some(Measurement::Cpu(cpu))
}

/// Only processors of Intel count. Both threads of a core, and all cores of a package, have the same counter.
fn read_throttles(host: &mut HostFiles, directory: &Path, cpu: &mut Cpu) {
    let mut cores: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut packages: BTreeMap<u64, u64> = BTreeMap::new();
    for number in host.numbers(directory, "cpu").into_iter().take(MAX_CPUS) {
        let path = directory.join(format!("cpu{number}"));
        let mut number = |name: &str| parse_decimal(host.line(&path.join(name))?.as_bytes());
        // A CPU that is offline has no topology.
        let Some(package) = number("topology/physical_package_id") else { continue };
        let Some(core) = number("topology/core_id") else { continue };
        if let Entry::Vacant(entry) = cores.entry((package, core)) {
            let Some(count) = number("thermal_throttle/core_throttle_count") else { break };
            entry.insert(count);
        }
        if let Entry::Vacant(entry) = packages.entry(package)
            && let Some(count) = number("thermal_throttle/package_throttle_count")
        {
            entry.insert(count);
        }
    }
    let core = |((package, core), count)| CoreThrottles { package, core, count };
    cpu.core_throttles = cores.into_iter().map(core).collect();
    let package = |(package, count)| PackageThrottles { package, count };
    cpu.package_throttles = packages.into_iter().map(package).collect();
}

/// One for each package: node_exporter's `node_cpu_info` has a series for each CPU, which all have the same values.
fn packages(host: &mut HostFiles) -> Vec<Package> {
    let processors = host.parse(&host.proc("cpuinfo"), |text| Ok(processors::parse(text)));
    let packages: BTreeSet<Package> =
        processors.iter().flatten().filter_map(package).take(MAX_PACKAGES).collect();
    packages.into_iter().collect()
}

/// `None` if the text has no name, as on Arm.
fn package(processor: &Processor) -> Option<Package> {
    let text = |key: &str| processor.text(key).unwrap_or_default();
    Some(Package {
        number: processor.package().map(|number| number.to_string()).unwrap_or_default(),
        vendor: text("vendor_id"),
        family: text("cpu family"),
        model: text("model"),
        model_name: processor.text("model name")?,
        microcode: text("microcode"),
        stepping: text("stepping"),
        cache_size: text("cache size"),
    })
}
