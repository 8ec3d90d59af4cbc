//! `cpu_info` and `cpu_performance`.

use serde_json::{Map, Value};

use crate::model::previous::PreviousItems;
use crate::procfs::cpuinfo;
use crate::procfs::processors::{CpuTopology, Processor};
use crate::procfs::stat::{CpuTimes, Stat};
use crate::remote::collect::sample::RemoteInventory;
use crate::remote::protocol::events::USER_HZ;
use crate::remote::protocol::events::fields::{Fields, two_decimals};

/// Processors by package, core and number.
pub(super) fn info(inventory: &RemoteInventory) -> Value {
    let placed: Vec<Placed> = inventory
        .processors
        .iter()
        .map(|processor| {
            let topology = find_topology(inventory, processor);
            let package = processor.package().or(topology.and_then(|cpu| cpu.package));
            let core = processor.core().or(topology.and_then(|cpu| cpu.core));
            // If the kernel does not report cores, each processor is a core.
            (package.unwrap_or(0), core.unwrap_or(processor.number.into()), processor)
        })
        .collect();
    let mut packages = Map::new();
    for (id, ..) in &placed {
        if !packages.contains_key(&id.to_string()) {
            let own: Vec<Placed> =
                placed.iter().copied().filter(|(other, ..)| other == id).collect();
            packages.insert(id.to_string(), package(inventory, *id, &own));
        }
    }
    Value::Object(packages)
}

/// A processor with its package and core.
type Placed<'a> = (u64, u64, &'a Processor);

fn find_topology<'a>(
    inventory: &'a RemoteInventory,
    processor: &Processor,
) -> Option<&'a CpuTopology> {
    inventory.topology.iter().find(|cpu| cpu.number == processor.number)
}

fn package(inventory: &RemoteInventory, id: u64, placed: &[Placed]) -> Value {
    let mut by_core = Map::new();
    for (_, core, _) in placed {
        if !by_core.contains_key(&core.to_string()) {
            let mut each = Fields::default();
            for (.., member) in placed.iter().filter(|(_, other, _)| other == core) {
                each.put(&member.number.to_string(), Some(processor(inventory, member)));
            }
            let mut fields = Fields::default();
            fields.put("cpu_processor_info", Some(each.finish()));
            by_core.insert(core.to_string(), fields.count("core_id", Some(*core)).finish());
        }
    }
    let (processors, cores) = (placed.len(), by_core.len());
    let Some((.., first)) = placed.first() else { return Value::Null };
    let text = |key: &str| first.text(key).map(Value::from);
    let arm_vendor = || cpuinfo::arm_vendor(&first.text("CPU implementer")?).map(Value::from);
    let arm_name = || cpuinfo::parse_model(&first.as_lines()).map(Value::from);
    let arm_stepping = || {
        let variant = first.text("CPU variant")?;
        let variant = u64::from_str_radix(variant.strip_prefix("0x")?, 16).ok()?;
        Some(Value::from(format!("r{variant}p{}", first.text("CPU revision")?)))
    };
    let bogomips = ["bogomips", "BogoMIPS", "bogomips per cpu"];
    let mut fields = Fields::default();
    fields
        .put("cpu_core_info", Some(Value::Object(by_core)))
        .put("vendor_id", text("vendor_id").or_else(arm_vendor).or_else(|| text("mvendorid")))
        .put(
            "cpu_family",
            ["cpu family", "CPU Family", "CPU architecture"].iter().find_map(|key| text(key)),
        )
        .put("model", ["model", "CPU part", "machine", "marchid"].iter().find_map(|key| text(key)))
        .put("model_name", text("model name").or_else(arm_name))
        .put("stepping", text("stepping").or_else(arm_stepping))
        .put("cache_size", text("cache size"))
        .count("physical_id", Some(id))
        .count("siblings", first.number("siblings").or(Some(processors as u64)))
        .count("cpu_cores", first.number("cpu cores").or(Some(cores as u64)))
        .put("fpu", first.flag("fpu").map(Value::from))
        .put("fpu_exception", first.flag("fpu_exception").map(Value::from))
        .number("bogomips", bogomips.iter().find_map(|key| first.fraction(key)))
        .count("cl_flush_size", first.number("clflush size"))
        .count("cache_alignment", first.number("cache_alignment"))
        .put("address_sizes", text("address sizes"));
    fields.finish()
}

fn processor(inventory: &RemoteInventory, processor: &Processor) -> Value {
    let mhz = processor.mhz();
    let mhz = mhz.or_else(|| find_topology(inventory, processor)?.mhz).map(|mhz| {
        // The document shows integers without a point, and other values with the kernel's three decimals.
        if mhz.fract() == 0.0 { Value::from(mhz as u64) } else { Value::from(mhz) }
    });
    let mut fields = Fields::default();
    fields.count("processor", Some(processor.number.into())).put("CPUMHz", mhz);
    fields.count("apicid", processor.number("apicid")).finish()
}

/// Use of processor time between two samples: the total, and each processor by number.
pub(super) fn performance(previous: &Stat, now: &Stat) -> (Value, Value) {
    let total = &now.total;
    let ticks = [total.user, total.nice, total.system, total.idle, total.iowait];
    let ticks = ticks.into_iter().chain([total.irq, total.softirq, total.steal]);
    let (time, unit) = scale_time(ticks.fold(0, u64::saturating_add) as f64 / USER_HZ);
    let mut fields = shares(&previous.total, total);
    fields.put("total_time", Some(two_decimals(time))).put("total_time_unit", Some(unit.into()));
    let mut each = Fields::default();
    let mut before = PreviousItems::new(&previous.cpus);
    for (number, times) in &now.cpus {
        let before = before.find(|(known, _)| known == number);
        let before = before.map_or(CpuTimes::default(), |(_, times)| *times);
        each.put(&number.to_string(), Some(shares(&before, times).finish()));
    }
    (fields.finish(), each.finish())
}

/// Utilization of all processors between two samples, in percent.
pub(super) fn utilization(previous: &Stat, now: &Stat) -> Option<Value> {
    let fields = shares(&previous.total, &now.total).finish();
    fields.get("utilization").cloned()
}

fn shares(previous: &CpuTimes, now: &CpuTimes) -> Fields {
    // iowait may decrease, and the others may when a processor comes online again.
    let since = |pick: fn(&CpuTimes) -> u64| pick(now).saturating_sub(pick(previous)) as f64;
    let user = since(|times| times.user) + since(|times| times.nice);
    let system =
        since(|times| times.system) + since(|times| times.irq) + since(|times| times.softirq);
    let (idle, io, steal) = (since(|t| t.idle), since(|t| t.iowait), since(|t| t.steal));
    let all = user + system + idle + io + steal;
    let mut fields = Fields::default();
    for (name, part) in [
        ("utilization", user + system + steal),
        ("free", idle),
        ("system", system),
        ("user", user),
        ("io", io),
        ("steal", steal),
    ] {
        fields.number(name, (all > 0.0).then(|| 100.0 * part / all));
    }
    fields
}

/// Converts a time to the largest unit in which it is at least 1: seconds, minutes, hours, days.
fn scale_time(seconds: f64) -> (f64, &'static str) {
    match seconds {
        ..60.0 => (seconds, "S"),
        ..3600.0 => (seconds / 60.0, "M"),
        ..86_400.0 => (seconds / 3600.0, "H"),
        _ => (seconds / 86_400.0, "D"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::{processors, stat};
    use serde_json::json;

    const XEON: &str = include_str!("../../../../tests/fixtures/monitor/xeon-e3-1265l.cpuinfo");

    fn inventory(cpuinfo: &[u8], topology: &[u8]) -> RemoteInventory {
        let processors = processors::parse(cpuinfo);
        let topology = processors::parse_topology(topology);
        RemoteInventory { processors, topology, ..RemoteInventory::default() }
    }

    #[test]
    fn cpu_info_equals_example_of_document() {
        let expected: Value =
            serde_json::from_str(include_str!("../../../../tests/fixtures/monitor/cpu_info.json"))
                .unwrap();
        assert_eq!(info(&inventory(XEON.as_bytes(), b"")), expected);
    }

    #[test]
    fn cpu_info_of_arm_has_same_shape() {
        let arm = include_bytes!("../../../../tests/fixtures/arm/a/proc/cpuinfo");
        let found = info(&inventory(arm, b"0 0 0 1500000\n1 0 1 -\n2 0 0 -\n3 - - -\n"));
        let package = &found["0"];
        assert_eq!(
            (&package["vendor_id"], &package["model_name"]),
            (&json!("ARM"), &json!("ARM Cortex-A72"))
        );
        assert_eq!((&package["siblings"], &package["cpu_cores"]), (&json!(4), &json!(3)));
        assert_eq!((&package["model"], &package["stepping"]), (&json!("0xd08"), &json!("r0p3")));
        let core = &package["cpu_core_info"]["0"];
        assert_eq!(core["core_id"], 0);
        assert_eq!(core["cpu_processor_info"]["0"], json!({"processor": 0, "CPUMHz": 1500}));
        assert_eq!(core["cpu_processor_info"]["2"], json!({"processor": 2}));
        assert!(package["cpu_core_info"]["3"].is_object(), "{found}");
    }

    #[test]
    fn cpu_info_of_loongarch_has_packages_and_names() {
        let block = |number: u32| {
            format!(
                "processor\t\t: {number}\npackage\t\t\t: {}\ncore\t\t\t: {}\nCPU Family\t\t: Loongson-64bit\nModel Name\t\t: Loongson-3C6000\nCPU MHz\t\t\t: 2200.00\n\n",
                number / 2,
                number % 2
            )
        };
        let text: String = (0..4).map(block).collect();
        let found = info(&inventory(text.as_bytes(), b""));
        let package = &found["1"];
        assert_eq!(
            (&package["model_name"], &package["cpu_family"]),
            (&json!("Loongson-3C6000"), &json!("Loongson-64bit"))
        );
        assert_eq!((&package["cpu_cores"], &found["2"]), (&json!(2), &Value::Null));
        let processor = &package["cpu_core_info"]["1"]["cpu_processor_info"]["3"];
        assert_eq!(processor, &json!({"processor": 3, "CPUMHz": 2200}));
    }

    #[test]
    fn cpu_info_of_s390_sparc_and_riscv_has_names() {
        let s390 = b"vendor_id : IBM/S390\nbogomips per cpu: 3241.00\n\ncpu number : 0\nphysical id : 1\ncore id : 2\nmachine : 3906\ncpu MHz dynamic : 5208\n";
        let package = &info(&inventory(s390, b""))["1"];
        assert_eq!(
            (&package["vendor_id"], &package["model"], &package["model_name"]),
            (&json!("IBM/S390"), &json!("3906"), &json!("IBM/S390 3906"))
        );
        assert_eq!(package["bogomips"], json!(3241.0));
        let processor = &package["cpu_core_info"]["2"]["cpu_processor_info"]["0"];
        assert_eq!(processor, &json!({"processor": 0, "CPUMHz": 5208}));
        let sparc =
            b"cpu : UltraSparc T5 (Niagara5)\ntype : sun4v\nState:\nCPU0: online\nCPU8: online\n";
        let package = &info(&inventory(sparc, b"0 0 0 -\n8 0 1 -\n"))["0"];
        assert_eq!(package["model_name"], "UltraSparc T5 (Niagara5)");
        assert_eq!((&package["siblings"], &package["cpu_cores"]), (&json!(2), &json!(2)));
        let riscv = b"processor : 0\nhart : 1\nmvendorid : 0x489\nmarchid : 0x7\n";
        let package = &info(&inventory(riscv, b"0 0 0 -\n"))["0"];
        assert_eq!((&package["vendor_id"], &package["model"]), (&json!("0x489"), &json!("0x7")));
    }

    #[test]
    fn computes_shares_between_two_samples() {
        let one = stat::parse(b"cpu 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0\n").unwrap();
        let two = stat::parse(b"cpu 10 10 20 100 40 10 5 5\ncpu0 1 0 0 2 0 0 0 0\ncpu7 1 0 0 1\n")
            .unwrap();
        let (total, each) = performance(&one, &two);
        let expected = json!({"utilization": 30.0, "free": 50.0, "system": 17.5, "user": 10.0, "io": 20.0, "steal": 2.5, "total_time": 2.0, "total_time_unit": "S"});
        assert_eq!(total, expected);
        assert_eq!((&each["0"]["user"], &each["7"]["free"]), (&json!(33.33), &json!(50.0)));
        assert_eq!(utilization(&one, &two), Some(json!(30.0)));
        assert_eq!(utilization(&two, &two), None, "no tick between the samples");
        assert_eq!((scale_time(59.0), scale_time(90.0)), ((59.0, "S"), (1.5, "M")));
        assert_eq!((scale_time(7200.0), scale_time(2.0 * 86_400.0)), ((2.0, "H"), (2.0, "D")));
    }
}
