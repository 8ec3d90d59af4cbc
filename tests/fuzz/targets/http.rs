//! Whole conversations with the two ports, over a connection in memory: whatever is asked, every answer is whole HTTP, in
//! order, and nothing follows the last one. Who does not know the token learns nothing.
#![no_main]

use hm_agent_fuzz::{stage, wire};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, words)) = data.split_first() else { return };
    if words.len() > 100_000 {
        return; // a pair of sockets holds no more
    }
    match which {
        b'h' => {
            let directory = std::env::temp_dir().join(format!("hm-fuzz-{}", std::process::id()));
            let stage = stage::get(false);
            let answer = stage::heard(words, |stream| stage.heartbeat(stream, &directory));
            // Whether one was HEAD, its answer cannot tell.
            if !words.windows(4).any(|word| word == b"HEAD") {
                let (statuses, rest) = wire::answers(&answer, |_| false);
                assert!(rest.is_empty());
                let known = [200, 400, 403, 405, 411, 413, 431];
                assert!(statuses.iter().all(|status| known.contains(status)), "{statuses:?}");
            }
        }
        b'u' | b't' => {
            let locked = *which == b't';
            let stage = stage::get(locked);
            let answer = stage::heard(words, |stream| stage.telemetry(stream));
            if words.windows(4).any(|word| word == b"HEAD") {
                return;
            }
            let (statuses, rest) = wire::answers(&answer, |_| false);
            if statuses.last() == Some(&101) {
                wire::frames(rest);
            } else {
                assert!(rest.is_empty());
            }
            let has_token = words.windows(6).any(|part| part == stage::TOKEN.as_bytes())
                || words.contains(&b'%');
            if locked && !has_token {
                assert!(!statuses.contains(&101), "a subscriber without the token");
                let series = b"# HELP hm_agent_build_info";
                assert!(!answer.windows(series.len()).any(|part| part == series));
            }
        }
        _ => {}
    }
});
