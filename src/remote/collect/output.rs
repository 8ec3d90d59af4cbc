//! Splits the output of `ssh/collect.sh` into parts.
//!
//! Format: our own. A section begins with a line that consists of a marker and the section's name; the lines up to the
//! next such line are its content. The marker is random for each session, so that neither the output of a login shell
//! nor the content of a file can be mistaken for it. Asynchronous parts (`d`, `g`) come from background commands, one
//! line at a time, at any place, even within a line of a section:
//!
//! ```text
//! 9f3c… uptime
//! 27160.03 40517.22
//! 9f3c…d /dev/vda 264212084 40182460 55103428 43% /
//! 9f3c…d
//! 9f3c… .
//! ```

/// Limit for one section and for one line: 20 000 processes fit.
pub const MAX_PART_BYTES: usize = 4 << 20;

/// Limit for an asynchronous part: thousands of filesystems fit.
const MAX_ASYNC_BYTES: usize = 512 << 10;
const MAX_NAME_BYTES: usize = 32;
/// Length of the unframed line that is kept for error messages.
const MAX_UNFRAMED_BYTES: usize = 200;

/// A complete part of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputPart {
    /// Name and content of a file or a list.
    Section(String, Vec<u8>),
    /// Every requested section has been printed.
    EndOfResponse,
    /// Letter and content of an asynchronous part.
    Async(u8, Vec<u8>),
}

/// A part, or the output outside all parts, exceeds its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputTooLarge;

/// Incremental parser of the output stream.
pub struct OutputParser {
    marker: Vec<u8>,
    max_part_bytes: usize,
    /// The last line, without its newline so far.
    partial: Vec<u8>,
    /// Beginning of a line of a section that an asynchronous line has interrupted.
    interrupted: Vec<u8>,
    section: Option<(String, Vec<u8>)>,
    async_parts: Vec<(u8, Vec<u8>)>,
    unframed_bytes: usize,
    unframed_output: Vec<u8>,
}

impl OutputParser {
    /// Creates a parser for a stream with this marker; no buffer grows beyond `max_part_bytes`.
    pub fn new(marker: &str, max_part_bytes: usize) -> Self {
        Self {
            marker: marker.as_bytes().to_vec(),
            max_part_bytes,
            partial: Vec::new(),
            interrupted: Vec::new(),
            section: None,
            async_parts: Vec::new(),
            unframed_bytes: 0,
            unframed_output: Vec::new(),
        }
    }

    /// Consumes bytes of the stream and returns the parts that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<OutputPart>, OutputTooLarge> {
        let mut complete = Vec::new();
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
            let Some((line, after)) = rest.split_at_checked(at) else { break };
            rest = after.get(1..).unwrap_or_default();
            if self.partial.is_empty() {
                self.push_line(line, &mut complete)?;
                continue;
            }
            let mut full = std::mem::take(&mut self.partial);
            full.extend_from_slice(line);
            self.push_line(&full, &mut complete)?;
            // Reuse the allocation.
            full.clear();
            self.partial = full;
        }
        self.partial.extend_from_slice(rest);
        self.check_size(self.partial.len())?;
        Ok(complete)
    }

    /// The last line before the first section. A login shell that refuses a user prints its reason there.
    pub fn unframed_output(&self) -> &[u8] {
        &self.unframed_output
    }

    fn check_size(&self, bytes: usize) -> Result<(), OutputTooLarge> {
        if bytes > self.max_part_bytes { Err(OutputTooLarge) } else { Ok(()) }
    }

    fn push_line(
        &mut self,
        line: &[u8],
        complete: &mut Vec<OutputPart>,
    ) -> Result<(), OutputTooLarge> {
        let marker = &self.marker[..];
        let Some(at) = line.windows(marker.len().max(1)).position(|window| window == marker) else {
            return self.push_content(line);
        };
        let (before, marked) = line.split_at_checked(at).unwrap_or_default();
        let marked = marked.get(marker.len()..).unwrap_or_default();
        if let Some((letter, text)) = marked.split_first().filter(|(letter, _)| **letter != b' ') {
            self.interrupted.extend_from_slice(before);
            self.check_size(self.interrupted.len())?;
            return self.push_async(*letter, text, complete);
        }
        if !before.is_empty() || !self.interrupted.is_empty() {
            // The file ends without a newline.
            self.push_content(before)?;
        }
        complete.extend(self.section.take().map(|(name, body)| OutputPart::Section(name, body)));
        match marked.trim_ascii() {
            b"." => complete.push(OutputPart::EndOfResponse),
            name if name.len() > MAX_NAME_BYTES => return Err(OutputTooLarge),
            name => self.section = Some((String::from_utf8_lossy(name).into_owned(), Vec::new())),
        }
        Ok(())
    }

    fn push_content(&mut self, line: &[u8]) -> Result<(), OutputTooLarge> {
        let interrupted = std::mem::take(&mut self.interrupted);
        let Some((_, body)) = &mut self.section else {
            self.unframed_bytes = self.unframed_bytes.saturating_add(line.len());
            if !line.trim_ascii().is_empty() {
                self.unframed_output = line.get(..MAX_UNFRAMED_BYTES).unwrap_or(line).to_vec();
            }
            return self.check_size(self.unframed_bytes);
        };
        body.extend_from_slice(&interrupted);
        body.extend_from_slice(line);
        body.push(b'\n');
        let length = body.len();
        self.check_size(length)
    }

    fn push_async(
        &mut self,
        letter: u8,
        text: &[u8],
        complete: &mut Vec<OutputPart>,
    ) -> Result<(), OutputTooLarge> {
        let at = self.async_parts.iter().position(|(known, _)| *known == letter);
        let Some(text) = text.strip_prefix(b" ") else {
            let body = at.map(|at| self.async_parts.swap_remove(at).1);
            complete.push(OutputPart::Async(letter, body.unwrap_or_default()));
            return Ok(());
        };
        let at = at.unwrap_or(self.async_parts.len());
        if at == self.async_parts.len() {
            self.async_parts.push((letter, Vec::new()));
        }
        // collect.sh uses two letters; more of them are rejected.
        let body = self.async_parts.get_mut(at).filter(|_| at < 2).map(|(_, body)| body);
        let body = body.ok_or(OutputTooLarge)?;
        if body.len().saturating_add(text.len()) > self.max_part_bytes.min(MAX_ASYNC_BYTES) {
            return Err(OutputTooLarge);
        }
        body.extend_from_slice(text);
        body.push(b'\n');
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &[u8] = b"Welcome!\n\nm3 page-size\n4096\nm3 .\nm3 uptime\n27160.03 40517.22\nm3 stat\ncpu  1 2m3d /dev/vda 264 40 55 43% /\n 3 4\ncpu0 1\nm3d\nm3 zones\nm3 .\nm3g\n";

    fn section(name: &str, body: &[u8]) -> OutputPart {
        OutputPart::Section(name.into(), body.into())
    }

    fn expected() -> Vec<OutputPart> {
        vec![
            section("page-size", b"4096\n"),
            OutputPart::EndOfResponse,
            section("uptime", b"27160.03 40517.22\n"),
            OutputPart::Async(b'd', b"/dev/vda 264 40 55 43% /\n".into()),
            section("stat", b"cpu  1 2 3 4\ncpu0 1\n"),
            section("zones", b""),
            OutputPart::EndOfResponse,
            OutputPart::Async(b'g', Vec::new()),
        ]
    }

    #[test]
    fn skips_unframed_output_and_extracts_interleaved_async_lines() {
        let mut parser = OutputParser::new("m3", 100);
        assert_eq!(parser.push(REAL), Ok(expected()));
        assert_eq!(parser.unframed_output(), b"Welcome!");
    }

    #[test]
    fn result_does_not_depend_on_chunk_size() {
        for size in 1..20 {
            let mut parser = OutputParser::new("m3", 100);
            let parts: Vec<OutputPart> =
                REAL.chunks(size).flat_map(|chunk| parser.push(chunk).unwrap()).collect();
            assert_eq!(parts, expected(), "chunks of {size} bytes");
        }
        for end in 0..REAL.len() {
            let _ = OutputParser::new("m3", 100).push(&REAL[..end]);
        }
    }

    #[test]
    fn rejects_endless_output_of_every_kind() {
        let is_rejected = |line: &[u8]| {
            let mut parser = OutputParser::new("m3", 1000);
            (0..1000).any(|_| parser.push(line) == Err(OutputTooLarge))
        };
        assert!(is_rejected(b"unframed\n") && is_rejected(b"a line without newline"));
        assert!(is_rejected(b"m3d x\n") && is_rejected(b"xm3d x\n"));
        let mut parser = OutputParser::new("m3", 1000);
        assert!(parser.push(b"m3 stat\n").is_ok());
        assert!((0..1000).any(|_| parser.push(b"cpu 1 2\n") == Err(OutputTooLarge)));
    }

    #[test]
    fn accepts_section_without_trailing_newline() {
        let parts = OutputParser::new("m3", 1000).push(b"m3 a\nxm3 b\nm3 .\n").unwrap();
        assert_eq!(parts, [section("a", b"x\n"), section("b", b""), OutputPart::EndOfResponse]);
    }
}
