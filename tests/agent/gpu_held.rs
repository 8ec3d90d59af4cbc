//! A probe that is blocked in the driver and cannot be killed: no other probe is started meanwhile.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use crate::support::fake_nvml::{Driver, assert_no_values, message, problems, programs, state};

/// Simulates a process in uninterruptible sleep: the parent of a traced process is not notified of its exit before the
/// tracer has waited for it.
fn hold(pid: u32) -> Child {
    const SEIZE: &str = "import ctypes, sys
if ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) == 0: print('ready', flush=True)
sys.stdin.read()";
    let mut python = Command::new("python3");
    python.args(["-c", SEIZE, &pid.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = python.spawn().unwrap();
    let mut ready = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    holder
}

fn release(mut holder: Child) {
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
#[ignore = "needs root"]
fn starts_no_probe_while_the_last_cannot_be_killed() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.timeout=1"]);
    watched.until_state("ok");
    let probe = watched.probe();
    let holder = hold(probe);
    driver.set_script("gpus = 2\nhang = nvmlDeviceGetTemperature");
    watched.until_state("hung");
    driver.set_script("gpus = 2");
    driver.clear_calls();
    let held = format!("process {probe} is blocked in the driver and cannot be killed");
    watched.until("the message", |update| (message(update) == held).then_some(()));
    for _ in 0..3 {
        let update = watched.next_update();
        assert_eq!((state(&update), message(&update)), ("hung", held.as_str()));
        assert_no_values(&update);
    }
    assert_eq!(programs(watched.agent.pid()), [probe]);
    assert_eq!(driver.calls(), []);
    release(holder);
    assert_eq!(problems(&watched.until_state("ok")), ["fine", "fine"]);
    // It does not block shutdown of the agent either.
    let probe = watched.probe();
    let holder = hold(probe);
    watched.stop();
    release(holder);
}
