//! What an XID of the NVIDIA driver means for its GPU. Classes by NVIDIA's catalog of XIDs,
//! <https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html>: the immediate action, and for codes that the catalog only
//! investigates (121 to 125, 157, 160 to 165) none.

use crate::model::finding::Action;

/// What to do after an XID. `None`: the GPU works on; the application that caused it may have ended.
pub fn action(code: u32) -> Option<Action> {
    match code {
        46 | 48 | 62 | 74 | 95 | 109 | 110 | 119 | 120 | 136 | 140 | 143 | 155 | 156 | 158 => {
            Some(Action::ResetGpu)
        }
        // Fatal errors of NVLink 5 have a severity of their own in the line.
        79 | 151 => Some(Action::Reboot),
        // A failed remapping, and no auxiliary power.
        54 | 64 => Some(Action::InspectHardware),
        _ => None,
    }
}

/// Whether an application causes this error, by what it runs or by an error that the GPU has contained.
pub fn is_of_application(code: u32) -> bool {
    matches!(
        code,
        8 | 11 | 13 | 25 | 31 | 32 | 37..=41 | 43 | 44 | 68..=72 | 75..=77 | 80 | 82..=89 | 94
            | 96..=105 | 126..=135 | 137 | 139 | 141
    )
}

/// The name of the process in a line: `pid=7, name=python`.
pub fn process(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(", name=")?;
    rest.split(',').next().filter(|name| !name.is_empty() && *name != "<unknown>")
}

/// Whether the line of an NVLink 5 error (144 to 150) says that it is fatal.
pub fn is_fatal_nvlink(code: u32, line: &str) -> bool {
    (144..=150).contains(&code) && line.split_whitespace().any(|word| word == "Fatal")
}

/// The recovery action in the line of XID 154: `GPU recovery action changed from 0x0 (None) to 0x4 (Drain and Reset)`.
/// `None`: the driver recommends nothing any more, or the line has no action.
pub fn changed_action(line: &str) -> Option<Action> {
    let (_, to) = line.rsplit_once(" to 0x")?;
    match to.split(' ').next()? {
        "1" => Some(Action::ResetGpu),
        "2" => Some(Action::Reboot),
        "3" | "4" => Some(Action::Drain),
        "0" => None,
        // To recover the IMEX domain, or one of a later driver: the line says which.
        _ => Some(Action::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_the_catalog() {
        let of = |codes: &[u32]| codes.iter().map(|code| action(*code)).collect::<Vec<_>>();
        // Errors of applications, and recorded row remappings, leave the GPU healthy.
        assert_eq!(of(&[8, 13, 31, 32, 43, 45, 63, 92, 94, 137, 999]), [None; 11]);
        assert_eq!(of(&[48, 95, 119, 140]), [Some(Action::ResetGpu); 4]);
        assert_eq!(of(&[79]), [Some(Action::Reboot)]);
        assert_eq!(of(&[64]), [Some(Action::InspectHardware)]);
    }

    #[test]
    fn reads_the_process_of_a_line() {
        let line = "NVRM: Xid (PCI:0000:9b:00): 31, pid=2024380, name=nvidia-smi, Ch 8";
        assert_eq!(process(line), Some("nvidia-smi"));
        assert_eq!(process("79, pid='<unknown>', name=<unknown>, GPU has fallen"), None);
        assert_eq!(process("79, GPU has fallen off the bus."), None);
        assert!(is_of_application(31) && !is_of_application(79) && !is_of_application(63));
    }

    #[test]
    fn reads_severity_and_recovery_action_of_lines() {
        let line = "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x021425c6 0x0)";
        assert!(is_fatal_nvlink(149, line) && !is_fatal_nvlink(74, line));
        assert!(!is_fatal_nvlink(149, &line.replace("Fatal", "Nonfatal")));
        let changed = |to: &str| {
            changed_action(&format!(
                "NVRM: Xid (PCI:0009:01:00): 154, GPU recovery action changed from 0x0 (None) to {to}"
            ))
        };
        assert_eq!(changed("0x4 (Drain and Reset)"), Some(Action::Drain));
        assert_eq!(changed("0x2 (Node Reboot Required)"), Some(Action::Reboot));
        assert_eq!(changed("0x1 (GPU Reset Required)"), Some(Action::ResetGpu));
        assert_eq!(changed("0x5 (Recover IMEX Domain)"), Some(Action::None));
        assert_eq!((changed("0x0 (None)"), changed_action("odd")), (None, None));
    }
}
