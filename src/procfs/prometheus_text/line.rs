//! One line of the text format.

use crate::procfs::ParseError;
use crate::procfs::prometheus_text::FamilyType;

pub(super) enum Line<'a> {
    /// Nothing, or a comment.
    Blank,
    Help {
        name: &'a str,
        help: String,
    },
    Type {
        name: &'a str,
        family_type: FamilyType,
    },
    Sample(RawSample<'a>),
}

pub(super) struct RawSample<'a> {
    pub name: &'a str,
    /// Sorted by name.
    pub labels: Vec<(&'a str, String)>,
    pub value: &'a str,
}

pub(super) fn parse(at: usize, line: &[u8]) -> Result<Line<'_>, ParseError> {
    let mut cursor = Cursor { at, rest: line };
    cursor.skip_blanks();
    if cursor.rest.is_empty() {
        return Ok(Line::Blank);
    }
    match cursor.skip(b'#') {
        true => comment(cursor),
        false => sample(cursor).map(Line::Sample),
    }
}

/// Whether a text is a number for Prometheus, whose parser is that of Go.
pub(super) fn is_number(text: &str) -> bool {
    let special = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    match &*special {
        "inf" | "infinity" => text.len() <= special.len().saturating_add(1),
        "nan" => text.len() == special.len(),
        // A number that is too large for 64 bits of floating point is no number.
        _ => text.parse().is_ok_and(|number: f64| number.is_finite()),
    }
}

fn comment(mut cursor: Cursor<'_>) -> Result<Line<'_>, ParseError> {
    cursor.skip_blanks();
    let keyword = cursor.take_while(|byte| !is_blank(byte));
    cursor.skip_blanks();
    if cursor.rest.is_empty() || keyword != b"HELP" && keyword != b"TYPE" {
        return Ok(Line::Blank);
    }
    let name = cursor.name(true)?;
    if cursor.rest.first().is_some_and(|byte| !is_blank(*byte)) {
        return Err(cursor.error("a blank after the name of a metric"));
    }
    cursor.skip_blanks();
    if cursor.rest.is_empty() {
        return Ok(Line::Blank);
    }
    if keyword == b"HELP" {
        return Ok(Line::Help { name, help: unescape_help(cursor.rest) });
    }
    let family_type = match cursor.rest.to_ascii_lowercase().as_slice() {
        b"counter" => FamilyType::Counter,
        b"gauge" => FamilyType::Gauge,
        b"histogram" => FamilyType::Histogram,
        b"summary" => FamilyType::Summary,
        b"untyped" => FamilyType::Untyped,
        _ => return Err(cursor.error("the type of a metric")),
    };
    Ok(Line::Type { name, family_type })
}

fn sample(mut cursor: Cursor<'_>) -> Result<RawSample<'_>, ParseError> {
    let name = cursor.name(true)?;
    cursor.skip_blanks();
    let labels = match cursor.skip(b'{') {
        true => cursor.labels()?,
        false => Vec::new(),
    };
    cursor.skip_blanks();
    let written = cursor.rest;
    let value = cursor.take_while(|byte| !is_blank(byte));
    let value = std::str::from_utf8(value).ok().filter(|value| is_number(value));
    let value = value.ok_or_else(|| ParseError::new(cursor.at, "a number", written))?;
    cursor.skip_blanks();
    if !cursor.rest.is_empty() {
        return Err(cursor.error("no timestamp"));
    }
    Ok(RawSample { name, labels, value })
}

struct Cursor<'a> {
    /// Number of the line.
    at: usize,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn error(&self, expected: &'static str) -> ParseError {
        ParseError::new(self.at, expected, self.rest)
    }

    fn take_while(&mut self, is_part: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !is_part(*byte));
        let (taken, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn skip_blanks(&mut self) {
        self.take_while(is_blank);
    }

    /// Skips a byte if it is next.
    fn skip(&mut self, byte: u8) -> bool {
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// The name of a metric, or of a label, which has no colons.
    fn name(&mut self, with_colons: bool) -> Result<&'a str, ParseError> {
        const EXPECTED: &str = "the name of a metric or of a label";
        if self.rest.first().is_none_or(u8::is_ascii_digit) {
            return Err(self.error(EXPECTED));
        }
        let written = self.rest;
        let is_part =
            |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || with_colons && byte == b':';
        let name = std::str::from_utf8(self.take_while(is_part)).unwrap_or_default();
        match name {
            "" | "__name__" => Err(ParseError::new(self.at, EXPECTED, written)),
            name => Ok(name),
        }
    }

    /// The labels, after the opening brace.
    fn labels(&mut self) -> Result<Vec<(&'a str, String)>, ParseError> {
        let mut labels = Vec::new();
        loop {
            self.skip_blanks();
            if self.skip(b'}') {
                break;
            }
            let name = self.name(false)?;
            self.skip_blanks();
            if !self.skip(b'=') {
                return Err(self.error("= after the name of a label"));
            }
            self.skip_blanks();
            labels.push((name, self.quoted()?));
            self.skip_blanks();
            if !self.skip(b',') && self.rest.first() != Some(&b'}') {
                return Err(self.error("a comma or a closing brace"));
            }
        }
        labels.sort();
        match labels.windows(2).find(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
            Some(_) => Err(self.error("labels with different names")),
            None => Ok(labels),
        }
    }

    fn quoted(&mut self) -> Result<String, ParseError> {
        const EXPECTED: &str = "a label value in quotes";
        let written = ParseError::new(self.at, EXPECTED, self.rest);
        if !self.skip(b'"') {
            return Err(written);
        }
        let mut value = Vec::new();
        loop {
            value.extend_from_slice(self.take_while(|byte| byte != b'"' && byte != b'\\'));
            if self.skip(b'"') {
                return String::from_utf8(value).map_err(|_| written);
            }
            value.push(match self.rest {
                [b'\\', b'n', ..] => b'\n',
                [b'\\', escaped @ (b'\\' | b'"'), ..] => *escaped,
                _ => return Err(written),
            });
            self.rest = self.rest.get(2..).unwrap_or_default();
        }
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Other escape sequences than those of a backslash and of a line feed stay as they are.
fn unescape_help(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut help = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek()) {
            ('\\', Some('n')) => help.push('\n'),
            ('\\', Some('\\')) => help.push('\\'),
            _ => {
                help.push(letter);
                continue;
            }
        }
        letters.next();
    }
    help
}
