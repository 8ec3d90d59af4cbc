//! XIDs and clock events of the last five minutes, the default window of dcgm-exporter. The time is a parameter.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::model::gpu::{CLOCK_EVENT_REASONS, Gpu};
use crate::model::nvidia::{RecentClockEvent, RecentEvents, RecentXid};

const WINDOW: Duration = Duration::from_secs(300);
/// Samples and different errors kept per GPU. With the shortest interval, 300 samples are in the window.
const MAX_ENTRIES: usize = 1024;

#[derive(Default)]
pub(super) struct EventWindow {
    /// By PCI address, which stays the same while a GPU is lost.
    gpus: BTreeMap<String, GpuEvents>,
}

#[derive(Default)]
struct GpuEvents {
    /// Errors since the agent started, by code.
    totals: BTreeMap<u64, u64>,
    /// Code and number of errors.
    xids: VecDeque<(Instant, RecentXid)>,
    /// Bit mask of [`CLOCK_EVENT_REASONS`] of each sample that has reasons.
    clock_reasons: VecDeque<(Instant, u16)>,
}

impl EventWindow {
    /// Adds what is new at `now`, and sets [`Gpu::last_5_minutes`].
    pub(super) fn update(&mut self, gpus: &mut [Gpu], now: Instant) {
        for gpu in gpus {
            let key = gpu.pci_address.clone().unwrap_or_else(|| gpu.index.to_string());
            let events = self.gpus.entry(key).or_default();
            events.add(gpu, now);
            gpu.last_5_minutes = Some(events.recent());
        }
    }
}

impl GpuEvents {
    fn add(&mut self, gpu: &Gpu, now: Instant) {
        for xid in &gpu.xids {
            let total = self.totals.entry(xid.code).or_default();
            let new = xid.count.saturating_sub(*total);
            *total = xid.count;
            if new > 0 {
                push(&mut self.xids, now, RecentXid { code: xid.code, count: new });
            }
        }
        if let Some(reasons) = &gpu.values.clock_event_reasons {
            let bits = (0..).zip(CLOCK_EVENT_REASONS);
            let set = bits.filter(|(_, name)| reasons.iter().any(|reason| reason == name));
            let mask = set.fold(0, |mask, (bit, _): (u32, _)| mask | 1u16 << bit);
            push(&mut self.clock_reasons, now, mask);
        }
        drop_old(&mut self.xids, now);
        drop_old(&mut self.clock_reasons, now);
    }

    fn recent(&self) -> RecentEvents {
        let mut xids: BTreeMap<u64, u64> = BTreeMap::new();
        for (_, xid) in &self.xids {
            let count = xids.entry(xid.code).or_default();
            *count = count.saturating_add(xid.count);
        }
        let xids = xids.into_iter().map(|(code, count)| RecentXid { code, count });
        RecentEvents {
            xids: xids.collect(),
            clock_events: (!self.clock_reasons.is_empty()).then(|| self.clock_events()),
        }
    }

    fn clock_events(&self) -> Vec<RecentClockEvent> {
        let each = (0..).zip(CLOCK_EVENT_REASONS).map(|(bit, name): (u32, _)| {
            let samples = self.clock_reasons.iter().filter(|(_, mask)| mask >> bit & 1 == 1);
            RecentClockEvent { reason: name.to_owned(), samples: samples.count() as u64 }
        });
        each.filter(|event| event.samples > 0).collect()
    }
}

fn push<T>(entries: &mut VecDeque<(Instant, T)>, now: Instant, entry: T) {
    if entries.len() == MAX_ENTRIES {
        entries.pop_front();
    }
    entries.push_back((now, entry));
}

fn drop_old<T>(entries: &mut VecDeque<(Instant, T)>, now: Instant) {
    let is_old = |at: Instant| now.saturating_duration_since(at) > WINDOW;
    while entries.front().is_some_and(|(at, _)| is_old(*at)) {
        entries.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::{Values, Xid};

    fn gpu(xids: &[(u64, u64)], reasons: &[&str]) -> Gpu {
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        let xid =
            |(code, count): &(u64, u64)| Xid { code: *code, count: *count, last_unix_seconds: 1 };
        Gpu {
            pci_address: Some("0000:41:00.0".to_owned()),
            xids: xids.iter().map(xid).collect(),
            values: Values { clock_event_reasons: Some(reasons), ..Values::default() },
            ..Gpu::default()
        }
    }

    fn update(window: &mut EventWindow, gpu: Gpu, now: Instant) -> RecentEvents {
        let mut gpus = [gpu];
        window.update(&mut gpus, now);
        gpus[0].last_5_minutes.clone().unwrap()
    }

    fn xid(code: u64, count: u64) -> RecentXid {
        RecentXid { code, count }
    }

    #[test]
    fn counts_events_of_the_last_five_minutes_only() {
        let (mut window, start) = (EventWindow::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let capped = ["sw_power_cap", "bit_12"];
        let recent = update(&mut window, gpu(&[(31, 2)], &capped), start);
        assert_eq!(recent.xids, [xid(31, 2)]);
        let recent = update(&mut window, gpu(&[(31, 3), (79, 1)], &capped), after(200));
        assert_eq!(recent.xids, [xid(31, 3), xid(79, 1)]);
        let events = recent.clock_events.unwrap();
        assert_eq!(
            (events.len(), events[0].reason.as_str(), events[0].samples),
            (1, "sw_power_cap", 2)
        );
        let recent = update(&mut window, gpu(&[(31, 3), (79, 1)], &[]), after(301));
        assert_eq!(recent.xids, [xid(31, 1), xid(79, 1)]);
        assert_eq!(recent.clock_events.unwrap()[0].samples, 1);
        let recent = update(&mut window, gpu(&[(31, 3), (79, 1)], &[]), after(600));
        assert_eq!((recent.xids, recent.clock_events), (vec![], Some(vec![])));
    }

    #[test]
    fn gpu_without_reasons_has_no_clock_events() {
        let (mut window, now) = (EventWindow::default(), Instant::now());
        let without = Gpu { values: Values::default(), ..gpu(&[(79, 1)], &[]) };
        let recent = update(&mut window, without, now);
        assert_eq!((recent.xids, recent.clock_events), (vec![xid(79, 1)], None));
    }
}
