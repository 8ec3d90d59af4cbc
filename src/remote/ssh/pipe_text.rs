//! Text that a process writes to a pipe: read without blocking, and only its end kept.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::sys;

/// Limit of the text that is kept; the reason of a failure is in its last lines.
const MAX_BYTES: usize = 4 << 10;
/// Limit of reads at once, so that an endless text does not delay what else is to be done.
const MAX_READS: usize = 64;

/// A pipe, and the end of what was read from it.
pub(super) struct PipeText<R> {
    /// `None` at the end of the text.
    pipe: Option<R>,
    text: Vec<u8>,
}

impl<R: Read + AsFd> PipeText<R> {
    pub(super) fn new(pipe: R) -> Self {
        Self { pipe: Some(pipe), text: Vec::new() }
    }

    /// Becomes readable when there is more text; `None` at its end.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there.
    pub(super) fn read_available(&mut self) {
        let mut buffer = [0; 1024];
        for _ in 0..MAX_READS {
            let Some(pipe) = &mut self.pipe else { return };
            if sys::wait_readable([pipe.as_fd()], Some(Duration::ZERO)) == [false] {
                return;
            }
            match pipe.read(&mut buffer) {
                Ok(0) | Err(_) => self.pipe = None,
                Ok(read) => self.text.extend_from_slice(&buffer[..read]),
            }
            let excess = self.text.len().saturating_sub(MAX_BYTES);
            self.text.drain(..excess);
        }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn keeps_end_of_long_text_and_does_not_block() {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let mut text = PipeText::new(reader);
        text.read_available();
        assert_eq!(text.text(), "");
        for _ in 0..10 {
            writer.write_all(&[b'x'; 1000]).expect("room in the pipe");
            text.read_available();
        }
        writer.write_all(b"end").expect("room in the pipe");
        drop(writer);
        text.read_available();
        assert!(text.text().len() == MAX_BYTES && text.text().ends_with("xend"));
        assert!(text.fd().is_none());
    }
}
