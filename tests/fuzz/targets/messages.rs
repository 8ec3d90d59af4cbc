//! One message of a peer, by the first byte: none may panic, errors are one line, and what is accepted is within what the
//! rest of the agent relies on.
#![no_main]

use std::net::IpAddr;

use hm_agent::collector::gpu::nvidia::protocol as probe;
use hm_agent::core_client::messages as core;
use hm_agent::hm_client::messages as hm;
use hm_agent::hub_extension::messages as extension;
use hm_agent::hub_extension::messages::{Announcement, HubMessage, NodeMessage};
use hm_agent::net::proxy::Proxy;
use hm_agent::net::url::Url;
use hm_agent::remote::hosts::MAX_HOSTS;
use hm_agent::remote::protocol::request::{InvalidRequest, MonitorRequest};
use hm_agent::remote::protocol::response;
use hm_agent::telemetry::messages as usage;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match which {
        b'u' => {
            if let Err(unknown) = usage::ClientRequest::parse(&text) {
                let message: Value = serde_json::from_str(&unknown.message()).expect("JSON");
                assert_eq!(message["status"], "error");
                assert!(unknown.message().len() < 500);
            }
        }
        b'h' => drop(hm::HmResponse::parse(&text).map(|r| hm::ResponseCode::from_number(r.code))),
        b'c' => {
            if let Ok(core::CoreMessage::Execute(request)) = core::CoreMessage::parse(&text) {
                let result = core::CommandResult {
                    command_id: request.command_id.clone(),
                    exit_code: 0,
                    execution_time_ms: 0,
                    stdout: request.text.clone().unwrap_or_default(),
                    stderr: String::new(),
                };
                let envelope = core::Envelope { id: &request.message_id, timestamp: "" };
                let message = core::command_result(envelope, &result);
                let message: Value = serde_json::from_str(&message).expect("JSON");
                assert_eq!(message["data"]["command_id"], request.command_id.as_str());
                assert_eq!(message["data"]["stdout"], result.stdout.as_str());
            }
        }
        b'm' => monitor_request(&text),
        b'a' => url(&text),
        b'p' => {
            let Ok(line) = serde_json::from_slice::<probe::ProbeReply>(bytes) else { return };
            let written = serde_json::to_string(&line).expect("JSON");
            let read: probe::ProbeReply = serde_json::from_str(&written).expect("what was written");
            assert_eq!(serde_json::to_string(&read).expect("JSON"), written);
        }
        b'e' => extension(bytes, &text),
        _ => {}
    }
});

fn extension(bytes: &[u8], text: &str) {
    if let Some(announcement) = Announcement::parse(text) {
        let written = serde_json::to_string(&announcement).expect("JSON");
        // The first one may contain abbreviations of what is escaped.
        assert!(written.len() > 4096 || Announcement::parse(&written) == Some(announcement));
    }
    if let Ok((get, body)) = extension::decode::<HubMessage>(bytes) {
        let encoded = extension::encode(&get, body);
        assert!(encoded.len() > 8192 || extension::decode(&encoded) == Ok((get, body)));
    }
    if let Ok((NodeMessage::Node(info), _)) = extension::decode(bytes) {
        let message = NodeMessage::Node(info.truncate());
        let encoded = extension::encode(&message, b"");
        assert!(extension::is_extension(&encoded));
        assert_eq!(extension::decode(&encoded), Ok((message, &b""[..])));
    }
}

fn monitor_request(text: &str) {
    match MonitorRequest::parse(text, MAX_HOSTS) {
        Err(InvalidRequest(id, why)) => {
            assert!(why.lines().count() == 1, "{why:?}");
            let response: Value = serde_json::from_str(&response(&id, Some(&why))).expect("JSON");
            assert_eq!(response["error"], why.as_str());
        }
        Ok(request) => {
            assert!(request.hosts.len() <= MAX_HOSTS && !request.id.is_object());
            for host in request.hosts {
                let Ok(host) = host else { continue };
                let target = host.target;
                // They become arguments of ssh.
                for argument in [&target.user, &target.host] {
                    assert!(!argument.is_empty() && !argument.starts_with('-'));
                    let plain = |letter: char| {
                        letter.is_ascii_graphic() && !"'\"\\$`;|&<>/".contains(letter)
                    };
                    assert!(argument.chars().all(plain), "{argument:?}");
                }
                assert!(target.port > 0);
                assert!(host.password.is_none_or(|password| !password.contains(['\n', '\0'])));
                let key = target.key();
                assert!(key.ends_with(&format!(":{}", target.port)));
                let _ = target.host.parse::<IpAddr>();
            }
        }
    }
}

/// The redacted URL has the same host and port.
fn url(text: &str) {
    let Ok(url) = Url::parse_websocket(text) else { return };
    assert!(!url.authority().contains('@'));
    let redacted = Url::parse_websocket(&url.redacted()).expect("a URL");
    assert_eq!((&redacted.host, redacted.port), (&url.host, url.port));
    // The same text as a proxy.
    let _ = Proxy::from_environment(&url, |_| Some(text.replacen("ws", "http", 1)));
}
