//! Computes from arrival times which updates were due in the window, and how late each was. Times are nanoseconds since the start.

use std::ops::Range;

pub type Nanos = u64;

/// One subscriber.
#[derive(Default)]
pub struct Record {
    /// When the subscription was confirmed.
    pub confirmed: Option<Nanos>,
    /// Arrival of each update, without the one that answers the subscription.
    pub updates: Vec<Nanos>,
    /// The server closed the connection after the confirmation.
    pub closed: bool,
}

/// All subscribers.
#[derive(Default)]
pub struct Figures {
    /// Updates that were due in the window, with the whole interval after them.
    pub expected: usize,
    /// Of these, updates that did not arrive before the next tick (grid) or the end of the window (own timers).
    pub missed: usize,
    /// Second updates of a tick, and updates more than half an interval early.
    pub unexpected: usize,
    /// Updates that arrived in the window, including those at its edges.
    pub received: usize,
    /// Sorted.
    lateness: Vec<i64>,
}

impl Figures {
    /// All subscribers on one grid of ticks. The first update of a tick to any subscriber stands for the tick's time, which only the
    /// server knows.
    pub fn on_grid<'a>(
        records: impl Iterator<Item = &'a Record> + Clone,
        window: &Range<Nanos>,
        interval: Nanos,
    ) -> Self {
        let in_window =
            |record: &'a Record| record.updates.iter().copied().filter(|at| window.contains(at));
        let arrivals = records.clone().flat_map(in_window);
        let phase = phase(arrivals.map(|at| at % interval).collect(), interval);
        let since_grid = |at: Nanos| at + interval - phase;
        let whole = since_grid(window.start).div_ceil(interval)..since_grid(window.end) / interval;
        let mut figures = Self::default();
        for record in records.filter(|record| record.confirmed.is_some()) {
            let mut last = None;
            let mut on_time = 0;
            for at in in_window(record) {
                let tick = since_grid(at) / interval;
                if last.replace(tick) == Some(tick) {
                    figures.unexpected += 1;
                } else if whole.contains(&tick) {
                    on_time += 1;
                }
                figures.received += 1;
                figures.lateness.push(signed(since_grid(at) % interval));
            }
            let due = whole.end.saturating_sub(whole.start) as usize;
            figures.expected += due;
            figures.missed += due - on_time;
        }
        figures.lateness.sort_unstable();
        figures
    }

    /// Each subscriber on its own timer: its k-th update is due k intervals after its confirmation.
    pub fn on_own_timers<'a>(
        records: impl Iterator<Item = &'a Record>,
        window: &Range<Nanos>,
        interval: Nanos,
    ) -> Self {
        let mut figures = Self::default();
        for record in records {
            let Some(confirmed) = record.confirmed else { continue };
            let mut updates = record.updates.iter();
            let mut due = confirmed + interval;
            while due + interval <= window.end {
                let arrival = updates.next().filter(|at| **at < window.end);
                if due >= window.start {
                    figures.expected += 1;
                    match arrival {
                        Some(at) => figures.lateness.push(signed(*at) - signed(due)),
                        None => figures.missed += 1,
                    }
                }
                due += interval;
            }
            figures.received += record.updates.iter().filter(|at| window.contains(at)).count();
        }
        let early = |lateness: &&i64| **lateness < -signed(interval / 2);
        figures.unexpected = figures.lateness.iter().filter(early).count();
        figures.lateness.sort_unstable();
        figures
    }

    /// The lateness that `percent` of the updates did not exceed, in milliseconds.
    pub fn percentile_ms(&self, percent: usize) -> Option<f64> {
        let rank = (self.lateness.len() * percent).div_ceil(100);
        self.lateness.get(rank.checked_sub(1)?).map(|nanos| *nanos as f64 / 1e6)
    }
}

/// Where in the interval the ticks are: after the largest gap between arrivals.
fn phase(mut residues: Vec<Nanos>, interval: Nanos) -> Nanos {
    residues.sort_unstable();
    let Some(last) = residues.last() else { return 0 };
    let before = |at: usize| residues.get(at.wrapping_sub(1)).map_or(*last, |before| *before);
    let gap = |at: &usize| (residues[*at] + interval - before(*at)) % interval;
    (0..residues.len()).max_by_key(gap).map_or(0, |at| residues[at])
}

fn signed(nanos: Nanos) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(confirmed: Nanos, updates: &[Nanos]) -> Record {
        Record { confirmed: Some(confirmed), updates: updates.to_vec(), closed: false }
    }

    fn counts(figures: &Figures) -> [usize; 4] {
        [figures.expected, figures.missed, figures.unexpected, figures.received]
    }

    #[test]
    fn grid_starts_after_largest_gap() {
        for (residues, expected) in [
            (vec![], 0),
            (vec![7], 7),
            (vec![7, 7, 7], 7),
            (vec![12, 10, 15], 10),
            (vec![1, 3, 98, 99], 98),
            (vec![0, 99], 99),
            (vec![50, 12, 50, 50], 12),
        ] {
            assert_eq!(phase(residues, 100), expected);
        }
    }

    #[test]
    fn lateness_counts_from_first_update_of_tick() {
        // Ticks at 195, 295, 395, 495; those of 295 and 395 are in the window with their intervals.
        let records = [
            record(10, &[195, 297, 395, 495]),
            record(12, &[199, 303, 404, 498]),
            Record::default(),
        ];
        let figures = Figures::on_grid(records.iter(), &(250..500), 100);
        assert_eq!(counts(&figures), [4, 0, 0, 6]);
        assert_eq!(figures.lateness, [0, 0, 2, 3, 8, 9]);
        assert_eq!(figures.percentile_ms(50), Some(2e-6));
        assert_eq!(figures.percentile_ms(99), Some(9e-6));
    }

    #[test]
    fn counts_missed_and_repeated_updates_of_tick() {
        let records = [record(10, &[300, 400, 500]), record(10, &[301, 302, 501]), record(10, &[])];
        let figures = Figures::on_grid(records.iter(), &(250..600), 100);
        assert_eq!(counts(&figures), [9, 4, 1, 6]);
    }

    #[test]
    fn own_timers_count_from_confirmation() {
        let records = [
            record(10, &[110, 211, 325, 410]),
            // The second update arrives with the third; the fourth is due too close to the end.
            record(50, &[150, 352, 353]),
            // Receives nothing that was due in the window.
            record(60, &[160]),
        ];
        let figures = Figures::on_own_timers(records.iter(), &(200..500), 100);
        assert_eq!(counts(&figures), [6, 2, 0, 5]);
        assert_eq!(figures.lateness, [1, 3, 15, 102]);
    }

    #[test]
    fn has_no_lateness_without_updates() {
        let figures = Figures::on_own_timers([record(10, &[])].iter(), &(20..300), 100);
        assert_eq!(counts(&figures), [1, 1, 0, 0]);
        assert_eq!(figures.percentile_ms(50), None);
    }
}
