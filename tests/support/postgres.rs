//! A PostgreSQL server of its own for a test, from Debian's packages.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{TempDir, reserve_address, wait_until};

/// As root, the server must run as another user.
const USER: &str = "postgres";
/// Small, because several run at once. What makes a commit durable stays on.
const SETTINGS: &str = "shared_buffers = 16MB
max_connections = 60
autovacuum_naptime = 10s
unix_socket_directories = ''
";

/// Stopped and removed when it is dropped.
pub struct Postgres {
    pub address: SocketAddr,
    directory: TempDir,
    server: Option<Child>,
}

impl Postgres {
    /// With an empty database `hub` and a superuser `hub` without a password.
    pub fn start() -> Self {
        Self::with_settings("")
    }

    /// With further lines of postgresql.conf.
    pub fn with_settings(settings: &str) -> Self {
        Self::with_files(settings, &[])
    }

    /// With copies of files in its directory, which only its user can read: name and path.
    pub fn with_files(settings: &str, files: &[(&str, &str)]) -> Self {
        let directory = TempDir::new("postgres");
        for (name, path) in files {
            let copy = directory.0.join(name);
            fs::copy(path, &copy).unwrap();
            let status = Command::new("chmod").arg("600").arg(&copy).status();
            assert!(status.unwrap().success());
            if nix::unistd::geteuid().is_root() {
                assert!(Command::new("chown").arg(USER).arg(&copy).status().unwrap().success());
            }
        }
        if nix::unistd::geteuid().is_root() {
            let path = directory.0.display().to_string();
            assert!(Command::new("chown").args([USER, &path]).status().unwrap().success());
        }
        let mut postgres = Self { address: reserve_address(), directory, server: None };
        let data = postgres.data();
        let initdb = postgres
            .command("initdb")
            .args(["--auth=trust", "--username=hub", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg("-D")
            .arg(&data)
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{initdb:?}");
        let file = data.join("postgresql.conf");
        let config = fs::read_to_string(&file).unwrap();
        let settings = settings.replace("DIRECTORY", &postgres.directory.0.display().to_string());
        fs::write(&file, format!("{config}\n{SETTINGS}\n{settings}\n")).unwrap();
        postgres.run();
        postgres.query_in("postgres", "CREATE DATABASE hub");
        postgres
    }

    pub fn data(&self) -> PathBuf {
        self.directory.0.join("data")
    }

    /// A program of the server's package, run as its user.
    fn command(&self, program: &str) -> Command {
        let versions = fs::read_dir("/usr/lib/postgresql").unwrap();
        let versions = versions.map(|entry| entry.unwrap().path());
        let newest = versions.max_by_key(|path| {
            path.file_name().unwrap().to_string_lossy().parse::<u32>().unwrap_or_default()
        });
        let path = newest.unwrap().join("bin").join(program);
        let mut command = Command::new("setpriv");
        if nix::unistd::geteuid().is_root() {
            command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
        }
        command.arg(path).current_dir(&self.directory.0);
        command
    }

    /// Replaces pg_hba.conf by this line, and what tests need.
    pub fn set_access(&self, line: &str) {
        let local = "host all hub 127.0.0.1/32 trust";
        fs::write(self.data().join("pg_hba.conf"), format!("{line}\n{local}\n")).unwrap();
        self.query_in("postgres", "SELECT pg_reload_conf()");
    }

    /// Starts the server again.
    pub fn run(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.0.join("log"))
            .unwrap();
        let (address, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let server = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .args(["-h", &address, "-p", &port])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.server = Some(server.unwrap());
        wait_until("PostgreSQL", || self.try_query_in("postgres", "SELECT 1").ok());
    }

    /// Ends the server at once, as a crash does. Its other processes end when they notice it.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
        wait_until("the end of PostgreSQL's processes", || self.pids().is_empty().then_some(()));
        let _ = fs::remove_file(self.data().join("postmaster.pid"));
    }

    /// Sends a signal to all processes of the server.
    pub fn signal(&self, name: &str) {
        for pid in self.pids() {
            // One may have just ended.
            let _ = Command::new("kill").args([name, &pid]).stderr(Stdio::null()).status();
        }
    }

    /// The server and its children, which have its directory as their own.
    fn pids(&self) -> Vec<String> {
        let data = self.data();
        let is_own = |pid: &String| {
            fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|directory| directory == data)
        };
        let processes = fs::read_dir("/proc").unwrap();
        let names = processes.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).filter(is_own).collect()
    }

    /// The URL of the database for hm-hub.
    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// The same through a proxy at this address.
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("postgres://hub@{address}/hub")
    }

    /// The rows of a query, with columns separated by `|`.
    pub fn query(&self, sql: &str) -> Vec<String> {
        self.query_in("hub", sql)
    }

    fn query_in(&self, database: &str, sql: &str) -> Vec<String> {
        self.try_query_in(database, sql).unwrap()
    }

    fn try_query_in(&self, database: &str, sql: &str) -> Result<Vec<String>, String> {
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let output = Command::new("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "hub", "-d", database])
            .args(["-h", &host, "-p", &port, "-c", sql])
            .output()
            .unwrap();
        match output.status.success() {
            true => {
                Ok(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
            }
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// A number that a query returns.
    pub fn count(&self, sql: &str) -> i64 {
        self.query(sql)[0].parse().unwrap()
    }

    /// Times of a node's stored reports, oldest first.
    pub fn stored(&self, node_id: &str) -> Vec<i64> {
        let sql = format!(
            "SELECT sent FROM hm_report r JOIN node n ON n.id = r.node WHERE n.name = '{node_id}' ORDER BY sent"
        );
        self.query(&sql).iter().map(|row| row.parse().unwrap()).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal("-CONT");
        if let Some(mut server) = self.server.take() {
            // Without a checkpoint: the directory is removed.
            let _ = Command::new("kill").args(["-QUIT", &server.id().to_string()]).status();
            let _ = server.wait();
        }
    }
}
