//! Capped reads of the kernel's files. A file that is larger than it can be is refused, never cut.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::error::Error;
use crate::limits;
use crate::parse::ParseError;

/// Enough for most files in one read.
const FIRST_READ_BYTES: usize = 8 << 10;

/// Reads files one after the other into the same memory.
#[derive(Debug, Default)]
pub struct Files {
    buffer: Vec<u8>,
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

    // Not `read_to_end`: it asks for the size first, which the kernel's files do not have.
    fn fill(&mut self, path: &Path) -> io::Result<usize> {
        let mut file = File::open(path)?;
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                self.buffer.resize((2 * length).max(FIRST_READ_BYTES), 0);
            }
            match file.read(&mut self.buffer[length..]) {
                Ok(0) => return Ok(length),
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if length as u64 > limits::KERNEL_FILE_BYTES {
                self.buffer = Vec::new();
                return Err(io::ErrorKind::FileTooLarge.into());
            }
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
}
