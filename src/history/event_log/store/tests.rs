use super::*;
use crate::history::event_log::limiter::MAX_PER_MINUTE;
use crate::model::event::{EventKind, EventSeverity};

const NOW: u64 = 1_718_000_000;

fn xid(code: u32, at: u64) -> NewEvent {
    let event = NewEvent::new(EventKind::Xid, EventSeverity::Warning, format!("at {at}"));
    let event = event.of("0000:9b:00.0");
    NewEvent { code: Some(code), class: "xid", unix_seconds: Some(at), ..event }
}

fn link(text: &str, at: u64) -> NewEvent {
    let event = NewEvent::new(EventKind::Upstream, EventSeverity::Info, text).of("hm");
    NewEvent { unix_seconds: Some(at), ..event }
}

fn counts(store: &EventStore) -> Vec<u64> {
    store.snapshot().oldest_first(0, 0).map(|event| event.count).collect()
}

/// Events of different kinds and minutes, so that none is limited.
fn fill(store: &mut EventStore, count: usize) {
    for number in 0..count {
        let at = NOW + 61 * number as u64;
        store.record(xid(1, at), at);
    }
}

#[test]
fn repetition_within_a_minute_is_counted() {
    let mut store = EventStore::default();
    for seconds in [0, 10, 60, 119] {
        store.record(xid(79, NOW + seconds), NOW + seconds);
    }
    store.record(xid(48, NOW + 119), NOW + 119);
    store.record(xid(79, NOW + 120), NOW + 120);
    assert_eq!(counts(&store), [5, 1]);
    store.record(xid(79, NOW + 181), NOW + 181);
    assert_eq!(counts(&store), [5, 1, 1]);
    let first = store.snapshot().oldest_first(0, 0).next().unwrap();
    assert_eq!((first.unix_seconds, first.last_unix_seconds), (NOW, NOW + 120));
    assert_eq!(first.id, NOW * 1000);
}

#[test]
fn what_goes_on_is_recorded_every_hour() {
    let mut store = EventStore::default();
    for minute in 0..=121 {
        store.record(xid(79, NOW + 60 * minute), NOW + 60 * minute);
    }
    assert_eq!(counts(&store), [61, 61]);
}

#[test]
fn changes_of_the_recovery_action_keep_their_order() {
    let mut store = EventStore::default();
    for action in ["reset", "reboot", "none", "none", "reboot"] {
        let event = NewEvent { text: action.to_owned(), class: "", ..xid(154, NOW) };
        store.record(event, NOW);
    }
    let texts: Vec<_> = store.snapshot().oldest_first(0, 0).map(|it| (it.text, it.count)).collect();
    let expected = [("reset", 1), ("reboot", 1), ("none", 2), ("reboot", 1)];
    assert_eq!(texts, expected.map(|(text, count)| (text.to_owned(), count)));
}

#[test]
fn state_that_flaps_keeps_its_order() {
    let mut store = EventStore::default();
    for text in ["lost", "lost", "restored", "lost"] {
        store.record(link(text, NOW), NOW);
    }
    assert_eq!(counts(&store), [2, 1, 1]);
}

#[test]
fn storm_of_one_kind_leaves_room_for_others() {
    let mut store = EventStore::default();
    for number in 0..1000 {
        store.record(link(&format!("app {number}"), NOW), NOW);
    }
    assert_eq!(store.len(), MAX_PER_MINUTE as usize + 1);
    let last = store.snapshot().newest_first(0).next().unwrap();
    assert_eq!((last.count, &*last.text), (1000 - u64::from(MAX_PER_MINUTE), OVERFLOW_TEXT));
    store.record(xid(79, NOW), NOW);
    assert_eq!(store.snapshot().newest_first(0).next().unwrap().code, Some(79));
    store.record(link("next minute", NOW + 60), NOW + 60);
    assert_eq!(store.len(), MAX_PER_MINUTE as usize + 3);
}

#[test]
fn oldest_events_make_room_and_memory_is_bounded() {
    let mut store = EventStore::default();
    fill(&mut store, MAX_EVENTS + 5000);
    assert!((MAX_EVENTS - 5 * CHUNK..=MAX_EVENTS).contains(&store.len()), "{}", store.len());
    let bytes: usize = store.chunks.iter().map(|chunk| chunk.size()).sum();
    assert!(bytes < 300 << 10, "{bytes}");
    let ids: Vec<u64> = store.snapshot().oldest_first(0, 0).map(|event| event.id).collect();
    assert!(ids.is_sorted() && ids.len() == store.len());
    let mut reversed: Vec<u64> = store.snapshot().newest_first(0).map(|event| event.id).collect();
    reversed.reverse();
    assert_eq!(ids, reversed);
    let after = ids[ids.len() - 300];
    assert_eq!(store.snapshot().oldest_first(after, 0).count(), 299);
    let since = NOW + 61 * (MAX_EVENTS as u64 + 4990);
    assert_eq!(store.snapshot().newest_first(since).count(), 10);
}

#[test]
fn cuts_long_texts_between_characters() {
    let mut store = EventStore::default();
    let event = NewEvent::new(EventKind::Agent, EventSeverity::Info, "é".repeat(1000));
    store.record(event.of("x".repeat(1000)), NOW);
    let event = store.snapshot().newest_first(0).next().unwrap();
    assert_eq!((event.text.len(), event.subject.len()), (MAX_TEXT_BYTES, MAX_SUBJECT_BYTES));
}

#[test]
fn time_of_an_event_is_not_in_the_future() {
    let mut store = EventStore::default();
    store.record(xid(79, NOW + 1000), NOW);
    assert_eq!(store.snapshot().newest_first(0).next().unwrap().unix_seconds, NOW);
}

#[test]
fn rejects_events_of_a_file_in_another_order() {
    let mut store = EventStore::default();
    fill(&mut store, 2);
    let event = store.snapshot().oldest_first(0, 0).next().unwrap();
    assert!(!store.restore(event.clone()));
    assert!(store.restore(Event { id: event.id + 100, ..event.clone() }));
    assert!(!store.restore(Event { id: event.id + 101, count: 0, ..event }));
}
