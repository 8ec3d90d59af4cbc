use super::*;
use crate::net::reconnect::Conversation as _;

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(100.0 + seconds)
}

fn conversation() -> Conversation {
    let every = Duration::from_secs(10);
    let keepalive = Keepalive::new(every, Duration::from_secs(45), false, s(0.0));
    Conversation::new(keepalive, Duration::from_secs(30), s(0.0))
}

/// The next step without pings, which have tests of their own.
fn next(
    link: &mut Conversation,
    results: &[&str],
    id: &str,
    at: f64,
) -> Result<Step, DisconnectReason> {
    loop {
        let step = link.next(results.iter().copied(), || id.to_owned(), s(at));
        if step != Ok(Step::Ping) {
            return step;
        }
    }
}

fn error(id: &str, code: &str) -> Incoming {
    Incoming::Error { id: id.into(), code: code.into(), text: "why".into() }
}

fn hear(link: &mut Conversation, message: Incoming, at: f64) -> Verdict {
    link.heard(message, 1.0, s(at)).unwrap()
}

fn registered() -> Conversation {
    let mut link = conversation();
    hear(&mut link, Incoming::Welcome, 0.1);
    assert_eq!(next(&mut link, &[], "r", 0.1), Ok(Step::Register("r".into())));
    let yes = Incoming::Registered { id: "r".into(), refused: None };
    assert_eq!(hear(&mut link, yes, 0.2), Verdict::Registered);
    assert_eq!(next(&mut link, &[], "h1", 0.2), Ok(Step::Heartbeat("h1".into())));
    assert_eq!(
        hear(&mut link, Incoming::Acknowledged { id: "h1".into() }, 0.3),
        Verdict::Acknowledged
    );
    link
}

#[test]
fn welcome_then_registration_then_heartbeats_on_a_grid() {
    let mut link = registered();
    assert_eq!(next(&mut link, &[], "x", 29.0), Ok(Step::Wait(s(30.2))));
    assert_eq!(next(&mut link, &[], "h2", 30.3), Ok(Step::Heartbeat("h2".into())));
    assert_eq!(
        hear(&mut link, Incoming::Acknowledged { id: "h2".into() }, 30.4),
        Verdict::Acknowledged
    );
    assert_eq!(next(&mut link, &[], "h3", 60.2), Ok(Step::Heartbeat("h3".into())));
    // Asleep for an hour: the old one is not answered, so the connection is dead.
    assert!(next(&mut link, &[], "h4", 3600.0).is_err());
    assert!(!link.is_stable(s(100.0)) && link.is_stable(s(121.0)));
}

#[test]
fn a_core_that_says_no_welcome_is_spoken_to_all_the_same() {
    let mut link = conversation();
    assert_eq!(next(&mut link, &[], "r", 0.0), Ok(Step::Wait(s(3.0))));
    assert_eq!(next(&mut link, &[], "r", 3.0), Ok(Step::Register("r".into())));
    assert_eq!(next(&mut link, &[], "r", 22.9), Ok(Step::Wait(s(23.0))));
    assert_eq!(next(&mut link, &[], "r", 23.0), Err(DisconnectReason::Unanswered(limits::ANSWER)));
}

#[test]
fn a_heartbeat_that_is_not_answered_ends_the_connection() {
    let mut link = registered();
    assert_eq!(next(&mut link, &[], "h2", 30.2), Ok(Step::Heartbeat("h2".into())));
    assert_eq!(next(&mut link, &[], "x", 50.1), Ok(Step::Wait(s(50.2))));
    assert_eq!(next(&mut link, &[], "x", 50.2), Err(DisconnectReason::Unanswered(limits::ANSWER)));
}

#[test]
fn a_later_answer_answers_for_those_before() {
    let mut link = registered();
    link.heartbeat_interval = Duration::from_secs(5);
    (link.next_heartbeat, link.keepalive) = (s(5.0), Keepalive::new(s(1e6), s(1e6), false, s(0.0)));
    assert_eq!(next(&mut link, &[], "h2", 5.0), Ok(Step::Heartbeat("h2".into())));
    assert_eq!(next(&mut link, &[], "h3", 10.0), Ok(Step::Heartbeat("h3".into())));
    assert_eq!(
        hear(&mut link, Incoming::Acknowledged { id: "h3".into() }, 11.0),
        Verdict::Acknowledged
    );
    assert!(link.asked.is_empty());
    let again = hear(&mut link, Incoming::Acknowledged { id: "h2".into() }, 11.0);
    assert!(matches!(again, Verdict::Ignored(_)), "{again:?}");
}

#[test]
fn results_are_repeated_until_they_are_confirmed() {
    let mut link = registered();
    let waiting = ["a", "b"];
    assert_eq!(next(&mut link, &waiting, "x", 1.0), Ok(Step::Result("a".into())));
    assert_eq!(next(&mut link, &waiting, "x", 1.0), Ok(Step::Result("b".into())));
    assert!(matches!(next(&mut link, &waiting, "x", 1.0), Ok(Step::Wait(_))));
    let confirmed = hear(&mut link, Incoming::Received { id: "a".into() }, 1.5);
    assert_eq!(confirmed, Verdict::Confirmed("a".into()));
    assert_eq!(next(&mut link, &["b"], "h", 30.9), Ok(Step::Heartbeat("h".into())));
    assert!(matches!(next(&mut link, &["b"], "x", 30.9), Ok(Step::Wait(_))));
    assert_eq!(next(&mut link, &["b"], "x", 31.0), Ok(Step::Result("b".into())));
}

#[test]
fn nothing_but_registration_before_it_is_done() {
    let mut link = conversation();
    assert!(matches!(next(&mut link, &["a"], "x", 0.0), Ok(Step::Wait(_))));
    hear(&mut link, Incoming::Welcome, 0.1);
    assert_eq!(next(&mut link, &["a"], "r", 0.1), Ok(Step::Register("r".into())));
    assert!(matches!(next(&mut link, &["a"], "x", 0.1), Ok(Step::Wait(_))));
}

#[test]
fn every_error_code_has_its_reaction() {
    // While it registers, whatever the id.
    for code in ["CREATE_NODE_FAILED", "DATABASE_ERROR", "PARSE_ERROR", "SOMETHING_NEW"] {
        let mut link = conversation();
        hear(&mut link, Incoming::Welcome, 0.0);
        assert!(matches!(next(&mut link, &[], "r", 0.0), Ok(Step::Register(_))));
        let verdict = hear(&mut link, error("fresh", code), 1.0);
        assert_eq!(verdict, Verdict::NotRegistered(format!("{code}: why")));
        assert_eq!(next(&mut link, &[], "r2", 3.9), Ok(Step::Wait(s(4.0))));
        assert_eq!(next(&mut link, &[], "r2", 4.0), Ok(Step::Register("r2".into())));
        hear(&mut link, error("r2", code), 5.0);
        assert!(matches!(next(&mut link, &[], "r3", 10.9), Ok(Step::Wait(_))), "twice as long");
        assert_eq!(next(&mut link, &[], "r3", 11.0), Ok(Step::Register("r3".into())));
    }
    let mut link = registered();
    assert!(matches!(hear(&mut link, error("x", "NODE_NOT_FOUND"), 1.0), Verdict::Forgotten(_)));
    assert_eq!(next(&mut link, &[], "r", 1.1), Ok(Step::Register("r".into())));
    let yes = Incoming::Registered { id: "r".into(), refused: None };
    hear(&mut link, yes, 1.2);
    assert_eq!(next(&mut link, &[], "h", 1.2), Ok(Step::Heartbeat("h".into())));
    hear(&mut link, error("h", "NODE_NOT_FOUND"), 1.3);
    assert!(matches!(next(&mut link, &[], "r", 4.2), Ok(Step::Wait(_))), "not at once again");

    let mut link = registered();
    assert_eq!(next(&mut link, &["a"], "x", 1.0), Ok(Step::Result("a".into())));
    hear(&mut link, error("x", "NODE_NOT_FOUND"), 1.1);
    assert_eq!(next(&mut link, &["a"], "r", 1.2), Ok(Step::Register("r".into())));
    hear(&mut link, Incoming::Registered { id: "r".into(), refused: None }, 1.3);
    assert_eq!(next(&mut link, &["a"], "h", 1.3), Ok(Step::Heartbeat("h".into())));
    assert_eq!(next(&mut link, &["a"], "x", 1.3), Ok(Step::Result("a".into())), "once more");

    let mut link = registered();
    let refused = link.heard(error("x", "INVALID_TOKEN"), 1.0, s(1.0));
    assert_eq!(refused, Err(DisconnectReason::Refused("INVALID_TOKEN: why".into())));

    let mut link = registered();
    let ignored = hear(&mut link, error("x", "UNKNOWN_MESSAGE_TYPE"), 1.0);
    assert!(matches!(ignored, Verdict::Ignored(_)));
    assert!(matches!(next(&mut link, &["a"], "x", 2.0), Ok(Step::Result(_))));
    let unreadable = |id: &str| Verdict::Unreadable(id.into(), "PARSE_ERROR: why".into());
    assert_eq!(hear(&mut link, error("a", "PARSE_ERROR"), 2.0), unreadable("a"));
    assert_eq!(hear(&mut link, error("x", "PARSE_ERROR"), 2.0), unreadable("a"));
    let trouble = Verdict::AcceptError("DATABASE_ERROR: why".into());
    assert_eq!(hear(&mut link, error("a", "DATABASE_ERROR"), 2.0), trouble);

    let mut link = registered();
    assert!(matches!(next(&mut link, &[], "h2", 30.2), Ok(Step::Heartbeat(_))));
    assert_eq!(hear(&mut link, error("h2", "DATABASE_ERROR"), 30.3), trouble);
    assert!(matches!(next(&mut link, &[], "x", 55.0), Ok(Step::Wait(_))), "it was an answer");
}
