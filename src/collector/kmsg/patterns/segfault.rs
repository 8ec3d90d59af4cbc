//! Processes that crash in a library of NVIDIA: arch/x86/mm/fault.c. Crashes in other libraries are bugs of applications. A real line:
//!
//! ```text
//! pt_main_thread[2536443]: segfault at 7f7797fffe90 ip 00007f7797fffe90 sp 00007f7797ff error 4 in libnccl.so.2[7f7797a00000+5000000]
//! ```

use super::KernelEvent;
use crate::model::event::{EventKind, EventSeverity};

const LIBRARIES: [&str; 3] = ["libnccl.so", "libcuda.so", "libnvidia-"];

pub(super) fn classify(text: &str) -> Option<KernelEvent> {
    let (process, rest) = text.split_once("]: segfault at ")?;
    let (name, pid) = process.rsplit_once('[')?;
    // A name of a process has at most 15 bytes.
    let is_process = name.len() < 16 && pid.parse::<u32>().is_ok();
    let (_, library) = rest.split_once(" in ")?;
    let is_counted = LIBRARIES.iter().any(|name| library.starts_with(name));
    (is_process && is_counted).then(|| {
        let subject = library.split(['[', ' ']).next().unwrap_or_default();
        KernelEvent::new(EventKind::Segfault, EventSeverity::Warning, subject)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_events, assert_none};
    use super::*;

    #[test]
    fn finds_library() {
        assert_events(
            classify,
            &[(
                "pt_main_thread[2536443]: segfault at 7f7797fffe90 ip 00007f7797fffe90 sp 00007f7797ff error 4 in libnccl.so.2[7f7797a00000+5000000]",
                "segfault",
                "warning",
                "libnccl.so.2",
            )],
        );
    }

    #[test]
    fn ignores_other_libraries() {
        assert_none(
            classify,
            &[
                "python[1]: segfault at 0 ip 00007f sp 00007f error 4 in libc.so.6[7f00+1000]",
                "python[1]: segfault at 0 ip 0000000000000000 sp 00007f error 14",
                "python[x]: segfault at 0 ip 00007f sp 00007f error 4 in libnccl.so.2[7f00+1000]",
                "traps: a[1] trap invalid opcode ip:7f sp:7f error:0 in libcuda.so.1[7f+1]",
            ],
        );
    }
}
