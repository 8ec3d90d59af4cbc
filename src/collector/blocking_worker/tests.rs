use super::*;
use crate::model::Temperature;
use crate::procfs::mountinfo::parse;
use std::sync::mpsc::sync_channel;

const LONG: Duration = Duration::from_secs(60);

const SIZE: FsSize = FsSize {
    total_bytes: 9,
    free_bytes: 5,
    available_bytes: 4,
    files: 3,
    files_free: 2,
    read_only: false,
};

fn places(mountinfo: &[u8]) -> Arc<Places> {
    let place = |mount| Arc::new(Place::new(Path::new("/"), mount));
    let all = parse(mountinfo).unwrap().into_iter().map(place).collect();
    Arc::new(Places::new(all, None))
}

/// A list of mounts that does not change: nothing is ever told of this file.
fn unchanging() -> std::fs::File {
    std::fs::File::open("/dev/null").unwrap()
}

fn mounts(points: &[&str]) -> Arc<Places> {
    let line = |(at, point): (usize, &&str)| format!("1 0 0:{at} / {point} rw - nfs4 nas:/ rw\n");
    let text: String = points.iter().enumerate().map(line).collect();
    places(text.as_bytes())
}

fn of_mounts(
    statvfs: impl Fn(&Path) -> io::Result<FsSize> + Send + Sync + 'static,
) -> BlockingWorker {
    BlockingWorker::new(statvfs, Devices::default)
}

/// One that reads what `next` says, as a temperature.
fn of_devices(mut next: impl FnMut() -> f64 + Send + 'static) -> BlockingWorker {
    let read = move || {
        let one = Temperature { zone: 0, sensor: String::new(), celsius: next() };
        Devices { temperatures: vec![one], ..Devices::default() }
    };
    BlockingWorker::new(|_| Ok(SIZE), read)
}

fn ask(aside: &mut BlockingWorker, places: &Arc<Places>) -> Vec<FileSystem> {
    aside.ask(places, None);
    aside.file_systems()
}

fn celsius(aside: &BlockingWorker, patience: Duration) -> Option<f64> {
    aside.devices(patience).map(|devices| devices.temperatures[0].celsius)
}

/// Waits until the thread that asks has come so far, on a machine that is busy.
fn wait_until(aside: &BlockingWorker, come_so_far: impl Fn(&State) -> bool) {
    let deadline = Instant::now() + LONG;
    while !come_so_far(&lock(&aside.shared.state)) {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(PATIENCE / 50);
    }
}

/// As if three seconds had passed.
fn let_time_pass(aside: &BlockingWorker) {
    if let Some((_, since)) = &mut lock(&aside.shared.state).asking {
        *since -= limits::STATVFS;
    }
}

#[test]
fn a_mount_that_hangs_is_left_out_until_it_answers_and_others_go_on() {
    let mountinfo = b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / /nfs rw - nfs4 nas:/ rw\n3 1 8:2 / /z rw - xfs /dev/b rw\n";
    let mounts = places(mountinfo);
    let (release, hanging) = sync_channel::<()>(0);
    let hanging = Mutex::new(hanging);
    let statvfs = move |path: &Path| {
        if path == Path::new("/nfs") {
            let _ = lock(&hanging).recv();
        }
        Ok(SIZE)
    };
    let mut aside = of_mounts(statvfs);
    let mut ask_until = |wanted: &[&str]| {
        let deadline = Instant::now() + LONG;
        loop {
            let found = ask(&mut aside, &mounts);
            let points: Vec<_> = found.iter().map(|fs| &*fs.mount_point).collect();
            if points == wanted {
                break;
            }
            assert!(Instant::now() < deadline, "{points:?}, wanted {wanted:?}");
        }
    };
    ask_until(&["/", "/z"]);
    release.send(()).unwrap();
    drop(release);
    ask_until(&["/", "/nfs", "/z"]);
}

#[test]
fn what_answers_after_the_sample_is_in_the_next_one() {
    let points = ["/a", "/slow", "/z"];
    let mut aside = of_mounts(|path| {
        if path == Path::new("/slow") {
            std::thread::sleep(PATIENCE * 2);
        }
        Ok(SIZE)
    });
    ask(&mut aside, &mounts(&points));
    wait_until(&aside, |state| !state.is_under_way(|_| true));
    assert_eq!(ask(&mut aside, &mounts(&points)).len(), 3);
}

#[test]
fn beyond_the_cap_of_hanging_mounts_disks_are_still_asked() {
    let mut aside = of_mounts(|path| {
        while path != Path::new("/") {
            std::thread::park();
        }
        Ok(SIZE)
    });
    let names: Vec<String> = (0..=limits::HUNG_MOUNTS).map(|at| format!("/{at}")).collect();
    let remote = mounts(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let root = places(b"1 0 8:1 / / rw - ext4 /dev/a rw\n");
    let all = remote.all.iter().chain(&root.all).cloned().collect();
    let all = Arc::new(Places::new(all, None));
    for hung in 0..=limits::HUNG_MOUNTS + 1 {
        let since = Instant::now();
        ask(&mut aside, &all);
        let asked = |state: &State| match &state.asking {
            Some((Question::Place(place), _)) => place.mount_point() != b"/",
            Some((Question::Devices, _)) => false,
            None => hung >= limits::HUNG_MOUNTS && state.waiting.is_empty(),
        };
        wait_until(&aside, asked);
        let state = lock(&aside.shared.state);
        let found: Vec<_> = state
            .file_systems
            .iter()
            .map(|(place, (at, _))| (place.mount_point(), *at >= since))
            .collect();
        assert_eq!(found, [(&b"/"[..], true)], "{hung} hang");
        let answered = state.devices.as_ref().map(|found| found.round);
        assert_eq!(answered, Some(state.round), "nor does sysfs wait for them");
        drop(state);
        let_time_pass(&aside);
    }
    assert_eq!(aside.hung_mounts(), limits::HUNG_MOUNTS);
}

#[test]
fn who_is_late_is_shown_as_it_was_for_as_long_as_it_may_take() {
    let (release, hanging) = sync_channel::<f64>(2);
    let mut aside = of_devices(move || hanging.recv().unwrap_or_default());
    let answered = |aside: &BlockingWorker, at: Instant| {
        if let Some(found) = &mut lock(&aside.shared.state).devices {
            found.at = at;
        }
    };
    aside.ask(&Arc::default(), None);
    assert_eq!(celsius(&aside, Duration::ZERO), None, "it hangs");
    release.send(1.0).unwrap();
    assert_eq!(celsius(&aside, LONG), Some(1.0));
    for _ in 0..3 {
        aside.ask(&Arc::default(), None);
        answered(&aside, Instant::now());
        assert_eq!(celsius(&aside, Duration::ZERO), Some(1.0), "the one before");
    }
    answered(&aside, Instant::now() - limits::STATVFS * 2);
    assert_eq!(celsius(&aside, Duration::ZERO), None, "that is too old");
    lock(&aside.shared.state).interval = Some(limits::STATVFS * 2);
    assert_eq!(celsius(&aside, Duration::ZERO), Some(1.0), "not where looks are rare");
    release.send(2.0).unwrap();
    wait_until(&aside, |state| !state.is_under_way(|_| true));
    assert_eq!(celsius(&aside, Duration::ZERO), Some(2.0));
    release.send(3.0).unwrap();
    aside.ask(&Arc::default(), None);
    assert_eq!(celsius(&aside, LONG), Some(3.0));
}

#[test]
fn sysfs_that_hangs_is_left_behind_until_it_answers_and_disks_go_on() {
    let (release, hanging) = sync_channel::<f64>(0);
    let mut aside = of_devices(move || hanging.recv().unwrap_or(3.0));
    let root = places(b"1 0 8:1 / / rw - ext4 /dev/a rw\n");
    assert_eq!(ask(&mut aside, &root).len(), 1);
    wait_until(&aside, |state| matches!(state.asking, Some((Question::Devices, _))));
    let_time_pass(&aside);
    for _ in 0..3 {
        assert_eq!(ask(&mut aside, &root).len(), 1);
        assert_eq!(celsius(&aside, LONG), None, "nobody waits for it");
    }
    assert_eq!(aside.hung_mounts(), 0);
    release.send(2.0).unwrap();
    drop(release);
    wait_until(&aside, |state| state.hung.is_empty());
    assert_eq!(celsius(&aside, Duration::ZERO), Some(2.0), "late is better than never");
    ask(&mut aside, &root);
    assert_eq!(celsius(&aside, LONG), Some(3.0));
}

#[test]
fn when_a_look_is_due_all_is_asked_already() {
    let mut asked = 0.0;
    let mut aside = of_devices(move || {
        asked += 1.0;
        asked
    });
    let none = Arc::new(Places::new(Vec::new(), Some(unchanging())));
    let is_ahead = |state: &State| state.ahead_since.is_some() && !state.is_under_way(|_| true);
    aside.ask(&none, Some(PATIENCE));
    assert_eq!(celsius(&aside, LONG), Some(1.0));
    for round in [2, 3] {
        wait_until(&aside, is_ahead);
        // As if that had been this very moment.
        lock(&aside.shared.state).ahead_since = Some(Instant::now() + LONG);
        aside.ask(&none, Some(PATIENCE));
        assert_eq!(celsius(&aside, LONG), Some(f64::from(round)));
    }
    wait_until(&aside, is_ahead);
    // Who comes late wants to know how it is now; in the meantime it is not asked again and again.
    std::thread::sleep(PATIENCE * 3);
    assert_eq!(lock(&aside.shared.state).round, 4);
    aside.ask(&none, None);
    assert_eq!(celsius(&aside, LONG), Some(5.0));
    // Who wants to know of others is told of them.
    lock(&aside.shared.state).ahead_since = Some(Instant::now() + LONG);
    assert_eq!(ask(&mut aside, &places(b"1 0 8:1 / / rw - ext4 /dev/a rw\n")).len(), 1);
}

#[test]
fn what_is_not_mounted_any_more_is_not_asked_ahead_and_forgotten() {
    let root = places(b"1 0 8:1 / / rw - ext4 /dev/a rw\n");
    let mut aside = of_mounts(|_| Ok(SIZE));
    // Nobody says whether it is mounted still: to ask could mount it again.
    aside.ask(&root, Some(PATIENCE));
    assert_eq!(aside.file_systems().len(), 1);
    std::thread::sleep(PATIENCE * 3);
    assert_eq!(lock(&aside.shared.state).round, 1);
    let unchanged = Arc::new(Places::new(root.all.clone(), Some(unchanging())));
    aside.ask(&unchanged, Some(PATIENCE));
    wait_until(&aside, |state| state.round == 3);
    assert_eq!(ask(&mut aside, &Arc::default()), []);
    assert!(lock(&aside.shared.state).file_systems.is_empty());
}

#[test]
fn who_asks_no_more_leaves_no_thread() {
    let held = Arc::new(());
    let watched = Arc::downgrade(&held);
    let mut aside = of_devices(move || Arc::strong_count(&held) as f64);
    aside.ask(&Arc::default(), None);
    assert!(aside.devices(LONG).is_some());
    drop(aside);
    let until = Instant::now() + LONG;
    while watched.upgrade().is_some() {
        assert!(Instant::now() < until, "the thread is still there");
        std::thread::yield_now();
    }
}
