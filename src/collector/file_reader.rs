//! Size-limited reads of kernel files. A file over the limit is an error, it is never truncated.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::procfs::ParseError;
use crate::sys;
use crate::util::error::Error;

/// `/proc/stat` of a machine with thousands of interrupt lines stays under 1 MiB; no other file comes near.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Files below `/proc/sys` return nothing to a read at an offset other than 0, so the first read must have room for the whole
/// file. They are at most a page long.
const FIRST_READ_BYTES: usize = 8 << 10;

/// Reads files, one after the other, into one buffer.
///
/// Files that the kernel generates stay open, so that they can still be read when this process has run out of file descriptors.
#[derive(Debug, Default)]
pub struct FileReader {
    buffer: Vec<u8>,
    open_files: HashMap<PathBuf, File>,
}

impl FileReader {
    /// Returns the whole content.
    pub fn read(&mut self, path: &Path) -> Result<&[u8], Error> {
        match self.read_into_buffer(path) {
            Ok(()) => Ok(&self.buffer),
            Err(error) => Err(Error::system(format!("read {}", path.display()), error)),
        }
    }

    pub fn parse<T>(
        &mut self,
        path: &Path,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        let text = self.read(path)?;
        parse(text).map_err(|source| Error::Parse { file: path.display().to_string(), source })
    }

    /// Returns the first line, without surrounding white space or NUL. `None` if the file is empty or cannot be read: for optional
    /// names and values.
    pub fn read_line(&mut self, path: &Path) -> Option<String> {
        let text = self.read(path).ok()?;
        let line = text.split(|&byte| byte == b'\n' || byte == 0).next()?.trim_ascii();
        (!line.is_empty()).then(|| String::from_utf8_lossy(line).into_owned())
    }

    fn read_into_buffer(&mut self, path: &Path) -> io::Result<()> {
        if let Some(file) = self.open_files.get(path) {
            if read_from_start(file, &mut self.buffer).is_ok() && !self.buffer.is_empty() {
                return Ok(());
            }
            // The device of the open file may have been removed, and another one may have taken its name.
            self.open_files.remove(path);
        }
        // Non-blocking: opening a FIFO must not wait for its writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        read_from_start(&file, &mut self.buffer)?;
        if !self.buffer.is_empty() && is_generated(&file, self.buffer.len())? {
            self.open_files.insert(path.to_owned(), file);
        }
        Ok(())
    }
}

/// Whether the kernel generates the content on each read. Such files have size 0, or in sysfs that of a page, whatever their
/// content. Ordinary files must be opened again, because they may be replaced.
fn is_generated(file: &File, read_bytes: usize) -> io::Result<bool> {
    let size = file.metadata()?.len();
    Ok(size == 0 || size == sys::page_size_bytes() && size > read_bytes as u64)
}

fn read_from_start(mut file: &File, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(FIRST_READ_BYTES);
    file.rewind()?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(buffer)?;
    if buffer.len() as u64 > MAX_FILE_BYTES {
        *buffer = Vec::new();
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_an_endless_file() {
        let mut files = FileReader::default();
        let error = files.read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert_eq!(error, "read /dev/zero: file too large");
        assert_eq!(files.buffer.capacity(), 0, "its memory is freed");
    }

    #[test]
    fn error_names_the_missing_file() {
        let mut files = FileReader::default();
        let error = files.read(Path::new("/nonexistent/stat")).unwrap_err().to_string();
        assert_eq!(error, "read /nonexistent/stat: no such file or directory");
    }

    #[test]
    fn returns_only_the_content_of_the_last_file() {
        let mut files = FileReader::default();
        assert!(files.read(Path::new("/proc/self/status")).unwrap().len() > 100);
        let name = files.read_line(Path::new("/proc/self/comm")).unwrap();
        assert!(!name.contains('\n') && name.len() <= 15);
        assert_eq!(files.read(Path::new("/dev/null")).unwrap(), b"");
    }

    #[test]
    fn reads_whole_files_into_a_small_buffer() {
        for path in ["/proc/sys/kernel/version", "/proc/self/cmdline", "/proc/self/maps"] {
            let whole = std::fs::read(path).unwrap();
            let file = File::open(path).unwrap();
            for capacity in [0, 1, 40] {
                let mut buffer = Vec::with_capacity(capacity);
                read_from_start(&file, &mut buffer).unwrap();
                let difference = buffer.len().abs_diff(whole.len());
                assert!(difference == 0 || path.ends_with("maps") && difference < whole.len() / 2);
            }
        }
    }

    #[test]
    fn keeps_only_generated_files_open() {
        let mut files = FileReader::default();
        let path = std::env::temp_dir().join(format!("hm-agent-files-{}", std::process::id()));
        let mut seen = Vec::new();
        for text in ["one", "two"] {
            std::fs::remove_file(&path).ok();
            std::fs::write(&path, text).unwrap();
            seen.extend(files.read_line(&path));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen, ["one", "two"], "a replaced file is opened again");
        files.read(Path::new("/proc/uptime")).unwrap();
        let first = files.read(Path::new("/proc/self/stat")).unwrap().len();
        assert!(files.read(Path::new("/proc/self/stat")).unwrap().len().abs_diff(first) < 100);
        assert_eq!(files.open_files.len(), 2);
    }
}
