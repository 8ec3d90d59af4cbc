//! `*.prom`: metrics of other programs in Prometheus' text format 0.0.4 ("Exposition formats" in its documentation), as the
//! collector textfile reads them.
//!
//! Format: a sample on each line, preceded by help and type of its family. Two real lines, with those of their family:
//!
//! ```text
//! # HELP smartmon_device_smart_healthy SMART metric device_smart_healthy
//! # TYPE smartmon_device_smart_healthy gauge
//! smartmon_device_smart_healthy{disk="/dev/sda",type="sat"} 1
//! smartmon_device_smart_healthy{disk="/dev/sdb",type="sat"} 0
//! ```
//!
//! A text with one odd line is rejected as a whole, because its program has not finished it or does not know the format. So is one
//! with timestamps: the value of a file is that of its last writing.

mod line;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::procfs::prometheus_text::line::{Line, RawSample};
use crate::procfs::{ParseError, lines};

/// Samples of one text. The largest collectors of IPMI and SMART values have some thousand.
pub const MAX_SAMPLES: usize = 10_000;

/// What is added to a family as labels without value. They mean the same as none, so the others are left out.
const MAX_ADDED_BYTES: usize = 1 << 20;

/// Type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyType {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

/// Metrics of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Family {
    pub name: String,
    pub family_type: FamilyType,
    /// Unescaped.
    pub help: Option<String>,
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// What follows the name of the family: empty, `_bucket`, `_count` or `_sum`.
    pub suffix: &'static str,
    /// Names and unescaped values, sorted by name. A label that only other samples of the family have has an empty value.
    pub labels: Vec<(String, String)>,
    /// A number as it is written in the text, so that no digit is lost.
    pub value: String,
}

/// Returns the families that have samples, sorted by name.
pub fn parse(text: &[u8]) -> Result<Vec<Family>, ParseError> {
    if !text.is_empty() && !text.ends_with(b"\n") {
        // The rest of the line may be missing, and with it half of a number.
        return Err(ParseError::missing("the end of the last line"));
    }
    let mut families = Families::default();
    for (at, line) in lines(text) {
        match line::parse(at, line)? {
            Line::Blank => {}
            Line::Help { name, help } => families.set_help(at, name, help)?,
            Line::Type { name, family_type } => families.set_type(at, name, family_type)?,
            Line::Sample(sample) => families.add(at, sample)?,
        }
    }
    Ok(families.finish())
}

#[derive(Default)]
struct Families {
    by_name: BTreeMap<String, PartialFamily>,
    samples: usize,
}

#[derive(Default)]
struct PartialFamily {
    help: Option<String>,
    family_type: Option<FamilyType>,
    samples: Vec<Sample>,
}

impl Families {
    fn set_help(&mut self, at: usize, name: &str, help: String) -> Result<(), ParseError> {
        let family = self.by_name.entry(name.to_owned()).or_default();
        match family.help.replace(help) {
            Some(_) => Err(ParseError::new(at, "one HELP line of a name", name.as_bytes())),
            None => Ok(()),
        }
    }

    fn set_type(
        &mut self,
        at: usize,
        name: &str,
        family_type: FamilyType,
    ) -> Result<(), ParseError> {
        let family = self.by_name.entry(name.to_owned()).or_default();
        match family.family_type.replace(family_type) {
            Some(_) => {
                let expected = "one TYPE line of a name, before its samples";
                Err(ParseError::new(at, expected, name.as_bytes()))
            }
            None => Ok(()),
        }
    }

    fn add(&mut self, at: usize, sample: RawSample<'_>) -> Result<(), ParseError> {
        self.samples = self.samples.saturating_add(1);
        if self.samples > MAX_SAMPLES {
            return Err(ParseError::new(at, "at most 10000 samples", sample.name.as_bytes()));
        }
        let (name, suffix) = self.family_of(sample.name);
        let family = self.by_name.entry(name.to_owned()).or_default();
        let family_type = *family.family_type.get_or_insert(FamilyType::Untyped);
        let limit = match (family_type, suffix) {
            (FamilyType::Summary, "") => Some("quantile"),
            (FamilyType::Histogram, "_bucket") => Some("le"),
            // Has no meaning; node_exporter ignores it, too.
            (FamilyType::Histogram, "") => return Ok(()),
            _ => None,
        };
        if let Some(limit) = limit {
            let Some((_, value)) = sample.labels.iter().find(|(name, _)| *name == limit) else {
                return Ok(());
            };
            if !line::is_number(value) {
                return Err(ParseError::new(at, "a number as quantile or le", value.as_bytes()));
            }
        }
        let labels = sample.labels.into_iter().map(|(name, value)| (name.to_owned(), value));
        let (labels, value) = (labels.collect(), sample.value.to_owned());
        family.samples.push(Sample { suffix, labels, value });
        Ok(())
    }

    /// The family of a sample, and what follows its name.
    fn family_of<'a>(&self, name: &'a str) -> (&'a str, &'static str) {
        if self.by_name.contains_key(name) {
            return (name, "");
        }
        let suffixes = [
            ("_count", FamilyType::Summary),
            ("_count", FamilyType::Histogram),
            ("_sum", FamilyType::Summary),
            ("_sum", FamilyType::Histogram),
            ("_bucket", FamilyType::Histogram),
        ];
        let of_family = suffixes.into_iter().find_map(|(suffix, family_type)| {
            let base = name.strip_suffix(suffix)?;
            let family = self.by_name.get(base)?;
            (family.family_type == Some(family_type)).then_some((base, suffix))
        });
        of_family.unwrap_or((name, ""))
    }

    fn finish(self) -> Vec<Family> {
        let with_samples =
            self.by_name.into_iter().filter(|(_, family)| !family.samples.is_empty());
        let family = |(name, partial): (String, PartialFamily)| {
            let PartialFamily { help, family_type, mut samples } = partial;
            for suffix in ["", "_bucket", "_count", "_sum"] {
                let of_suffix = samples.iter_mut().filter(|sample| sample.suffix == suffix);
                add_missing_labels(of_suffix.collect());
            }
            Family { name, family_type: family_type.unwrap_or(FamilyType::Untyped), help, samples }
        };
        with_samples.map(family).collect()
    }
}

fn add_missing_labels(samples: Vec<&mut Sample>) {
    let names = samples.iter().flat_map(|sample| &sample.labels);
    let names: BTreeSet<String> = names.map(|(name, _)| name.clone()).collect();
    let bytes: usize = names.iter().map(|name| name.len().saturating_add(4)).sum();
    if bytes.saturating_mul(samples.len()) > MAX_ADDED_BYTES {
        return;
    }
    for sample in samples {
        for (at, name) in names.iter().enumerate() {
            if sample.labels.get(at).is_none_or(|(found, _)| found != name) {
                sample.labels.insert(at, (name.clone(), String::new()));
            }
        }
    }
}
