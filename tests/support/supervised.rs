//! An agent under `run --supervise`.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{SLACK, TempDir, hm_agent, wait_until};

/// The directory, port and command line of one supervisor.
pub struct Setup {
    pub scratch: TempDir,
    pub address: SocketAddr,
    /// A command that executes the agent with further arguments.
    pub wrapper: Vec<String>,
}

impl Setup {
    pub fn new(name: &str) -> Self {
        // A fixed port, so that it is the same after every restart.
        let address = super::reserve_address();
        Self { scratch: TempDir::new(name), address, wrapper: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// `run --supervise` with these arguments, in the directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let agent = hm_agent();
        let program = agent.get_program();
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, rest)) => {
                let mut command = Command::new(wrapper);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        for (name, value) in agent.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(["run", "--supervise"]).args(arguments).current_dir(&self.scratch.0);
        command.args(["-s", &format!("usage.listen={}", self.address)]);
        command.env("HM_AGENT_STATE_DIR", self.path("state")).stdin(Stdio::null());
        command
    }

    /// Runs `--detach` with the pid file `pid`, without the need for a syslog daemon, and returns the output of the process at the terminal.
    pub fn detach(&self, arguments: &[&str]) -> Output {
        self.command(&["--detach", "--syslog", "--pid-file", "pid"])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The same, which must succeed.
    pub fn in_background(&self, arguments: &[&str]) -> Supervisor {
        let output = self.detach(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""));
        assert!(output.stdout.is_empty());
        Supervisor { pid: self.read("pid").trim().parse().unwrap(), child: None }
    }

    /// Runs in the foreground with these arguments. Standard error is the file `log`.
    pub fn in_foreground(&self, arguments: &[&str]) -> Supervisor {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let child = self.command(arguments).stderr(log).spawn().unwrap();
        Supervisor { pid: child.id(), child: Some(child) }
    }

    /// Waits until N lines of `log` contain the text.
    pub fn wait_log(&self, text: &str, lines: usize) -> String {
        wait_until(&format!("{text:?}, {lines} times"), || {
            let log = self.read("log");
            (log.lines().filter(|line| line.contains(text)).count() >= lines).then_some(log)
        })
    }

    pub fn is_listening(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }
}

/// A running supervisor; it and its agent are killed when it is dropped.
pub struct Supervisor {
    pub pid: u32,
    pub child: Option<Child>,
}

impl Supervisor {
    /// The agent's PID.
    pub fn agent(&self) -> u32 {
        wait_until("an agent", || children(self.pid).first().copied())
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().unwrap().is_none(),
            None => is_running(self.pid),
        }
    }

    /// Waits for its exit. Returns the exit code if it is a child of the test.
    pub fn wait(&mut self) -> Option<i32> {
        wait_until("the supervisor's exit", || (!self.is_running()).then_some(()));
        self.child.as_mut().and_then(|child| child.wait().unwrap().code())
    }

    /// Sends SIGTERM; both must exit soon.
    pub fn stop(mut self) {
        let (agent, start) = (self.agent(), Instant::now());
        self.signal("-TERM");
        let code = self.wait();
        assert!(code.is_none_or(|code| code == 0), "{code:?}");
        assert!(!is_running(agent));
        assert!(start.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", start.elapsed());
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.is_running() {
            signal(self.pid, "-KILL");
            let _ = self.wait();
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Whether a process runs; a zombie does not.
pub fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| !["Z", "X"].contains(&fields[0].as_str()))
}

/// The fields of `/proc/PID/stat` after the name: state, parent, group, session, terminal.
pub fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(") ").next()?.split(' ').map(str::to_owned).collect())
}

pub fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child| stat(*child).is_some_and(|fields| fields[1] == pid.to_string())).collect()
}
