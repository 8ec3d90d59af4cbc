//! Where a supervisor writes what the agent says, and what it has to say itself: standard error, a file that does not grow
//! without bound, or syslog. What cannot be written is lost, and counted; nobody waits.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use log::Level;

use crate::limits;
use crate::sys::service;
use crate::util::error::{Error, reason};
use crate::util::logger::{syslog_priority, unix_seconds, utc};

/// Where log lines go.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard error, where the agent writes by itself.
    Stderr,
    /// A file.
    File(PathBuf),
    /// The socket of the machine's syslog.
    Syslog,
}

/// The same, open.
pub enum Output {
    /// See [`Target`].
    Stderr,
    /// See [`Target`].
    File(LogFile),
    /// See [`Target`].
    Syslog(UnixDatagram),
}

impl Output {
    /// Opens it.
    pub fn open(target: Target) -> Result<Self, Error> {
        Ok(match target {
            Target::Stderr => Self::Stderr,
            Target::File(path) => {
                let doing = format!("open the log {}", path.display());
                Self::File(LogFile::open(path).map_err(|error| Error::system(doing, error))?)
            }
            Target::Syslog => {
                let fail = |error| Error::system("open a socket for syslog", error);
                let socket = UnixDatagram::unbound().map_err(fail)?;
                socket.set_nonblocking(true).map_err(fail)?;
                Self::Syslog(socket)
            }
        })
    }

    /// Writes a line of the process `pid`.
    pub fn write(&mut self, pid: u32, level: Level, text: &str) {
        match self {
            Self::Stderr => log::log!(level, "{text}"),
            Self::File(file) => {
                let name = level.as_str().to_ascii_lowercase();
                file.write(&format!("{} {name} {text}\n", utc(unix_seconds())));
            }
            // Looked up for each line, so a syslog that was started again is found again. One that is not there, or does not
            // read, has to do without.
            Self::Syslog(socket) => {
                let line = syslog_line(service::local_time(unix_seconds()), pid, level, text);
                let _ = socket.send_to(line.as_bytes(), "/dev/log");
            }
        }
    }

    /// Somebody may have moved the file. One that cannot be opened anew is written on.
    pub fn reopen(&mut self) -> Result<(), String> {
        let Self::File(file) = self else { return Ok(()) };
        file.reopen().map_err(|error| {
            format!("open the log {} anew: {}", file.path.display(), reason(&error))
        })
    }
}

/// The level of a line that an agent has written, and its text: as for the journal, sd-daemon(3). A line without a level is the
/// agent's last word, or what a program that it has started complains of.
pub fn level(line: &str) -> (Level, &str) {
    let prefixed = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let level = |number| match number {
        "0" | "1" | "2" | "3" => Some(Level::Error),
        "4" => Some(Level::Warn),
        "5" | "6" => Some(Level::Info),
        "7" => Some(Level::Debug),
        _ => None,
    };
    prefixed
        .and_then(|(number, text)| Some((level(number)?, text)))
        .unwrap_or_else(|| (Level::Error, line.strip_prefix("hm-agent: ").unwrap_or(line)))
}

/// As syslog(3) writes it, without the year and in local time: RFC 3164, 4.1.
fn syslog_line(local_time: [i32; 5], pid: u32, level: Level, text: &str) -> String {
    const DAEMON: u8 = 3 << 3;
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let [month, day, hour, minute, second] = local_time;
    let at = usize::try_from(month).unwrap_or_default() * 3;
    let month = MONTHS.get(at..at + 3).unwrap_or("Jan");
    let priority = DAEMON | syslog_priority(level);
    format!("<{priority}>{month} {day:2} {hour:02}:{minute:02}:{second:02} hm-agent[{pid}]: {text}")
}

/// A file of at most [`limits::LOG_FILE_BYTES`]; as much of what was in it before is in `FILE.1`.
pub struct LogFile {
    path: PathBuf,
    file: File,
    /// How long it is; `None`: it is no file that grows, but a device or a pipe.
    size: Option<u64>,
    /// The last line was written in part.
    torn: bool,
    /// Lines that could not be written.
    lost: u64,
}

impl LogFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let (file, size) = open(&path)?;
        Ok(Self { path, file, size, torn: false, lost: 0 })
    }

    fn write(&mut self, line: &str) {
        if self.size.is_some_and(|size| size + line.len() as u64 > limits::LOG_FILE_BYTES) {
            self.put_aside();
        }
        let mut text = String::new();
        if self.torn {
            text.push('\n');
        }
        if self.lost > 0 {
            let (now, lost) = (utc(unix_seconds()), self.lost);
            text += &format!("{now} warn {lost} lines could not be written here\n");
        }
        text += line;
        let written = self.file.write(text.as_bytes()).unwrap_or(0);
        self.size = self.size.map(|size| size + written as u64);
        if written == text.len() {
            (self.torn, self.lost) = (false, 0);
        } else {
            // A full disk may take a part.
            self.torn |= written > 0;
            self.lost += 1;
        }
    }

    fn put_aside(&mut self) {
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        let moved = std::fs::rename(&self.path, &old).and_then(|()| self.reopen());
        // Where the directory cannot be written, bounds count more than old lines.
        if let Err(error) = moved
            && self.file.set_len(0).is_ok()
        {
            (self.size, self.torn) = (Some(0), false);
            let (now, why) = (utc(unix_seconds()), reason(&error));
            self.write(&format!("{now} warn begun anew, for it cannot be put aside: {why}\n"));
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.size) = open(&self.path)?;
        self.torn = false;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, Option<u64>)> {
    // Without waiting for whoever may read a pipe.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    Ok((file, metadata.is_file().then_some(metadata.len())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("hm-agent-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lines_of_syslog_are_those_of_the_c_library() {
        let line = |time, level| syslog_line(time, 42, level, "text");
        assert_eq!(line([10, 1, 9, 5, 7], Level::Info), "<30>Nov  1 09:05:07 hm-agent[42]: text");
        assert_eq!(line([0, 31, 0, 0, 0], Level::Error), "<27>Jan 31 00:00:00 hm-agent[42]: text");
        assert!(line([12, 1, 0, 0, 0], Level::Warn).starts_with("<28>Jan  1"), "no such month");
        assert!(line([1, 1, 0, 0, 0], Level::Trace).starts_with("<31>Feb"));
    }

    #[test]
    fn levels_of_lines() {
        assert_eq!(level("<6>usage listening"), (Level::Info, "usage listening"));
        assert_eq!(level("<3>"), (Level::Error, ""));
        assert_eq!(level("hm-agent: no"), (Level::Error, "no"));
        for line in ["", "<", "<>", "<9>x", "<66>x", "thread 'main' panicked at <6>"] {
            assert_eq!(level(line), (Level::Error, line));
        }
    }

    #[test]
    fn a_file_is_put_aside_before_it_becomes_too_long() {
        let scratch = Scratch::new("rotation");
        let (path, old) = (scratch.0.join("log"), scratch.0.join("log.1"));
        fs::write(&old, "older\n").unwrap();
        let mut log = LogFile::open(path.clone()).unwrap();
        log.write("first\n");
        log.size = Some(limits::LOG_FILE_BYTES - 7);
        log.write("second\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
        log.write("third\n");
        assert_eq!(fs::read_to_string(&old).unwrap(), "first\nsecond\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "third\n");
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_begins_anew() {
        let scratch = Scratch::new("no-rotation");
        let (path, old) = (scratch.0.join("log"), scratch.0.join("log.1"));
        fs::create_dir_all(old.join("in the way")).unwrap();
        let mut log = LogFile::open(path.clone()).unwrap();
        log.write("first\n");
        log.size = Some(limits::LOG_FILE_BYTES);
        log.write("second\n");
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("warn begun anew, for it cannot be put aside: ")
                && text.ends_with("\nsecond\n"),
            "{text}"
        );
        assert!(!text.contains("first"), "{text}");
    }

    #[test]
    fn lines_that_were_lost_are_counted_when_there_is_room_again() {
        let scratch = Scratch::new("full");
        let mut log = LogFile::open("/dev/full".into()).unwrap();
        log.write("first\n");
        log.write("second\n");
        // The disk has room again.
        let path = scratch.0.join("log");
        (log.file, log.size) = open(&path).unwrap();
        log.torn = true;
        log.write("third\n");
        log.write("fourth\n");
        let text = fs::read_to_string(&path).unwrap();
        let end = " warn 2 lines could not be written here\nthird\nfourth\n";
        assert!(text.starts_with('\n') && text.ends_with(end), "{text:?}");
    }
}
