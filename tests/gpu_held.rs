//! A probe that the driver keeps in the kernel: it cannot be killed, and is not joined by others.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read;
use std::process::{Child, Command, Stdio};

use support::fake_nvml::{Driver, assert_no_values, children, message, problems, state};

/// As near as a test gets to a process that a driver keeps in the kernel: its parent is not told that a process died
/// before the one that traces it has looked.
fn hold(pid: u32) -> Child {
    const SEIZE: &str = "import ctypes, sys
if ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), None, None) == 0: print('held', flush=True)
sys.stdin.read()";
    let mut python = Command::new("python3");
    python.args(["-c", SEIZE, &pid.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = python.spawn().unwrap();
    let mut word = [0; 5];
    holder.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    holder
}

fn let_go(mut holder: Child) {
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
#[ignore = "needs root"]
fn while_a_probe_cannot_be_killed_no_other_is_started() {
    let driver = Driver::new("gpus = 2");
    let mut watched = driver.start(&["gpu.timeout=1"]);
    watched.until_state("ok");
    let probe = watched.probe();
    let holder = hold(probe);
    driver.becomes("gpus = 2\nhang = nvmlDeviceGetTemperature");
    watched.until_state("hung");
    driver.becomes("gpus = 2");
    driver.forget_calls();
    let held = format!("process {probe} is held by the driver and cannot be killed");
    watched.until("that it is held", |update| (message(update) == held).then_some(()));
    for _ in 0..3 {
        let update = watched.next_update();
        assert_eq!((state(&update), message(&update)), ("hung", held.as_str()));
        assert_no_values(&update);
    }
    assert_eq!(children(watched.agent.pid()), [probe]);
    assert_eq!(driver.calls(), []);
    let_go(holder);
    assert_eq!(problems(&watched.until_state("ok")), ["fine", "fine"]);
    // Nor does it keep the agent from stopping.
    let probe = watched.probe();
    let holder = hold(probe);
    watched.stop();
    let_go(holder);
}
