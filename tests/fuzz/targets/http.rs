//! Connections to the telemetry and heartbeat ports, in memory. Whatever is sent, the output is complete HTTP responses in order,
//! and nothing follows the last one. A client without the token receives no data.
#![no_main]

use hm_agent_fuzz::{stage, wire};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((port, input)) = data.split_first() else { return };
    if input.len() > 100_000 {
        return; // exceeds the buffer of a socket pair
    }
    // The length of a response to HEAD cannot be checked from the output alone.
    let has_head = input.windows(4).any(|method| method == b"HEAD");
    match port {
        b'h' => {
            let directory = std::env::temp_dir().join(format!("hm-fuzz-{}", std::process::id()));
            let stage = stage::get(false);
            let output = stage::exchange(input, |stream| stage.heartbeat(stream, &directory));
            if !has_head {
                let (statuses, rest) = wire::responses(&output, |_| false);
                assert!(rest.is_empty());
                let known = [200, 400, 403, 405, 411, 413, 431];
                assert!(statuses.iter().all(|status| known.contains(status)), "{statuses:?}");
            }
        }
        b'u' | b't' => {
            let with_token = *port == b't';
            let stage = stage::get(with_token);
            let output = stage::exchange(input, |stream| stage.telemetry(stream));
            if has_head {
                return;
            }
            let (statuses, rest) = wire::responses(&output, |_| false);
            if statuses.last() == Some(&101) {
                wire::frames(rest);
            } else {
                assert!(rest.is_empty());
            }
            let may_know_token = input.windows(6).any(|part| part == stage::TOKEN.as_bytes())
                || input.contains(&b'%');
            if with_token && !may_know_token {
                assert!(!statuses.contains(&101), "upgrade without the token");
                let series = b"# HELP hm_agent_build_info";
                assert!(!output.windows(series.len()).any(|part| part == series));
            }
        }
        _ => {}
    }
});
