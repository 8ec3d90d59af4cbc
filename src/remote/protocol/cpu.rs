//! `cpu_info` and `cpu_performance`.

use serde_json::{Map, Value};

use crate::model::previous::PreviousItems;
use crate::procfs::cpuinfo;
use crate::procfs::processors::{CpuTopology, Processor};
use crate::procfs::stat::{CpuTimes, Stat};
use crate::remote::protocol::fields::{Fields, two_decimals};
use crate::remote::sample::Host;

/// Ticks of a processor's time in a second; the kernel shows all programs the same.
const USER_HZ: f64 = 100.0;

/// Processors by package, core and number.
pub(super) fn info(host: &Host) -> Value {
    let placed: Vec<Placed> = host
        .processors
        .iter()
        .map(|processor| {
            let place = place(host, processor);
            let package = processor.number("physical id").or(place.and_then(|place| place.package));
            let core = processor.number("core id").or(place.and_then(|place| place.core));
            // A kernel that does not tell has each processor in a core of its own.
            (package.unwrap_or(0), core.unwrap_or(processor.number.into()), processor)
        })
        .collect();
    let mut packages = Map::new();
    for (id, ..) in &placed {
        if !packages.contains_key(&id.to_string()) {
            let own: Vec<Placed> = placed.iter().copied().filter(|(its, ..)| its == id).collect();
            packages.insert(id.to_string(), package(host, *id, &own));
        }
    }
    Value::Object(packages)
}

/// A processor's package and core.
type Placed<'a> = (u64, u64, &'a Processor);

fn place<'a>(host: &'a Host, processor: &Processor) -> Option<&'a CpuTopology> {
    host.places.iter().find(|place| place.number == processor.number)
}

fn package(host: &Host, id: u64, placed: &[Placed]) -> Value {
    let mut by_core = Map::new();
    for (_, core, _) in placed {
        if !by_core.contains_key(&core.to_string()) {
            let mut each = Fields::default();
            for (.., one) in placed.iter().filter(|(_, its, _)| its == core) {
                each.put(&one.number.to_string(), Some(processor(host, one)));
            }
            let mut fields = Fields::default();
            fields.put("cpu_processor_info", Some(each.done()));
            by_core.insert(core.to_string(), fields.count("core_id", Some(*core)).done());
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
    let mut fields = Fields::default();
    fields
        .put("cpu_core_info", Some(Value::Object(by_core)))
        .put("vendor_id", text("vendor_id").or_else(arm_vendor))
        .put("cpu_family", text("cpu family").or_else(|| text("CPU architecture")))
        .put("model", text("model").or_else(|| text("CPU part")))
        .put("model_name", text("model name").or_else(arm_name))
        .put("stepping", text("stepping").or_else(arm_stepping))
        .put("cache_size", text("cache size"))
        .count("physical_id", Some(id))
        .count("siblings", first.number("siblings").or(Some(processors as u64)))
        .count("cpu_cores", first.number("cpu cores").or(Some(cores as u64)))
        .put("fpu", first.flag("fpu").map(Value::from))
        .put("fpu_exception", first.flag("fpu_exception").map(Value::from))
        .number("bogomips", first.fraction("bogomips").or_else(|| first.fraction("BogoMIPS")))
        .count("cl_flush_size", first.number("clflush size"))
        .count("cache_alignment", first.number("cache_alignment"))
        .put("address_sizes", text("address sizes"));
    fields.done()
}

fn processor(host: &Host, processor: &Processor) -> Value {
    let mhz = processor.fraction("cpu MHz");
    let mhz = mhz.or_else(|| place(host, processor)?.mhz).map(|mhz| {
        // The document shows whole ones without a point, and others with the kernel's three decimals.
        if mhz.fract() == 0.0 { Value::from(mhz as u64) } else { Value::from(mhz) }
    });
    let mut fields = Fields::default();
    fields.count("processor", Some(processor.number.into())).put("CPUMHz", mhz);
    fields.count("apicid", processor.number("apicid")).done()
}

/// What the processors did between two looks: the total, and each by number.
pub(super) fn performance(earlier: &Stat, now: &Stat) -> (Value, Value) {
    let total = &now.total;
    let ticks = [total.user, total.nice, total.system, total.idle, total.iowait];
    let ticks = ticks.into_iter().chain([total.irq, total.softirq, total.steal]);
    let (time, unit) = time(ticks.fold(0, u64::saturating_add) as f64 / USER_HZ);
    let mut fields = shares(&earlier.total, total);
    fields.put("total_time", Some(two_decimals(time))).put("total_time_unit", Some(unit.into()));
    let mut each = Fields::default();
    let mut before = PreviousItems::new(&earlier.cpus);
    for (number, times) in &now.cpus {
        let before = before.find(|(known, _)| known == number);
        let before = before.map_or(CpuTimes::default(), |(_, times)| *times);
        each.put(&number.to_string(), Some(shares(&before, times).done()));
    }
    (fields.done(), each.done())
}

/// Use of all processors between two looks, in percent.
pub(super) fn utilization(earlier: &Stat, now: &Stat) -> Option<Value> {
    let fields = shares(&earlier.total, &now.total).done();
    fields.get("utilization").cloned()
}

fn shares(earlier: &CpuTimes, now: &CpuTimes) -> Fields {
    // iowait may go backwards, and others when a processor comes back.
    let since = |pick: fn(&CpuTimes) -> u64| pick(now).saturating_sub(pick(earlier)) as f64;
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

/// A time in the largest unit of which it has one: seconds, minutes, hours, days.
fn time(seconds: f64) -> (f64, &'static str) {
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

    const XEON: &str = include_str!("../../../tests/fixtures/monitor/xeon-e3-1265l.cpuinfo");

    fn host(cpuinfo: &[u8], places: &[u8]) -> Host {
        let processors = processors::parse(cpuinfo);
        Host { processors, places: processors::parse_topology(places), ..Host::default() }
    }

    #[test]
    fn the_documents_example() {
        let expected: Value =
            serde_json::from_str(include_str!("../../../tests/fixtures/monitor/cpu_info.json"))
                .unwrap();
        assert_eq!(info(&host(XEON.as_bytes(), b"")), expected);
    }

    #[test]
    fn an_arm_has_the_same_shape() {
        let arm = include_bytes!("../../../tests/fixtures/arm/a/proc/cpuinfo");
        let found = info(&host(arm, b"0 0 0 1500000\n1 0 1 -\n2 0 0 -\n3 - - -\n"));
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
    fn what_processors_did() {
        let one = stat::parse(b"cpu 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0\n").unwrap();
        let two = stat::parse(b"cpu 10 10 20 100 40 10 5 5\ncpu0 1 0 0 2 0 0 0 0\ncpu7 1 0 0 1\n")
            .unwrap();
        let (total, each) = performance(&one, &two);
        let expected = json!({"utilization": 30.0, "free": 50.0, "system": 17.5, "user": 10.0, "io": 20.0, "steal": 2.5, "total_time": 2.0, "total_time_unit": "S"});
        assert_eq!(total, expected);
        assert_eq!((&each["0"]["user"], &each["7"]["free"]), (&json!(33.33), &json!(50.0)));
        assert_eq!(utilization(&one, &two), Some(json!(30.0)));
        assert_eq!(utilization(&two, &two), None, "no tick has passed");
        assert_eq!((time(59.0), time(90.0)), ((59.0, "S"), (1.5, "M")));
        assert_eq!((time(7200.0), time(2.0 * 86_400.0)), ((2.0, "H"), (2.0, "D")));
    }
}
