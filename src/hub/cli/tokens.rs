//! `hm-hub token`: edits `nodes.tokens_file`. A token is printed once, when it is new; afterwards its id names it, the first digits of its
//! SHA-256.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use data_encoding::HEXLOWER;
use nix::fcntl::{Flock, FlockArg};

use crate::config::sha256;
use crate::hub::admission::parse_tokens;
use crate::util::error::Error;
use crate::util::random;
use crate::util::text::escape_for_terminal;

const ID_DIGITS: usize = 12;

/// Adds a random token with these fields (`node=ID`, `group=NAME`), and returns it. Creates the file if it does not exist.
pub fn new(path: &Path, fields: &[String]) -> Result<String, Error> {
    let fail = |error| Error::system(format!("change {}", path.display()), error);
    let _lock = lock(path)?;
    if fields.iter().any(|field| field.contains(char::is_whitespace)) {
        return Err(Error::Arguments("node= and group= must not contain white space".to_owned()));
    }
    let mut text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(fail(error)),
    };
    let token = random::token().map_err(|error| Error::system("read random bytes", error))?;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&[std::slice::from_ref(&token), fields].concat().join(" "));
    text.push('\n');
    // A mistake in the fields, or an older one in the file, is reported before it is written.
    parse_tokens(path, &text).map_err(invalid)?;
    replace(path, &text).map_err(fail)?;
    Ok(token)
}

/// Id and fields of each token.
pub fn list(path: &Path) -> Result<String, Error> {
    let text = read(path)?;
    // Its errors show nothing of a token that contains a blank.
    parse_tokens(path, &text).map_err(invalid)?;
    let lines = text.lines().filter(|line| is_token(line)).map(|line| {
        let mut words = line.split_ascii_whitespace();
        let id = id(words.next().unwrap_or_default());
        let fields = words.map(|word| format!(" {}", escape_for_terminal(word)));
        format!("{id}{}\n", fields.collect::<String>())
    });
    Ok(lines.collect())
}

/// Removes the token with this id.
pub fn revoke(path: &Path, wanted: &str) -> Result<(), Error> {
    let _lock = lock(path)?;
    let text = read(path)?;
    let is_wanted = |line: &&str| {
        is_token(line)
            && line.split_ascii_whitespace().next().is_some_and(|token| id(token) == wanted)
    };
    if !text.lines().any(|line| is_wanted(&line)) {
        let why =
            format!("{} has no token with the id \"{}\"", path.display(), wanted.escape_debug());
        return Err(Error::Arguments(why));
    }
    let kept: Vec<&str> = text.lines().filter(|line| !is_wanted(line)).collect();
    if !kept.iter().any(|line| is_token(line)) {
        let why = "this is the only token, and the hub keeps the former ones if the file has none: create another one before";
        return Err(Error::Arguments(why.to_owned()));
    }
    replace(path, &(kept.join("\n") + "\n"))
        .map_err(|error| Error::system(format!("change {}", path.display()), error))
}

fn invalid(why: String) -> Error {
    Error::Setting { origin: "nodes.tokens_file".to_owned(), why }
}

/// Keeps out other commands that change the file.
fn lock(path: &Path) -> Result<Flock<File>, Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let open = || {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&name)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
    };
    open().map_err(|error| Error::system(format!("lock {}", Path::new(&name).display()), error))
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path)
        .map_err(|error| Error::system(format!("read {}", path.display()), error))
}

fn is_token(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim().starts_with('#')
}

fn id(token: &str) -> String {
    let mut id = HEXLOWER.encode(&sha256(token.as_bytes()));
    id.truncate(ID_DIGITS);
    id
}

/// Replaces the file as a whole, so that a hub that reads it meanwhile finds the old or the new one. Keeps its owner and mode.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays one.
    let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let written = write_new(Path::new(&new), &path, text)
        .and_then(|()| fs::rename(&new, &path))
        // Otherwise a power failure could bring back a revoked token.
        .and_then(|()| File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all());
    if written.is_err() {
        // The error of the write is the one to report.
        let _ = fs::remove_file(&new);
    }
    written
}

fn write_new(new: &Path, old: &Path, text: &str) -> io::Result<()> {
    // Left by a command that was interrupted.
    let _ = fs::remove_file(new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    if let Ok(metadata) = fs::metadata(old) {
        fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct TempFile(PathBuf);

    impl TempFile {
        fn new(name: &str) -> Self {
            let name = format!("hm-hub-tokens-{name}-{}.txt", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for TempFile {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
            let _ = fs::remove_file(self.0.with_extension("txt.lock"));
        }
    }

    #[test]
    fn token_is_added_listed_and_revoked() {
        let file = TempFile::new("life");
        fs::write(&file.0, "# fleet\nolder group=x").unwrap();
        fs::set_permissions(&file.0, fs::Permissions::from_mode(0o640)).unwrap();
        let token = new(&file.0, &["node=a".to_owned(), "group=g".to_owned()]).unwrap();
        assert!(token.len() >= 40, "{token}");
        let text = fs::read_to_string(&file.0).unwrap();
        assert_eq!(text, format!("# fleet\nolder group=x\n{token} node=a group=g\n"));
        let listed = list(&file.0).unwrap();
        assert_eq!(listed, format!("{} group=x\n{} node=a group=g\n", id("older"), id(&token)));
        assert!(!listed.contains(&token));
        revoke(&file.0, &id("older")).unwrap();
        let text = fs::read_to_string(&file.0).unwrap();
        assert_eq!(text, format!("# fleet\n{token} node=a group=g\n"));
        assert_eq!(fs::metadata(&file.0).unwrap().mode() & 0o777, 0o640);
        assert!(revoke(&file.0, &id("older")).unwrap_err().to_string().contains("has no token"));
        assert!(revoke(&file.0, &id(&token)).unwrap_err().to_string().contains("the only token"));
    }

    #[test]
    fn new_file_is_private_and_mistakes_are_not_written() {
        let file = TempFile::new("new");
        for fields in [&["nodes=a"][..], &["node="], &["node=a b"], &["node=a", "node=b"]] {
            let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            assert!(new(&file.0, &fields).is_err(), "{fields:?}");
            assert!(!file.0.exists());
        }
        new(&file.0, &[]).unwrap();
        assert_eq!(fs::metadata(&file.0).unwrap().mode() & 0o777, 0o600);
    }
}
