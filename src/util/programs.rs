//! Tests of files before they are needed, with the rights of this process.

use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::util::error::reason;

/// Why the program cannot be run, the first word of a command; `None` if it can, or if there is no command.
pub fn missing(command: &[String]) -> Option<String> {
    let name = command.first()?;
    let error = find(name).err()?;
    Some(format!("cannot run {}: {}", name.escape_debug(), reason(&error)))
}

pub fn check_writable(path: &Path) -> io::Result<()> {
    Ok(access(path, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// Looks in `PATH` as execvp(3) does.
fn find(name: &str) -> io::Result<PathBuf> {
    if name.contains('/') {
        return check_executable(name.into());
    }
    let mut result = Err(io::Error::from_raw_os_error(libc::ENOENT));
    for directory in std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()) {
        match check_executable(directory.join(name)) {
            Ok(path) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => result = Err(error),
            Err(_) => {}
        }
    }
    result
}

fn check_executable(path: PathBuf) -> io::Result<PathBuf> {
    if !std::fs::metadata(&path)?.is_file() {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    access(&path, AccessFlags::X_OK)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing_words(words: &[&str]) -> Option<String> {
        missing(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn finds_programs_by_path_and_name() {
        for words in [&[][..], &["/bin/sh", "-c", "/nonexistent"], &["sh"]] {
            assert_eq!(missing_words(words), None, "{words:?}");
        }
    }

    #[test]
    fn reports_programs_that_cannot_be_run() {
        for (name, why) in [
            ("/nonexistent/alert", "no such file or directory"),
            ("nonexistent-alert", "no such file or directory"),
            ("/etc/passwd", "permission denied"),
            ("/etc", "permission denied"),
        ] {
            let text = missing_words(&[name]).unwrap_or_default();
            assert_eq!(text, format!("cannot run {name}: {why}"));
        }
    }
}
