//! Means of the values of several points of time.

use crate::history::series::record::{GpuValues, NodeValues, Record};

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f32,
    count: u16,
}

impl Mean {
    fn add(&mut self, value: Option<f32>) {
        if let Some(value) = value
            && self.count < u16::MAX
        {
            self.sum += value;
            self.count += 1;
        }
    }

    fn get(self) -> Option<f32> {
        (self.count > 0).then(|| self.sum / f32::from(self.count))
    }
}

/// The means of `N` series.
#[derive(Debug, Clone, Copy)]
struct Means<const N: usize>([Mean; N]);

impl<const N: usize> Means<N> {
    fn new() -> Self {
        Self([Mean::default(); N])
    }

    fn add(&mut self, values: &[Option<f32>; N]) {
        self.0.iter_mut().zip(values).for_each(|(mean, value)| mean.add(*value));
    }

    fn get(&self) -> [Option<f32>; N] {
        self.0.map(Mean::get)
    }
}

/// The mean of records, with every GPU that one of them has.
#[derive(Debug)]
pub struct RecordMean {
    node: Means<{ NODE }>,
    gpus: Vec<(u32, Means<{ GPU }>)>,
}

const NODE: usize = size_of::<NodeValues>() / size_of::<Option<f32>>();
const GPU: usize = size_of::<GpuValues>() / size_of::<Option<f32>>();

impl Default for RecordMean {
    fn default() -> Self {
        Self { node: Means::new(), gpus: Vec::new() }
    }
}

impl RecordMean {
    pub fn add(&mut self, record: &Record) {
        self.node.add(&record.node);
        for (identity, values) in &record.gpus {
            let known = self.gpus.iter().position(|(of, _)| of == identity);
            let at = known.unwrap_or_else(|| {
                self.gpus.push((*identity, Means::new()));
                self.gpus.len() - 1
            });
            self.gpus[at].1.add(values);
        }
    }

    pub fn node(&self) -> NodeValues {
        self.node.get()
    }

    /// `None` if no record had the GPU.
    pub fn gpu(&self, identity: u32) -> Option<GpuValues> {
        let (_, means) = self.gpus.iter().find(|(of, _)| *of == identity)?;
        Some(means.get())
    }

    pub fn record(&self, unix_seconds: u64) -> Record {
        let gpus = self.gpus.iter().map(|(identity, means)| (*identity, means.get())).collect();
        Record { unix_seconds, node: self.node(), gpus }
    }
}
