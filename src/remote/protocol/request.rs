//! Requests of clients, and their validation.

use serde_json::{Map, Value};

use crate::util::text::{EXCERPT_CHARS, escape_for_log, parse_decimal};

/// A request is an object with a list of objects. serde_json would recurse 128 levels deep, and a connection's stack is
/// small.
const MAX_NESTING: usize = 16;
/// ssh(1) does not accept a longer password.
const MAX_PASSWORD_BYTES: usize = 1000;
const DEFAULT_PORT: u64 = 22;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Start(NotificationSet),
    Stop(NotificationSet),
}

/// Notifications that a client starts and stops together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotificationSet {
    /// `rough` alone.
    Rough,
    /// All others.
    Detailed,
}

/// A user on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    pub user: String,
    pub host: String,
    pub port: u16,
}

impl Target {
    /// The `ssh_key` of notifications: `cc@10.128.248.93:22`.
    pub fn key(&self) -> String {
        let Self { user, host, port } = self;
        if host.contains(':') {
            format!("{user}@[{host}]:{port}")
        } else {
            format!("{user}@{host}:{port}")
        }
    }
}

/// A host in a request.
pub struct HostRequest {
    pub target: Target,
    /// Without a password, the keys of the agent's user are used.
    pub password: Option<String>,
}

/// A valid request.
pub struct MonitorRequest {
    /// As received; `null` if there was none.
    pub id: Value,
    pub method: Method,
    /// A host, or what is wrong with it.
    pub hosts: Vec<Result<HostRequest, String>>,
}

/// The ID of an invalid request, and what is wrong with it.
#[derive(Debug, PartialEq)]
pub struct InvalidRequest(pub Value, pub String);

impl MonitorRequest {
    /// Parses a request with at most `max_hosts` hosts.
    pub fn parse(text: &str, max_hosts: usize) -> Result<Self, InvalidRequest> {
        let mut message = parse_object(text).map_err(|why| InvalidRequest(Value::Null, why))?;
        let id = message.get("id").filter(|id| !id.is_object() && !id.is_array());
        let id = id.cloned().unwrap_or_default();
        match parse_call(&mut message, max_hosts) {
            Ok((method, hosts)) => Ok(Self { id, method, hosts }),
            Err(why) => Err(InvalidRequest(id, why)),
        }
    }
}

fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    if is_nested_too_deep(text) {
        return Err(format!("request has more than {MAX_NESTING} levels of nesting"));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(message)) => Ok(message),
        Ok(_) => Err("request is not a JSON object".to_owned()),
        // The position only: the text may contain a password.
        Err(error) => {
            Err(format!("invalid JSON: line {}, column {}", error.line(), error.column()))
        }
    }
}

fn parse_call(
    message: &mut Map<String, Value>,
    max_hosts: usize,
) -> Result<(Method, Vec<Result<HostRequest, String>>), String> {
    let method = match message.get("method").and_then(Value::as_str) {
        Some("ssh.start_monitor") => Method::Start(NotificationSet::Detailed),
        Some("ssh.stop_monitor") => Method::Stop(NotificationSet::Detailed),
        Some("ssh.start_rough_monitor") => Method::Start(NotificationSet::Rough),
        Some("ssh.stop_rough_monitor") => Method::Stop(NotificationSet::Rough),
        Some(other) => {
            let other = escape_for_log(other, EXCERPT_CHARS);
            return Err(format!(
                "unknown method {other}; known methods: ssh.start_monitor, ssh.stop_monitor, ssh.start_rough_monitor, ssh.stop_rough_monitor"
            ));
        }
        None => return Err("\"method\" is missing or not a string".to_owned()),
    };
    let hosts = match message.remove("params") {
        Some(Value::Array(hosts)) => hosts,
        Some(host @ Value::Object(_)) => vec![host],
        _ => return Err("\"params\" is missing or not a list of hosts".to_owned()),
    };
    if hosts.len() > max_hosts {
        return Err(format!("\"params\" has more than {max_hosts} hosts"));
    }
    let hosts = hosts.into_iter().enumerate();
    Ok((
        method,
        hosts
            .map(|(at, host)| parse_host(host).map_err(|why| format!("params[{at}]: {why}")))
            .collect(),
    ))
}

/// Brackets within strings do not count.
fn is_nested_too_deep(text: &str) -> bool {
    let (mut level, mut in_string, mut escaped) = (0usize, false, false);
    text.bytes().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => level += 1,
            b']' | b'}' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
        level > MAX_NESTING
    })
}

fn parse_host(mut object: Value) -> Result<HostRequest, String> {
    let password = match object.get_mut("passwd").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(Value::String(text))
            if text.contains(['\n', '\r', '\0']) || text.len() > MAX_PASSWORD_BYTES =>
        {
            return Err("\"passwd\" is too long or has more than one line".to_owned());
        }
        Some(Value::String(text)) => Some(text).filter(|text| !text.is_empty()),
        Some(_) => return Err("\"passwd\" is not a string".to_owned()),
    };
    let text = |name: &str| {
        let value = object.get(name).and_then(Value::as_str);
        value.ok_or_else(|| format!("\"{name}\" is missing or not a string"))
    };
    let host = text("host")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let user = text("user")?;
    if !is_plain(host, 255, b".-_:%") {
        return Err(format!("{} is not a valid host", escape_for_log(host, EXCERPT_CHARS)));
    }
    if !is_plain(user, 64, b".-_@+") {
        return Err(format!("{} is not a valid user", escape_for_log(user, EXCERPT_CHARS)));
    }
    let port = match object.get("port") {
        None | Some(Value::Null) => Some(DEFAULT_PORT),
        Some(Value::String(text)) => parse_decimal(text.trim().as_bytes()),
        Some(port) => port.as_u64(),
    };
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let port = port.ok_or("\"port\" is not a valid port")?;
    let target = Target { user: user.to_owned(), host: host.to_owned(), port };
    Ok(HostRequest { target, password })
}

/// Letters, digits and `others`. The text becomes an argument of ssh: it must neither look like an option nor contain
/// anything that a shell interprets.
fn is_plain(text: &str, max_bytes: usize, others: &[u8]) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    !text.starts_with('-') && (1..=max_bytes).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &str) -> MonitorRequest {
        MonitorRequest::parse(text, 3).unwrap_or_else(|InvalidRequest(_, why)| panic!("{why}"))
    }

    fn parse_one(host: &str) -> Result<HostRequest, String> {
        parse(&format!(r#"{{"id":1,"method":"ssh.start_monitor","params":[{host}]}}"#))
            .hosts
            .remove(0)
    }

    #[test]
    fn parses_request_of_the_document() {
        let request = parse(
            r#"{"id":"2138a74f91264b1","method":"ssh.start_monitor","params":[{"port":22,"host":"10.128.248.93","user":"cc","passwd":"chenchen"}]}"#,
        );
        assert_eq!(
            (request.id, request.method),
            (json!("2138a74f91264b1"), Method::Start(NotificationSet::Detailed))
        );
        let host = request.hosts.into_iter().next().unwrap().ok().unwrap();
        assert_eq!(host.target.key(), "cc@10.128.248.93:22");
        assert_eq!(host.password.as_deref(), Some("chenchen"));
    }

    #[test]
    fn rejects_deep_nesting_before_parsing() {
        let nested = |levels: usize| {
            let id = "[".repeat(levels - 1) + &"]".repeat(levels - 1);
            format!(r#"{{"id":{id},"method":"ssh.stop_monitor","params":[]}}"#)
        };
        assert!(MonitorRequest::parse(&nested(MAX_NESTING), 3).is_ok());
        assert!(MonitorRequest::parse(&nested(MAX_NESTING + 1), 3).is_err());
        let brackets = format!(r#"{{"user":"a","host":"{}"}}"#, r#"\"[{"#.repeat(MAX_NESTING));
        assert!(parse_one(&brackets).is_err_and(|why| !why.contains("levels")), "in a string");
    }

    #[test]
    fn accepts_alternative_notations_of_hosts() {
        for (host, key) in [
            (r#"{"host":"a","user":"b"}"#, "b@a:22"),
            (r#"{"host":"a.example","user":"b","port":"2222","passwd":null}"#, "b@a.example:2222"),
            (
                r#"{"host":"[fe80::1%eth0]","user":"b@example","passwd":""}"#,
                "b@example@[fe80::1%eth0]:22",
            ),
        ] {
            let host = parse_one(host).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(host.target.key(), key);
            assert_eq!(host.password, None);
        }
        let request =
            parse(r#"{"method":"ssh.stop_rough_monitor","params":{"host":"a","user":"b"}}"#);
        assert_eq!(
            (request.id, request.method, request.hosts.len()),
            (Value::Null, Method::Stop(NotificationSet::Rough), 1)
        );
    }

    #[test]
    fn rejects_options_and_shell_characters_in_hosts_and_users() {
        for (field, texts) in [
            ("host", &["", "-oProxyCommand=x", "a b", "a;b", "a\\nb", "$(x)", "a/b", "é"][..]),
            ("user", &["", "-l", "a b", "a`b`", "a\\u0000", "a'b"]),
        ] {
            for text in texts {
                let other = if field == "host" { "user" } else { "host" };
                let error = parse_one(&format!(r#"{{"{field}":"{text}","{other}":"ok"}}"#)).err();
                let error = error.unwrap_or_else(|| panic!("{field} {text}"));
                assert!(error.starts_with("params[0]: ") && error.contains(field), "{error}");
            }
        }
        let long = "a".repeat(256);
        for bad in [
            r#"{"user":"b"}"#,
            r#"{"host":"a"}"#,
            r#"{"host":7,"user":"b"}"#,
            r#"{"host":"a","user":"b","port":0}"#,
            r#"{"host":"a","user":"b","port":65536}"#,
            r#"{"host":"a","user":"b","port":"ssh"}"#,
            r#"{"host":"a","user":"b","passwd":"a\nb"}"#,
            r#"{"host":"a","user":"b","passwd":7}"#,
            r#""a""#,
            &format!(r#"{{"host":"{long}","user":"b"}}"#),
        ] {
            assert!(parse_one(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn invalid_request_keeps_id_and_hides_password() {
        let error = |text: &str| {
            let Err(error) = MonitorRequest::parse(text, 3) else { panic!("{text}") };
            error
        };
        let secret = error(r#"{"id":1,"params":[{"passwd":"s3cret"x"#);
        assert!(secret.0.is_null() && !secret.1.contains("s3cret"), "{}", secret.1);
        assert_eq!(error(r#"{"id":7,"method":"ssh.x"}"#).0, json!(7));
        assert_eq!(error(r#"{"id":"a","method":"ssh.start_monitor"}"#).0, json!("a"));
        assert_eq!(error(r#"{"id":{},"method":5}"#).0, Value::Null);
        let many = error(r#"{"method":"ssh.start_monitor","params":[1,2,3,4]}"#).1;
        assert!(many.contains("more than 3"), "{many}");
        assert_eq!(error("[]").1, "request is not a JSON object");
    }
}
