use std::sync::mpsc::sync_channel;

use super::*;
use crate::collector::file_reader::FileReader;
use crate::collector::host_files::HostFiles;
use crate::collector::node::{Collector, Pace};
use crate::config::Roots;
use crate::model::Temperature;
use crate::model::node::Measurement;
use crate::model::node::conntrack::Conntrack;
use crate::procfs::mountinfo::parse;

/// Never reached.
const LONG: Duration = Duration::from_secs(60);

/// How long a test waits for results that arrive at once or never.
const SHORT: Duration = Duration::from_millis(50);

const SIZE: FsSize = FsSize {
    total_bytes: 9,
    free_bytes: 5,
    available_bytes: 4,
    files: 3,
    files_free: 2,
    read_only: false,
};

type MountPoints = Arc<[Arc<MountPoint>]>;

fn mount_points(mountinfo: &str) -> MountPoints {
    let mounts = parse(mountinfo.as_bytes()).unwrap().into_iter();
    mounts.map(|mount| Arc::new(MountPoint::new(Path::new("/"), mount))).collect()
}

fn local_disk() -> MountPoints {
    mount_points("1 0 8:1 / / rw - ext4 /dev/a rw\n")
}

fn nfs_mounts(points: &[&str]) -> MountPoints {
    let line = |(at, point): (usize, &&str)| format!("1 0 0:{at} / {point} rw - nfs4 nas:/ rw\n");
    mount_points(&points.iter().enumerate().map(line).collect::<String>())
}

fn statvfs_worker(
    statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static,
) -> BlockingWorker {
    BlockingWorker::new(statvfs, Devices::default, Vec::new())
}

/// A worker whose sysfs has one temperature, returned by `celsius`.
fn sysfs_worker(mut celsius: impl FnMut() -> f64 + Send + 'static) -> BlockingWorker {
    let read = move || {
        let zone = Temperature { zone: 0, sensor: String::new(), celsius: celsius() };
        Devices { temperatures: vec![zone], ..Devices::default() }
    };
    BlockingWorker::new(|_| Ok(SIZE), read, Vec::new())
}

fn run_round(worker: &mut BlockingWorker, points: &MountPoints) -> Vec<FileSystem> {
    worker.start_round(points, None);
    worker.file_systems(SHORT).0
}

fn celsius(worker: &BlockingWorker, timeout: Duration) -> Option<f64> {
    worker.devices(timeout).map(|devices| devices.temperatures[0].celsius)
}

fn wait_until(worker: &BlockingWorker, condition: impl Fn(&State) -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition(&lock(&worker.shared.state)) {
        assert!(Instant::now() < deadline, "condition not met in time");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_idle(state: &State) -> bool {
    state.pending.is_empty() && state.in_flight.is_none()
}

/// Makes the job in flight old enough to count as stuck.
fn expire_job_in_flight(worker: &BlockingWorker) {
    if let Some((_, since)) = &mut lock(&worker.shared.state).in_flight {
        *since -= STUCK_TIMEOUT;
    }
}

#[test]
fn omits_stuck_mount_until_it_recovers() {
    let points = mount_points(
        "1 0 8:1 / / rw - ext4 /dev/a rw\n\
         2 1 0:9 / /nfs rw - nfs4 nas:/ rw\n\
         3 1 8:2 / /z rw - xfs /dev/b rw\n",
    );
    let (release, blocked) = sync_channel::<()>(0);
    let blocked = Mutex::new(blocked);
    let statvfs = move |path: &Path| {
        if path == Path::new("/nfs") {
            let _ = lock(&blocked).recv();
        }
        Ok(SIZE)
    };
    let mut worker = statvfs_worker(statvfs);
    let mut run_until = |expected: &[&str]| {
        let deadline = Instant::now() + LONG;
        loop {
            let found = run_round(&mut worker, &points);
            let found: Vec<_> = found.iter().map(|each| &*each.mount_point).collect();
            if found == expected {
                break;
            }
            assert!(Instant::now() < deadline, "{found:?}, expected {expected:?}");
        }
    };
    run_until(&["/", "/z"]);
    release.send(()).unwrap();
    drop(release);
    run_until(&["/", "/nfs", "/z"]);
}

#[test]
fn failed_mount_has_a_reason() {
    let points = nfs_mounts(&["/denied", "/file", "/fine"]);
    let mut worker = statvfs_worker(|path| match path.to_str().unwrap() {
        "/denied" => Err(io::Error::from_raw_os_error(libc::EACCES)),
        "/file" => Err(io::ErrorKind::NotADirectory.into()),
        _ => Ok(SIZE),
    });
    worker.start_round(&points, None);
    let (each, failed) = worker.file_systems(LONG);
    assert_eq!(each.iter().map(|fs| &*fs.mount_point).collect::<Vec<_>>(), ["/fine"]);
    let failed: Vec<_> = failed.iter().map(|fs| (&*fs.mount_point, &*fs.reason)).collect();
    assert_eq!(failed, [("/denied", "permission denied")], "a file is no filesystem");
}

#[test]
fn stuck_mount_has_failed() {
    let mut worker = statvfs_worker(|_| {
        loop {
            std::thread::park();
        }
    });
    let points = nfs_mounts(&["/nfs"]);
    run_round(&mut worker, &points);
    let (each, failed) = worker.file_systems(SHORT);
    assert!(each.is_empty() && failed.is_empty(), "it may be slow");
    wait_until(&worker, |state| matches!(state.in_flight, Some((Job::Statvfs(_), _))));
    expire_job_in_flight(&worker);
    worker.start_round(&points, None);
    let (each, failed) = worker.file_systems(SHORT);
    assert!(each.is_empty());
    let failed: Vec<_> = failed.iter().map(|fs| (&*fs.mount_point, &*fs.reason)).collect();
    assert_eq!(failed, [("/nfs", "mountpoint timeout")]);
}

#[test]
fn late_result_is_part_of_next_round() {
    let points = nfs_mounts(&["/a", "/slow", "/z"]);
    let mut worker = statvfs_worker(|path| {
        if path == Path::new("/slow") {
            std::thread::sleep(SHORT * 2);
        }
        Ok(SIZE)
    });
    run_round(&mut worker, &points);
    wait_until(&worker, is_idle);
    assert_eq!(run_round(&mut worker, &points).len(), 3);
}

#[test]
fn queries_local_disks_when_too_many_mounts_are_stuck() {
    let mut worker = statvfs_worker(|path| {
        while path != Path::new("/") {
            std::thread::park();
        }
        Ok(SIZE)
    });
    let names: Vec<String> = (0..=MAX_STUCK_MOUNTS).map(|at| format!("/{at}")).collect();
    let network = nfs_mounts(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let points: MountPoints = network.iter().chain(local_disk().iter()).cloned().collect();
    for stuck in 0..=MAX_STUCK_MOUNTS + 1 {
        let since = Instant::now();
        run_round(&mut worker, &points);
        wait_until(&worker, |state| match &state.in_flight {
            Some((Job::Statvfs(point), _)) => point.mount_point() != b"/",
            Some((Job::Sysfs | Job::Collector(_), _)) => false,
            None => stuck >= MAX_STUCK_MOUNTS && state.pending.is_empty(),
        });
        let state = lock(&worker.shared.state);
        let found: Vec<_> = state
            .file_systems
            .iter()
            .map(|(point, (at, _))| (point.mount_point(), *at >= since))
            .collect();
        assert_eq!(found, [(&b"/"[..], true)], "with {stuck} stuck mounts");
        let round = state.devices.as_ref().map(|result| result.round);
        assert_eq!(round, Some(state.round), "sysfs does not wait for stuck mounts");
        drop(state);
        expire_job_in_flight(&worker);
    }
    assert_eq!(worker.stuck_mount_points().len(), MAX_STUCK_MOUNTS);
}

#[test]
fn keeps_last_result_up_to_timeout_past_interval() {
    let (release, blocked) = sync_channel::<f64>(2);
    let mut worker = sysfs_worker(move || blocked.recv().unwrap_or_default());
    let set_time = |worker: &BlockingWorker, at: Instant| {
        if let Some(result) = &mut lock(&worker.shared.state).devices {
            result.at = at;
        }
    };
    worker.start_round(&Arc::default(), None);
    assert_eq!(celsius(&worker, Duration::ZERO), None, "blocked");
    release.send(1.0).unwrap();
    assert_eq!(celsius(&worker, LONG), Some(1.0));
    for _ in 0..3 {
        worker.start_round(&Arc::default(), None);
        set_time(&worker, Instant::now());
        assert_eq!(celsius(&worker, Duration::ZERO), Some(1.0), "result of an earlier round");
    }
    set_time(&worker, Instant::now() - STUCK_TIMEOUT * 2);
    assert_eq!(celsius(&worker, Duration::ZERO), None, "too old");
    lock(&worker.shared.state).interval = Some(STUCK_TIMEOUT * 2);
    assert_eq!(celsius(&worker, Duration::ZERO), Some(1.0), "within a longer interval");
    release.send(2.0).unwrap();
    wait_until(&worker, is_idle);
    assert_eq!(celsius(&worker, Duration::ZERO), Some(2.0));
    release.send(3.0).unwrap();
    worker.start_round(&Arc::default(), None);
    assert_eq!(celsius(&worker, LONG), Some(3.0));
}

#[test]
fn stuck_sysfs_does_not_block_disks() {
    let (release, blocked) = sync_channel::<f64>(0);
    let mut worker = sysfs_worker(move || blocked.recv().unwrap_or(3.0));
    let points = local_disk();
    assert_eq!(run_round(&mut worker, &points).len(), 1);
    wait_until(&worker, |state| matches!(state.in_flight, Some((Job::Sysfs, _))));
    expire_job_in_flight(&worker);
    for _ in 0..3 {
        assert_eq!(run_round(&mut worker, &points).len(), 1);
        assert_eq!(celsius(&worker, LONG), None, "does not wait for a stuck job");
    }
    assert_eq!(worker.stuck_mount_points().len(), 0);
    release.send(2.0).unwrap();
    drop(release);
    wait_until(&worker, |state| state.stuck.is_empty());
    assert_eq!(celsius(&worker, Duration::ZERO), Some(2.0), "uses the result of a stuck job");
    run_round(&mut worker, &points);
    assert_eq!(celsius(&worker, LONG), Some(3.0));
}

#[test]
fn stuck_collector_does_not_block_the_others() {
    let measured = |entries| {
        let conntrack = Conntrack { entries, limit: None, stats: None };
        Some(Measurement::Conntrack(conntrack))
    };
    let (release, blocked) = sync_channel::<u64>(0);
    let stuck = move |_: &mut HostFiles| measured(blocked.recv().unwrap_or(2));
    let scheduled = |name, collector: Box<dyn Collector>| {
        let roots = Roots { proc: "/none".into(), sys: "/none".into(), root: "/none".into() };
        let host = HostFiles::new(roots, FileReader::default());
        ScheduledCollector::new(name, Pace::EverySample, collector, host)
    };
    let healthy = Box::new(move |_: &mut HostFiles| measured(1));
    let collectors = vec![scheduled("stuck", Box::new(stuck)), scheduled("healthy", healthy)];
    let mut worker = BlockingWorker::new(|_| Ok(SIZE), Devices::default, collectors);
    let results = |worker: &BlockingWorker, timeout| {
        let text = |result: CollectorResult| {
            let failure = result.failure.as_deref().unwrap_or("read").to_owned();
            (result.name, failure, result.measurement.is_some())
        };
        worker.collector_results(timeout, false).into_iter().map(text).collect::<Vec<_>>()
    };
    worker.start_round(&Arc::default(), None);
    wait_until(&worker, |state| matches!(state.in_flight, Some((Job::Collector(0), _))));
    assert_eq!(results(&worker, Duration::ZERO), []);
    expire_job_in_flight(&worker);
    let not_responding = ("stuck", "not responding".to_owned(), false);
    let healthy = ("healthy", "read".to_owned(), true);
    for _ in 0..2 {
        worker.start_round(&Arc::default(), None);
        assert_eq!(results(&worker, LONG), [not_responding.clone(), healthy.clone()]);
    }
    release.send(1).unwrap();
    drop(release);
    wait_until(&worker, |state| state.stuck.is_empty());
    worker.start_round(&Arc::default(), None);
    assert_eq!(results(&worker, LONG), [("stuck", "read".to_owned(), true), healthy]);
}

#[test]
fn queries_nothing_between_rounds() {
    let mut calls = 0.0;
    let mut worker = sysfs_worker(move || {
        calls += 1.0;
        calls
    });
    for round in [1.0, 2.0] {
        worker.start_round(&Arc::default(), Some(SHORT / 10));
        assert_eq!(celsius(&worker, LONG), Some(round));
        // An automounter would mount again what was unmounted meanwhile.
        std::thread::sleep(SHORT);
        assert_eq!(lock(&worker.shared.state).round, round as u64);
    }
}

#[test]
fn forgets_unmounted_file_systems() {
    let mut worker = statvfs_worker(|_| Ok(SIZE));
    assert_eq!(run_round(&mut worker, &local_disk()).len(), 1);
    assert_eq!(run_round(&mut worker, &Arc::default()), []);
    assert!(lock(&worker.shared.state).file_systems.is_empty());
}

#[test]
fn thread_exits_when_handle_is_dropped() {
    let held = Arc::new(());
    let watched = Arc::downgrade(&held);
    let mut worker = sysfs_worker(move || Arc::strong_count(&held) as f64);
    worker.start_round(&Arc::default(), None);
    assert!(worker.devices(LONG).is_some());
    drop(worker);
    let deadline = Instant::now() + LONG;
    while watched.upgrade().is_some() {
        assert!(Instant::now() < deadline, "the thread still runs");
        std::thread::yield_now();
    }
}
