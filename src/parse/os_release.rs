//! `/etc/os-release`: which distribution this is.
//!
//! Format: os-release(5): shell assignments, one a line. A real line:
//!
//! ```text
//! PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
//! ```

use super::{key_value, lines};

/// The distribution's name for people, e.g. `Debian GNU/Linux 12 (bookworm)`.
pub fn parse_pretty_name(text: &[u8]) -> Option<String> {
    let (mut pretty, mut name) = (None, None);
    for (_, line) in lines(text) {
        match key_value(line, b'=') {
            Some((b"PRETTY_NAME", value)) => pretty = Some(unquote(value)),
            Some((b"NAME", value)) => name = Some(unquote(value)),
            _ => continue,
        }
    }
    pretty.or(name).filter(|name| !name.is_empty())
}

fn unquote(value: &[u8]) -> String {
    let quoted = |quote: u8| value.strip_prefix(&[quote])?.strip_suffix(&[quote]);
    let inner = quoted(b'"').or_else(|| quoted(b'\'')).unwrap_or(value);
    let text = String::from_utf8_lossy(inner);
    let mut out = String::with_capacity(text.len());
    let mut escaped = false;
    for letter in text.chars() {
        escaped = letter == '\\' && !escaped;
        if !escaped {
            out.push(letter);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_sample() {
        let real = b"# a comment\nNAME=\"Debian GNU/Linux\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n";
        assert_eq!(parse_pretty_name(real).unwrap(), "Debian GNU/Linux 12 (bookworm)");
        for end in 0..real.len() {
            let _ = parse_pretty_name(&real[..end]);
        }
    }

    #[test]
    fn quotes_and_escapes_are_those_of_a_shell() {
        assert_eq!(parse_pretty_name(b"PRETTY_NAME='Alpine Linux'\n").unwrap(), "Alpine Linux");
        assert_eq!(parse_pretty_name(b"NAME=Gentoo\n").unwrap(), "Gentoo");
        assert_eq!(parse_pretty_name(b"NAME=\"a \\\"b\\\" \\\\ c\"\n").unwrap(), "a \"b\" \\ c");
        assert_eq!(parse_pretty_name(b"PRETTY_NAME=\"\"\n"), None);
        assert_eq!(parse_pretty_name(b"\xff\xfe"), None);
    }
}
