//! Capped reads of the kernel's files. A file that is larger than it can be is refused, never cut.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::limits;
use crate::parse::ParseError;
use crate::sys;

/// Enough for most files in one read.
const FIRST_READ_BYTES: usize = 8 << 10;

/// Reads files one after the other into the same memory.
///
/// Files of the kernel stay open: opening them costs as much as reading them, and they can still be read
/// when this process has run out of descriptors.
#[derive(Debug, Default)]
pub struct Files {
    buffer: Vec<u8>,
    kept: HashMap<PathBuf, File>,
}

impl Files {
    /// The whole content of a file.
    pub fn read(&mut self, path: &Path) -> Result<&[u8], Error> {
        let fail = |error| Error::system(format!("read {}", path.display()), error);
        let length = self.fill(path).map_err(fail)?;
        Ok(&self.buffer[..length])
    }

    /// Reads a file and parses it.
    pub fn parse<T>(
        &mut self,
        path: &Path,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        let text = self.read(path)?;
        parse(text).map_err(|source| Error::Parse { file: path.display().to_string(), source })
    }

    /// The first line of a small file as text, without white space or NUL around it; `None` if the file
    /// is missing or empty. For names, where nothing can be done about an error.
    pub fn line(&mut self, path: &Path) -> Option<String> {
        let text = self.read(path).ok()?;
        let line = text.split(|&byte| byte == b'\n' || byte == 0).next()?;
        let line = String::from_utf8_lossy(line.trim_ascii()).into_owned();
        (!line.is_empty()).then_some(line)
    }

    fn fill(&mut self, path: &Path) -> io::Result<usize> {
        if let Some(file) = self.kept.get(path) {
            match read_from_start(file, &mut self.buffer) {
                Ok(length) if length > 0 => return Ok(length),
                // A device that went away, say; whatever is there now is another file.
                _ => self.kept.remove(path),
            };
        }
        // Without waiting: a pipe in its place has nothing to say.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let length = read_from_start(&file, &mut self.buffer)?;
        // Files that are made when they are read have no size, or in sysfs that of a page, whatever is in them.
        // Others may be replaced by new ones.
        let size = file.metadata()?.len();
        let made = size == 0 || size == sys::page_size_bytes() && size > length as u64;
        if length > 0 && made {
            self.kept.insert(path.to_owned(), file);
        }
        Ok(length)
    }
}

// Not `read_to_end`: it asks for the size first, which the kernel's files do not have.
fn read_from_start(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if length == buffer.len() {
            buffer.resize((2 * length).max(FIRST_READ_BYTES), 0);
        }
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => return Ok(length),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if length as u64 > limits::KERNEL_FILE_BYTES {
            *buffer = Vec::new();
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_file_is_refused() {
        let error = Files::default().read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(error, "read /dev/zero: file too large");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Files::default().read(Path::new("/nonexistent/stat")).unwrap_err().to_string();
        assert_eq!(error, "read /nonexistent/stat: no such file or directory");
    }

    #[test]
    fn buffers_are_shared_but_contents_are_not() {
        let mut files = Files::default();
        assert!(files.read(Path::new("/proc/self/status")).unwrap().len() > 100);
        let name = files.line(Path::new("/proc/self/comm")).unwrap();
        assert!(!name.contains('\n') && name.len() <= 15);
        assert_eq!(files.read(Path::new("/dev/null")).unwrap(), b"");
    }

    #[test]
    fn a_file_that_was_replaced_is_read_anew_and_the_kernels_stay_open() {
        let mut files = Files::default();
        let path = std::env::temp_dir().join(format!("hm-agent-files-{}", std::process::id()));
        let mut seen = Vec::new();
        for text in ["one", "two"] {
            std::fs::remove_file(&path).ok();
            std::fs::write(&path, text).unwrap();
            seen.extend(files.line(&path));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen, ["one", "two"]);
        files.read(Path::new("/proc/uptime")).unwrap();
        let first = files.read(Path::new("/proc/self/stat")).unwrap().len();
        assert!(files.read(Path::new("/proc/self/stat")).unwrap().len().abs_diff(first) < 100);
        assert_eq!(files.kept.len(), 2);
    }
}
