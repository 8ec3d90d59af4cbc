//! Whether host keys can be remembered. ssh says nothing aloud if they cannot, and then nobody is ever found to be another.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::config::Current;
use crate::sys::users;
use crate::util::error::reason;

/// Says in the log if they cannot.
pub(super) fn check(settings: &Current) {
    let config = settings.get();
    let named = config.monitor.known_hosts.as_deref();
    let home =
        || users::user_by_uid(users::effective_uid()).ok().flatten().map(|user| user.home.into());
    if let Some((path, error)) = trouble(named, home) {
        log::warn!(
            "monitor: host keys are remembered nowhere, and a changed one will not be noticed: {}: {}; see monitor.known_hosts",
            path.display(),
            reason(&error),
        );
    }
}

/// What is wrong, if there is something: with the file that is named, or with the user's own.
fn trouble(
    named: Option<&Path>,
    home: impl FnOnce() -> Option<PathBuf>,
) -> Option<(PathBuf, io::Error)> {
    if let Some(path) = named {
        let opened = File::options().append(true).create(true).open(path);
        return opened.err().map(|error| (path.to_owned(), error));
    }
    // A user that the C library does not know may still have a home that ssh knows of.
    let home = home()?;
    if let Err(error) = std::fs::metadata(&home) {
        return Some((home, error));
    }
    // ssh makes it with the first key.
    let path = home.join(".ssh/known_hosts");
    let opened = File::options().append(true).open(&path);
    opened.err().filter(|error| error.kind() != ErrorKind::NotFound).map(|error| (path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_none_is_named() {
        let path = |text: &str| Some(PathBuf::from(text));
        let (found, error) = trouble(None, || path("/nonexistent")).expect("no such directory");
        assert_eq!((found.to_str(), error.kind()), (Some("/nonexistent"), ErrorKind::NotFound));
        assert!(trouble(Some(Path::new("/nonexistent/known")), || None).is_some());
        assert!(trouble(None, || None).is_none());
        let directory = std::env::temp_dir();
        assert!(trouble(None, || Some(directory.clone())).is_none(), "ssh makes what is missing");
    }
}
