//! `/proc/cpuinfo`: name of the processor.
//!
//! Its lines differ by architecture. x86, LoongArch, POWER, SPARC, MIPS and RISC-V have a name, under the keys that lscpu(1) knows;
//! 64-bit Arm has the implementer and part number of the MIDR_EL1 register, s390 the type of the machine, and RISC-V without a
//! name in its device tree two ID registers. Real lines:
//!
//! ```text
//! model name      : AMD Ryzen 9 5950X 16-Core Processor
//! Model Name      : Loongson-3C6000
//! cpu             : POWER9 (architected), altivec supported
//! cpu model       : Loongson-3 V0.4  FPU V0.1
//! uarch           : sifive,u74-mc
//! mvendorid       : 0x489
//! vendor_id       : IBM/S390
//! processor 0: version = 00,  identification = 398158,  machine = 3906
//! CPU implementer : 0x41
//! CPU part        : 0xd08
//! ```

use crate::procfs::{key_value, lines};

/// The name of the processor; `None` if the text has neither a name nor Arm's numbers.
///
/// If cores differ (big.LITTLE), each kind is named once, in the order of the text: `ARM Cortex-A55 + Cortex-A76`.
pub fn parse_model(text: &[u8]) -> Option<String> {
    let mut implementer = None;
    let mut arm: Vec<(u64, u64)> = Vec::new();
    let mut other_name = None;
    let mut vendor_id = None;
    let mut riscv = [None, None];
    for (_, line) in lines(text) {
        match key_value(line, b':') {
            Some((b"model name" | b"Model Name", name)) if !name.is_empty() => {
                return Some(collapse_spaces(name));
            }
            Some((b"cpu" | b"cpu model" | b"uarch", name)) if !name.is_empty() => {
                other_name.get_or_insert_with(|| collapse_spaces(name));
            }
            Some((b"vendor_id", value)) => vendor_id = vendor_id.or(Some(value)),
            Some((b"machine", value)) if vendor_id == Some(b"IBM/S390") => {
                other_name.get_or_insert_with(|| s390_name(value));
            }
            Some((key, value)) if key.starts_with(b"processor ") => {
                let machine = value.rsplit(|&byte| byte == b'=').next();
                let machine = machine.filter(|_| vendor_id == Some(b"IBM/S390"));
                other_name = other_name.or_else(|| machine.map(s390_name));
            }
            Some((b"mvendorid", value)) => riscv[0] = riscv[0].or(hexadecimal(value)),
            Some((b"marchid", value)) => riscv[1] = riscv[1].or(hexadecimal(value)),
            Some((b"CPU implementer", value)) => implementer = hexadecimal(value),
            Some((b"CPU part", value)) => {
                let core = implementer.zip(hexadecimal(value));
                arm.extend(core.filter(|core| !arm.contains(core)));
            }
            _ => continue,
        }
    }
    let mut names = Vec::new();
    let mut last_implementer = None;
    for (implementer, part) in arm {
        let repeated = last_implementer == Some(implementer);
        names.push(arm_name(implementer, part, !repeated));
        last_implementer = Some(implementer);
    }
    if !names.is_empty() {
        return Some(names.join(" + "));
    }
    other_name.or_else(|| riscv_name(riscv))
}

fn s390_name(machine: &[u8]) -> String {
    format!("IBM/S390 {}", collapse_spaces(machine))
}

/// The registers are 0 if the processor does not implement them.
fn riscv_name([vendor, architecture]: [Option<u64>; 2]) -> Option<String> {
    let vendor = vendor.filter(|vendor| *vendor != 0)?;
    Some(format!("RISC-V vendor {vendor:#x} architecture {:#x}", architecture?))
}

/// Some vendors pad the name with spaces.
fn collapse_spaces(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The vendor of an Arm processor, by the value of `CPU implementer`.
pub fn arm_vendor(implementer: &str) -> Option<&'static str> {
    let vendor = vendor(hexadecimal(implementer.as_bytes())?);
    (!vendor.is_empty()).then_some(vendor)
}

fn hexadecimal(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok()?.strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok()
}

fn vendor(implementer: u64) -> &'static str {
    match implementer {
        0x41 => "ARM",
        0x42 => "Broadcom",
        0x43 => "Cavium",
        0x46 => "Fujitsu",
        0x48 => "HiSilicon",
        0x4e => "NVIDIA",
        0x50 => "APM",
        0x51 => "Qualcomm",
        0x53 => "Samsung",
        0x56 => "Marvell",
        0x61 => "Apple",
        0x69 => "Intel",
        0x6d => "Microsoft",
        0x70 => "Phytium",
        0xc0 => "Ampere",
        _ => "",
    }
}

fn arm_name(implementer: u64, part: u64, with_vendor: bool) -> String {
    let core = arm_core(implementer, part)
        .map_or_else(|| format!("part {part:#05x}"), ToString::to_string);
    match (with_vendor, vendor(implementer)) {
        (false, _) => core,
        (true, "") => format!("implementer {implementer:#04x} {core}"),
        (true, vendor) => format!("{vendor} {core}"),
    }
}

/// Part numbers from the vendors' reference manuals: processors of servers, boards and hosts of GPUs.
fn arm_core(implementer: u64, part: u64) -> Option<&'static str> {
    Some(match (implementer, part) {
        (0x41, 0xc07) => "Cortex-A7",
        (0x41, 0xc0f) => "Cortex-A15",
        (0x41, 0xd02) => "Cortex-A34",
        (0x41, 0xd03) => "Cortex-A53",
        (0x41, 0xd04) => "Cortex-A35",
        (0x41, 0xd05) => "Cortex-A55",
        (0x41, 0xd06) => "Cortex-A65",
        (0x41, 0xd07) => "Cortex-A57",
        (0x41, 0xd08) => "Cortex-A72",
        (0x41, 0xd09) => "Cortex-A73",
        (0x41, 0xd0a) => "Cortex-A75",
        (0x41, 0xd0b) => "Cortex-A76",
        (0x41, 0xd0c) => "Neoverse-N1",
        (0x41, 0xd0d) => "Cortex-A77",
        (0x41, 0xd0e) => "Cortex-A76AE",
        (0x41, 0xd40) => "Neoverse-V1",
        (0x41, 0xd41) => "Cortex-A78",
        (0x41, 0xd42) => "Cortex-A78AE",
        (0x41, 0xd44) => "Cortex-X1",
        (0x41, 0xd46) => "Cortex-A510",
        (0x41, 0xd47) => "Cortex-A710",
        (0x41, 0xd48) => "Cortex-X2",
        (0x41, 0xd49) => "Neoverse-N2",
        (0x41, 0xd4a) => "Neoverse-E1",
        (0x41, 0xd4b) => "Cortex-A78C",
        (0x41, 0xd4d) => "Cortex-A715",
        (0x41, 0xd4e) => "Cortex-X3",
        (0x41, 0xd4f) => "Neoverse-V2",
        (0x41, 0xd80) => "Cortex-A520",
        (0x41, 0xd81) => "Cortex-A720",
        (0x41, 0xd82) => "Cortex-X4",
        (0x41, 0xd83) => "Neoverse-V3AE",
        (0x41, 0xd84) => "Neoverse-V3",
        (0x41, 0xd85) => "Cortex-X925",
        (0x41, 0xd87) => "Cortex-A725",
        (0x41, 0xd8e) => "Neoverse-N3",
        (0x43, 0x0a1) => "ThunderX",
        (0x43, 0x0af) => "ThunderX2",
        (0x46, 0x001) => "A64FX",
        (0x48, 0xd01) => "Kunpeng-920",
        (0x4e, 0x010) => "Olympus",
        (0x51, 0x001) => "Oryon",
        (0x51, 0xc00) => "Falkor",
        (0x61, 0x022) => "Icestorm-M1",
        (0x61, 0x023) => "Firestorm-M1",
        (0x61, 0x032) => "Blizzard-M2",
        (0x61, 0x033) => "Avalanche-M2",
        (0x6d, 0xd49) => "Azure-Cobalt-100",
        (0x70, 0x660) => "FTC660",
        (0x70, 0x661) => "FTC661",
        (0x70, 0x662) => "FTC662",
        (0x70, 0x663) => "FTC663",
        (0x70, 0x664) => "FTC664",
        (0x70, 0x862) => "FTC862",
        (0x4e, 0x003) => "Denver 2",
        (0x4e, 0x004) => "Carmel",
        (0x50, 0x000) => "X-Gene",
        (0xc0, 0xac3) => "Ampere-1",
        (0xc0, 0xac4) => "Ampere-1A",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_model_name_of_x86() {
        let real = b"processor\t: 0\nvendor_id\t: GenuineIntel\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R)  Processor @ 2.60GHz\nflags\t\t: fpu\n\n";
        assert_eq!(parse_model(real).unwrap(), "Intel(R) Xeon(R) Processor @ 2.60GHz");
        for end in 0..real.len() {
            let _ = parse_model(&real[..end]);
        }
    }

    #[test]
    fn maps_arm_part_numbers_to_names() {
        let core = |implementer: &str, part: &str| {
            format!(
                "processor : 0\nCPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\n\n"
            )
        };
        let model = |text: String| parse_model(text.as_bytes());
        assert_eq!(model(core("0x41", "0xd4f")).unwrap(), "ARM Neoverse-V2");
        assert_eq!(model(core("0x41", "0xd08").repeat(4)).unwrap(), "ARM Cortex-A72");
        let big_little = core("0x41", "0xd05") + &core("0x41", "0xd0b");
        assert_eq!(model(big_little).unwrap(), "ARM Cortex-A55 + Cortex-A76");
        assert_eq!(model(core("0x70", "0x663")).unwrap(), "Phytium FTC663");
        let apple = core("0x61", "0x022") + &core("0x61", "0x023");
        assert_eq!(model(apple).unwrap(), "Apple Icestorm-M1 + Firestorm-M1");
        assert_eq!(model(core("0x41", "0xfff")).unwrap(), "ARM part 0xfff");
        assert_eq!(model(core("0x99", "0x001")).unwrap(), "implementer 0x99 part 0x001");
    }

    #[test]
    fn returns_names_of_other_architectures() {
        let model = |text: &str| parse_model(text.as_bytes()).unwrap();
        let loongarch = "system type\t\t: generic-loongson-machine\n\nprocessor\t\t: 0\npackage\t\t\t: 0\nCPU Family\t\t: Loongson-64bit\nModel Name\t\t: Loongson-3C6000\n";
        assert_eq!(model(loongarch), "Loongson-3C6000");
        let power = "processor\t: 0\ncpu\t\t: POWER9 (architected), altivec supported\nclock\t\t: 2300.000000MHz\nrevision\t: 2.2 (pvr 004e 1202)\n\nplatform\t: pSeries\nmodel\t\t: IBM,9009-42A\n";
        assert_eq!(model(power), "POWER9 (architected), altivec supported");
        let riscv = "processor\t: 0\nhart\t\t: 1\nisa\t\t: rv64imafdc\nmmu\t\t: sv39\nuarch\t\t: sifive,u74-mc\n";
        assert_eq!(model(riscv), "sifive,u74-mc");
        let riscv = "processor\t: 0\nhart\t\t: 2\nisa\t\t: rv64imafdc\nmmu\t\t: sv39\nmvendorid\t: 0x489\nmarchid\t\t: 0x8000000000000007\nmimpid\t\t: 0x4210427\nhart isa\t: rv64imafdc\n";
        assert_eq!(model(riscv), "RISC-V vendor 0x489 architecture 0x8000000000000007");
        assert_eq!(parse_model(b"mvendorid : 0x0\nmarchid : 0x0\n"), None, "as in QEMU");
        let sparc = "cpu\t\t: UltraSparc T5 (Niagara5)\nfpu\t\t: UltraSparc T5 integrated FPU\npmu\t\t: niagara5\ntype\t\t: sun4v\nncpus probed\t: 32\n";
        assert_eq!(model(sparc), "UltraSparc T5 (Niagara5)");
        for power in ["POWER8E (raw), altivec supported", "7447A, altivec supported", "e500mc"] {
            assert_eq!(model(&format!("processor\t: 0\ncpu\t\t: {power}\n")), power);
        }
        let s390 = "vendor_id       : IBM/S390\n# processors    : 1\nbogomips per cpu: 3241.00\nfeatures\t: esan3 zarch\nprocessor 0: version = 00,  identification = 398158,  machine = 3906\n\ncpu number      : 0\nphysical id     : 1\nmachine         : 3906\n";
        assert_eq!(model(s390), "IBM/S390 3906");
        assert_eq!(
            model("vendor_id : IBM/S390\ncpu number : 0\nmachine : 8561\n"),
            "IBM/S390 8561"
        );
        assert_eq!(parse_model(b"platform : pSeries\nmachine : CHRP IBM,9009-42A\n"), None);
        let mips = "cpu model\t\t: Loongson-3 V0.4  FPU V0.1\n";
        assert_eq!(model(mips), "Loongson-3 V0.4 FPU V0.1");
        let named_mips =
            format!("{mips}model name\t\t: Loongson-3A R4 (Loongson-3B4000) @ 1800MHz\n");
        assert_eq!(model(&named_mips), "Loongson-3A R4 (Loongson-3B4000) @ 1800MHz");
    }

    #[test]
    fn returns_none_without_name_or_numbers() {
        assert_eq!(parse_model(b""), None);
        assert_eq!(parse_model(b"processor : 0\nCPU part : 0xd08\n"), None);
        assert_eq!(parse_model(b"CPU implementer : 41\nCPU part : d08\n"), None);
    }
}
