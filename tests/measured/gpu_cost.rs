//! CPU time of the GPU probe.

use crate::support::assert_best_of_five;
use crate::support::fake_nvml::{Driver, FULL_GPU};

const SAMPLES: u32 = 10;

/// Eight GPUs with every value that the agent reads, as different GPUs.
fn eight_full_gpus() -> String {
    let of_one: Vec<&str> = FULL_GPU.lines().filter(|line| line.starts_with("gpu.0.")).collect();
    let of_all: Vec<&str> = FULL_GPU.lines().filter(|line| !line.starts_with("gpu.0.")).collect();
    let mut script = format!("gpus = 8\n{}\n", of_all.join("\n"));
    for gpu in 0..8 {
        let own = format!("gpu.{gpu}.");
        for line in &of_one {
            let is_identity = line.contains(".pci = ") || line.contains(".uuid = ");
            if !is_identity {
                script += &format!("{}\n", line.replace("gpu.0.", &own));
            }
        }
    }
    script
}

/// CPU time of all threads of a process in milliseconds.
fn cpu_ms(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanoseconds = tasks.map(|task| {
        let schedstat = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        schedstat.split(' ').next().unwrap().parse::<f64>().unwrap()
    });
    nanoseconds.sum::<f64>() / 1e6
}

#[test]
fn probe_uses_less_than_5_ms_per_sample_of_eight_full_gpus() {
    let driver = Driver::new(&eight_full_gpus());
    let mut watched = driver.start(&[]);
    watched.until("values that need two samples", |update| {
        let gpus = update["gpus"].as_array().filter(|gpus| gpus.len() == 8)?;
        gpus.iter().all(|gpu| gpu["profiling"].is_object()).then_some(())
    });
    let probe = watched.probe();
    assert_best_of_five(5.0, || {
        let before = cpu_ms(probe);
        (0..SAMPLES).for_each(|_| drop(watched.next_update()));
        let used = (cpu_ms(probe) - before) / f64::from(SAMPLES);
        println!("{used:.2} ms per sample");
        used
    });
    watched.stop();
}
