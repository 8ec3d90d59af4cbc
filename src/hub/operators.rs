//! Tokens of operators: users of the REST API, of monitor connections and of the web port.

use std::path::Path;

use crate::config::Secret;
use crate::http::response::ErrorResponse;

/// What an operator may do; a role includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// See nodes and what they report.
    Read,
    /// Change the hub's state.
    Operate,
    /// Run commands on nodes.
    Command,
}

impl Role {
    /// As in `operators.tokens_file`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Command => "command",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "read" => Some(Self::Read),
            "operate" => Some(Self::Operate),
            "command" => Some(Self::Command),
            _ => None,
        }
    }
}

/// A line of `operators.tokens_file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    token: Secret,
    pub role: Role,
    /// For the log.
    pub name: String,
}

/// `operators.tokens_file`; `None`: every client of this machine is an operator.
#[derive(Debug, Clone)]
pub struct Operators(pub Option<Vec<Operator>>);

impl Operators {
    /// Whether a token has the role: `Ok` is the operator's name, if tokens are in force.
    pub fn check(&self, token: Option<&[u8]>, role: Role) -> Result<Option<&str>, ErrorResponse> {
        if self.0.is_none() {
            return Ok(None);
        }
        let denied = |status, text: &str, challenge: &str| {
            Err(ErrorResponse::new(status, text).header(challenge))
        };
        let Some(token) = token else {
            let text = "operator token required: \"Authorization: Bearer TOKEN\"";
            return denied("401 Unauthorized", text, "WWW-Authenticate: Bearer");
        };
        match self.find(token) {
            Some(operator) if operator.role >= role => Ok(Some(&operator.name)),
            Some(_) => {
                let challenge = "WWW-Authenticate: Bearer error=\"insufficient_scope\"";
                denied("403 Forbidden", "the role of this token does not permit it", challenge)
            }
            None => {
                let challenge = "WWW-Authenticate: Bearer error=\"invalid_token\"";
                denied("401 Unauthorized", "this token is not in operators.tokens_file", challenge)
            }
        }
    }

    /// The operator with this token.
    pub fn find(&self, token: &[u8]) -> Option<&Operator> {
        self.0.iter().flatten().find(|operator| operator.token.matches(token))
    }
}

/// Parses the tokens file: `TOKEN ROLE NAME` per line. Empty lines and lines that begin with `#` are ignored.
pub fn parse_tokens(path: &Path, text: &str) -> Result<Vec<Operator>, String> {
    let mut operators: Vec<Operator> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let invalid = |why: &str| format!("{} line {number}: {why}", path.display());
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [token, role, name] = words[..] else {
            return Err(invalid("expected TOKEN ROLE NAME"));
        };
        let role =
            Role::parse(role).ok_or_else(|| invalid("the role is read, operate or command"))?;
        let (token, name) = (Secret::new(token.to_owned()), name.to_owned());
        if operators.iter().any(|other| other.token == token) {
            return Err(invalid("this token is on an earlier line"));
        }
        operators.push(Operator { token, role, name });
    }
    match operators.is_empty() {
        true => Err(format!("{} contains no token", path.display())),
        false => Ok(operators),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_includes_lesser_ones() {
        let text = "r read ann\n# x\n\no operate bob\nc command eve\n";
        let operators = Operators(Some(parse_tokens(Path::new("FILE"), text).unwrap()));
        for (token, role, status) in [
            (Some("r"), Role::Read, None),
            (Some("r"), Role::Operate, Some("403")),
            (Some("o"), Role::Operate, None),
            (Some("o"), Role::Command, Some("403")),
            (Some("c"), Role::Command, None),
            (Some("x"), Role::Read, Some("401")),
            (None, Role::Read, Some("401")),
        ] {
            let result = operators.check(token.map(str::as_bytes), role);
            let found = result.as_ref().err().map(|error| &error.status[..3]);
            assert_eq!(found, status, "{token:?} {role:?}");
        }
        assert_eq!(operators.check(Some(b"c"), Role::Read).unwrap(), Some("eve"));
        assert!(Operators(None).check(None, Role::Command).unwrap().is_none());
    }

    #[test]
    fn errors_name_the_line_and_never_the_token() {
        for (text, expected) in [
            ("", "FILE contains no token"),
            ("t0ken read", "FILE line 1: expected TOKEN ROLE NAME"),
            ("\nt0ken admin ann", "FILE line 2: the role is read, operate or command"),
            ("t0ken read a\nt0ken read b", "FILE line 2: this token is on an earlier line"),
        ] {
            assert_eq!(parse_tokens(Path::new("FILE"), text).unwrap_err(), expected);
        }
    }
}
