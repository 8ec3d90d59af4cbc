//! The one error type: messages that a tired operator can act on.
//!
//! Lower case, no full stop; what, where, and the offending text escaped and cut.

use std::fmt;
use std::io;

use crate::procfs::ParseError;

/// Why something did not work.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong.
    Arguments(String),
    /// A setting is wrong.
    Setting {
        /// Where it was set: a file and its line, an environment variable, `-s KEY`.
        origin: String,
        /// What is wrong with it, and what is expected.
        why: String,
    },
    /// The operating system refused.
    System {
        /// What was being done, e.g. `read /proc/stat`.
        doing: String,
        /// What to do about it, if that is known.
        hint: Option<String>,
        /// The refusal.
        source: io::Error,
    },
    /// A file of the kernel holds something unexpected.
    Parse {
        /// The file.
        file: String,
        /// Where in it, and what.
        source: ParseError,
    },
}

impl Error {
    /// An error of the operating system while `doing` something.
    pub fn system(doing: impl Into<String>, source: io::Error) -> Self {
        Self::System { doing: doing.into(), hint: None, source }
    }

    /// The same, with what to do about it.
    pub fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::System { doing, source, .. } => {
                Self::System { doing, hint: Some(text.into()), source }
            }
            other => other,
        }
    }

    /// What the process ends with: 2 for wrong arguments or settings, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Arguments(_) | Self::Setting { .. } => 2,
            Self::System { .. } | Self::Parse { .. } => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arguments(why) => write!(f, "{why}; see hm-agent --help"),
            Self::Setting { origin, why } => write!(f, "{origin}: {why}"),
            Self::System { doing, hint, source } => {
                write!(f, "{doing}: {}", reason(source))?;
                hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
            }
            Self::Parse { file, source } => write!(f, "parse {file} {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Arguments(_) | Self::Setting { .. } => None,
            Self::System { source, .. } => Some(source),
            Self::Parse { source, .. } => Some(source),
        }
    }
}

/// The system's words for an error, without the number that Rust puts behind them.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let mut words = text.split(" (os error").next().unwrap_or_default().to_owned();
    // The whole of Unicode's cases would be 25 KB.
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn messages_say_what_where_and_why() {
        let missing = io::Error::from_raw_os_error(2);
        let error = Error::system("read /proc/stat", missing).with_hint("is path.proc right?");
        assert_eq!(
            error.to_string(),
            "read /proc/stat: no such file or directory; is path.proc right?"
        );
        assert!(error.source().is_some());
        let source = ParseError { line: 3, expected: "a number", got: "12x4".into() };
        let error = Error::Parse { file: "/proc/meminfo".into(), source };
        assert_eq!(
            error.to_string(),
            r#"parse /proc/meminfo line 3: expected a number, got "12x4""#
        );
    }

    #[test]
    fn wrong_settings_and_arguments_are_exit_code_2() {
        assert_eq!(Error::Arguments(String::new()).exit_code(), 2);
        assert_eq!(Error::Setting { origin: "-s x".into(), why: String::new() }.exit_code(), 2);
        assert_eq!(Error::system("x", io::Error::from_raw_os_error(1)).exit_code(), 1);
    }
}
