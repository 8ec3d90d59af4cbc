//! What the loop of `ssh/loop.sh` prints on a host, cut into its parts.
//!
//! Format: our own. Each line with a part's name begins with a marker that is made up for the session, so that neither what
//! a login shell says before it nor a file's content can be taken for one; what follows belongs to that part. Parts that go
//! on beside the others (`d`, `g`) come line by line, anywhere, even within a line of another part:
//!
//! ```text
//! 9f3c… uptime
//! 27160.03 40517.22
//! 9f3c…d /dev/vda 264212084 40182460 55103428 43% /
//! 9f3c…d
//! 9f3c… .
//! ```

/// Something that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A file or a list, by name.
    Section(String, Vec<u8>),
    /// Everything that was asked for has been printed.
    Whole,
    /// What went on beside the rest, by its letter.
    BlockingWorker(u8, Vec<u8>),
}

/// A host prints more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch;

/// Cuts a stream into parts.
pub struct Parts {
    marker: Vec<u8>,
    most_bytes: usize,
    /// A line that is not complete.
    partial: Vec<u8>,
    /// The beginning of a line that something else came into.
    interrupted: Vec<u8>,
    section: Option<(String, Vec<u8>)>,
    asides: Vec<(u8, Vec<u8>)>,
    noise_bytes: usize,
    noise: Vec<u8>,
}

/// What is kept of a line that belongs to nothing.
const NOISE_BYTES: usize = 200;

impl Parts {
    /// For a stream with this marker; nothing that is kept grows beyond `most_bytes`.
    pub fn new(marker: &str, most_bytes: usize) -> Self {
        Self {
            marker: marker.as_bytes().to_vec(),
            most_bytes,
            partial: Vec::new(),
            interrupted: Vec::new(),
            section: None,
            asides: Vec::new(),
            noise_bytes: 0,
            noise: Vec::new(),
        }
    }

    /// Takes what came, and says what is whole with it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Part>, TooMuch> {
        let mut whole = Vec::new();
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
            let Some((line, after)) = rest.split_at_checked(at) else { break };
            rest = after.get(1..).unwrap_or_default();
            if self.partial.is_empty() {
                self.line(line, &mut whole)?;
                continue;
            }
            let mut full = std::mem::take(&mut self.partial);
            full.extend_from_slice(line);
            self.line(&full, &mut whole)?;
            // Its room is used again.
            full.clear();
            self.partial = full;
        }
        self.partial.extend_from_slice(rest);
        self.bound(self.partial.len())?;
        Ok(whole)
    }

    /// The last line that came before all parts: of a login shell that lets nobody in, the reason.
    pub fn noise(&self) -> &[u8] {
        &self.noise
    }

    fn bound(&self, bytes: usize) -> Result<(), TooMuch> {
        if bytes > self.most_bytes { Err(TooMuch) } else { Ok(()) }
    }

    fn line(&mut self, line: &[u8], whole: &mut Vec<Part>) -> Result<(), TooMuch> {
        let marker = &self.marker[..];
        let Some(at) = line.windows(marker.len().max(1)).position(|window| window == marker) else {
            return self.content(line);
        };
        let (before, marked) = line.split_at_checked(at).unwrap_or_default();
        let marked = marked.get(marker.len()..).unwrap_or_default();
        if let Some((letter, text)) = marked.split_first().filter(|(letter, _)| **letter != b' ') {
            self.interrupted.extend_from_slice(before);
            self.bound(self.interrupted.len())?;
            return self.aside(*letter, text, whole);
        }
        if !before.is_empty() || !self.interrupted.is_empty() {
            // A file that ends without a newline.
            self.content(before)?;
        }
        whole.extend(self.section.take().map(|(name, body)| Part::Section(name, body)));
        match marked.trim_ascii() {
            b"." => whole.push(Part::Whole),
            name => self.section = Some((String::from_utf8_lossy(name).into_owned(), Vec::new())),
        }
        Ok(())
    }

    fn content(&mut self, line: &[u8]) -> Result<(), TooMuch> {
        let begun = std::mem::take(&mut self.interrupted);
        let Some((_, body)) = &mut self.section else {
            self.noise_bytes = self.noise_bytes.saturating_add(line.len());
            if !line.trim_ascii().is_empty() {
                self.noise = line.get(..NOISE_BYTES).unwrap_or(line).to_vec();
            }
            return self.bound(self.noise_bytes);
        };
        body.extend_from_slice(&begun);
        body.extend_from_slice(line);
        body.push(b'\n');
        let length = body.len();
        self.bound(length)
    }

    fn aside(&mut self, letter: u8, text: &[u8], whole: &mut Vec<Part>) -> Result<(), TooMuch> {
        let at = self.asides.iter().position(|(known, _)| *known == letter);
        let Some(text) = text.strip_prefix(b" ") else {
            let body = at.map(|at| self.asides.swap_remove(at).1);
            whole.push(Part::BlockingWorker(letter, body.unwrap_or_default()));
            return Ok(());
        };
        let length = match at.and_then(|at| self.asides.get_mut(at)) {
            Some((_, body)) => {
                body.extend_from_slice(text);
                body.push(b'\n');
                body.len()
            }
            None => {
                self.asides.push((letter, [text, b"\n"].concat()));
                // Each letter is kept apart; there are two.
                if self.asides.len() > 2 { usize::MAX } else { text.len() }
            }
        };
        self.bound(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &[u8] = b"Welcome!\n\nm3 hello\n4096\nm3 .\nm3 uptime\n27160.03 40517.22\nm3 stat\ncpu  1 2m3d /dev/vda 264 40 55 43% /\n 3 4\ncpu0 1\nm3d\nm3 zones\nm3 .\nm3g\n";

    fn section(name: &str, body: &[u8]) -> Part {
        Part::Section(name.into(), body.into())
    }

    fn expected() -> Vec<Part> {
        vec![
            section("hello", b"4096\n"),
            Part::Whole,
            section("uptime", b"27160.03 40517.22\n"),
            Part::BlockingWorker(b'd', b"/dev/vda 264 40 55 43% /\n".into()),
            section("stat", b"cpu  1 2 3 4\ncpu0 1\n"),
            section("zones", b""),
            Part::Whole,
            Part::BlockingWorker(b'g', Vec::new()),
        ]
    }

    #[test]
    fn noise_is_passed_over_and_what_goes_on_beside_may_come_anywhere() {
        let mut parts = Parts::new("m3", 100);
        assert_eq!(parts.push(REAL), Ok(expected()));
        assert_eq!(parts.noise(), b"Welcome!");
    }

    #[test]
    fn however_it_is_cut_it_is_the_same() {
        for size in 1..20 {
            let mut parts = Parts::new("m3", 100);
            let whole: Vec<Part> =
                REAL.chunks(size).flat_map(|chunk| parts.push(chunk).unwrap()).collect();
            assert_eq!(whole, expected(), "in pieces of {size}");
        }
        for end in 0..REAL.len() {
            let _ = Parts::new("m3", 100).push(&REAL[..end]);
        }
    }

    #[test]
    fn without_end_is_too_much() {
        let endless = |line: &[u8]| {
            let mut parts = Parts::new("m3", 1000);
            (0..1000).any(|_| parts.push(line) == Err(TooMuch))
        };
        assert!(endless(b"noise\n") && endless(b"a line without end"));
        assert!(endless(b"m3d x\n") && endless(b"xm3d x\n"));
        let mut parts = Parts::new("m3", 1000);
        assert!(parts.push(b"m3 stat\n").is_ok());
        assert!((0..1000).any(|_| parts.push(b"cpu 1 2\n") == Err(TooMuch)));
    }

    #[test]
    fn a_file_without_a_last_newline_is_whole_too() {
        let whole = Parts::new("m3", 1000).push(b"m3 a\nxm3 b\nm3 .\n").unwrap();
        assert_eq!(whole, [section("a", b"x\n"), section("b", b""), Part::Whole]);
    }
}
