//! Splits a command line into words with the quoting rules of a POSIX shell (XCU 2.2, 2.3). Everything else that a shell
//! would interpret is an error, so that nothing is expanded, redirected or chained. This refusal is why no crate is used.
#![deny(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used))]

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordError {
    Empty,
    /// An unclosed quote, or a backslash at the end.
    Unterminated,
    /// NUL, which no argument can contain.
    Nul,
    /// A shell would interpret this character.
    Metacharacter(char),
    /// The first word assigns a variable.
    Assignment,
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("command is empty"),
            Self::Unterminated => f.write_str("unterminated quote"),
            Self::Nul => f.write_str("command contains a NUL byte"),
            Self::Metacharacter(char) => {
                let char = char.escape_debug();
                write!(f, "unquoted shell metacharacter \"{char}\"; commands run without a shell")
            }
            Self::Assignment => f.write_str("first word assigns a variable"),
        }
    }
}

/// Metacharacters outside quotes.
const METACHARACTERS: &str = "|&;<>()$`*?[]{}!\n";
/// Metacharacters within double quotes.
const QUOTED_METACHARACTERS: &str = "$`";

/// The words of `line`; at least one.
pub fn split(line: &str) -> Result<Vec<String>, WordError> {
    let mut words = Words::default();
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '\0' => return Err(WordError::Nul),
            ' ' | '\t' => words.end(),
            '\'' => words.single_quoted(&mut chars)?,
            '"' => words.double_quoted(&mut chars)?,
            '\\' => match chars.next() {
                None => return Err(WordError::Unterminated),
                Some(char @ ('\n' | '\0')) => return Err(WordError::Metacharacter(char)),
                Some(char) => words.push(char),
            },
            // Home directories and comments, only at the start of a word.
            '~' | '#' if words.word.is_none() => return Err(WordError::Metacharacter(char)),
            '=' if words.done.is_empty() && words.is_name() => return Err(WordError::Assignment),
            char if METACHARACTERS.contains(char) => return Err(WordError::Metacharacter(char)),
            char => words.push(char),
        }
    }
    words.end();
    if words.done.is_empty() { Err(WordError::Empty) } else { Ok(words.done) }
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    /// The current word; it may be empty if it is quoted.
    word: Option<String>,
}

impl Words {
    fn push(&mut self, char: char) {
        self.word.get_or_insert_default().push(char);
    }

    fn end(&mut self) {
        self.done.extend(self.word.take());
    }

    fn is_name(&self) -> bool {
        let name = self.word.as_deref().unwrap_or_default();
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    fn single_quoted(&mut self, chars: &mut std::str::Chars<'_>) -> Result<(), WordError> {
        let word = self.word.get_or_insert_default();
        loop {
            match chars.next() {
                None => return Err(WordError::Unterminated),
                Some('\0') => return Err(WordError::Nul),
                Some('\'') => return Ok(()),
                Some(char) => word.push(char),
            }
        }
    }

    fn double_quoted(&mut self, chars: &mut std::str::Chars<'_>) -> Result<(), WordError> {
        let word = self.word.get_or_insert_default();
        loop {
            match chars.next() {
                None => return Err(WordError::Unterminated),
                Some('\0') => return Err(WordError::Nul),
                Some('"') => return Ok(()),
                Some('\\') => match chars.next() {
                    None => return Err(WordError::Unterminated),
                    Some(char @ ('"' | '\\')) => word.push(char),
                    // A shell drops the backslash before these and keeps it before others, which is easy to get wrong.
                    Some(char @ ('$' | '`' | '\n')) => return Err(WordError::Metacharacter(char)),
                    Some('\0') => return Err(WordError::Nul),
                    Some(char) => word.extend(['\\', char]),
                },
                Some(char) if QUOTED_METACHARACTERS.contains(char) => {
                    return Err(WordError::Metacharacter(char));
                }
                Some(char) => word.push(char),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line).unwrap()
    }

    #[test]
    fn splits_words_as_a_shell() {
        assert_eq!(words("ls -la /home"), ["ls", "-la", "/home"]);
        assert_eq!(words("  a\t b  "), ["a", "b"]);
        assert_eq!(
            words(r#"say 'a  $b' "c \"d\" \\ \n" e\ f"#),
            ["say", "a  $b", r#"c "d" \ \n"#, "e f"]
        );
        assert_eq!(words("a'b'\"c\"d ''"), ["abcd", ""]);
    }

    #[test]
    fn rejects_shell_metacharacters() {
        for char in METACHARACTERS.chars() {
            assert_eq!(split(&format!("ls {char}")), Err(WordError::Metacharacter(char)));
            let quoted = format!("ls '{char}' x");
            assert_eq!(words(&quoted)[1], char.to_string());
        }
        for (line, error) in [
            ("ls ~", WordError::Metacharacter('~')),
            ("ls # x", WordError::Metacharacter('#')),
            ("ls \"$HOME\"", WordError::Metacharacter('$')),
            ("ls \"`id`\"", WordError::Metacharacter('`')),
            ("ls \"\\$HOME\"", WordError::Metacharacter('$')),
            ("LD_PRELOAD=x ls", WordError::Assignment),
            ("ls 'a", WordError::Unterminated),
            ("ls \"a", WordError::Unterminated),
            ("ls \\", WordError::Unterminated),
            ("ls \0", WordError::Nul),
            ("ls '\0'", WordError::Nul),
            ("ls \"\0\"", WordError::Nul),
            ("   ", WordError::Empty),
            ("", WordError::Empty),
        ] {
            assert_eq!(split(line), Err(error), "{line:?}");
        }
        assert_eq!(words("ls a~ b#c --x=y"), ["ls", "a~", "b#c", "--x=y"]);
    }

    #[test]
    fn every_prefix_is_words_or_an_error() {
        let line = r#"a 'b $c' "d \" e" \f g=h"#;
        for cut in 0..=line.len() {
            let cut: String = line.chars().take(cut).collect();
            assert!(split(&cut).is_ok_and(|words| !words.is_empty()) || split(&cut).is_err());
        }
    }
}
