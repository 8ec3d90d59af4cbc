//! Messages of `/monitor`: requests, answers and notifications of "Argusyes-backend", with the events that its published
//! implementation has beside the document's one.
//!
//! JSON-RPC in looks only: `params` is a list of hosts, an answer has `id`, `result` and `error`, and a notification has
//! no `jsonrpc` either.

pub mod cpu;
pub mod disks;
pub mod events;
pub mod fields;
pub mod networks;

use serde_json::{Value, json};

use crate::util::text::parse_decimal;
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// What a client may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Everything but `rough`, or `rough` alone.
    Start {
        /// `rough` alone.
        rough: bool,
    },
    /// The same, to be no longer sent.
    Stop {
        /// `rough` alone.
        rough: bool,
    },
}

/// Somebody on a host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct Target {
    pub user: String,
    pub host: String,
    pub port: u16,
}

impl Target {
    /// How clients know it: `cc@10.128.248.93:22`.
    pub fn key(&self) -> String {
        let Self { user, host, port } = self;
        if host.contains(':') {
            format!("{user}@[{host}]:{port}")
        } else {
            format!("{user}@{host}:{port}")
        }
    }
}

/// A host that is asked for, and the password with which it is.
pub struct Wanted {
    /// Which.
    pub target: Target,
    /// `None`: with the agent's own keys.
    pub password: Option<String>,
}

/// A request.
pub struct Request {
    /// As it came; `null` if there was none.
    pub id: Value,
    /// What to do.
    pub method: Method,
    /// With whom; or why not.
    pub hosts: Vec<Result<Wanted, String>>,
}

/// Why a text is no request, and the id that it had.
#[derive(Debug, PartialEq)]
pub struct Malformed(pub Value, pub String);

impl Request {
    /// Reads a request of at most so many hosts.
    pub fn parse(text: &str, most_hosts: usize) -> Result<Self, Malformed> {
        let fail = |id: &Value, why: String| Err(Malformed(id.clone(), why));
        if is_deep(text) {
            return fail(&Value::Null, format!("a request has no more than {NESTING} levels"));
        }
        let mut message: Value = match serde_json::from_str(text) {
            Ok(message) => message,
            // Where, and not what: it may hold a password.
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                return fail(
                    &Value::Null,
                    format!("this is not JSON: line {line}, column {column}"),
                );
            }
        };
        let Some(message) = message.as_object_mut() else {
            return fail(&Value::Null, "a request is a JSON object".to_owned());
        };
        let id = message.get("id").filter(|id| !id.is_object() && !id.is_array());
        let id = id.cloned().unwrap_or_default();
        let method = match message.get("method").and_then(Value::as_str) {
            Some("ssh.start_monitor") => Method::Start { rough: false },
            Some("ssh.stop_monitor") => Method::Stop { rough: false },
            Some("ssh.start_rough_monitor") => Method::Start { rough: true },
            Some("ssh.stop_rough_monitor") => Method::Stop { rough: true },
            Some(other) => {
                let other = escape_for_log(other, EXCERPT_CHARS);
                return fail(
                    &id,
                    format!(
                        "there is no method {other}; there are ssh.start_monitor, ssh.stop_monitor, ssh.start_rough_monitor and ssh.stop_rough_monitor"
                    ),
                );
            }
            None => return fail(&id, "\"method\" is missing, or no text".to_owned()),
        };
        let hosts = match message.remove("params") {
            Some(Value::Array(hosts)) => hosts,
            Some(one @ Value::Object(_)) => vec![one],
            _ => return fail(&id, "\"params\" is missing, or no list of hosts".to_owned()),
        };
        if hosts.len() > most_hosts {
            return fail(&id, format!("\"params\" has over {most_hosts} hosts"));
        }
        let hosts = hosts.into_iter().enumerate().map(|(at, host)| wanted(at, host)).collect();
        Ok(Self { id, method, hosts })
    }
}

/// A request is an object with a list of objects. The parser would go down 128 levels, and a connection's stack is small.
const NESTING: usize = 16;

/// Whether there are more levels in it than a request has; brackets in a string open none.
fn is_deep(text: &str) -> bool {
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
        level > NESTING
    })
}

/// ssh(1) takes no longer ones.
const PASSWORD_BYTES: usize = 1000;

fn wanted(at: usize, mut host: Value) -> Result<Wanted, String> {
    let password = match host.get_mut("passwd").map(Value::take) {
        None | Some(Value::Null) => None,
        Some(Value::String(text))
            if text.contains(['\n', '\r', '\0']) || text.len() > PASSWORD_BYTES =>
        {
            return Err(format!("params[{at}]: \"passwd\" is too long, or has more than one line"));
        }
        Some(Value::String(text)) => Some(text).filter(|text| !text.is_empty()),
        Some(_) => return Err(format!("params[{at}]: \"passwd\" is no text")),
    };
    let text = |name: &str| {
        let value = host.get(name).and_then(Value::as_str);
        value.ok_or_else(|| format!("params[{at}]: \"{name}\" is missing, or no text"))
    };
    let name = text("host")?;
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let user = text("user")?;
    if !is_plain(name, 255, b".-_:%") {
        return Err(format!("params[{at}]: {} is no host", escape_for_log(name, EXCERPT_CHARS)));
    }
    if !is_plain(user, 64, b".-_@+") {
        return Err(format!("params[{at}]: {} is no user", escape_for_log(user, EXCERPT_CHARS)));
    }
    let port = match host.get("port") {
        None | Some(Value::Null) => Some(22),
        Some(Value::String(text)) => parse_decimal(text.trim().as_bytes()),
        Some(port) => port.as_u64(),
    };
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let port = port.ok_or_else(|| format!("params[{at}]: \"port\" is no port"))?;
    let target = Target { user: user.to_owned(), host: name.to_owned(), port };
    Ok(Wanted { target, password })
}

/// Letters, digits and a few others; nothing that a program could take for an option, or a shell for anything.
fn is_plain(text: &str, most_bytes: usize, others: &[u8]) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || others.contains(&byte);
    !text.starts_with('-') && (1..=most_bytes).contains(&text.len()) && text.bytes().all(allowed)
}

/// An answer: to a request that held, or to one of which something failed.
pub fn answer(id: &Value, error: Option<&str>) -> String {
    json!({ "id": id, "result": null, "error": error }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Request {
        Request::parse(text, 3).unwrap_or_else(|Malformed(_, why)| panic!("{why}"))
    }

    fn one(host: &str) -> Result<Wanted, String> {
        parsed(&format!(r#"{{"id":1,"method":"ssh.start_monitor","params":[{host}]}}"#))
            .hosts
            .remove(0)
    }

    #[test]
    fn the_documents_request() {
        let request = parsed(
            r#"{"id":"2138a74f91264b1","method":"ssh.start_monitor","params":[{"port":22,"host":"10.128.248.93","user":"cc","passwd":"chenchen"}]}"#,
        );
        assert_eq!(
            (request.id, request.method),
            (json!("2138a74f91264b1"), Method::Start { rough: false })
        );
        let wanted = request.hosts.into_iter().next().unwrap().ok().unwrap();
        assert_eq!(wanted.target.key(), "cc@10.128.248.93:22");
        assert_eq!(wanted.password.as_deref(), Some("chenchen"));
    }

    #[test]
    fn a_request_of_many_levels_is_not_parsed() {
        let nested = |levels: usize| {
            let id = "[".repeat(levels - 1) + &"]".repeat(levels - 1);
            format!(r#"{{"id":{id},"method":"ssh.stop_monitor","params":[]}}"#)
        };
        assert!(Request::parse(&nested(NESTING), 3).is_ok());
        assert!(Request::parse(&nested(NESTING + 1), 3).is_err());
        let brackets = format!(r#"{{"user":"a","host":"{}"}}"#, r#"\"[{"#.repeat(NESTING));
        assert!(one(&brackets).is_err_and(|why| !why.contains("levels")), "in a text");
    }

    #[test]
    fn hosts_may_be_written_in_several_ways() {
        for (host, key) in [
            (r#"{"host":"a","user":"b"}"#, "b@a:22"),
            (r#"{"host":"a.example","user":"b","port":"2222","passwd":null}"#, "b@a.example:2222"),
            (
                r#"{"host":"[fe80::1%eth0]","user":"b@example","passwd":""}"#,
                "b@example@[fe80::1%eth0]:22",
            ),
        ] {
            let wanted = one(host).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(wanted.target.key(), key);
            assert_eq!(wanted.password, None);
        }
        let request =
            parsed(r#"{"method":"ssh.stop_rough_monitor","params":{"host":"a","user":"b"}}"#);
        assert_eq!(
            (request.id, request.method, request.hosts.len()),
            (Value::Null, Method::Stop { rough: true }, 1)
        );
    }

    #[test]
    fn what_could_be_an_option_or_code_is_no_host() {
        for (field, texts) in [
            ("host", &["", "-oProxyCommand=x", "a b", "a;b", "a\\nb", "$(x)", "a/b", "é"][..]),
            ("user", &["", "-l", "a b", "a`b`", "a\\u0000", "a'b"]),
        ] {
            for text in texts {
                let other = if field == "host" { "user" } else { "host" };
                let refused = one(&format!(r#"{{"{field}":"{text}","{other}":"ok"}}"#)).err();
                let refused = refused.unwrap_or_else(|| panic!("{field} {text}"));
                assert!(refused.starts_with("params[0]: ") && refused.contains(field), "{refused}");
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
            assert!(one(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_request_is_answered_with_its_id_and_without_its_secrets() {
        let fails = |text: &str| {
            let Err(malformed) = Request::parse(text, 3) else { panic!("{text}") };
            malformed
        };
        let secret = fails(r#"{"id":1,"params":[{"passwd":"s3cret"x"#);
        assert!(secret.0.is_null() && !secret.1.contains("s3cret"), "{}", secret.1);
        assert_eq!(fails(r#"{"id":7,"method":"ssh.x"}"#).0, json!(7));
        assert_eq!(fails(r#"{"id":"a","method":"ssh.start_monitor"}"#).0, json!("a"));
        assert_eq!(fails(r#"{"id":{},"method":5}"#).0, Value::Null);
        assert!(fails(r#"{"method":"ssh.start_monitor","params":[1,2,3,4]}"#).1.contains("over 3"));
        assert_eq!(fails("[]").1, "a request is a JSON object");
    }

    #[test]
    fn answers() {
        assert_eq!(answer(&json!("a"), None), r#"{"error":null,"id":"a","result":null}"#);
        assert_eq!(answer(&Value::Null, Some("x")), r#"{"error":"x","id":null,"result":null}"#);
    }
}
