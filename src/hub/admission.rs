//! Which nodes may connect.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::config::sha256;
use crate::hub::credentials::{CredentialOwner, Digest};
use crate::util::text::{EXCERPT_CHARS, escape_for_log};

/// `nodes.admission`.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Every node of this machine, because all listeners have loopback addresses. Not the default behind a proxy, where every client
    /// seems to be on this machine.
    Loopback,
    /// Every node.
    Open,
    /// Nodes that send one of these tokens.
    Token(JoinTokens),
}

/// The lines of `nodes.tokens_file` by the SHA-256 of their tokens. A lookup takes a time that depends on these digests, which reveal nothing
/// about a token, and it is fast enough to check ten thousand connections again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinTokens(HashMap<[u8; 32], JoinToken>);

impl JoinTokens {
    /// Whether a token is that of this node only.
    pub fn has_node(&self, node_id: &str) -> bool {
        self.0.values().any(|token| token.node.as_deref() == Some(node_id))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct JoinToken {
    /// The only node that may use it.
    node: Option<Arc<str>>,
    group: Option<Arc<str>>,
}

/// What a connection may do after its handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The only node that it may become; `None`: any.
    node: Option<Arc<str>>,
    pub group: Option<Arc<str>>,
    pub proof: Proof,
}

/// How a connection proves which node it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Proof {
    /// Not at all: every node may connect, or the join token is that of several nodes.
    #[default]
    None,
    /// Only programs of this machine can connect.
    Loopback,
    /// The join token is that of one node.
    BoundToken,
    Credential(Digest),
}

impl Admitted {
    /// A node that has presented its credential.
    pub fn by_credential(owner: CredentialOwner, digest: Digest) -> Self {
        let CredentialOwner { node_id, group, .. } = owner;
        Self { node: Some(node_id), group, proof: Proof::Credential(digest) }
    }

    /// Whether the node gets commands.
    pub fn is_authenticated(&self) -> bool {
        self.proof != Proof::None
    }

    pub fn has_credential(&self) -> bool {
        matches!(self.proof, Proof::Credential(_))
    }

    /// Whether the client can be trusted to be the node that it names, wherever it is.
    pub fn has_proof(&self) -> bool {
        matches!(self.proof, Proof::BoundToken | Proof::Credential(_))
    }

    /// The only node that the connection may become.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    pub fn allows(&self, node_id: &str) -> bool {
        self.node.as_deref().is_none_or(|node| node == node_id)
    }
}

impl Admission {
    /// Checks the token of a handshake.
    pub fn admit(&self, token: Option<&[u8]>) -> Option<Admitted> {
        let tokens = match self {
            Self::Open => return Some(Admitted::default()),
            Self::Loopback => {
                return Some(Admitted { proof: Proof::Loopback, ..Admitted::default() });
            }
            Self::Token(tokens) => tokens,
        };
        let JoinToken { node, group } = tokens.0.get(&sha256(token?))?;
        let proof = if node.is_some() { Proof::BoundToken } else { Proof::None };
        Some(Admitted { node: node.clone(), group: group.clone(), proof })
    }
}

/// Parses the tokens file: a token per line, then optionally `node=ID` and `group=NAME`. Empty lines and lines that begin with `#` are
/// ignored.
pub fn parse_tokens(path: &Path, text: &str) -> Result<JoinTokens, String> {
    let mut tokens = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let invalid = |why: &str| format!("{} line {number}: {why}", path.display());
        let (digest, token) = parse_token(line).map_err(|why| invalid(&why))?;
        if tokens.insert(digest, token).is_some() {
            return Err(invalid("this token is on an earlier line"));
        }
    }
    match tokens.is_empty() {
        true => Err(format!("{} contains no token", path.display())),
        false => Ok(JoinTokens(tokens)),
    }
}

/// A token's digest, and what it admits.
fn parse_token(line: &str) -> Result<([u8; 32], JoinToken), String> {
    let mut words = line.split_ascii_whitespace();
    let digest = sha256(words.next().unwrap_or_default().as_bytes());
    let mut parsed = JoinToken::default();
    for word in words {
        let (field, value) = match word.split_once('=') {
            Some(("node", value)) => (&mut parsed.node, value),
            Some(("group", value)) => (&mut parsed.group, value),
            // The word may be a part of a token with a blank in it.
            _ => return Err("expected TOKEN [node=ID] [group=NAME]".to_owned()),
        };
        if value.is_empty() || field.is_some() {
            return Err(format!(
                "\"{}\" is empty or repeated",
                escape_for_log(word, EXCERPT_CHARS)
            ));
        }
        *field = Some(value.into());
    }
    Ok((digest, parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<JoinTokens, String> {
        parse_tokens(Path::new("FILE"), text)
    }

    #[test]
    fn open_admission_needs_no_token() {
        let admitted = Admission::Open.admit(None).unwrap();
        assert!(admitted.allows("a") && admitted.allows("b"));
    }

    #[test]
    fn token_admits_its_node_or_every_node() {
        let admission =
            Admission::Token(parse("# fleet\n\ns3cret group=x\n bound  node=a\n").unwrap());
        assert_eq!(admission.admit(None), None);
        assert_eq!(admission.admit(Some(b"s3cre")), None);
        assert!(admission.admit(Some(b"s3cret")).unwrap().allows("b"));
        let bound = admission.admit(Some(b"bound")).unwrap();
        assert!(bound.allows("a") && !bound.allows("b"));
    }

    #[test]
    fn errors_name_the_line_and_never_the_token() {
        for (text, expected) in [
            ("", "FILE contains no token"),
            ("# x\n", "FILE contains no token"),
            ("\nt0ken x", "FILE line 2: expected TOKEN [node=ID] [group=NAME]"),
            ("t0ken node=", "FILE line 1: \"node=\" is empty or repeated"),
            ("t0ken node=a node=b", "FILE line 1: \"node=b\" is empty or repeated"),
            ("t0ken\nt0ken node=a", "FILE line 2: this token is on an earlier line"),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
    }
}
