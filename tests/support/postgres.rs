//! A PostgreSQL server of its own for a test, from Debian's packages.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hm_agent::hub::store::postgres::session::PgSession;
use hm_agent::hub::store::postgres::url::PostgresUrl;

use super::full_disk::FullDisk;
use super::{TempDir, reserve_address, wait_until};

/// As root, the server must run as another user.
const USER: &str = "postgres";
/// Small, because several run at once. What makes a commit durable stays on.
const SETTINGS: &str = "shared_buffers = 16MB
max_connections = 60
autovacuum_naptime = 10s
unix_socket_directories = ''
";
/// For a small disk. The log of changes is in files of 1 MB there.
const SMALL: &str = "min_wal_size = 4MB
max_wal_size = 16MB
checkpoint_timeout = 30s
";

/// Stopped and removed when it is dropped.
pub struct Postgres {
    pub address: SocketAddr,
    directory: TempDir,
    /// That the directory is on; `None`: that of the system.
    disk: Option<FullDisk>,
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
            assert!(Command::new("chmod").arg("600").arg(&copy).status().unwrap().success());
            if nix::unistd::geteuid().is_root() {
                assert!(Command::new("chown").arg(USER).arg(&copy).status().unwrap().success());
            }
        }
        Self::create(directory, None, settings)
    }

    /// On a disk of its own, which can be filled. Needs root.
    pub fn on_disk(mebibytes: u32) -> Self {
        let disk = FullDisk::of_mebibytes(mebibytes);
        fs::create_dir(disk.file("server")).unwrap();
        let directory = TempDir(disk.directory.0.join("server"));
        Self::create(directory, Some(disk), SMALL)
    }

    fn create(directory: TempDir, disk: Option<FullDisk>, settings: &str) -> Self {
        let segments = if disk.is_some() { "--wal-segsize=1" } else { "--wal-segsize=16" };
        let mut postgres = Self { address: reserve_address(), directory, disk, server: None };
        postgres.own_directory();
        let initdb = postgres
            .command("initdb")
            .args(["--auth=trust", "--username=hub", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .args([segments, "-D"])
            .arg(postgres.data())
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{initdb:?}");
        let file = postgres.file("data/postgresql.conf");
        let config = fs::read_to_string(&file).unwrap();
        let settings = settings.replace("DIRECTORY", &postgres.directory.0.display().to_string());
        fs::write(&file, format!("{config}\n{SETTINGS}\n{settings}\n")).unwrap();
        postgres.run();
        postgres.query_in("postgres", "CREATE DATABASE hub");
        postgres
    }

    /// A running copy of this server that follows it and can only be read.
    pub fn replica(&self) -> Self {
        let directory = TempDir::new("postgres");
        let mut replica = Self { address: reserve_address(), directory, disk: None, server: None };
        replica.own_directory();
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let copied = replica
            .command("pg_basebackup")
            .args(["-h", &host, "-p", &port, "-U", "hub", "-X", "stream", "-c", "fast"])
            .args(["--no-sync", "--write-recovery-conf", "-D"])
            .arg(replica.data())
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        replica.run();
        replica
    }

    /// Lets commits wait until a replica has them.
    pub fn wait_for_replica(&self) {
        self.query("ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.query("SELECT pg_reload_conf()");
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait_until("the replica", || (self.count(sql) == 1).then_some(()));
    }

    /// Makes a replica a server that can be written to.
    pub fn promote(&self) {
        let output = self.command("pg_ctl").args(["promote", "-D"]).arg(self.data()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn own_directory(&self) {
        if nix::unistd::geteuid().is_root() {
            let path = self.file("");
            assert!(Command::new("chown").arg(USER).arg(path).status().unwrap().success());
        }
    }

    /// The path of the data for the server.
    fn data(&self) -> PathBuf {
        self.directory.0.join("data")
    }

    /// The path of a file of the server for this process.
    fn file(&self, name: &str) -> PathBuf {
        match &self.disk {
            Some(disk) => disk.file("server").join(name),
            None => self.directory.0.join(name),
        }
    }

    pub fn disk(&self) -> &FullDisk {
        self.disk.as_ref().unwrap()
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
        command.arg(path);
        match &self.disk {
            Some(disk) => disk.run_inside(&command),
            None => {
                command.current_dir(&self.directory.0);
                command
            }
        }
    }

    /// Replaces pg_hba.conf by this line, and what tests need.
    pub fn set_access(&self, line: &str) {
        let local = "host all hub 127.0.0.1/32 trust";
        fs::write(self.data().join("pg_hba.conf"), format!("{line}\n{local}\n")).unwrap();
        self.query_in("postgres", "SELECT pg_reload_conf()");
    }

    /// Starts the server again.
    pub fn run(&mut self) {
        // Not on its disk, which may be full.
        let log = fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
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

    fn log_file(&self) -> PathBuf {
        self.directory.0.with_extension("log")
    }

    /// The end of its log.
    pub fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(200)..].to_vec()
    }

    /// Starts it if it has ended, as after a write that a full disk has refused.
    pub fn run_if_ended(&mut self) {
        wait_until("PostgreSQL", || {
            // It may be about to end.
            if self.server.as_mut().is_none_or(|server| server.try_wait().unwrap().is_some()) {
                self.kill();
                self.run();
            }
            self.try_query_in("postgres", "SELECT 1").ok()
        });
    }

    /// Ends the server at once, as a crash does. Its other processes end when they notice it.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
        // Processes that are stopped do not notice it.
        self.signal("-CONT");
        wait_until("the end of PostgreSQL's processes", || self.pids().is_empty().then_some(()));
        let _ = fs::remove_file(self.file("data/postmaster.pid"));
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

    /// The same for another superuser, which is created.
    pub fn url_of(&self, user: &str) -> String {
        self.query(&format!("CREATE USER {user} SUPERUSER"));
        format!("postgres://{user}@{}/hub", self.address)
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

    /// Begins a transaction with this statement.
    pub fn begin(&self, sql: &str) -> OpenTransaction {
        let url = PostgresUrl::parse(&self.url()).unwrap();
        let mut transaction = OpenTransaction(PgSession::connect(&url).unwrap());
        let sql = format!(
            "SET idle_in_transaction_session_timeout = 0; SET lock_timeout = 0; BEGIN; {sql}"
        );
        transaction.execute(&sql);
        transaction
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

/// A transaction that is rolled back when it is dropped.
pub struct OpenTransaction(PgSession);

impl OpenTransaction {
    pub fn execute(&mut self, sql: &str) {
        let limit = Duration::from_secs(30);
        self.0.run(limit, async |client| client.batch_execute(sql).await).unwrap();
    }

    pub fn commit(mut self) {
        self.execute("COMMIT");
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
        let _ = fs::remove_file(self.log_file());
    }
}
