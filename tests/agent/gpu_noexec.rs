//! Machines that do not allow to execute a memfd: the probe runs from a file, or the agent reports why not.

use std::path::Path;
use std::process::Command;

use crate::support::fake_nvml::{
    Driver, UpdateStream, assert_no_values, children, kill, message, problems, state,
    wait_first_gpu_state,
};
use crate::support::{Agent, TempDir, wait_until};

/// Starts the agent in a PID namespace in which memfds cannot be executed.
fn start_without_memfd_exec(driver: &Driver, script: &str, settings: &[&str]) -> Agent {
    let agent = driver.command(&[], settings);
    let mut command = Command::new("unshare");
    command.args(["-pf", "--kill-child", "--mount-proc", "sh", "-ec"]);
    command.arg(format!("echo 2 > /proc/sys/vm/memfd_noexec; {script}; exec \"$0\" \"$@\""));
    command.arg(agent.get_program()).args(agent.get_args());
    for (name, value) in agent.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Agent::spawn(command)
}

/// PID of the only child, in the namespace of the test.
fn only_child(pid: u32) -> u32 {
    wait_until("a child", || match children(pid)[..] {
        [child] => Some(child),
        _ => None,
    })
}

/// Names of the files of a probe in `state_dir`.
fn probe_files(state_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state_dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("gpu-probe")).collect()
}

#[test]
#[ignore = "needs root"]
fn runs_probe_from_an_unlinked_file() {
    let driver = Driver::new("gpus = 2");
    let directory = TempDir::new("state");
    let state_dir = directory.0.join("new");
    let setting = format!("state_dir={}", state_dir.display());
    let agent = start_without_memfd_exec(&driver, "true", &[&setting]);
    let mut updates = UpdateStream::subscribe(&agent);
    let update = updates.until_state("ok");
    assert_eq!(problems(&update), ["fine", "fine"]);
    let inside = only_child(agent.pid());
    let probe = only_child(only_child(inside));
    let program = std::fs::read_link(format!("/proc/{probe}/exe")).unwrap();
    assert!(program.starts_with(&state_dir), "{program:?}");
    assert_eq!(probe_files(&state_dir), [""; 0]);
    // A file left behind by a killed agent is replaced.
    std::fs::write(state_dir.join("gpu-probe.1"), "garbage").unwrap();
    kill(probe);
    updates.until_state("crashed");
    updates.until_state("ok");
    assert_eq!(probe_files(&state_dir), [""; 0]);
    assert!(Command::new("kill").arg(inside.to_string()).status().unwrap().success());
    wait_until("the end of the probe", || {
        (!Path::new(&format!("/proc/{probe}")).exists()).then_some(())
    });
}

#[test]
#[ignore = "needs root"]
fn keeps_running_and_reports_that_probe_cannot_run() {
    let directory = TempDir::new("state");
    let file = directory.write("file", "");
    let tmpfs = directory.0.join("noexec");
    std::fs::create_dir(&tmpfs).unwrap();
    let mount = format!("mount -t tmpfs -o noexec none {}", tmpfs.display());
    let cases = [
        (format!("{file}/below"), "true"),
        ("/proc/below".to_owned(), "true"),
        (tmpfs.display().to_string(), mount.as_str()),
    ];
    for (state_dir, script) in &cases {
        let driver = Driver::new("gpus = 2");
        let setting = format!("state_dir={state_dir}");
        let agent = start_without_memfd_exec(&driver, script, &[&setting]);
        wait_first_gpu_state(&agent);
        let mut updates = UpdateStream::subscribe(&agent);
        let update = updates.update();
        assert_eq!(state(&update), "unavailable", "{state_dir}");
        let message = message(&update);
        assert!(message.contains("cannot run the GPU probe: from memory: "), "{message}");
        assert!(message.contains(&format!("; from {state_dir}: ")), "{message}");
        assert_no_values(&update);
        updates.next_update();
        updates.next_update();
        assert_eq!(driver.calls(), []);
    }
    assert_eq!(std::fs::read_dir(&tmpfs).unwrap().count(), 0);
}
