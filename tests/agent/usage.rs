//! WebSocket sessions on `/usage`.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::support::{Agent, SLACK, TEST_TIMEOUT, assert_best_of_five};
use tungstenite::Message;

#[test]
fn subscribe_is_answered_with_system_info_and_current_update() {
    let agent = Agent::start(&["interval=3600"]);
    let mut client = agent.connect();
    let start = Instant::now();
    client.send_text("subscribe:usage");
    assert_eq!(client.json(), serde_json::json!({"status": "subscribed"}));
    let info = client.json();
    assert_eq!(info["type"], "system_info");
    let keys: Vec<_> = info.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "cpu_count",
        "cpu_model",
        "gpu_count",
        "gpus",
        "hostname",
        "ram_total_mb",
        "timestamp",
        "type",
    ];
    assert_eq!(keys, expected);
    let update = client.json();
    let keys: Vec<_> = update.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["cpu_percent", "ram_percent", "ram_total_mb", "ram_used_mb", "timestamp", "type"];
    assert_eq!(keys, expected, "a host without a GPU has no GPU fields");
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    let cpu = update["cpu_percent"].as_f64().unwrap();
    assert!((0.0..=100.0).contains(&cpu));
    client.assert_no_message_for(Duration::from_millis(700)); // past the warm-up sample, which replaces the first one silently
    agent.stop();
}

#[test]
fn sends_one_update_per_interval_on_time() {
    let agent = Agent::start(&["interval=1"]);
    let mut client = agent.subscribe();
    assert_best_of_five(0.2, || {
        client.json();
        let first = Instant::now();
        (1..=3).fold(0.0, |largest: f64, tick| {
            assert_eq!(client.json()["type"], "usage_update");
            largest.max((first.elapsed().as_secs_f64() - f64::from(tick)).abs())
        })
    });
    agent.stop();
}

#[test]
fn second_subscribe_is_confirmed_but_updates_are_sent_once() {
    let agent = Agent::start(&["interval=1"]);
    let start = Instant::now();
    let mut client = agent.subscribe();
    client.send_text("subscribe:usage");
    let mut messages = Vec::new();
    let count = |messages: &[serde_json::Value], key: &str, value: &str| {
        messages.iter().filter(|message| message[key] == value).count()
    };
    while count(&messages, "type", "usage_update") < 6 {
        messages.push(client.json());
    }
    // With two subscriptions, six updates would take three seconds.
    assert!(start.elapsed() > Duration::from_secs(4), "{messages:?}");
    assert_eq!(count(&messages, "status", "subscribed"), 1);
    assert_eq!(count(&messages, "type", "system_info"), 0);
    agent.stop();
}

#[test]
fn unsubscribe_stops_updates_until_next_subscribe() {
    let agent = Agent::start(&["interval=1"]);
    let mut client = agent.subscribe();
    client.send_text("unsubscribe:usage");
    while client.json()["status"] != "unsubscribed" {}
    client.assert_no_message_for(Duration::from_millis(1500));
    client.send_text("subscribe:usage");
    assert_eq!(client.json()["status"], "subscribed");
    assert_eq!(client.json()["type"], "system_info");
    assert_eq!(client.json()["type"], "usage_update");
    agent.stop();
}

#[test]
fn detailed_and_plain_subscriptions_coexist_and_can_be_switched() {
    let agent = Agent::start(&["interval=1"]);
    let mut plain = agent.subscribe();
    let mut client = agent.connect();
    client.send_text("subscribe:detail");
    assert_eq!(client.json()["status"], "subscribed");
    let info = client.json();
    assert_eq!(info["agent"], env!("CARGO_PKG_VERSION"));
    client.json();
    client.json();
    let update = client.json();
    let cpus = update["cpus"].as_array().unwrap();
    assert_eq!(cpus.len() as u64, info["cpu_count"].as_u64().unwrap());
    assert!(update["uptime_seconds"].as_f64().unwrap() > 0.0);
    assert!(update["load"]["one"].is_number());
    assert!(update["swap_total_bytes"].is_number());
    let networks = update["networks"].as_array().unwrap();
    let lo = networks.iter().find(|each| each["device"] == "lo").unwrap();
    assert!(lo["receive"]["bytes_per_second"].as_u64().unwrap() > 0, "traffic of this test");
    let files = update["file_systems"].as_array().unwrap();
    let root = files.iter().find(|each| each["mount_point"] == "/").unwrap();
    assert!(root["total_bytes"].as_u64().unwrap() > root["used_bytes"].as_u64().unwrap());
    assert_eq!(plain.json().as_object().unwrap().len(), 6);
    // Switching to the other form is answered like a new subscription.
    client.send_text("subscribe:usage");
    while client.json()["status"] != "subscribed" {}
    assert_eq!(client.json().as_object().unwrap().len(), 8);
    assert_eq!(client.json().as_object().unwrap().len(), 6);
    agent.stop();
}

#[test]
fn unknown_messages_are_answered_at_limited_rate() {
    let agent = Agent::start(&["interval=3600"]);
    let start = Instant::now();
    let mut client = agent.connect();
    client.send_text("{\"subscribe\": \"usage\"}");
    let answer = client.json();
    assert_eq!(answer["status"], "error");
    assert!(answer["message"].as_str().unwrap().contains("send subscribe:usage, subscribe:detail"));
    for _ in 0..500 {
        client.send_text("?");
    }
    client.send_text("subscribe:usage");
    let mut answers = 0;
    while client.json()["status"] == "error" {
        answers += 1;
    }
    // A burst of ten, including the first one, then one per second.
    let most = 9 + start.elapsed().as_secs();
    assert!((9..=most).contains(&answers), "{answers} answers");
    agent.stop();
}

#[test]
fn closes_with_code_on_binary_oversized_or_malformed_message() {
    let agent = Agent::start(&["interval=3600"]);
    let mut binary = agent.connect();
    binary.0.send(Message::binary(vec![1, 2, 3])).unwrap();
    assert_eq!(u16::from(binary.closed().code), 1003);
    let mut long = agent.connect();
    long.send_text(&"x".repeat(4096));
    assert_eq!(long.json()["status"], "error", "4 KiB are accepted");
    long.send_text(&"x".repeat(4097));
    assert_eq!(u16::from(long.closed().code), 1009);
    let mut huge = agent.connect();
    let _ = huge.0.send(Message::text("x".repeat(1 << 20))); // may fail: the agent closes before it has read everything
    assert_eq!(u16::from(huge.closed().code), 1009);
    let mut unmasked = agent.connect();
    std::io::Write::write_all(unmasked.0.get_mut(), b"\x81\x01x").unwrap();
    assert_eq!(u16::from(unmasked.closed().code), 1002);
    let mut invalid = agent.connect();
    std::io::Write::write_all(invalid.0.get_mut(), b"\x81\x81\0\0\0\0\xff").unwrap();
    assert_eq!(u16::from(invalid.closed().code), 1007);
    agent.stop();
}

#[test]
fn closes_client_with_1008_after_too_many_requests() {
    let agent = Agent::start(&["interval=3600"]);
    let mut client = agent.connect();
    for _ in 0..30 {
        // May fail: the agent closes before it has read everything.
        let _ = client.0.send(Message::text("subscribe:usage"));
        let _ = client.0.send(Message::text("subscribe:detail"));
    }
    assert_eq!(u16::from(client.closed().code), 1008);
    agent.stop();
}

#[test]
fn accepts_fragmented_subscribe_with_interleaved_ping() {
    let agent = Agent::start(&["interval=3600"]);
    let mut client = agent.connect();
    let mut bytes = Vec::new();
    // FIN and opcode, mask bit and length, a mask of zeros, payload.
    for (first, payload) in [(0x01, "subscribe"), (0x89, "ping"), (0x80, ":usage")] {
        bytes.extend([first, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
        bytes.extend(payload.as_bytes());
    }
    std::io::Write::write_all(client.0.get_mut(), &bytes).unwrap();
    assert_eq!(client.0.read().unwrap(), Message::Pong("ping".into()));
    assert_eq!(client.json()["status"], "subscribed");
    agent.stop();
}

#[test]
#[ignore = "waits 51 s"]
fn sends_ping_after_25_s_of_silence() {
    let agent = Agent::start(&["interval=3600"]);
    let mut client = agent.subscribe();
    client.0.get_mut().set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(client.0.read().unwrap(), Message::Ping(Vec::new().into()));
        let silence = start.elapsed();
        assert!(
            silence > Duration::from_secs(20) && silence < Duration::from_secs(35),
            "{silence:?}"
        );
    }
    agent.stop();
}

#[test]
fn ping_is_answered_immediately() {
    let agent = Agent::start(&["interval=3600"]);
    let mut client = agent.subscribe();
    assert_best_of_five(Duration::from_secs(1), || {
        let start = Instant::now();
        for number in 0..100u8 {
            client.0.send(Message::Ping(vec![number].into())).unwrap();
            assert_eq!(client.0.read().unwrap(), Message::Pong(vec![number].into()));
        }
        start.elapsed()
    });
    agent.stop();
}

#[test]
fn client_that_floods_pings_still_receives_updates() {
    let agent = Agent::start(&["interval=1"]);
    let mut client = agent.subscribe();
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let flood = std::thread::spawn(move || {
        let ping = [0x89, 0x80, 0, 0, 0, 0].repeat(1000);
        while std::io::Write::write_all(&mut writer, &ping).is_ok() {}
    });
    assert_best_of_five(Duration::from_secs(4), || {
        let (mut updates, start) = (0, Instant::now());
        while updates < 3 && start.elapsed() < TEST_TIMEOUT {
            if let Message::Text(text) = client.0.read().unwrap() {
                updates += usize::from(text.contains("usage_update"));
            }
        }
        start.elapsed()
    });
    client.0.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    flood.join().unwrap();
    agent.stop();
}

#[test]
fn shutdown_closes_sessions_with_1001() {
    let agent = Agent::start(&["interval=3600"]);
    let mut clients: Vec<_> = (0..20).map(|_| agent.subscribe()).collect();
    let mut unsubscribed = agent.connect();
    let _without_request = agent.socket();
    agent.stop();
    for client in clients.iter_mut().chain([&mut unsubscribed]) {
        let frame = client.closed();
        assert_eq!(
            (u16::from(frame.code), frame.reason.as_str()),
            (1001, "agent is shutting down")
        );
    }
}

#[test]
#[ignore = "waits 30 s"]
fn closes_with_1008_without_subscription_within_30_s() {
    let agent = Agent::start(&["interval=1"]);
    let start = Instant::now();
    let mut client = agent.connect();
    let mut subscriber = agent.subscribe();
    subscriber.send_text("unsubscribe:usage");
    while subscriber.json()["status"] != "unsubscribed" {}
    assert_eq!(u16::from(client.closed().code), 1008);
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(30) + SLACK, "{took:?}");
    // A client that has subscribed once has no timeout afterwards.
    subscriber.assert_no_message_for(Duration::from_secs(2));
    agent.stop();
}

#[test]
#[ignore = "waits for a write deadline"]
fn client_that_stops_reading_is_disconnected_without_delaying_others() {
    let agent = Agent::start(&["interval=1"]);
    let mut good = agent.subscribe();
    let mut stalled = agent.connect();
    // Pings until all buffers are full of pongs and the agent stops reading.
    stalled.0.get_ref().set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    while stalled.0.send(Message::Ping(vec![0; 125].into())).is_ok() {}
    let started = Instant::now();
    let mut last = Instant::now();
    while !agent.log().iter().any(|line| line.contains("disconnected: write timeout (10 s)")) {
        good.json();
        let gap = last.elapsed();
        // Far less than the write timeout.
        assert!(gap < SLACK, "{gap:?} between two updates");
        last = Instant::now();
        assert!(started.elapsed() < TEST_TIMEOUT, "{:#?}", agent.log());
    }
    let mut rest = Vec::new();
    let _ = stalled.0.get_mut().read_to_end(&mut rest);
    agent.stop();
}
