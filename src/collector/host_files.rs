//! The files of the host, as a collector of [`super::node`] reads them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::collector::file_reader::FileReader;
use crate::config::Roots;
use crate::procfs::ParseError;
use crate::util::error::Error;
use crate::util::text::{parse_decimal, parse_signed};

/// Reads files below the roots of `path.*` and records what could not be read.
///
/// A file that does not exist, or that the driver behind it does not support, is absent: no error is recorded. Of other errors, only the
/// first of a run of the collector is kept, so that a broken device with hundreds of files causes one line in the log.
pub struct HostFiles {
    roots: Roots,
    files: FileReader,
    /// The first error since the last [`Self::take_failure`].
    failure: Option<Error>,
}

impl HostFiles {
    /// `files` decides whether kernel files stay open between reads.
    pub fn new(roots: Roots, files: FileReader) -> Self {
        Self { roots, files, failure: None }
    }

    /// A path below the host's `/proc`.
    pub fn proc(&self, path: &str) -> PathBuf {
        self.roots.proc.join(path)
    }

    /// A path below the host's `/sys`.
    pub fn sys(&self, path: &str) -> PathBuf {
        self.roots.sys.join(path)
    }

    /// A path below the host's `/`.
    pub fn root(&self, path: &str) -> PathBuf {
        self.roots.root.join(path)
    }

    pub fn parse<T>(
        &mut self,
        path: &Path,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        let result = self.read(path, parse);
        self.present(result)
    }

    /// Passes the lines of a file to `parse`, with their numbers, from 1: for files whose length grows with the number of CPUs. Returns
    /// `None` if a line could not be read or parsed.
    pub fn parse_lines(
        &mut self,
        path: &Path,
        parse: impl FnMut(usize, &[u8]) -> Result<(), ParseError>,
    ) -> Option<()> {
        let result = self.files.parse_lines(path, parse);
        self.present(result)
    }

    /// [`Self::parse`] for a collector that decides which errors are failures.
    pub fn read<T>(
        &mut self,
        path: &Path,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        self.files.parse(path, parse)
    }

    /// Parses a file of `/proc/net`. Such files describe the network namespace of the reader. If `/proc` is that of the host, mounted
    /// into a container, those of process 1 are the host's.
    pub fn parse_net<T>(
        &mut self,
        name: &str,
        mut parse: impl FnMut(&[u8]) -> Result<T, ParseError>,
    ) -> Option<T> {
        if self.roots.proc != Path::new("/proc")
            && let Ok(value) = self.files.parse(&self.proc("1/net").join(name), &mut parse)
        {
            return Some(value);
        }
        self.parse(&self.proc("net").join(name), parse)
    }

    /// Passes the lines of a file of `/proc/net` to `parse`, with their numbers, from 1: for files of any length. They are read as
    /// [`Self::parse_net`] does.
    pub fn parse_net_lines<T: Default>(
        &mut self,
        name: &str,
        mut parse: impl FnMut(&mut T, usize, &[u8]) -> Result<(), ParseError>,
    ) -> Option<T> {
        let mut read = |path: &Path| {
            let mut result = T::default();
            self.files.parse_lines(path, |at, line| parse(&mut result, at, line))?;
            Ok(result)
        };
        if self.roots.proc != Path::new("/proc")
            && let Ok(result) = read(&self.roots.proc.join("1/net").join(name))
        {
            return Some(result);
        }
        let result = read(&self.roots.proc.join("net").join(name));
        self.present(result)
    }

    /// Parses a file that contains one unsigned decimal number.
    pub fn number(&mut self, path: &Path) -> Option<u64> {
        self.parse(path, |text| {
            let text = text.trim_ascii();
            parse_decimal(text).ok_or_else(|| ParseError::new(1, "a number", text))
        })
    }

    /// Parses a file that contains one decimal number, which may be negative.
    pub fn integer(&mut self, path: &Path) -> Option<i64> {
        self.parse(path, |text| {
            let text = text.trim_ascii();
            parse_signed(text).ok_or_else(|| ParseError::new(1, "an integer", text))
        })
    }

    /// Returns the first line of a file, trimmed; `None` if it is empty or cannot be read: for names and optional values, whose
    /// absence is no error.
    pub fn line(&mut self, path: &Path) -> Option<String> {
        self.files.read_line(path)
    }

    /// Names in a directory that begin with `prefix`, sorted: `eth2` before `eth10`. Empty if it does not exist.
    pub fn names(&mut self, directory: &Path, prefix: &str) -> Vec<String> {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                let error = Error::system(format!("read {}", directory.display()), error);
                if !is_absent(error.raw_os_error()) {
                    self.fail(error);
                }
                return Vec::new();
            }
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        // Numbers are not padded.
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        names
    }

    /// Whether this process is in the network namespace that [`Self::parse_net`] describes. Netlink describes that of its socket.
    pub fn shares_host_netns(&self) -> bool {
        // Each namespace has its own inodes. Its file below `/proc/1/ns` would be the answer, but only root may read it.
        let inode = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.ino());
        let own = inode(Path::new("/proc/self/net/dev"));
        self.roots.proc == Path::new("/proc")
            || own.is_some() && own == inode(&self.proc("1/net/dev"))
    }

    /// The value, if its file exists. Records why it could not be read.
    fn present<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) if is_absent(error.raw_os_error()) => None,
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// The numbers of the entries whose names are `prefix` and a number, sorted: 2 and 10 for `mc2`, `mc10` and `mcelog`.
    pub fn numbers(&mut self, directory: &Path, prefix: &str) -> Vec<u64> {
        let names = self.names(directory, prefix);
        let number = |name: &String| parse_decimal(name.as_bytes().get(prefix.len()..)?);
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Records that the collector fails.
    pub fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

/// The kernel does not have the file, the device has gone, or its driver does not support the attribute.
pub fn is_absent(errno: Option<i32>) -> bool {
    let absent = [libc::ENOENT, libc::ENOTDIR, libc::ENODEV, libc::EOPNOTSUPP];
    errno.is_some_and(|code| absent.contains(&code))
}
