//! Errors that the driver reports (XIDs): none is lost and none is counted twice.

use std::time::SystemTime;

use crate::support::fake_nvml::{Driver, Watched, kill, problems};

#[test]
fn counts_xids_by_code_across_probe_restarts() {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[]);
    assert!(watched.next_update()["gpus"][0]["xids"].is_null());
    let wait_for = |watched: &mut Watched, gpu: usize, expected: &[(u64, u64)]| {
        watched.until(&format!("{expected:?}"), |update| {
            let xids = update["gpus"][gpu]["xids"].as_array()?;
            let counts = xids
                .iter()
                .map(|xid| (xid["code"].as_u64().unwrap(), xid["count"].as_u64().unwrap()));
            (counts.collect::<Vec<_>>() == expected).then(|| xids.clone())
        })
    };
    let before = now();
    driver.set_script("gpus = 2\nxid = 1:1:31, 2:1:31");
    let xids = wait_for(&mut watched, 1, &[(31, 2)]);
    let last = xids[0]["last_unix_seconds"].as_u64().unwrap();
    assert!((before..=now()).contains(&last), "{last} is not between {before} and {}", now());
    driver.set_script("gpus = 2\nxid = 1:1:31, 2:1:31, 3:1:31, 4:1:79, 5:0:48");
    let xids = wait_for(&mut watched, 1, &[(31, 3), (79, 1)]);
    assert!(xids[0]["last_unix_seconds"].as_u64().unwrap() >= last);
    wait_for(&mut watched, 0, &[(48, 1)]);
    watched.agent.wait_log("GPU 1 (NVIDIA H100 80GB HBM3, 0000:11:00.0) reported XID 79, 1 since");
    // A lost GPU has no values, but keeps its XIDs.
    driver.set_script("gpus = 2\nlost = 1");
    let update = watched.until("a lost GPU", |update| {
        (problems(update) == ["fine", "lost"]).then(|| update.clone())
    });
    assert_eq!(update["gpus"][1]["xids"].as_array().unwrap().len(), 2);
    kill(watched.probe());
    let update = watched.until_state("crashed");
    assert_eq!(update["gpus"][1]["xids"].as_array().unwrap().len(), 2);
    driver.set_script("gpus = 2\nxid = 1:1:79");
    wait_for(&mut watched, 1, &[(31, 3), (79, 2)]);
    watched.stop();
}

/// XID 79 and others are often reported just before a driver hangs.
#[test]
fn reports_xid_when_the_gpu_hangs_right_after_it() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    driver.set_script("gpus = 2\nxid = 1:0:79\nhang.0 = nvmlDeviceGetMemoryInfo_v2");
    watched.until("one GPU hanging", |update| (problems(update) == ["hung", "fine"]).then_some(()));
    let update = watched.next_update();
    assert_eq!(update["gpus"][0]["xids"][0]["code"], 79, "{:#}", update["gpus"][0]);
    watched.stop();
}

#[test]
fn reports_xid_when_the_driver_hangs_right_after_it() {
    let driver = Driver::new("");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    driver.set_script("xid = 1:0:79\nhang = nvmlDeviceGetMemoryInfo_v2");
    let update = watched.until_state("hung");
    driver.set_script("");
    assert_eq!(update["gpus"][0]["xids"][0]["code"], 79, "{:#}", update["gpus"][0]);
    watched.stop();
}

#[test]
fn counts_every_xid_of_a_burst_but_limits_the_log() {
    let driver = Driver::new("");
    let mut watched = driver.start(&[]);
    watched.until_state("ok");
    let burst: Vec<String> = (0..150).map(|number| format!("{number}:0:{}", number % 30)).collect();
    driver.set_script(&format!("xid = {}", burst.join(", ")));
    let xids = watched.until("all errors", |update| {
        let xids = update["gpus"][0]["xids"].as_array()?.clone();
        let total: u64 = xids.iter().map(|xid| xid["count"].as_u64().unwrap()).sum();
        (total == 150).then_some(xids)
    });
    assert!(xids.len() == 30 && xids.iter().all(|xid| xid["count"] == 5), "{xids:?}");
    let log = watched.stop();
    assert!(log.iter().filter(|line| line.contains("reported XID")).count() < 40, "{log:#?}");
}
