use std::fs;
use std::path::PathBuf;

use super::*;
use crate::model::gpu::{Gpu, Gpus, Values};
use crate::model::{Cpu, Snapshot};
use crate::util::state_io::tests::Dir;

fn snapshot(unix_seconds: u64, cpu: f64) -> Snapshot {
    Snapshot {
        unix_seconds,
        cpu: Some(Cpu { percent: cpu, each_percent: Vec::new() }),
        ..Snapshot::default()
    }
}

fn path(dir: &Dir) -> PathBuf {
    dir.path.join(NAME)
}

/// Known values of the first series: the CPU.
fn cpu(history: &SeriesHistory, range: Range) -> Vec<f64> {
    let found = history.read(range, Duration::from_secs(1), &Snapshot::default()).unwrap();
    let json = serde_json::to_value(&found).unwrap();
    let values = json["series"][0]["values"].as_array().unwrap();
    values.iter().filter_map(serde_json::Value::as_f64).collect()
}

#[test]
fn samples_and_means_survive_a_restart() {
    let dir = Dir::new("series");
    let now = unix_seconds();
    let history = SeriesHistory::open(&dir.state);
    for back in (0..300).rev() {
        history.record(&snapshot(now - back, 40.0));
    }
    let count = cpu(&history, Range::Hour).len();
    assert!((60..=61).contains(&count), "with those that are not yet written: {count}");
    history.stop();
    dir.flush();
    let reopened = SeriesHistory::open(&dir.state);
    assert!((60..=61).contains(&cpu(&reopened, Range::Hour).len()));
    assert!(cpu(&reopened, Range::Hour).iter().all(|value| *value == 40.0));
    let day = cpu(&reopened, Range::Day);
    assert!((3..=4).contains(&day.len()) && day.iter().all(|value| *value == 40.0), "{day:?}");
    assert!(fs::metadata(path(&dir)).unwrap().len() < 2_000_000);
}

#[test]
fn killed_agent_loses_a_minute_at_most() {
    let dir = Dir::new("series-killed");
    let now = unix_seconds() / 60 * 60;
    let history = SeriesHistory::open(&dir.state);
    for time in now - 120..now + 30 {
        history.record(&snapshot(time, 40.0));
        dir.flush();
    }
    // Without a stop.
    let reopened = SeriesHistory::open(&dir.state);
    assert_eq!(cpu(&reopened, Range::Hour).len(), 24, "two minutes in steps of 5 s");
}

#[test]
fn damage_anywhere_loses_only_what_it_hits() {
    let dir = Dir::new("series-damaged");
    let now = unix_seconds();
    let history = SeriesHistory::open(&dir.state);
    for back in (0..3600).rev() {
        history.record(&snapshot(now - back, 40.0));
        // Otherwise the disk seems to hang, and the oldest records make room.
        if back % 60 == 0 {
            dir.flush();
        }
    }
    history.stop();
    dir.flush();
    let whole = fs::read(path(&dir)).unwrap();
    let count = |bytes: &[u8]| {
        fs::write(path(&dir), bytes).unwrap();
        let history = SeriesHistory::open(&dir.state);
        cpu(&history, Range::Day);
        cpu(&history, Range::Hour).len()
    };
    for at in (19..whole.len()).step_by(77_777) {
        let mut damaged = whole.clone();
        damaged[at..].iter_mut().take(1000).for_each(|byte| *byte = 0xa5);
        // A busy machine takes a while, in which the oldest grow too old.
        assert!(count(&damaged) >= 700, "at {at}");
        count(&whole[..at]);
        assert_eq!(fs::metadata(path(&dir)).unwrap().len(), whole.len() as u64, "filled up");
    }
    assert!(count(&whole[..whole.len() / 3]) > 100, "the rest of a file that was cut off");
    assert!(!dir.path.join("history.damaged").exists());
}

#[test]
fn foreign_file_is_kept_and_replaced() {
    let dir = Dir::new("series-foreign");
    for foreign in [&b"mine"[..], b"", b"hm-agent history 2\n12345"] {
        fs::write(path(&dir), foreign).unwrap();
        let history = SeriesHistory::open(&dir.state);
        history.record(&snapshot(unix_seconds(), 1.0));
        history.stop();
        dir.flush();
        assert_eq!(fs::read(dir.path.join("history.damaged")).unwrap(), foreign);
        assert_eq!(cpu(&SeriesHistory::open(&dir.state), Range::Hour), [1.0]);
    }
}

#[test]
fn symbolic_link_and_directory_are_not_followed() {
    let dir = Dir::new("series-link");
    let target = dir.path.join("target");
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, path(&dir)).unwrap();
    let history = SeriesHistory::open(&dir.state);
    history.record(&snapshot(unix_seconds(), 1.0));
    history.stop();
    dir.flush();
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(cpu(&history, Range::Hour), [1.0], "in memory");
}

#[test]
fn second_agent_on_a_directory_keeps_its_own() {
    let dir = Dir::new("series-second");
    let first = SeriesHistory::open(&dir.state);
    first.record(&snapshot(unix_seconds(), 1.0));
    let other = StateIo::start(&dir.path).unwrap();
    let second = SeriesHistory::open(&other);
    second.record(&snapshot(unix_seconds(), 2.0));
    second.stop();
    first.stop();
    dir.flush();
    assert_eq!((cpu(&first, Range::Hour), cpu(&second, Range::Hour)), (vec![1.0], vec![2.0]));
}

#[test]
fn times_after_a_clock_was_set_back_replace_the_later_ones() {
    let dir = Dir::new("series-clock");
    let now = unix_seconds();
    let history = SeriesHistory::open(&dir.state);
    history.record(&snapshot(now + 600, 90.0));
    history.record(&snapshot(now, 10.0));
    assert_eq!(cpu(&history, Range::Hour), [10.0]);
    history.record(&snapshot(now + 600, 20.0));
    history.stop();
    dir.flush();
    assert_eq!(cpu(&history, Range::Hour), [10.0]);
}

#[test]
fn gpu_keeps_its_series_when_its_index_changes() {
    let gpu = |index, uuid: &str, watts| Gpu {
        index,
        uuid: Some(uuid.to_owned()),
        values: Values { power_watts: Some(watts), ..Values::default() },
        ..Gpu::default()
    };
    let with = |time, each| Snapshot {
        gpus: Arc::new(Gpus { each, ..Gpus::default() }),
        ..snapshot(time, 1.0)
    };
    let dir = Dir::new("series-gpus");
    let now = unix_seconds();
    let history = SeriesHistory::open(&dir.state);
    history.record(&with(now - 20, vec![gpu(0, "a", 100.0), gpu(1, "b", 200.0)]));
    let present = with(now, vec![gpu(0, "b", 300.0)]);
    history.record(&present);
    let found = history.read(Range::Hour, Duration::from_secs(1), &present).unwrap();
    let json = serde_json::to_value(&found).unwrap();
    let series = json["series"].as_array().unwrap();
    let power = series.iter().filter(|series| series["name"] == "gpu_power_watts");
    let power: Vec<_> = power.collect();
    assert_eq!((power.len(), power[0]["gpu"].as_u64()), (1, Some(0)));
    let values: Vec<_> = power[0]["values"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(serde_json::Value::as_f64)
        .collect();
    assert_eq!(values, [200.0, 300.0]);
}
