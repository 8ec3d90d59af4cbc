//! An agent under its supervisor, as on a machine without a service manager.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::{SLACK, Scratch, hm_agent, wait_until};

/// What belongs to one: a port, a directory, and a command line.
pub struct Post {
    pub scratch: Scratch,
    pub address: SocketAddr,
    /// Before the agent's program.
    pub wrapper: Vec<String>,
}

impl Post {
    pub fn new(name: &str) -> Self {
        // The same one after every restart.
        let address = SocketAddr::from(([127, 0, 0, 1], super::lasting_port()));
        Self { scratch: Scratch::new(name), address, wrapper: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// `run --supervise` with these arguments, in the directory, where its log is `log` and its pid file `pid`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let agent = hm_agent();
        let mut command = match self.wrapper.split_first() {
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest).arg(agent.get_program());
                command
            }
            None => Command::new(agent.get_program()),
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

    /// Runs `--detach` with a pid file and these arguments, to the end of what runs at the terminal.
    pub fn detach(&self, arguments: &[&str]) -> Output {
        self.command(&["--detach", "--pid-file", "pid"]).args(arguments).output().unwrap()
    }

    /// The same, with a log; it must go well.
    pub fn in_background(&self, arguments: &[&str]) -> Supervisor {
        let output = self.detach(&[&["--log-file", "log"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""));
        assert!(output.stdout.is_empty());
        Supervisor { pid: self.read("pid").trim().parse().unwrap(), child: None }
    }

    /// Runs in the foreground with these arguments.
    pub fn in_foreground(&self, arguments: &[&str]) -> Supervisor {
        let child = self.command(arguments).stderr(Stdio::null()).spawn().unwrap();
        Supervisor { pid: child.id(), child: Some(child) }
    }

    /// Waits until the log has a line with that text in it so often.
    pub fn wait_log(&self, text: &str, times: usize) -> String {
        wait_until(&format!("{text:?}, {times} times"), || {
            let log = self.read("log");
            (log.lines().filter(|line| line.contains(text)).count() >= times).then_some(log)
        })
    }

    pub fn is_served(&self) -> bool {
        TcpStream::connect(self.address).is_ok()
    }
}

/// A running one; killed, and its agent with it, when it goes out of scope.
pub struct Supervisor {
    pub pid: u32,
    pub child: Option<Child>,
}

impl Supervisor {
    /// Its agent, when there is one.
    pub fn agent(&self) -> u32 {
        wait_until("an agent", || children(self.pid).first().copied())
    }

    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    /// Whether it is still there.
    pub fn lives(&mut self) -> bool {
        match &mut self.child {
            Some(child) => child.try_wait().unwrap().is_none(),
            None => is_there(self.pid),
        }
    }

    /// Waits for its end; the exit code, if it is known.
    pub fn wait(&mut self) -> Option<i32> {
        wait_until("the supervisor's end", || (!self.lives()).then_some(()));
        self.child.as_mut().and_then(|child| child.wait().unwrap().code())
    }

    /// SIGTERM; both end soon.
    pub fn stop(mut self) {
        let (agent, start) = (self.agent(), Instant::now());
        self.signal("-TERM");
        let code = self.wait();
        assert!(code.is_none_or(|code| code == 0), "{code:?}");
        assert!(!is_there(agent));
        assert!(start.elapsed() < Duration::from_secs(2) + SLACK, "{:?}", start.elapsed());
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.lives() {
            signal(self.pid, "-KILL");
            let _ = self.wait();
        }
    }
}

pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// Whether a process runs; one that only waits to be waited for does not.
pub fn is_there(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| !["Z", "X"].contains(&fields[0].as_str()))
}

/// What follows its name in `/proc/PID/stat`: state, parent, group, session, terminal.
pub fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit(") ").next()?.split(' ').map(str::to_owned).collect())
}

pub fn children(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|child| stat(*child).is_some_and(|fields| fields[1] == pid.to_string())).collect()
}
