//! `/proc/cpuinfo`, by processor.
//!
//! A block of lines per processor, which differ by architecture. Two real lines of x86 and two of Arm:
//!
//! ```text
//! processor       : 0
//! physical id     : 0
//! processor       : 0
//! CPU implementer : 0x41
//! ```

use crate::procfs::{fields, fraction, key_value, lines};
use crate::util::text::parse_decimal;

/// One processor and its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processor {
    pub number: u32,
    lines: Lines,
}

/// The first line of each of [`KEYS`].
type Lines = Vec<(&'static str, Box<[u8]>)>;

/// Topology and frequency of a processor, from `/sys/devices/system/cpu`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuTopology {
    pub number: u32,
    /// `None` if the kernel does not know.
    pub package: Option<u64>,
    /// Core within the package.
    pub core: Option<u64>,
    /// Current frequency.
    pub mhz: Option<f64>,
}

/// Lines that are kept.
const KEYS: [&str; 40] = [
    "BogoMIPS",
    "CPU Family",
    "CPU MHz",
    "CPU architecture",
    "CPU implementer",
    "CPU part",
    "CPU revision",
    "CPU variant",
    "Model Name",
    "address sizes",
    "apicid",
    "bogomips",
    "bogomips per cpu",
    "cache size",
    "cache_alignment",
    "clflush size",
    "clock",
    "core",
    "core id",
    "cpu",
    "cpu MHz",
    "cpu MHz dynamic",
    "cpu cores",
    "cpu family",
    "cpu model",
    "fpu",
    "fpu_exception",
    "machine",
    "marchid",
    "microcode",
    "model",
    "model name",
    "mvendorid",
    "package",
    "physical id",
    "revision",
    "siblings",
    "stepping",
    "uarch",
    "vendor_id",
];
/// Longer values are not needed and skipped.
const MAX_VALUE_BYTES: usize = 128;

/// The largest machines have 2000.
const MAX_PROCESSORS: usize = 4096;

/// Skips blocks that are not a processor, such as the serial number of a board.
pub fn parse(text: &[u8]) -> Vec<Processor> {
    let mut processors: Vec<Processor> = Vec::new();
    // Lines before the first processor, of which s390 and SPARC have one block for all.
    let mut common: Lines = Vec::new();
    let mut within = false;
    for (_, line) in lines(text) {
        let Some((key, value)) = key_value(line, b':') else {
            within = false;
            continue;
        };
        if let Some(number) = processor_number(key, value) {
            let Ok(number) = u32::try_from(number) else { continue };
            if processors.len() == MAX_PROCESSORS {
                break;
            }
            processors.push(Processor { number, lines: common.clone() });
            within = true;
            continue;
        }
        match processors.last_mut() {
            Some(processor) if within => keep_line(&mut processor.lines, key, value),
            Some(_) => {}
            None => keep_line(&mut common, key, value),
        }
    }
    processors
}

/// The number of the processor that this line introduces. s390 has blocks "cpu number", SPARC lines "CPU0: online". Old 32-bit
/// Arm kernels print one line "Processor" with a name for all.
fn processor_number(key: &[u8], value: &[u8]) -> Option<u64> {
    match key.strip_prefix(b"CPU") {
        Some(number) if value == b"online" => parse_decimal(number),
        _ if key == b"processor" || key == b"cpu number" => parse_decimal(value),
        _ => None,
    }
}

fn keep_line(lines: &mut Lines, key: &[u8], value: &[u8]) {
    if value.len() <= MAX_VALUE_BYTES
        && let Some(key) = KEYS.into_iter().find(|known| known.as_bytes() == key)
        && lines.iter().all(|(known, _)| *known != key)
    {
        lines.push((key, value.into()));
    }
}

/// Parses lines of number, package, core and kHz; `-` and negative numbers mean unknown.
pub fn parse_topology(text: &[u8]) -> Vec<CpuTopology> {
    let topology = |line| {
        let mut fields = fields(line);
        let number = u32::try_from(parse_decimal(fields.next()?)?).ok()?;
        let (package, core) = (parse_decimal(fields.next()?), parse_decimal(fields.next()?));
        let mhz = parse_decimal(fields.next()?).map(|khz| khz as f64 / 1000.0);
        Some(CpuTopology { number, package, core, mhz })
    };
    lines(text).filter_map(|(_, line)| topology(line)).collect()
}

impl Processor {
    fn value(&self, key: &str) -> Option<&[u8]> {
        let line = self.lines.iter().find(|(known, _)| *known == key);
        line.map(|(_, value)| &value[..]).filter(|value| !value.is_empty())
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.value(key).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub fn number(&self, key: &str) -> Option<u64> {
        parse_decimal(self.value(key)?)
    }

    /// Number of the package, which LoongArch and MIPS name otherwise than x86. Other architectures have it in `/sys` only.
    pub fn package(&self) -> Option<u64> {
        self.number("physical id").or_else(|| self.number("package"))
    }

    /// Number of the core within its package.
    pub fn core(&self) -> Option<u64> {
        self.number("core id").or_else(|| self.number("core"))
    }

    /// Current frequency. x86, LoongArch and s390 print a number, POWER one with its unit.
    pub fn mhz(&self) -> Option<f64> {
        let clock = || fraction(0, self.value("clock")?.strip_suffix(b"MHz")).ok();
        let keys = ["cpu MHz", "CPU MHz", "cpu MHz dynamic"];
        keys.into_iter().find_map(|key| self.fraction(key)).or_else(clock)
    }

    pub fn fraction(&self, key: &str) -> Option<f64> {
        fraction(0, self.value(key)).ok()
    }

    /// `yes` or `no`.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            b"yes" => Some(true),
            b"no" => Some(false),
            _ => None,
        }
    }

    /// Its lines without the number, as [`super::cpuinfo::parse_model`] accepts them.
    pub fn as_lines(&self) -> Vec<u8> {
        let line = |(key, value): &(&str, Box<[u8]>)| [key.as_bytes(), b":", value, b"\n"].concat();
        self.lines.iter().flat_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: &[u8] = include_bytes!("../../tests/fixtures/x86/a/proc/cpuinfo");
    const ARM: &[u8] = include_bytes!("../../tests/fixtures/arm/a/proc/cpuinfo");

    #[test]
    fn parses_real_x86() {
        let found = parse(X86);
        assert_eq!(found.iter().map(|one| one.number).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(found[0].text("vendor_id").as_deref(), Some("GenuineIntel"));
        assert_eq!(found[1].number("core id"), Some(1));
        assert_eq!(found[0].flag("fpu"), Some(true));
        assert!(found[0].fraction("cpu MHz").is_some_and(|mhz| mhz > 100.0));
        assert_eq!(found[0].text("flags"), None, "too long");
    }

    #[test]
    fn parses_real_arm() {
        let found = parse(ARM);
        assert_eq!(found.len(), 4);
        assert_eq!(found[3].text("CPU part").as_deref(), Some("0xd08"));
        assert_eq!(
            crate::procfs::cpuinfo::parse_model(&found[0].as_lines()).unwrap(),
            "ARM Cortex-A72"
        );
    }

    #[test]
    fn parses_topology_of_other_architectures() {
        let loongarch =
            b"processor\t\t: 3\npackage\t\t\t: 1\ncore\t\t\t: 2\nCPU MHz\t\t\t: 2200.00\n";
        let found = parse(loongarch);
        assert_eq!(
            (found[0].package(), found[0].core(), found[0].mhz()),
            (Some(1), Some(2), Some(2200.0))
        );
        let power = parse(b"processor\t: 0\ncpu\t\t: POWER9\nclock\t\t: 2300.000000MHz\n");
        assert_eq!(
            (power[0].package(), power[0].core(), power[0].mhz()),
            (None, None, Some(2300.0))
        );
        let x86 = parse(b"processor : 0\nphysical id : 1\ncore id : 4\ncpu MHz : 800.5\n");
        assert_eq!(
            (x86[0].package(), x86[0].core(), x86[0].mhz()),
            (Some(1), Some(4), Some(800.5))
        );
    }

    #[test]
    fn parses_processors_of_s390() {
        let text = b"vendor_id       : IBM/S390\n# processors    : 2\nbogomips per cpu: 3241.00\nprocessor 0: version = 00,  identification = 398158,  machine = 3906\nprocessor 1: version = 00,  identification = 398158,  machine = 3906\n\ncpu number      : 0\nphysical id     : 1\ncore id         : 0\nsiblings        : 1\ncpu cores       : 1\nversion         : 00\nmachine         : 3906\ncpu MHz dynamic : 5208\ncpu MHz static  : 5208\n\ncpu number      : 1\nphysical id     : 2\ncore id         : 1\nmachine         : 3906\n";
        let found = parse(text);
        let places: Vec<_> =
            found.iter().map(|one| (one.number, one.package(), one.core())).collect();
        assert_eq!(places, [(0, Some(1), Some(0)), (1, Some(2), Some(1))]);
        assert_eq!((found[0].mhz(), found[1].mhz()), (Some(5208.0), None));
        assert_eq!(found[1].text("vendor_id").as_deref(), Some("IBM/S390"));
        let name = crate::procfs::cpuinfo::parse_model(&found[1].as_lines());
        assert_eq!(name.as_deref(), Some("IBM/S390 3906"));
    }

    #[test]
    fn parses_processors_of_sparc() {
        let text = b"cpu\t\t: UltraSparc T5 (Niagara5)\nfpu\t\t: UltraSparc T5 integrated FPU\ntype\t\t: sun4v\nncpus probed\t: 2\nCpu0ClkTck\t: 00000000d6c1f9c0\nMMU Type\t: Hypervisor (sun4v)\nState:\nCPU0:\t\tonline\nCPU1:\t\tonline\n";
        let found = parse(text);
        assert_eq!(found.iter().map(|one| one.number).collect::<Vec<_>>(), [0, 1]);
        let name = crate::procfs::cpuinfo::parse_model(&found[1].as_lines());
        assert_eq!(name.as_deref(), Some("UltraSparc T5 (Niagara5)"));
    }

    #[test]
    fn skips_blocks_that_are_not_processors() {
        let board = b"Processor\t: ARMv7 rev 4\nprocessor\t: 0\nBogoMIPS\t: 38.40\n\nHardware\t: BCM2835\nSerial\t\t: 1\n";
        let found = parse(board);
        assert_eq!((found.len(), found[0].fraction("BogoMIPS")), (1, Some(38.4)));
        assert_eq!(found[0].text("Serial"), None);
        assert_eq!(parse(b"processor : 99999999999999999999\n"), []);
        for end in 0..X86.len() {
            assert!(parse(&X86[..end]).len() <= 2);
        }
    }

    #[test]
    fn parses_package_and_core_of_each_cpu() {
        let found = parse_topology(b"0 0 1 1500000\n1 -1 - -\nx 0 0 0\n");
        assert_eq!(
            found,
            [
                CpuTopology { number: 0, package: Some(0), core: Some(1), mhz: Some(1500.0) },
                CpuTopology { number: 1, package: None, core: None, mhz: None },
            ]
        );
    }
}
