//! The families that the collector textfile has read.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, MetricType, Number, labels};
use crate::model::RawSample;
use crate::model::node::Measurement;
use crate::model::node::textfile::Textfile;
use crate::procfs::prometheus_text::{Family, FamilyType, Sample};

/// Names of the agent, also of families that have no samples at the moment.
const RESERVED_PREFIXES: [&str; 2] = ["hm_agent_", "node_textfile_"];

pub(super) fn encode(encoder: &mut Encoder, sample: &RawSample, truncation: &mut Truncation) {
    // Not if the collector is disabled, or has not read anything yet.
    if !sample.collectors.iter().any(|collector| collector.name == "textfile") {
        return;
    }
    let textfile = sample.measurements.iter().find_map(|measurement| match &**measurement {
        Measurement::Textfile(textfile) => Some(textfile),
        _ => None,
    });
    let families = textfile.map_or(&[][..], |textfile| &textfile.families);
    let (own, other): (Vec<&Family>, Vec<&Family>) =
        families.iter().partition(|family| is_own(encoder, family));
    // Without a measurement the directory does not respond.
    let has_error = !own.is_empty() || textfile.is_none_or(|textfile| textfile.has_error);
    encoder
        .gauge(
            "node_textfile_scrape_error",
            "Whether a file of the textfile directory, or a part of it, could not be used.",
        )
        .sample("", has_error);
    truncation.add("textfile_duplicates", own.len());
    if let Some(textfile) = textfile {
        files(encoder, textfile, truncation);
    }
    for family in other {
        self::family(encoder, family);
    }
}

/// Whether the agent itself exposes a family of the name, or of the name of a series.
fn is_own(encoder: &Encoder, family: &Family) -> bool {
    let name = &family.name;
    let is_reserved = RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let is_series = |sample: &Sample| {
        !sample.suffix.is_empty() && encoder.has_family(&format!("{name}{}", sample.suffix))
    };
    is_reserved || encoder.has_family(name) || family.samples.iter().any(is_series)
}

fn files(encoder: &mut Encoder, textfile: &Textfile, truncation: &mut Truncation) {
    truncation.add("textfiles", textfile.truncated);
    encoder.gauge(
        "node_textfile_mtime_seconds",
        "Unix time at which the file was last written, of files whose metrics are exposed.",
    );
    for file in &textfile.files {
        let labels = labels(&[("file", &file.path)]);
        encoder.sample(&labels, Number::Decimal(file.modified_nanoseconds, 9));
    }
}

fn family(encoder: &mut Encoder, family: &Family) {
    let metric_type = match family.family_type {
        FamilyType::Counter => MetricType::Counter,
        FamilyType::Gauge => MetricType::Gauge,
        FamilyType::Histogram => MetricType::Histogram,
        FamilyType::Summary => MetricType::Summary,
        FamilyType::Untyped => MetricType::Untyped,
    };
    encoder.family(&family.name, metric_type, family.help.clone().unwrap_or_default());
    for sample in &family.samples {
        let pairs = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let pairs: Vec<(&str, &str)> = pairs.collect();
        encoder.text_sample(sample.suffix, &labels(&pairs), &sample.value);
    }
}
