//! What `/history` returns.

use std::time::Duration;

use serde::Serialize;

use crate::history::series::mean::RecordMean;
use crate::history::series::record::{GPU_SERIES, NODE_SERIES, Record};
use crate::history::series::ring_file::Ring;

/// Points of a series.
const MAX_POINTS: u64 = 720;

/// How far back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    Hour,
    Day,
}

impl Range {
    /// The range that a query selects: `range=1h`, the default, or `range=24h`. Other parameters are ignored: `token` is one. The
    /// error is complete.
    pub fn parse(query: &str) -> Result<Self, String> {
        match query.split('&').find_map(|item| item.strip_prefix("range=")) {
            None | Some("1h") => Ok(Self::Hour),
            Some("24h") => Ok(Self::Day),
            Some(_) => Err("\"range\" is neither 1h nor 24h".to_owned()),
        }
    }

    /// The query that [`Self::parse`] reads.
    pub fn to_text(self) -> String {
        format!("range={}", self.name())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::Day => "24h",
        }
    }

    pub(super) fn ring(self) -> Ring {
        match self {
            Self::Hour => Ring::Hour,
            Self::Day => Ring::Day,
        }
    }

    fn seconds(self) -> u64 {
        match self {
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }
}

/// All series over the same times. A value is the mean of a step; `null` where nothing is known.
#[derive(Debug, Serialize)]
pub struct History {
    range: &'static str,
    /// Of the first value, in Unix seconds.
    start: u64,
    /// Seconds from one value to the next.
    step: u64,
    /// Unix seconds of the node's clock.
    now: u64,
    series: Vec<Series>,
}

#[derive(Debug, Serialize)]
struct Series {
    name: &'static str,
    unit: &'static str,
    /// Index of the GPU.
    gpu: Option<u32>,
    values: Vec<Option<f64>>,
}

/// Collects the means of each step.
pub(super) struct Steps {
    range: Range,
    now: u64,
    step: u64,
    /// Number of the first step since 1970.
    first: u64,
    means: Vec<RecordMean>,
}

impl Steps {
    pub(super) fn new(range: Range, interval: Duration, now: u64) -> Self {
        // Of two samples at least, because a step of one interval has sometimes none and sometimes two.
        let interval = interval.as_secs().max(range.ring().seconds_per_slot());
        let step = (2 * interval).max(range.seconds() / MAX_POINTS);
        let count = (range.seconds() / step).max(1);
        let first = (now / step + 1).saturating_sub(count);
        let means = (0..count).map(|_| RecordMean::default()).collect();
        Self { range, now, step, first, means }
    }

    /// Ignores records of other times: older ones, and those before a clock was set back.
    pub(super) fn add(&mut self, record: &Record) {
        let step = (record.unix_seconds / self.step).checked_sub(self.first);
        let at = step.and_then(|step| usize::try_from(step).ok());
        if let Some(mean) = at.and_then(|at| self.means.get_mut(at)) {
            mean.add(record);
        }
    }

    /// `gpus`: index and identity of each GPU.
    pub(super) fn history(&self, gpus: &[(u32, u32)]) -> History {
        let mut series = Vec::with_capacity(NODE_SERIES.len() + gpus.len() * GPU_SERIES.len());
        for (at, (name, unit)) in NODE_SERIES.into_iter().enumerate() {
            let values = self.means.iter().map(|mean| mean.node()[at].map(rounded)).collect();
            series.push(Series { name, unit, gpu: None, values });
        }
        for (index, identity) in gpus {
            for (at, (name, unit, _)) in GPU_SERIES.into_iter().enumerate() {
                let values = self.means.iter().map(|mean| mean.gpu(*identity)?[at].map(rounded));
                series.push(Series { name, unit, gpu: Some(*index), values: values.collect() });
            }
        }
        let start = self.first * self.step;
        let Self { range, now, step, .. } = *self;
        History { range: range.name(), start, step, now, series }
    }
}

/// To four digits, and to hundredths.
fn rounded(value: f32) -> f64 {
    let value = f64::from(value);
    let digits = value.abs().max(1.0).log10().floor() as i32;
    let factor = 10f64.powi((3 - digits).min(2));
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_216_253;

    fn record(unix_seconds: u64, cpu: f32, gpu: Option<(u32, f32)>) -> Record {
        let mut node = [None; NODE_SERIES.len()];
        node[0] = Some(cpu);
        let gpus = gpu.map(|(identity, percent)| {
            let mut values = [None; GPU_SERIES.len()];
            values[0] = Some(percent);
            (identity, values)
        });
        Record { unix_seconds, node, gpus: gpus.into_iter().collect() }
    }

    #[test]
    fn steps_hold_two_samples_and_at_most_720_values() {
        for (range, interval, step, count) in [
            (Range::Hour, 1, 5, 720),
            (Range::Hour, 5, 10, 360),
            (Range::Hour, 3600, 7200, 1),
            (Range::Day, 1, 120, 720),
            (Range::Day, 3600, 7200, 12),
        ] {
            let steps = Steps::new(range, Duration::from_secs(interval), NOW);
            assert_eq!((steps.step, steps.means.len()), (step, count), "{range:?} {interval}");
        }
    }

    #[test]
    fn values_are_means_of_the_steps_up_to_now() {
        let mut steps = Steps::new(Range::Hour, Duration::from_secs(1), NOW);
        for (time, cpu) in [(NOW, 10.0), (NOW - 1, 21.0), (NOW - 10, 33.333), (NOW - 3_590, 4.0)] {
            steps.add(&record(time, cpu, Some((7, 50.0))));
        }
        for time in [NOW + 5, NOW - 3_605, 0, u64::MAX] {
            steps.add(&record(time, 99.0, None));
        }
        let history = steps.history(&[(0, 7), (1, 8)]);
        let values = &history.series[0].values;
        assert_eq!(history.start + 719 * 5, NOW - NOW % 5);
        assert_eq!((values[719], values[718], values[717]), (Some(15.5), None, Some(33.33)));
        assert_eq!(values.iter().flatten().count(), 3);
        assert_eq!(history.series.len(), 17);
        let of_gpu = |at: usize| (history.series[at].gpu, history.series[at].values[719]);
        assert_eq!(
            [of_gpu(7), of_gpu(8), of_gpu(12)],
            [(Some(0), Some(50.0)), (Some(0), None), (Some(1), None)]
        );
    }

    #[test]
    fn rounds_to_four_digits() {
        let cases = [(0.004_f32, 0.0), (12.345, 12.35), (1234.5, 1235.0), (98_765.0, 98_770.0)];
        for (value, expected) in cases {
            assert_eq!(rounded(value), expected, "{value}");
        }
        assert_eq!(rounded(3_123_456_789.0), 3_123_000_000.0);
    }

    #[test]
    fn parses_range() {
        assert_eq!(Range::parse(""), Ok(Range::Hour));
        assert_eq!(Range::parse("token=a&range=24h"), Ok(Range::Day));
        for bad in ["range=2h", "range=", "range=24"] {
            assert_eq!(
                Range::parse(bad),
                Err("\"range\" is neither 1h nor 24h".to_owned()),
                "{bad}"
            );
        }
    }
}
