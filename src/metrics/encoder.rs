//! Encoder for the two text formats: Prometheus 0.0.4 ("Exposition formats" in its documentation) and OpenMetrics 1.0.
//! They differ in the headers of counters and in the last line.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::metrics::format::Format;

/// Type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricType {
    /// OpenMetrics requires the suffix `_total`. Counters of other exporters without it are `unknown` there, because
    /// renaming them would break dashboards that query them.
    Counter,
    /// A counter `X_total` beside a family `X`. OpenMetrics would give both the name `X`, so it is `unknown` there.
    AliasedCounter,
    Gauge,
    /// Of other programs only.
    Histogram,
    /// Of other programs only.
    Summary,
    /// node_exporter does not declare a type.
    Untyped,
}

/// Value of a sample. Kernel counters are integers in a fraction of the unit; they are written as decimals without a
/// conversion to floating point, which would lose digits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number {
    Integer(u64),
    /// An integer and how many of its last digits are decimals.
    Decimal(u64, usize),
    /// Samples that are not finite are omitted.
    Float(f64),
}

impl Number {
    /// A signed integer and how many of its last digits are decimals.
    pub(super) fn scaled(value: i64, digits: usize) -> Self {
        match u64::try_from(value) {
            Ok(value) => Self::Decimal(value, digits),
            Err(_) => Self::Float(value as f64 / 10f64.powi(digits as i32)),
        }
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Integer(value)
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self::Integer(value.into())
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Integer(value as u64)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Integer(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// Builds the text family by family. A family without samples is omitted.
pub(super) struct Encoder {
    out: String,
    format: Format,
    name: String,
    metric_type: MetricType,
    help: Cow<'static, str>,
    /// The header of the family is not written yet.
    header_pending: bool,
    /// Families with samples, as both formats name them.
    families: HashSet<String>,
}

impl Encoder {
    pub(super) fn new(format: Format) -> Self {
        Self {
            out: String::new(),
            format,
            name: String::new(),
            metric_type: MetricType::Untyped,
            help: "".into(),
            header_pending: false,
            families: HashSet::new(),
        }
    }

    /// Starts a family. Each name must be started once only.
    pub(super) fn family(
        &mut self,
        name: &str,
        metric_type: MetricType,
        help: impl Into<Cow<'static, str>>,
    ) -> &mut Self {
        name.clone_into(&mut self.name);
        (self.metric_type, self.help, self.header_pending) = (metric_type, help.into(), true);
        self
    }

    /// Whether there is a family of the name with samples.
    pub(super) fn has_family(&self, name: &str) -> bool {
        self.families.contains(name)
    }

    pub(super) fn counter(&mut self, name: &str, help: &'static str) -> &mut Self {
        self.family(name, MetricType::Counter, help)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &'static str) -> &mut Self {
        self.family(name, MetricType::Gauge, help)
    }

    /// Adds a sample to the current family. `labels` is in the form that [`labels`] returns.
    pub(super) fn sample(&mut self, labels: &str, value: impl Into<Number>) -> &mut Self {
        let value = value.into();
        if self.begin_sample(value) {
            if !labels.is_empty() {
                self.push(&["{", labels, "}"]);
            }
            self.end_sample(value);
        }
        self
    }

    /// Adds a sample with one more label. `value_of_label` must not need escaping.
    pub(super) fn sample_with_label(
        &mut self,
        labels: &str,
        (name, value_of_label): (&str, &str),
        value: impl Into<Number>,
    ) -> &mut Self {
        let value = value.into();
        if self.begin_sample(value) {
            let comma = if labels.is_empty() { "" } else { "," };
            self.push(&["{", labels, comma, name, "=\"", value_of_label, "\"}"]);
            self.end_sample(value);
        }
        self
    }

    /// Adds a sample if there is a value.
    pub(super) fn sample_if(
        &mut self,
        labels: &str,
        value: Option<impl Into<Number>>,
    ) -> &mut Self {
        match value {
            Some(value) => self.sample(labels, value),
            None => self,
        }
    }

    /// Adds a sample whose value is written already, with a suffix after the name of the family.
    pub(super) fn text_sample(&mut self, suffix: &str, labels: &str, value: &str) -> &mut Self {
        self.begin_sample(Number::Integer(0));
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        self.push(&[suffix, open, labels, close, " ", value, "\n"]);
        self
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// Writes the metric name, after the family's header if this is its first sample. Returns false if the sample must be
    /// omitted.
    fn begin_sample(&mut self, value: Number) -> bool {
        if matches!(value, Number::Float(value) if !value.is_finite()) {
            return false;
        }
        if std::mem::take(&mut self.header_pending) {
            self.push_header();
        }
        self.out.push_str(&self.name);
        true
    }

    fn end_sample(&mut self, value: Number) {
        let value = match value {
            Number::Integer(value) => value.to_string(),
            Number::Decimal(value, digits) => decimal(value, digits),
            Number::Float(value) => value.to_string(),
        };
        self.push(&[" ", &value, "\n"]);
    }

    fn push_header(&mut self) {
        let name = std::mem::take(&mut self.name);
        let (family, metric_type) = match (self.format, self.metric_type) {
            (Format::Prometheus, MetricType::Counter | MetricType::AliasedCounter) => {
                (&*name, "counter")
            }
            (Format::Prometheus, MetricType::Untyped) => (&*name, "untyped"),
            (_, MetricType::Gauge) => (&*name, "gauge"),
            (_, MetricType::Histogram) => (&*name, "histogram"),
            (_, MetricType::Summary) => (&*name, "summary"),
            (Format::OpenMetrics, MetricType::Counter) => match name.strip_suffix("_total") {
                Some(family) => (family, "counter"),
                None => (&*name, "unknown"),
            },
            (Format::OpenMetrics, MetricType::Untyped | MetricType::AliasedCounter) => {
                (&*name, "unknown")
            }
        };
        self.families.extend([name.clone(), family.to_owned()]);
        let help = escape_help(&self.help, self.format);
        self.push(&["# HELP ", family, " ", &help, "\n# TYPE ", family, " ", metric_type, "\n"]);
        self.name = name;
    }

    fn push(&mut self, parts: &[&str]) {
        self.out.extend(parts.iter().copied());
    }
}

/// Formats labels without braces and escapes their values: `device="vda",fstype="ext4"`.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.extend([*name, "=\""]);
        for char in value.chars() {
            match char {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                char => out.push(char),
            }
        }
        out.push('"');
    }
    out
}

fn escape_help(help: &str, format: Format) -> String {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    match format {
        Format::Prometheus => help,
        Format::OpenMetrics => help.replace('"', "\\\""),
    }
}

/// `value` with its last `digits` digits after the decimal point, without trailing zeros.
fn decimal(value: u64, digits: usize) -> String {
    let scale = 10u64.saturating_pow(digits as u32);
    let (integer, fraction) = (value / scale, value % scale);
    match fraction {
        0 => integer.to_string(),
        _ => format!("{integer}.{fraction:0digits$}").trim_end_matches('0').to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(value: impl Into<Number>) -> String {
        let mut encoder = Encoder::new(Format::Prometheus);
        encoder.gauge("a", "b").sample("", value);
        let text = encoder.finish();
        text.lines().nth(2).unwrap_or("a -").split_at(2).1.to_owned()
    }

    #[test]
    fn formats_numbers_without_losing_digits() {
        assert_eq!(number(0u64), "0");
        assert_eq!(number(u64::MAX), "18446744073709551615");
        assert_eq!(number(Number::Decimal(1843654, 2)), "18436.54");
        assert_eq!(number(Number::Decimal(5, 2)), "0.05");
        assert_eq!(number(Number::Decimal(500, 3)), "0.5");
        assert_eq!(number(Number::Decimal(7000, 3)), "7");
        assert_eq!(number(Number::Decimal(u64::MAX, 6)), "18446744073709.551615");
        assert_eq!(number(0.25), "0.25");
        assert_eq!(number(-3.5), "-3.5");
        assert_eq!(number(true), "1");
        assert_eq!(number(Number::scaled(45_200, 3)), "45.2");
        assert_eq!(number(Number::scaled(-1500, 3)), "-1.5");
        assert_eq!(number(Number::scaled(-1, 0)), "-1");
        for none in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(number(none), "-", "sample and header are omitted");
        }
    }

    #[test]
    fn escapes_label_values() {
        assert_eq!(labels(&[("a", "b\\c\"d\ne"), ("f", "ü")]), "a=\"b\\\\c\\\"d\\ne\",f=\"ü\"");
        assert_eq!(labels(&[]), "");
    }

    #[test]
    fn openmetrics_differs_in_counter_headers_and_last_line() {
        let text = |format| {
            let mut encoder = Encoder::new(format);
            encoder.counter("a_total", "help of a").sample("", 1u64).sample_with_label(
                "x=\"1\"",
                ("y", "2"),
                3u64,
            );
            encoder.counter("DCGM_B", "b").sample_with_label("", ("y", "2"), 4u64);
            encoder.family("c", MetricType::Untyped, "c").sample("x=\"1\"", 5u64);
            encoder.family("d_total", MetricType::AliasedCounter, "d").sample("", 6u64);
            encoder.counter("d", "d").sample("", 6u64);
            encoder.gauge("empty", "no samples").sample_if("", None::<u64>);
            encoder.finish()
        };
        assert_eq!(
            text(Format::Prometheus),
            "# HELP a_total help of a\n# TYPE a_total counter\na_total 1\na_total{x=\"1\",y=\"2\"} 3\n\
             # HELP DCGM_B b\n# TYPE DCGM_B counter\nDCGM_B{y=\"2\"} 4\n\
             # HELP c c\n# TYPE c untyped\nc{x=\"1\"} 5\n\
             # HELP d_total d\n# TYPE d_total counter\nd_total 6\n# HELP d d\n# TYPE d counter\nd 6\n"
        );
        assert_eq!(
            text(Format::OpenMetrics),
            "# HELP a help of a\n# TYPE a counter\na_total 1\na_total{x=\"1\",y=\"2\"} 3\n\
             # HELP DCGM_B b\n# TYPE DCGM_B unknown\nDCGM_B{y=\"2\"} 4\n\
             # HELP c c\n# TYPE c unknown\nc{x=\"1\"} 5\n\
             # HELP d_total d\n# TYPE d_total unknown\nd_total 6\n# HELP d d\n# TYPE d unknown\nd 6\n# EOF\n"
        );
    }
}
