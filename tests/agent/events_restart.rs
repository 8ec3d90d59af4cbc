//! The event log across restarts: agents that are stopped or killed, reboots, and files that are torn or not those of the agent.

use crate::events::{KernelLog, XID_79, XID_119, events, of_kind, page, wait_for};
use crate::support::{Agent, wait_until};
use hm_agent::history::event_log::EventLog;
use hm_agent::model::event::{EventKind, EventSeverity, NewEvent};
use hm_agent::util::logger::unix_seconds;
use hm_agent::util::state_io::StateIo;

#[test]
fn each_record_is_counted_once_across_restarts_and_kills() {
    let mut log = KernelLog::new();
    log.write(&[XID_79, XID_79, XID_119]);
    let mut agent = log.start(&[]);
    wait_for(&agent, "xid", 2);
    let ids = |agent: &Agent| {
        events(agent).iter().map(|event| event["id"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let first = ids(&agent);
    log.wait_saved("\"code\":119");
    agent.signal("-KILL");
    agent.wait();
    drop(agent);
    let agent = log.start(&[]);
    log.write(&["md/raid1:md0: Disk failure on nvme0n1p1, disabling device."]);
    wait_for(&agent, "raid", 1);
    let found = of_kind(&agent, "xid");
    let counts: Vec<_> = found.iter().map(|event| event["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [2, 1]);
    let started = of_kind(&agent, "agent");
    assert!(started[1]["text"].as_str().unwrap().ends_with("the one before was not stopped"));
    let second = ids(&agent);
    assert!(second.starts_with(&first) && second.is_sorted(), "{first:?} {second:?}");
    agent.stop();
    let agent = log.start(&[]);
    assert_eq!(of_kind(&agent, "xid").len(), 2);
    let texts: Vec<_> = of_kind(&agent, "agent").iter().map(|it| it["text"].clone()).collect();
    assert_eq!(
        texts[2..].iter().map(|text| text.as_str().unwrap()).collect::<Vec<_>>(),
        ["hm-agent stops", "hm-agent 0.1.0 started"]
    );
    agent.stop();
}

/// Older events are compressed, in memory and by threads with a small stack.
#[test]
fn keeps_thousands_of_events_and_pages_through_them() {
    let log = KernelLog::new();
    {
        // Earlier agents have recorded one per minute, so that none is a repetition.
        let events = EventLog::open(&StateIo::start(&log.state_dir()).unwrap());
        for number in 1..=1100 {
            let text = XID_79.replace("79", &number.to_string());
            let event = NewEvent::new(EventKind::Xid, EventSeverity::Critical, text);
            let unix_seconds = Some(unix_seconds() - 61 * (1101 - u64::from(number)));
            events.record(NewEvent { code: Some(number), unix_seconds, ..event });
        }
        log.wait_saved("\"code\":1100");
    }
    let all = |agent: &Agent| {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = page(agent, &format!("after={after}"));
            all.extend(page["events"].as_array().unwrap().clone());
            after = all.last().unwrap()["id"].as_u64().unwrap();
            if page["more"] == false {
                return all;
            }
        }
    };
    let agent = log.start(&[]);
    wait_until("the event of the start", || (all(&agent).len() == 1101).then_some(()));
    let newest = page(&agent, "");
    assert_eq!((newest["events"].as_array().unwrap().len(), &newest["more"]), (1000, &true.into()));
    let (_, compressed) = agent.http("/events", "Accept-Encoding: gzip\r\n");
    assert!(compressed.len() < 100_000, "{}", compressed.len());
    let before = all(&agent);
    agent.stop();
    let agent = log.start(&[]);
    assert_eq!(all(&agent)[..1101], before);
    agent.stop();
}

#[test]
fn torn_record_and_foreign_file_cost_nothing_else() {
    let mut log = KernelLog::new();
    log.write(&[XID_79, XID_119]);
    let agent = log.start(&[]);
    wait_for(&agent, "xid", 2);
    agent.stop();
    let path = log.state_dir().join("events");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend_from_slice(b"0123456789abcdef e{\"id\":");
    std::fs::write(&path, bytes).unwrap();
    let agent = log.start(&[]);
    assert_eq!(of_kind(&agent, "xid").len(), 2);
    let lines = agent.stop();
    assert!(
        lines.iter().any(|line| line.contains("events: skipped 1 damaged lines")),
        "{lines:#?}"
    );
    std::fs::write(&path, b"\x7fELF\0\0\n\xff\xfe").unwrap();
    let agent = log.start(&[]);
    wait_for(&agent, "xid", 2);
    agent.stop();
    assert!(log.state_dir().join("events.damaged").exists());
}

#[test]
fn records_reboot_with_its_reason() {
    let log = KernelLog::new();
    let root = log.directory.0.join("root");
    let with_boot_id = |id: u32| log.start_in_boot(id);
    with_boot_id(1).stop();
    with_boot_id(2).stop();
    let mut agent = with_boot_id(3);
    agent.signal("-KILL");
    agent.wait();
    let mut agent = with_boot_id(4);
    agent.signal("-KILL");
    agent.wait();
    let pstore = root.join("var/lib/systemd/pstore");
    std::fs::create_dir_all(&pstore).unwrap();
    std::fs::write(
        pstore.join("dmesg.txt"),
        "<0>[  1.0] Kernel panic - not syncing: Fatal exception\n",
    )
    .unwrap();
    let agent = with_boot_id(5);
    let reboots: Vec<_> = of_kind(&agent, "reboot")
        .iter()
        .map(|event| event["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(reboots.len(), 4, "{:#?}", events(&agent));
    // The real machine has been running for longer than a shutdown takes.
    assert!(reboots[0].starts_with("host rebooted"), "{reboots:?}");
    assert!(reboots[2].contains("without a clean shutdown"), "{reboots:?}");
    assert_eq!(reboots[3], "host rebooted: Kernel panic - not syncing: Fatal exception");
    agent.stop();
}
