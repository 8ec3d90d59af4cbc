//! Size-limited reads of kernel files. A file that is read as a whole is never truncated: one over the limit is an error. Files that are
//! read line by line have no limit, but each line has.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::procfs::ParseError;
use crate::sys;
use crate::util::error::Error;

/// `/proc/stat` of a machine with thousands of interrupt lines stays under 1 MiB; no other file that is read as a whole
/// comes near.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What is kept of a line. An overlay of thousands of layers has a longer line in mountinfo, because fsconfig(2) has no limit
/// for all of them together. They are the last field, and are not needed.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// What is skipped of a line; a file without an end is no table.
const MAX_SKIPPED_BYTES: u64 = 64 << 20;

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
    /// No file stays open.
    closes_files: bool,
}

impl FileReader {
    /// A reader that opens each file anew, for files that are many and rarely read.
    pub fn closing() -> Self {
        Self { closes_files: true, ..Self::default() }
    }

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
        parse(text).map_err(|error| unparsable(path, &error))
    }

    /// Passes the lines of a file to `parse`, with their numbers, from 1. For a file of any length; lines are cut after
    /// [`MAX_LINE_BYTES`].
    pub fn parse_lines(
        &mut self,
        path: &Path,
        parse: impl FnMut(usize, &[u8]) -> Result<(), ParseError>,
    ) -> Result<(), Error> {
        let Self { buffer, open_files, closes_files } = self;
        let mut parse = parse;
        let mut read = |file: &File| each_line(file, buffer, &mut parse);
        let result = match open_files.get(path) {
            Some(file) => read(file),
            None => open(path).and_then(|file| {
                let result = read(&file)?;
                if !*closes_files && file.metadata()?.len() == 0 {
                    open_files.insert(path.to_owned(), file);
                }
                Ok(result)
            }),
        };
        result
            .map_err(|error| Error::system(format!("read {}", path.display()), error))?
            .map_err(|error| unparsable(path, &error))
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
        let file = open(path)?;
        read_from_start(&file, &mut self.buffer)?;
        if !self.closes_files && !self.buffer.is_empty() && is_generated(&file, self.buffer.len())?
        {
            self.open_files.insert(path.to_owned(), file);
        }
        Ok(())
    }
}

/// Returns the content of a regular file that other programs write, and when they did. A FIFO or a device could block, or change by
/// being read.
pub fn read_regular(path: &Path, max_bytes: u64) -> io::Result<(Vec<u8>, SystemTime)> {
    let is_regular = |metadata: &Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("not a regular file")),
    };
    // Devices must not even be opened.
    is_regular(&std::fs::metadata(path)?)?;
    let file = open(path)?;
    let metadata = file.metadata()?;
    is_regular(&metadata)?;
    let mut text = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut text)?;
    match text.len() as u64 > max_bytes {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok((text, metadata.modified()?)),
    }
}

fn unparsable(path: &Path, error: &ParseError) -> Error {
    Error::Parse { file: path.display().to_string(), why: error.to_string() }
}

/// Non-blocking: opening a FIFO must not wait for its writer.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn each_line(
    mut file: &File,
    buffer: &mut Vec<u8>,
    mut parse: impl FnMut(usize, &[u8]) -> Result<(), ParseError>,
) -> io::Result<Result<(), ParseError>> {
    file.rewind()?;
    let mut reader = BufReader::new(file);
    for at in 1.. {
        buffer.clear();
        (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', buffer)?;
        if buffer.len() as u64 == MAX_LINE_BYTES && !buffer.ends_with(b"\n") {
            let skipped = (&mut reader).take(MAX_SKIPPED_BYTES).skip_until(b'\n')?;
            if skipped as u64 == MAX_SKIPPED_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        if buffer.is_empty() {
            // The kernel generates at least one line.
            let is_empty = at == 1;
            return Ok(if is_empty { Err(ParseError::new(at, "a line", b"")) } else { Ok(()) });
        }
        if let Err(error) = parse(at, buffer.strip_suffix(b"\n").unwrap_or(buffer)) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
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
    fn reads_only_regular_files_of_limited_size() {
        let path = std::env::temp_dir().join(format!("hm-agent-regular-{}", std::process::id()));
        std::fs::write(&path, "12345").unwrap();
        let (text, modified) = read_regular(&path, 5).unwrap();
        assert_eq!((&text[..], modified.elapsed().unwrap().as_secs() < 60), (&b"12345"[..], true));
        let error = |path, max| read_regular(path, max).unwrap_err().to_string();
        assert_eq!(error(&path, 4), "file too large");
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(error(&path, 4), "not a regular file");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error(Path::new("/dev/zero"), 4), "not a regular file");
    }

    #[test]
    fn reads_lines_of_a_file_over_the_limit() {
        let mut files = FileReader::default();
        let path = std::env::temp_dir().join(format!("hm-agent-lines-{}", std::process::id()));
        let line = "x".repeat(4000);
        std::fs::write(&path, format!("{line}\n").repeat(2000) + "last").unwrap();
        assert!(files.read(&path).is_err(), "8 MB");
        let (mut count, mut last) = (0, Vec::new());
        let read = files.parse_lines(&path, |at, line| {
            (count, last) = (at, line.to_vec());
            Ok(())
        });
        std::fs::remove_file(&path).unwrap();
        assert!(read.is_ok());
        assert_eq!((count, &last[..]), (2001, &b"last"[..]));
        let error = files.parse_lines(Path::new("/dev/zero"), |_, _| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "read /dev/zero: file too large");
        for _ in 0..2 {
            let mut count = 0;
            let path = Path::new("/proc/self/mountinfo");
            let set = |at, _: &[u8]| {
                count = at;
                Ok(())
            };
            files.parse_lines(path, set).unwrap();
            assert!(count > 0);
        }
    }

    #[test]
    fn line_of_megabytes_does_not_hide_the_others() {
        let path = std::env::temp_dir().join(format!("hm-agent-line-{}", std::process::id()));
        let layers = ":/layer".repeat(1 << 20);
        let long = format!("40 27 0:50 / / rw - overlay overlay rw,lowerdir=/a{layers}");
        std::fs::write(&path, format!("1 1 8:1 / /a rw - ext4 /dev/a rw\n{long}\nlast\n")).unwrap();
        let mut read = Vec::new();
        let result = FileReader::default().parse_lines(&path, |at, line| {
            read.push((at, line.len(), line[..4].to_vec()));
            Ok(())
        });
        std::fs::remove_file(&path).unwrap();
        assert!(result.is_ok());
        let starts: Vec<_> = read.iter().map(|(at, _, start)| (*at, &start[..])).collect();
        assert_eq!(starts, [(1, &b"1 1 "[..]), (2, b"40 2"), (3, b"last")]);
        let cut = &long.as_bytes()[..read[1].1];
        let mount = crate::procfs::mountinfo::parse_line(2, cut).unwrap().unwrap();
        assert_eq!((&mount.fs_type[..], mount.read_only), (&b"overlay"[..], false));
        assert_eq!(cut.len() as u64, MAX_LINE_BYTES);
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
