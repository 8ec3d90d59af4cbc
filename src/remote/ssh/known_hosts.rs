//! Checks at startup that ssh can store host keys. ssh does not report it if it cannot, and then a changed key goes
//! unnoticed.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::config::CurrentConfig;
use crate::sys::users;
use crate::util::error::reason;

/// Logs a warning if host keys cannot be stored.
pub(in crate::remote) fn warn_if_not_writable(config: &CurrentConfig) {
    let config = config.get();
    let configured = config.monitor.known_hosts.as_deref();
    let home =
        || users::user_by_uid(users::effective_uid()).ok().flatten().map(|user| user.home.into());
    if let Some((path, error)) = find_problem(configured, home) {
        log::warn!(
            "monitor: cannot store host keys, changed keys will go unnoticed: {}: {}; see monitor.known_hosts",
            path.display(),
            reason(&error),
        );
    }
}

/// Checks the configured file or, without one, that of the user.
fn find_problem(
    configured: Option<&Path>,
    home: impl FnOnce() -> Option<PathBuf>,
) -> Option<(PathBuf, io::Error)> {
    if let Some(path) = configured {
        let opened = File::options().append(true).create(true).open(path);
        return opened.err().map(|error| (path.to_owned(), error));
    }
    // The C library may not know a user whose home ssh finds nevertheless.
    let home = home()?;
    if let Err(error) = std::fs::metadata(&home) {
        return Some((home, error));
    }
    // ssh creates a missing file with the first key.
    let path = home.join(".ssh/known_hosts");
    let opened = File::options().append(true).open(&path);
    opened.err().filter(|error| error.kind() != ErrorKind::NotFound).map(|error| (path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_path_that_cannot_be_written() {
        let path = |text: &str| Some(PathBuf::from(text));
        let (found, error) = find_problem(None, || path("/nonexistent")).expect("no home");
        assert_eq!((found.to_str(), error.kind()), (Some("/nonexistent"), ErrorKind::NotFound));
        assert!(find_problem(Some(Path::new("/nonexistent/known")), || None).is_some());
        assert!(find_problem(None, || None).is_none());
        let directory = std::env::temp_dir();
        assert!(find_problem(None, || Some(directory.clone())).is_none(), "ssh creates the file");
    }
}
