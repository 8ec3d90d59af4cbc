//! The error type of the program. Messages are lower case without a full stop, and contain what failed, where, and the
//! offending text, escaped and truncated.

use std::fmt;
use std::io;

#[derive(Debug)]
pub enum Error {
    /// Invalid command line.
    Arguments(String),
    /// Invalid setting.
    Setting {
        /// File and line, environment variable or command line.
        origin: String,
        why: String,
    },
    /// A system call failed.
    System {
        /// The failed operation, e.g. `read /proc/stat`.
        operation: String,
        /// What the operator can do.
        hint: Option<String>,
        source: io::Error,
    },
    /// A kernel file has unexpected content.
    Parse { file: String, why: String },
}

impl Error {
    /// A failed system call of an operation, e.g. `read /proc/stat`.
    pub fn system(operation: impl Into<String>, source: io::Error) -> Self {
        Self::System { operation: operation.into(), hint: None, source }
    }

    /// Adds what the operator can do.
    pub fn with_hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::System { operation, source, .. } => {
                Self::System { operation, hint: Some(text.into()), source }
            }
            other => other,
        }
    }

    /// The code of a failed system call, such as `ENOENT`.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Exit code of the process: 2 for invalid arguments or settings, 1 for everything else.
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
            Self::Arguments(why) => write!(f, "{why}; see --help"),
            Self::Setting { origin, why } => write!(f, "{origin}: {why}"),
            Self::System { operation, hint, source } => {
                write!(f, "{operation}: {}", reason(source))?;
                hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
            }
            Self::Parse { file, why } => write!(f, "parse {file} {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Arguments(_) | Self::Setting { .. } | Self::Parse { .. } => None,
            Self::System { source, .. } => Some(source),
        }
    }
}

/// The system's text for an error, without the number that Rust appends and with a lower case first letter.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let mut reason = text.split(" (os error").next().unwrap_or_default().to_owned();
    if let Some(first) = reason.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn messages_contain_operation_reason_and_hint() {
        let missing = io::Error::from_raw_os_error(2);
        let error = Error::system("read /proc/stat", missing).with_hint("is path.proc right?");
        assert_eq!(
            error.to_string(),
            "read /proc/stat: no such file or directory; is path.proc right?"
        );
        assert!(error.source().is_some());
        let error = Error::Parse { file: "/proc/meminfo".into(), why: "line 3: no number".into() };
        assert_eq!(error.to_string(), "parse /proc/meminfo line 3: no number");
    }

    #[test]
    fn exit_code_is_2_for_invalid_settings_and_arguments() {
        assert_eq!(Error::Arguments(String::new()).exit_code(), 2);
        assert_eq!(Error::Setting { origin: "-s x".into(), why: String::new() }.exit_code(), 2);
        assert_eq!(Error::system("x", io::Error::from_raw_os_error(1)).exit_code(), 1);
    }
}
