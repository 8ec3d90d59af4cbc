//! Capped reads of the kernel's files. A file that is larger than it can be is refused, never cut.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use crate::limits;
use crate::procfs::ParseError;
use crate::sys;
use crate::util::error::Error;

/// Enough for most files in one read.
const FIRST_READ_BYTES: usize = 8 << 10;

/// How the kernel makes a file that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// In one go: a read that gets less than it asked for has all of it. So are files of sysfs, those below `/proc/sys`, and
    /// those of /proc that the kernel opens with `single_open`, `stat` for one.
    AtOnce,
    /// Line by line, as many as fit into the kernel's memory: there may be more.
    ByLine,
}

/// Reads files one after the other into the same memory.
///
/// Files of the kernel stay open: opening them costs as much as reading them, and they can still be read
/// when this process has run out of descriptors.
#[derive(Debug, Default)]
pub struct Files {
    buffer: Vec<u8>,
    kept: HashMap<OsString, Kept>,
}

/// A file of the kernel that is open.
#[derive(Debug)]
struct Kept {
    file: File,
    /// How long it was. For some files the kernel first clears as much memory as is asked for.
    length: usize,
}

impl Files {
    /// The whole content of a file.
    pub fn read(&mut self, path: &Path) -> Result<&[u8], Error> {
        self.read_made(path, Made::ByLine)
    }

    fn read_made(&mut self, path: &Path, made: Made) -> Result<&[u8], Error> {
        let fail = |error| Error::system(format!("read {}", path.display()), error);
        let length = self.fill(path, made).map_err(fail)?;
        Ok(&self.buffer[..length])
    }

    /// Reads a file and parses it.
    pub fn parse<T>(
        &mut self,
        path: &Path,
        made: Made,
        parse: impl FnOnce(&[u8]) -> Result<T, ParseError>,
    ) -> Result<T, Error> {
        let text = self.read_made(path, made)?;
        parse(text).map_err(|source| Error::Parse { file: path.display().to_string(), source })
    }

    /// The first line of a small file as text, without white space or NUL around it; `None` if the file
    /// is missing or empty. For names, where nothing can be done about an error.
    pub fn line(&mut self, path: &Path) -> Option<String> {
        self.peek(path).map(Cow::into_owned)
    }

    /// The same, for who only looks at it.
    pub fn peek(&mut self, path: &Path) -> Option<Cow<'_, str>> {
        let text = self.read_made(path, Made::AtOnce).ok()?;
        let line = text.split(|&byte| byte == b'\n' || byte == 0).next()?;
        let line = String::from_utf8_lossy(line.trim_ascii());
        (!line.is_empty()).then_some(line)
    }

    fn fill(&mut self, path: &Path, made: Made) -> io::Result<usize> {
        let name = path.as_os_str();
        if let Some(kept) = self.kept.get_mut(name) {
            // Numbers grow.
            let room = kept.length + kept.length / 8 + 64;
            match read_from_start(&kept.file, &mut self.buffer, room, made) {
                Ok(length) if length > 0 => {
                    kept.length = length;
                    return Ok(length);
                }
                // A device that went away, say; whatever is there now is another file.
                _ => self.kept.remove(name),
            };
        }
        // Without waiting: a pipe in its place has nothing to say.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let length = read_from_start(&file, &mut self.buffer, FIRST_READ_BYTES, made)?;
        // Files that are made when they are read have no size, or in sysfs that of a page, whatever is in them.
        // Others may be replaced by new ones.
        let size = file.metadata()?.len();
        let is_made = size == 0 || size == sys::page_size_bytes() && size > length as u64;
        if length > 0 && is_made {
            self.kept.insert(name.to_owned(), Kept { file, length });
        }
        Ok(length)
    }
}

/// Reads into memory that has `room` at first. Not by `read_to_end`: it asks for the size first, which the kernel's files do
/// not have.
fn read_from_start(
    file: &File,
    buffer: &mut Vec<u8>,
    mut room: usize,
    made: Made,
) -> io::Result<usize> {
    let mut length = 0;
    loop {
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        match file.read_at(&mut buffer[length..room], length as u64) {
            Ok(0) => return Ok(length),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        if length as u64 > limits::KERNEL_FILE_BYTES {
            *buffer = Vec::new();
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let is_full = length == room;
        if is_full {
            room = (2 * room).max(FIRST_READ_BYTES);
        }
        match made {
            Made::AtOnce if is_full => length = 0, // below /proc/sys the rest cannot be had
            Made::AtOnce => return Ok(length),
            Made::ByLine => {}
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
    fn with_too_little_room_at_first_all_of_it_is_read() {
        // The kernel hands out nothing of `version` from its middle, and `status` is made in one go, too.
        for file in ["/proc/sys/kernel/version", "/proc/self/status", "/proc/self/cmdline"] {
            let whole = std::fs::read(file).unwrap();
            let mut buffer = Vec::new();
            let file = File::open(file).unwrap();
            for room in [1, 4, whole.len(), whole.len() + 1] {
                let length = read_from_start(&file, &mut buffer, room, Made::AtOnce).unwrap();
                assert_eq!(length, whole.len());
            }
        }
        let whole = std::fs::read("/proc/self/maps").unwrap();
        let mut buffer = Vec::new();
        let file = File::open("/proc/self/maps").unwrap();
        let length = read_from_start(&file, &mut buffer, 8, Made::ByLine).unwrap();
        assert!(length.abs_diff(whole.len()) < whole.len() / 2, "{length} of {}", whole.len());
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
