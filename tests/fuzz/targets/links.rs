//! The conversations with hm and with Core as programs of answers, pongs and time: a request is answered once, waits lie in
//! the future, nothing is sent that was not asked for, and the other end's silence is noticed.
#![no_main]

use std::time::Duration;

use hm_agent::core_client::messages::Incoming;
use hm_agent::core_client::session as core;
use hm_agent::hm_client::messages::Answer;
use hm_agent::hm_client::session as hm;
use hm_agent::limits;
use hm_agent::net::reconnect;
use hm_agent::net::reconnect::{Conversation as _, DisconnectReason, Keepalive};
use hm_agent_fuzz::program::{Program, text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    match which {
        b'h' => with_hm(Program(rest)),
        b'c' => with_core(Program(rest)),
        _ => backoff(Program(rest)),
    }
});

fn keepalive(pongs: bool) -> Keepalive {
    Keepalive::new(Duration::from_secs(10), limits::PONG, pongs, Duration::ZERO)
}

fn with_hm(mut program: Program<'_>) {
    let mut talk = hm::Conversation::new(keepalive(program.byte() == Some(b'p')), Duration::ZERO);
    let (mut now, mut last, mut asked) = (Duration::ZERO, 0, None);
    while let Some(step) = program.byte() {
        let chance = f64::from(step) / 255.0;
        match step % 4 {
            0 => now += Duration::from_millis(u64::from(program.number().unwrap_or(1) % 60_000)),
            1 => talk.pong(now),
            2 => {
                let Some(line) = program.line() else { return };
                let Ok(mut answer) = Answer::parse(&text(line)) else { continue };
                if let (Some(id), 1) = (asked, answer.id) {
                    answer.id = id; // so that it fits, more often than not
                }
                let verdict = talk.answered(&answer, chance, now);
                let fits = asked.is_some_and(|id| answer.id == id || answer.id == 0);
                assert!(fits || verdict == hm::Verdict::Stray, "{verdict:?} to nothing");
                if verdict != hm::Verdict::Stray {
                    asked = None;
                }
            }
            _ => match talk.next(step & 4 == 0, now) {
                Ok(hm::Step::Online(id) | hm::Step::Report(id)) => {
                    assert!(asked.is_none(), "two requests at a time");
                    assert!(id > last);
                    (last, asked) = (id, Some(id));
                }
                Ok(hm::Step::Ping) => {}
                Ok(hm::Step::Wait(until)) => {
                    assert!(until > now, "a wait that is over: it spins")
                }
                Err(DisconnectReason::Unanswered(_) | DisconnectReason::NoPong(_)) => return,
                Err(other) => panic!("{other}"),
            },
        }
        talk.is_stable(now);
        talk.has_pongs();
    }
}

fn with_core(mut program: Program<'_>) {
    let pongs = keepalive(program.byte() == Some(b'p'));
    let every = Duration::from_secs(u64::from(program.byte().unwrap_or(30)).max(1));
    let mut talk = core::Conversation::new(pongs, every, Duration::ZERO);
    let (mut now, mut fresh, mut ids) = (Duration::ZERO, 0, Vec::new());
    let mut results = vec!["r1".to_owned(), "r2".to_owned()];
    while let Some(step) = program.byte() {
        let chance = f64::from(step) / 255.0;
        match step % 4 {
            0 => now += Duration::from_millis(u64::from(program.number().unwrap_or(1) % 60_000)),
            1 => talk.pong(now),
            2 => {
                let Some(line) = program.line() else { return };
                let line = text(line).replace("$ID", ids.last().map_or("", String::as_str));
                let Ok(message) = Incoming::parse(&line) else { continue };
                match talk.heard(message, chance, now) {
                    Ok(core::Verdict::Registered) => assert!(talk.is_registered()),
                    Ok(core::Verdict::Confirmed(id)) => results.retain(|result| *result != id),
                    Ok(_) => {}
                    Err(DisconnectReason::Refused(_)) => return,
                    Err(other) => panic!("{other}"),
                }
            }
            _ => {
                let next = talk.next(
                    results.iter().map(String::as_str),
                    || {
                        fresh += 1;
                        format!("id{fresh}")
                    },
                    now,
                );
                match next {
                    Ok(core::Step::Register(id)) => {
                        assert!(!talk.is_registered());
                        ids.push(id);
                    }
                    Ok(core::Step::Heartbeat(id)) => {
                        assert!(talk.is_registered(), "a heartbeat of nobody");
                        ids.push(id);
                    }
                    Ok(core::Step::Result(id)) => {
                        assert!(talk.is_registered() && results.contains(&id));
                        ids.push(id);
                    }
                    Ok(core::Step::Ping) => {}
                    Ok(core::Step::Wait(until)) => assert!(until > now, "a wait that is over"),
                    Err(DisconnectReason::Unanswered(_) | DisconnectReason::NoPong(_)) => return,
                    Err(other) => panic!("{other}"),
                }
            }
        }
        talk.is_stable(now);
    }
}

fn backoff(mut program: Program<'_>) {
    let (base, cap) = limits::RECONNECT;
    let mut backoff = reconnect::Backoff::new(base, cap);
    while let Some(step) = program.byte() {
        if step == 0 {
            backoff.reset();
            continue;
        }
        let floor = Duration::from_secs(u64::from(program.number().unwrap_or(0)));
        let wait = backoff.next(f64::from(step) / 255.0, floor);
        assert!(wait >= floor && wait <= cap.max(floor.mul_f64(1.21)), "{wait:?}");
    }
}
