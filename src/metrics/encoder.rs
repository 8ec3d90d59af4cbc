//! The two forms of the text: Prometheus 0.0.4 ("Exposition formats" of its documents) and OpenMetrics 1.0. What
//! differs is the headings of counters, how help is escaped, and the last line.

use crate::util::byte_sink::Bytes;

/// Which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text/plain; version=0.0.4`
    Prometheus,
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
}

impl Format {
    /// What `Accept` asks for: OpenMetrics only where it is named and wanted no less than plain text.
    pub fn wanted<'a>(accept: impl Iterator<Item = &'a str>) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let (mut quality, mut known) = (1.0, true);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => {
                        known = ["1.0.0", "0.0.1", "0.0.4"].contains(&value);
                    }
                    _ => {}
                }
            }
            let slot: &mut f32 = match media {
                "application/openmetrics-text" if known => &mut open,
                "text/plain" | "text/*" | "*/*" => &mut plain,
                _ => continue,
            };
            *slot = slot.max(quality);
        }
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// For `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows. In OpenMetrics its name ends with `_total`; a name of others that does not is `unknown` there,
    /// because renaming it would put out the dashboards that ask for it.
    Counter,
    /// It goes up and down.
    Gauge,
    /// node_exporter does not say.
    Untyped,
}

/// A value. Counters of the kernel are whole numbers of something smaller than the unit: they are written as they
/// are, and not through a floating number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A whole number.
    Whole(u64),
    /// So many, with so many of its digits behind the point.
    Fixed(u64, usize),
    /// Any other; what is no number is left out.
    Float(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// The text as it grows. A family without samples leaves no trace.
pub struct Text {
    out: Bytes,
    format: Format,
    name: String,
    kind: Kind,
    help: &'static str,
    /// The heading is still to be written.
    pending: bool,
}

impl Text {
    /// Behind what is there already.
    pub fn new(format: Format, out: Vec<u8>) -> Self {
        let out = Bytes::after(out);
        let (name, kind, help) = (String::new(), Kind::Untyped, "");
        Self { out, format, name, kind, help, pending: false }
    }

    /// From now on samples belong to this family. A family comes once.
    pub fn family(&mut self, name: &str, kind: Kind, help: &'static str) -> &mut Self {
        self.name.clear();
        self.name.push_str(name);
        (self.kind, self.help, self.pending) = (kind, help, true);
        self
    }

    /// A family that only grows.
    pub fn counter(&mut self, name: &str, help: &'static str) -> &mut Self {
        self.family(name, Kind::Counter, help)
    }

    /// A family that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &'static str) -> &mut Self {
        self.family(name, Kind::Gauge, help)
    }

    /// A sample; its labels as [`labels`] writes them.
    pub fn sample(&mut self, labels: &str, value: impl Into<Number>) -> &mut Self {
        let value = value.into();
        if self.begin(value) {
            if !labels.is_empty() {
                self.out.push(b'{');
                self.out.push_text(labels);
                self.out.push(b'}');
            }
            self.end(value);
        }
        self
    }

    /// A sample with one label more, whose value needs no escapes.
    pub fn sample_with(
        &mut self,
        labels: &str,
        (key, plain): (&str, &str),
        value: impl Into<Number>,
    ) -> &mut Self {
        let value = value.into();
        if self.begin(value) {
            self.out.push(b'{');
            self.out.push_text(labels);
            if !labels.is_empty() {
                self.out.push(b',');
            }
            for part in [key, "=\"", plain, "\"}"] {
                self.out.push_text(part);
            }
            self.end(value);
        }
        self
    }

    /// A sample, if there is a value.
    pub fn sample_if(&mut self, labels: &str, value: Option<impl Into<Number>>) -> &mut Self {
        match value {
            Some(value) => self.sample(labels, value),
            None => self,
        }
    }

    /// The whole text.
    pub fn finish(mut self) -> Vec<u8> {
        if self.format == Format::OpenMetrics {
            self.out.push_text("# EOF\n");
        }
        self.out.finish()
    }

    /// Whether there will be a sample: its name is written then.
    fn begin(&mut self, value: Number) -> bool {
        if matches!(value, Number::Float(value) if !value.is_finite()) {
            return false;
        }
        if std::mem::take(&mut self.pending) {
            self.heading();
        }
        self.out.push_text(&self.name);
        true
    }

    fn heading(&mut self) {
        let (family, kind) = match (self.format, self.kind) {
            (Format::Prometheus, Kind::Counter) => (&*self.name, "counter"),
            (Format::Prometheus, Kind::Untyped) => (&*self.name, "untyped"),
            (_, Kind::Gauge) => (&*self.name, "gauge"),
            (Format::OpenMetrics, Kind::Counter) => match self.name.strip_suffix("_total") {
                Some(family) => (family, "counter"),
                None => (&*self.name, "unknown"),
            },
            (Format::OpenMetrics, Kind::Untyped) => (&*self.name, "unknown"),
        };
        for part in ["# HELP ", family, " ", self.help, "\n# TYPE ", family, " ", kind, "\n"] {
            self.out.push_text(part);
        }
    }

    fn end(&mut self, value: Number) {
        self.out.push(b' ');
        match value {
            Number::Whole(value) => push_whole(&mut self.out, value),
            Number::Fixed(value, digits) => push_fixed(&mut self.out, value, digits),
            Number::Float(value) => self.out.push_text(&value.to_string()),
        }
        self.out.push(b'\n');
    }
}

/// Without the machinery of `format!`, which takes three times as long; a scrape has a thousand of them.
fn push_whole(out: &mut Bytes, value: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    for digit in &digits[at..] {
        out.push(*digit);
    }
}

fn push_fixed(out: &mut Bytes, value: u64, digits: usize) {
    let scale = 10u64.saturating_pow(digits as u32);
    push_whole(out, value / scale);
    let fraction = value % scale;
    if fraction > 0 {
        // Zeros behind the point are those of a number that is larger by the scale.
        let from = out.written().len();
        push_whole(out, scale + fraction);
        out.set(from, b'.');
        let zeros = out.written().iter().rev().take_while(|digit| **digit == b'0').count();
        out.truncate(out.written().len() - zeros);
    }
}

/// Labels, their values escaped, without braces: `device="vda",fstype="ext4"`.
pub fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = Bytes::after(Vec::with_capacity(32 * pairs.len()));
    for (at, (key, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.push_text(key);
        out.push_text("=\"");
        for byte in value.bytes() {
            match byte {
                b'\\' => out.push_text("\\\\"),
                b'"' => out.push_text("\\\""),
                b'\n' => out.push_text("\\n"),
                byte => out.push(byte),
            }
        }
        out.push(b'"');
    }
    // It was text, and what was put between is.
    String::from_utf8(out.finish()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: impl Into<Number>) -> String {
        let mut text = Text::new(Format::Prometheus, Vec::new());
        text.gauge("a", "b").sample("", value);
        let text = String::from_utf8(text.finish()).unwrap();
        text.lines().nth(2).unwrap_or("a -").split_at(2).1.to_owned()
    }

    #[test]
    fn numbers_are_written_as_they_are() {
        assert_eq!(number(0u64), "0");
        assert_eq!(number(u64::MAX), "18446744073709551615");
        assert_eq!(number(Number::Fixed(1843654, 2)), "18436.54");
        assert_eq!(number(Number::Fixed(5, 2)), "0.05");
        assert_eq!(number(Number::Fixed(500, 3)), "0.5");
        assert_eq!(number(Number::Fixed(7000, 3)), "7");
        assert_eq!(number(Number::Fixed(u64::MAX, 6)), "18446744073709.551615");
        assert_eq!(number(0.25), "0.25");
        assert_eq!(number(-3.5), "-3.5");
        assert_eq!(number(true), "1");
        for none in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(number(none), "-", "left out, and its heading too");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(labels(&[("a", "b\\c\"d\ne"), ("f", "ü")]), "a=\"b\\\\c\\\"d\\ne\",f=\"ü\"");
        assert_eq!(labels(&[]), "");
    }

    #[test]
    fn the_two_forms_differ_in_counters_and_at_the_end() {
        let text = |format| {
            let mut text = Text::new(format, Vec::new());
            text.counter("a_total", "help of a").sample("", 1u64).sample_with(
                "x=\"1\"",
                ("y", "2"),
                3u64,
            );
            text.counter("DCGM_B", "b").sample_with("", ("y", "2"), 4u64);
            text.family("c", Kind::Untyped, "c").sample("x=\"1\"", 5u64);
            text.gauge("nothing", "of it").sample_if("", None::<u64>);
            String::from_utf8(text.finish()).unwrap()
        };
        assert_eq!(
            text(Format::Prometheus),
            "# HELP a_total help of a\n# TYPE a_total counter\na_total 1\na_total{x=\"1\",y=\"2\"} 3\n\
             # HELP DCGM_B b\n# TYPE DCGM_B counter\nDCGM_B{y=\"2\"} 4\n\
             # HELP c c\n# TYPE c untyped\nc{x=\"1\"} 5\n"
        );
        assert_eq!(
            text(Format::OpenMetrics),
            "# HELP a help of a\n# TYPE a counter\na_total 1\na_total{x=\"1\",y=\"2\"} 3\n\
             # HELP DCGM_B b\n# TYPE DCGM_B unknown\nDCGM_B{y=\"2\"} 4\n\
             # HELP c c\n# TYPE c unknown\nc{x=\"1\"} 5\n# EOF\n"
        );
    }

    #[test]
    fn the_form_is_the_one_that_is_wanted_more() {
        let wanted = |accept: &str| Format::wanted([accept].into_iter());
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(wanted(prometheus), Format::OpenMetrics);
        assert_eq!(wanted("application/openmetrics-text; version=1.0.0"), Format::OpenMetrics);
        for plain in [
            "",
            "*/*",
            "text/html,application/xhtml+xml,*/*;q=0.8",
            "text/plain;version=0.0.4",
            "application/openmetrics-text;q=0.2,text/plain;q=0.5",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=x",
            ";;,,=;q",
        ] {
            assert_eq!(wanted(plain), Format::Prometheus, "{plain}");
        }
    }
}
