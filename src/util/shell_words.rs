//! A command line becomes words, as a POSIX shell splits and quotes them (XCU 2.2, 2.3) and without anything else that a
//! shell does: what it would interpret is an error.

use std::fmt;

/// Why a command line is not plain words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WordError {
    /// It is empty.
    Empty,
    /// A quote is not closed, or a backslash ends it.
    Unfinished,
    /// A byte 0, which no argument can hold.
    Nul,
    /// A shell would interpret this character.
    Shell(char),
    /// Its first word sets a variable.
    Assignment,
}

impl fmt::Display for WordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::Unfinished => f.write_str("a quote is not closed"),
            Self::Nul => f.write_str("it holds a byte 0"),
            Self::Shell(character) => {
                write!(
                    f,
                    "a shell would interpret \"{}\", and none is used",
                    character.escape_debug()
                )
            }
            Self::Assignment => f.write_str("its first word sets a variable"),
        }
    }
}

/// What a shell gives a meaning wherever it stands unquoted.
const MEANT: &str = "|&;<>()$`*?[]{}!\n";
/// What it gives a meaning between double quotes.
const MEANT_IN_QUOTES: &str = "$`";

/// The words of `line`; there is at least one.
pub fn split(line: &str) -> Result<Vec<String>, WordError> {
    let mut words = Words::default();
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\0' => return Err(WordError::Nul),
            ' ' | '\t' => words.end(),
            '\'' => words.single_quoted(&mut letters)?,
            '"' => words.double_quoted(&mut letters)?,
            '\\' => match letters.next() {
                None => return Err(WordError::Unfinished),
                Some(letter @ ('\n' | '\0')) => return Err(WordError::Shell(letter)),
                Some(letter) => words.push(letter),
            },
            // Home directories and comments, at the beginning of a word only.
            '~' | '#' if words.word.is_none() => return Err(WordError::Shell(letter)),
            '=' if words.done.is_empty() && words.is_name() => return Err(WordError::Assignment),
            letter if MEANT.contains(letter) => return Err(WordError::Shell(letter)),
            letter => words.push(letter),
        }
    }
    words.end();
    if words.done.is_empty() { Err(WordError::Empty) } else { Ok(words.done) }
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    /// The one that has begun; it may be empty if it was quoted.
    word: Option<String>,
}

impl Words {
    fn push(&mut self, letter: char) {
        self.word.get_or_insert_default().push(letter);
    }

    fn end(&mut self) {
        self.done.extend(self.word.take());
    }

    fn is_name(&self) -> bool {
        let name = self.word.as_deref().unwrap_or_default();
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    fn single_quoted(&mut self, letters: &mut std::str::Chars<'_>) -> Result<(), WordError> {
        let word = self.word.get_or_insert_default();
        loop {
            match letters.next() {
                None => return Err(WordError::Unfinished),
                Some('\0') => return Err(WordError::Nul),
                Some('\'') => return Ok(()),
                Some(letter) => word.push(letter),
            }
        }
    }

    fn double_quoted(&mut self, letters: &mut std::str::Chars<'_>) -> Result<(), WordError> {
        let word = self.word.get_or_insert_default();
        loop {
            match letters.next() {
                None => return Err(WordError::Unfinished),
                Some('\0') => return Err(WordError::Nul),
                Some('"') => return Ok(()),
                Some('\\') => match letters.next() {
                    None => return Err(WordError::Unfinished),
                    Some(letter @ ('"' | '\\')) => word.push(letter),
                    // A shell keeps the backslash before others, drops it before these: nobody is sure.
                    Some(letter @ ('$' | '`' | '\n')) => return Err(WordError::Shell(letter)),
                    Some('\0') => return Err(WordError::Nul),
                    Some(letter) => word.extend(['\\', letter]),
                },
                Some(letter) if MEANT_IN_QUOTES.contains(letter) => {
                    return Err(WordError::Shell(letter));
                }
                Some(letter) => word.push(letter),
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
    fn words_are_those_of_a_shell() {
        assert_eq!(words("ls -la /home"), ["ls", "-la", "/home"]);
        assert_eq!(words("  a\t b  "), ["a", "b"]);
        assert_eq!(
            words(r#"say 'a  $b' "c \"d\" \\ \n" e\ f"#),
            ["say", "a  $b", r#"c "d" \ \n"#, "e f"]
        );
        assert_eq!(words("a'b'\"c\"d ''"), ["abcd", ""]);
    }

    #[test]
    fn what_a_shell_would_interpret_is_refused() {
        for character in MEANT.chars() {
            assert_eq!(split(&format!("ls {character}")), Err(WordError::Shell(character)));
            let quoted = format!("ls '{character}' x");
            assert_eq!(words(&quoted)[1], character.to_string());
        }
        for (line, error) in [
            ("ls ~", WordError::Shell('~')),
            ("ls # x", WordError::Shell('#')),
            ("ls \"$HOME\"", WordError::Shell('$')),
            ("ls \"`id`\"", WordError::Shell('`')),
            ("ls \"\\$HOME\"", WordError::Shell('$')),
            ("LD_PRELOAD=x ls", WordError::Assignment),
            ("ls 'a", WordError::Unfinished),
            ("ls \"a", WordError::Unfinished),
            ("ls \\", WordError::Unfinished),
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
    fn cut_anywhere_it_is_words_or_an_error() {
        let line = r#"a 'b $c' "d \" e" \f g=h"#;
        for cut in 0..=line.len() {
            let cut: String = line.chars().take(cut).collect();
            assert!(split(&cut).is_ok_and(|words| !words.is_empty()) || split(&cut).is_err());
        }
    }
}
