//! How reading each source went: what failed is said in the log once, and what is known of it goes with the sample.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::devices::CollectorStatus;
use crate::util::error::Error;

/// The sources of one sampler, in the order in which they were read first.
#[derive(Default)]
pub(super) struct Ledger {
    sources: Vec<CollectorStatus>,
    /// Those that were read in this look.
    read: Vec<bool>,
    failures: BTreeMap<&'static str, String>,
}

impl Ledger {
    /// Notes how a source did that was asked at `since`. One of several files makes a whole source fail.
    pub(super) fn record(
        &mut self,
        name: &'static str,
        success: bool,
        took: Duration,
        unix_seconds: u64,
    ) {
        let at = match self.sources.iter().position(|source| source.name == name) {
            Some(at) => at,
            None => {
                let (duration, last_success_unix_seconds) = (Duration::ZERO, None);
                let success = true;
                self.read.push(false);
                self.sources.push(CollectorStatus {
                    name,
                    success,
                    duration,
                    last_success_unix_seconds,
                });
                self.sources.len() - 1
            }
        };
        let (source, again) = (&mut self.sources[at], self.read[at]);
        source.success = success && (source.success || !again);
        source.duration = if again { source.duration + took } else { took };
        if source.success {
            source.last_success_unix_seconds = Some(unix_seconds);
        }
        self.read[at] = true;
    }

    /// The same of a reading that ends now; logs when a file begins to fail, and when it is well again.
    pub(super) fn note<T>(
        &mut self,
        (source, file): (&'static str, &'static str),
        result: Result<T, Error>,
        since: Instant,
        unix_seconds: u64,
    ) -> Option<T> {
        self.record(source, result.is_ok(), since.elapsed(), unix_seconds);
        match result {
            Ok(value) => {
                if self.failures.remove(file).is_some() {
                    log::info!("{file} can be read again");
                }
                Some(value)
            }
            Err(error) => {
                let message = error.to_string();
                if !self.failures.contains_key(file) {
                    log::warn!("{message}; its values are left out until it can be read");
                    self.failures.insert(file, message);
                }
                None
            }
        }
    }

    /// Those that were read in this look, which ends.
    pub(super) fn end(&mut self) -> Vec<CollectorStatus> {
        let read = self.sources.iter().zip(&self.read).filter(|(_, read)| **read);
        let mut found = Vec::with_capacity(self.sources.len());
        found.extend(read.map(|(source, _)| source.clone()));
        self.read.fill(false);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_well_when_all_its_files_are_and_remembers_when_it_was() {
        let mut ledger = Ledger::default();
        let second = Duration::from_secs(1);
        let told = |ledger: &mut Ledger| {
            let sources = ledger.end();
            let tell = |source: &CollectorStatus| {
                (
                    source.name,
                    source.success,
                    source.duration.as_secs(),
                    source.last_success_unix_seconds,
                )
            };
            sources.iter().map(tell).collect::<Vec<_>>()
        };
        ledger.record("pressure", true, second, 100);
        ledger.record("pressure", true, second, 100);
        ledger.record("stat", false, second, 100);
        assert_eq!(told(&mut ledger), [("pressure", true, 2, Some(100)), ("stat", false, 1, None)]);
        ledger.record("pressure", false, second, 105);
        ledger.record("pressure", true, second, 105);
        assert_eq!(told(&mut ledger), [("pressure", false, 2, Some(100))], "stat was not read");
        ledger.record("pressure", true, second, 110);
        assert_eq!(told(&mut ledger), [("pressure", true, 1, Some(110))]);
    }
}
