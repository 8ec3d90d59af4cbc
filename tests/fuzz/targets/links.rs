//! The hm and Core sessions as programs of responses, pongs and time: one request at a time, waits end in the future, and a
//! silent server times out.
#![no_main]

use std::time::Duration;

use hm_agent::core_client::messages::CoreMessage;
use hm_agent::core_client::session as core;
use hm_agent::hm_client::messages::HmResponse;
use hm_agent::hm_client::session as hm;
use hm_agent::net::disconnect::DisconnectReason;
use hm_agent::net::keepalive::Keepalive;
use hm_agent::net::reconnecting_client::{PONG_TIMEOUT, RECONNECT_BACKOFF, UpstreamSession as _};
use hm_agent::util::backoff::Backoff;
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
    Keepalive::new(Duration::from_secs(10), PONG_TIMEOUT, pongs, Duration::ZERO)
}

fn with_hm(mut program: Program<'_>) {
    let mut session = hm::HmSession::new(keepalive(program.byte() == Some(b'p')), Duration::ZERO);
    let (mut now, mut last, mut pending) = (Duration::ZERO, 0, None);
    while let Some(step) = program.byte() {
        let random = f64::from(step) / 255.0;
        match step % 4 {
            0 => now += Duration::from_millis(u64::from(program.number().unwrap_or(1) % 60_000)),
            1 => session.on_pong(now),
            2 => {
                let Some(line) = program.line() else { return };
                let Ok(mut response) = HmResponse::parse(&text(line)) else { continue };
                if let (Some(id), 1) = (pending, response.id) {
                    response.id = id; // so that it matches more often
                }
                let event = session.on_response(&response, random, now);
                let matches = pending.is_some_and(|id| response.id == id || response.id == 0);
                assert!(
                    matches || event == hm::HmEvent::Unsolicited,
                    "{event:?} without a request"
                );
                if event != hm::HmEvent::Unsolicited {
                    pending = None;
                }
            }
            _ => match session.next_action(step & 4 == 0, now) {
                Ok(hm::HmAction::Online(id) | hm::HmAction::Report(id)) => {
                    assert!(pending.is_none(), "two requests at a time");
                    assert!(id > last);
                    (last, pending) = (id, Some(id));
                }
                Ok(hm::HmAction::Ping) => {}
                Ok(hm::HmAction::Wait(until)) => {
                    assert!(until > now, "a wait in the past would spin")
                }
                Err(DisconnectReason::Unanswered(_) | DisconnectReason::NoPong(_)) => return,
                Err(other) => panic!("{other}"),
            },
        }
        session.is_stable(now);
        session.peer_sends_pongs();
    }
}

fn with_core(mut program: Program<'_>) {
    let pongs = keepalive(program.byte() == Some(b'p'));
    let every = Duration::from_secs(u64::from(program.byte().unwrap_or(30)).max(1));
    let mut session = core::CoreSession::new(pongs, every, Duration::ZERO);
    let (mut now, mut last_id, mut ids) = (Duration::ZERO, 0, Vec::new());
    let mut results = vec!["r1".to_owned(), "r2".to_owned()];
    while let Some(step) = program.byte() {
        let random = f64::from(step) / 255.0;
        match step % 4 {
            0 => now += Duration::from_millis(u64::from(program.number().unwrap_or(1) % 60_000)),
            1 => session.on_pong(now),
            2 => {
                let Some(line) = program.line() else { return };
                let line = text(line).replace("$ID", ids.last().map_or("", String::as_str));
                let Ok(message) = CoreMessage::parse(&line) else { continue };
                match session.on_message(message, random, now) {
                    Ok(core::CoreEvent::Registered) => assert!(session.is_registered()),
                    Ok(core::CoreEvent::Confirmed(id)) => results.retain(|result| *result != id),
                    Ok(_) => {}
                    Err(DisconnectReason::Rejected(_)) => return,
                    Err(other) => panic!("{other}"),
                }
            }
            _ => {
                let next = session.next_action(
                    results.iter().map(String::as_str),
                    || {
                        last_id += 1;
                        Ok(format!("id{last_id}"))
                    },
                    now,
                );
                match next {
                    Ok(core::CoreAction::Register(id)) => {
                        assert!(!session.is_registered());
                        ids.push(id);
                    }
                    Ok(core::CoreAction::Heartbeat(id)) => {
                        assert!(session.is_registered(), "a heartbeat before registration");
                        ids.push(id);
                    }
                    Ok(core::CoreAction::SendResult(id)) => {
                        assert!(session.is_registered() && results.contains(&id));
                        ids.push(id);
                    }
                    Ok(core::CoreAction::Ping) => {}
                    Ok(core::CoreAction::Wait(until)) => assert!(until > now, "a wait in the past"),
                    Err(DisconnectReason::Unanswered(_) | DisconnectReason::NoPong(_)) => return,
                    Err(other) => panic!("{other}"),
                }
            }
        }
        session.is_stable(now);
    }
}

fn backoff(mut program: Program<'_>) {
    let (base, cap) = RECONNECT_BACKOFF;
    let mut backoff = Backoff::new(base, cap);
    while let Some(step) = program.byte() {
        if step == 0 {
            backoff.reset();
            continue;
        }
        let min_delay = Duration::from_secs(u64::from(program.number().unwrap_or(0)));
        let delay = backoff.next_delay(f64::from(step) / 255.0, min_delay);
        assert!(delay >= min_delay && delay <= cap.max(min_delay.mul_f64(1.21)), "{delay:?}");
    }
}
