//! Output of a remote host. The parser's result does not depend on the chunks in which the output arrives, no buffer
//! grows without bound, and each notification is valid JSON.
#![no_main]

use hm_agent::remote::collect::output::{OutputParser, OutputPart, OutputTooLarge};
use hm_agent::remote::collect::sample::{RemoteInventory, RemoteSample, Sections};
use hm_agent::remote::protocol::events;
use hm_agent_fuzz::machine::MARKER;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Lower than the agent's limit, so that a short input reaches it.
const MAX_PART_BYTES: usize = 3000;

fuzz_target!(|data: &[u8]| {
    let Some((size, text)) = data.split_first() else { return };
    let whole = parse_in_chunks(text, text.len().max(1));
    let chunked = parse_in_chunks(text, usize::from(*size).max(1));
    if let (Ok(whole), Ok(chunked)) = (&whole, &chunked) {
        assert_eq!(whole, chunked);
    }
    run_session(whole.or(chunked).unwrap_or_default());
});

fn parse_in_chunks(text: &[u8], size: usize) -> Result<Vec<OutputPart>, OutputTooLarge> {
    let mut parser = OutputParser::new(MARKER, MAX_PART_BYTES);
    let mut parts = Vec::new();
    for chunk in text.chunks(size) {
        for part in parser.push(chunk)? {
            match &part {
                OutputPart::Section(_, body) => assert!(body.len() <= MAX_PART_BYTES),
                OutputPart::Async(_, body) => assert!(body.len() <= MAX_PART_BYTES + size),
                OutputPart::EndOfResponse => {}
            }
            parts.push(part);
        }
    }
    assert!(parser.unframed_output().len() <= 200);
    Ok(parts)
}

/// Processes the parts as `src/remote/ssh/session.rs` does.
fn run_session(parts: Vec<OutputPart>) {
    let (mut inventory, mut sections) = (RemoteInventory::default(), Sections::default());
    let mut previous: Option<(f64, RemoteSample)> = None;
    let mut notifications = Vec::new();
    for part in parts {
        match part {
            OutputPart::Section(name, body) => sections.insert(&name, body),
            OutputPart::Async(letter, text) => {
                if inventory.update_async(letter, text) {
                    notifications.push(events::gpu("k", &inventory));
                }
            }
            OutputPart::EndOfResponse => {
                let sections = std::mem::take(&mut sections);
                let uptime = sections.uptime_seconds().unwrap_or_default();
                let changes = inventory.update(&sections, uptime);
                let sample = RemoteSample::parse(&sections, &inventory);
                if changes.processors {
                    notifications.push(events::cpu_info("k", &inventory));
                }
                let processes = changes.previous_processes;
                notifications
                    .extend(processes.and_then(|list| events::process("k", &inventory, &list)));
                if let Some((previous_uptime, previous)) = &previous
                    && uptime > *previous_uptime
                {
                    let seconds = uptime - previous_uptime;
                    let (key, previous, now) = ("k", previous, &sample);
                    notifications
                        .extend(events::of_sample(key, &inventory, previous, now, seconds));
                    notifications.push(events::rough(key, &inventory, previous, now, seconds));
                }
                inventory.needs_topology();
                previous = Some((uptime, sample));
            }
        }
    }
    for text in notifications {
        let message: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(message["method"], "ssh.notification");
        assert_eq!(message["params"][0]["message"]["ssh_key"], "k");
    }
}
