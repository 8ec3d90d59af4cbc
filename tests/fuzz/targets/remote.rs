//! What a host prints over SSH. However it arrives in pieces it is the same, nothing that is kept grows without bounds, and
//! each notification is JSON.
#![no_main]

use hm_agent::remote::output::{Part, Parts, TooMuch};
use hm_agent::remote::protocol::events;
use hm_agent::remote::sample::{Host, Look, Sections};
use hm_agent_fuzz::machine::MARKER;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Less than in the agent, so that a short input reaches it.
const MOST: usize = 3000;

fuzz_target!(|data: &[u8]| {
    let Some((size, text)) = data.split_first() else { return };
    let whole = in_pieces(text, text.len().max(1));
    let cut = in_pieces(text, usize::from(*size).max(1));
    if let (Ok(whole), Ok(cut)) = (&whole, &cut) {
        assert_eq!(whole, cut);
    }
    session(whole.or(cut).unwrap_or_default());
});

fn in_pieces(text: &[u8], size: usize) -> Result<Vec<Part>, TooMuch> {
    let mut parts = Parts::new(MARKER, MOST);
    let mut all = Vec::new();
    for piece in text.chunks(size) {
        for part in parts.push(piece)? {
            match &part {
                Part::Section(_, body) => assert!(body.len() <= MOST),
                Part::BlockingWorker(_, body) => assert!(body.len() <= MOST + size),
                Part::Whole => {}
            }
            all.push(part);
        }
    }
    assert!(parts.noise().len() <= 200);
    Ok(all)
}

/// As `ssh/session.rs` takes it in.
fn session(parts: Vec<Part>) {
    let (mut host, mut sections) = (Host::default(), Sections::default());
    let mut earlier: Option<(f64, Look)> = None;
    let mut told = Vec::new();
    for part in parts {
        match part {
            Part::Section(name, body) => sections.0.push((name, body)),
            Part::BlockingWorker(letter, text) => {
                if host.take_aside(letter, &text) {
                    told.push(events::gpu("k", &host));
                }
            }
            Part::Whole => {
                let sections = std::mem::take(&mut sections);
                let look = Look::new(&sections);
                let uptime = look.uptime_seconds.unwrap_or_default();
                let news = host.take(&sections, uptime);
                if news.processors {
                    told.push(events::cpu_info("k", &host));
                }
                told.extend(news.processes.and_then(|list| events::process("k", &host, &list)));
                if let Some((then, earlier)) = &earlier
                    && uptime > *then
                {
                    let seconds = uptime - then;
                    told.extend(events::of_look("k", &host, earlier, &look, seconds));
                    told.push(events::rough("k", &host, earlier, &look, seconds));
                }
                host.wants_places();
                earlier = Some((uptime, look));
            }
        }
    }
    for text in told {
        let message: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(message["method"], "ssh.notification");
        assert_eq!(message["params"][0]["message"]["ssh_key"], "k");
    }
}
