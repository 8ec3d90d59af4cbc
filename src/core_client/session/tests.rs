use super::*;

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(100.0 + seconds)
}

fn connected() -> CoreSession {
    let interval = Duration::from_secs(10);
    let keepalive = Keepalive::new(interval, Duration::from_secs(45), false, s(0.0));
    CoreSession::new(keepalive, Duration::from_secs(30), s(0.0))
}

/// The next action other than a ping; pings have their own tests.
fn next(
    session: &mut CoreSession,
    results: &[&str],
    id: &str,
    at: f64,
) -> Result<CoreAction, DisconnectReason> {
    loop {
        let action = session.next_action(results.iter().copied(), || Ok(id.to_owned()), s(at));
        if action != Ok(CoreAction::Ping) {
            return action;
        }
    }
}

fn error(id: &str, code: &str) -> CoreMessage {
    CoreMessage::Error { id: id.into(), code: code.into(), text: "why".into() }
}

fn registered_message(id: &str) -> CoreMessage {
    CoreMessage::Registered { id: id.into(), rejected: None, hub: None }
}

fn on_message(session: &mut CoreSession, message: CoreMessage, at: f64) -> CoreEvent {
    session.on_message(message, 1.0, s(at)).unwrap()
}

fn acknowledge(session: &mut CoreSession, id: &str, at: f64) {
    let ack = CoreMessage::HeartbeatAck { id: id.into() };
    assert_eq!(on_message(session, ack, at), CoreEvent::Acknowledged);
}

fn registered() -> CoreSession {
    let mut session = connected();
    on_message(&mut session, CoreMessage::Welcome, 0.1);
    assert_eq!(next(&mut session, &[], "r", 0.1), Ok(CoreAction::Register("r".into())));
    assert_eq!(on_message(&mut session, registered_message("r"), 0.2), CoreEvent::Registered);
    assert_eq!(next(&mut session, &[], "h1", 0.2), Ok(CoreAction::Heartbeat("h1".into())));
    acknowledge(&mut session, "h1", 0.3);
    session
}

const TIMEOUT: Result<CoreAction, DisconnectReason> =
    Err(DisconnectReason::Unanswered(RESPONSE_TIMEOUT));

#[test]
fn registers_after_welcome_then_sends_heartbeats_on_a_grid() {
    let mut session = registered();
    assert_eq!(next(&mut session, &[], "x", 29.0), Ok(CoreAction::Wait(s(30.2))));
    assert_eq!(next(&mut session, &[], "h2", 30.3), Ok(CoreAction::Heartbeat("h2".into())));
    acknowledge(&mut session, "h2", 30.4);
    assert_eq!(next(&mut session, &[], "h3", 60.2), Ok(CoreAction::Heartbeat("h3".into())));
    // After an hour of sleep the old heartbeat is unacknowledged, so the connection is dead.
    assert!(next(&mut session, &[], "h4", 3600.0).is_err());
    assert!(!session.is_stable(s(100.0)) && session.is_stable(s(121.0)));
}

#[test]
fn registers_without_welcome_after_3_s() {
    let mut session = connected();
    assert_eq!(next(&mut session, &[], "r", 0.0), Ok(CoreAction::Wait(s(3.0))));
    assert_eq!(next(&mut session, &[], "r", 3.0), Ok(CoreAction::Register("r".into())));
    assert_eq!(next(&mut session, &[], "r", 22.9), Ok(CoreAction::Wait(s(23.0))));
    assert_eq!(next(&mut session, &[], "r", 23.0), TIMEOUT);
}

#[test]
fn disconnects_when_heartbeat_is_not_acknowledged() {
    let mut session = registered();
    assert_eq!(next(&mut session, &[], "h2", 30.2), Ok(CoreAction::Heartbeat("h2".into())));
    assert_eq!(next(&mut session, &[], "x", 50.1), Ok(CoreAction::Wait(s(50.2))));
    assert_eq!(next(&mut session, &[], "x", 50.2), TIMEOUT);
}

#[test]
fn later_acknowledgement_covers_earlier_heartbeats() {
    let mut session = registered();
    session.heartbeat_interval = Duration::from_secs(5);
    session.next_heartbeat = s(5.0);
    session.keepalive = Keepalive::new(s(1e6), s(1e6), false, s(0.0));
    assert_eq!(next(&mut session, &[], "h2", 5.0), Ok(CoreAction::Heartbeat("h2".into())));
    assert_eq!(next(&mut session, &[], "h3", 10.0), Ok(CoreAction::Heartbeat("h3".into())));
    acknowledge(&mut session, "h3", 11.0);
    assert!(session.pending_heartbeats.is_empty());
    let again = on_message(&mut session, CoreMessage::HeartbeatAck { id: "h2".into() }, 11.0);
    assert!(matches!(again, CoreEvent::Ignored(_)), "{again:?}");
}

#[test]
fn repeats_results_until_confirmed() {
    let mut session = registered();
    let results = ["a", "b"];
    assert_eq!(next(&mut session, &results, "x", 1.0), Ok(CoreAction::SendResult("a".into())));
    assert_eq!(next(&mut session, &results, "x", 1.0), Ok(CoreAction::SendResult("b".into())));
    assert!(matches!(next(&mut session, &results, "x", 1.0), Ok(CoreAction::Wait(_))));
    let confirmed = on_message(&mut session, CoreMessage::ResultReceived { id: "a".into() }, 1.5);
    assert_eq!(confirmed, CoreEvent::Confirmed("a".into()));
    assert_eq!(next(&mut session, &["b"], "h", 30.9), Ok(CoreAction::Heartbeat("h".into())));
    assert!(matches!(next(&mut session, &["b"], "x", 30.9), Ok(CoreAction::Wait(_))));
    assert_eq!(next(&mut session, &["b"], "x", 31.0), Ok(CoreAction::SendResult("b".into())));
}

#[test]
fn sends_nothing_else_before_registration() {
    let mut session = connected();
    assert!(matches!(next(&mut session, &["a"], "x", 0.0), Ok(CoreAction::Wait(_))));
    on_message(&mut session, CoreMessage::Welcome, 0.1);
    assert_eq!(next(&mut session, &["a"], "r", 0.1), Ok(CoreAction::Register("r".into())));
    assert!(matches!(next(&mut session, &["a"], "x", 0.1), Ok(CoreAction::Wait(_))));
}

#[test]
fn any_error_while_registering_backs_off() {
    for code in ["CREATE_NODE_FAILED", "DATABASE_ERROR", "PARSE_ERROR", "SOMETHING_NEW"] {
        let mut session = connected();
        on_message(&mut session, CoreMessage::Welcome, 0.0);
        assert!(matches!(next(&mut session, &[], "r", 0.0), Ok(CoreAction::Register(_))));
        let event = on_message(&mut session, error("other id", code), 1.0);
        assert_eq!(event, CoreEvent::NotRegistered(format!("{code}: why")));
        assert_eq!(next(&mut session, &[], "r2", 3.9), Ok(CoreAction::Wait(s(4.0))));
        assert_eq!(next(&mut session, &[], "r2", 4.0), Ok(CoreAction::Register("r2".into())));
        on_message(&mut session, error("r2", code), 5.0);
        let wait = next(&mut session, &[], "r3", 10.9);
        assert!(matches!(wait, Ok(CoreAction::Wait(_))), "twice as long");
        assert_eq!(next(&mut session, &[], "r3", 11.0), Ok(CoreAction::Register("r3".into())));
    }
}

#[test]
fn registers_again_when_core_does_not_know_the_node() {
    let mut session = registered();
    let event = on_message(&mut session, error("x", "NODE_NOT_FOUND"), 1.0);
    assert!(matches!(event, CoreEvent::NodeNotFound(_)));
    assert_eq!(next(&mut session, &[], "r", 1.1), Ok(CoreAction::Register("r".into())));
    on_message(&mut session, registered_message("r"), 1.2);
    assert_eq!(next(&mut session, &[], "h", 1.2), Ok(CoreAction::Heartbeat("h".into())));
    on_message(&mut session, error("h", "NODE_NOT_FOUND"), 1.3);
    let wait = next(&mut session, &[], "r", 4.2);
    assert!(matches!(wait, Ok(CoreAction::Wait(_))), "the second time with a delay");
}

#[test]
fn sends_results_again_when_core_does_not_know_the_node() {
    let mut session = registered();
    assert_eq!(next(&mut session, &["a"], "x", 1.0), Ok(CoreAction::SendResult("a".into())));
    on_message(&mut session, error("x", "NODE_NOT_FOUND"), 1.1);
    assert_eq!(next(&mut session, &["a"], "r", 1.2), Ok(CoreAction::Register("r".into())));
    on_message(&mut session, registered_message("r"), 1.3);
    assert_eq!(next(&mut session, &["a"], "h", 1.3), Ok(CoreAction::Heartbeat("h".into())));
    assert_eq!(next(&mut session, &["a"], "x", 1.3), Ok(CoreAction::SendResult("a".into())));
}

#[test]
fn invalid_token_ends_the_connection() {
    let mut session = registered();
    let rejected = session.on_message(error("x", "INVALID_TOKEN"), 1.0, s(1.0));
    assert_eq!(rejected, Err(DisconnectReason::Rejected("INVALID_TOKEN: why".into())));
}

#[test]
fn errors_of_a_registered_session_have_their_events() {
    let mut session = registered();
    let ignored = on_message(&mut session, error("x", "UNKNOWN_MESSAGE_TYPE"), 1.0);
    assert!(matches!(ignored, CoreEvent::Ignored(_)));
    assert!(matches!(next(&mut session, &["a"], "x", 2.0), Ok(CoreAction::SendResult(_))));
    let rejected = |id: &str| CoreEvent::ResultRejected(id.into(), "PARSE_ERROR: why".into());
    assert_eq!(on_message(&mut session, error("a", "PARSE_ERROR"), 2.0), rejected("a"));
    assert_eq!(on_message(&mut session, error("x", "PARSE_ERROR"), 2.0), rejected("a"));
    session.on_result_dropped("a");
    let event = on_message(&mut session, error("x", "PARSE_ERROR"), 2.0);
    assert_eq!(event, CoreEvent::ServerError("PARSE_ERROR: why".into()), "the result is dropped");
    assert!(matches!(next(&mut session, &["a"], "x", 2.0), Ok(CoreAction::SendResult(_))));
    let server_error = CoreEvent::ServerError("DATABASE_ERROR: why".into());
    assert_eq!(on_message(&mut session, error("a", "DATABASE_ERROR"), 2.0), server_error);

    let mut session = registered();
    assert!(matches!(next(&mut session, &[], "h2", 30.2), Ok(CoreAction::Heartbeat(_))));
    assert_eq!(on_message(&mut session, error("h2", "DATABASE_ERROR"), 30.3), server_error);
    let wait = next(&mut session, &[], "x", 55.0);
    assert!(matches!(wait, Ok(CoreAction::Wait(_))), "an error is a response, too");
}
