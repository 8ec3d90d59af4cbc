//! A real sshd with its own users, in its own mount and PID namespaces: all its processes are killed with it. Needs
//! root.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{TempDir, wait_until};

/// A user that the sshd knows.
pub struct User<'a> {
    pub name: &'a str,
    /// `None` for a user that logs in with a key.
    pub password: Option<&'a str>,
    pub shell: &'a str,
}

pub const PASSWORD: &str = r#"pa ss"w0rd$1'"#;

/// A user with a password and an ordinary shell.
pub const CC: User<'static> = User { name: "cc", password: Some(PASSWORD), shell: "/bin/sh" };

/// The root of a host with only BusyBox, in its mount namespace. sshd requires that only root can write to its parents.
const CHROOT: &str = "/mnt";

pub struct Sshd {
    child: Option<Child>,
    pub port: u16,
    pub directory: TempDir,
    /// UID of the first user; the others follow.
    first_uid: u32,
    users: u32,
    command: String,
    prefix: Vec<String>,
    /// Additional lines of sshd_config.
    extra_config: String,
    banner: Option<TempDir>,
}

impl Sshd {
    pub fn start(users: &[User]) -> Self {
        Self::start_in(&[], "127.0.0.1", users)
    }

    /// Starts it with a text that it sends before each login.
    pub fn start_with_banner(users: &[User], text: &str) -> Self {
        let directory = TempDir::new("banner");
        let config = format!("Banner {}\n", directory.write("banner", text));
        let mut sshd = Self::start_as(&[], "127.0.0.1", users, ("", &config));
        sshd.banner = Some(directory);
        sshd
    }

    /// Starts it with a command prefix, e.g. to run it in a network namespace.
    pub fn start_in(prefix: &[&str], address: &str, users: &[User]) -> Self {
        Self::start_as(prefix, address, users, ("", ""))
    }

    /// Starts it on a host with only BusyBox, with or without /proc and /sys.
    pub fn start_with_busybox_only(users: &[User], with_proc: bool) -> Self {
        let kernel = "mount -t proc proc proc && mount --bind /sys sys &&";
        let kernel = if with_proc { kernel } else { "" };
        // Links for all of its applets, and its shared libraries if it is not linked statically.
        let chroot = format!(
            "mount -t tmpfs -o mode=755 none {CHROOT} && cd {CHROOT} && mkdir bin proc sys dev && touch dev/null && mount --bind /dev/null dev/null && {kernel} \
             cp $(command -v busybox) bin/busybox && {{ ldd bin/busybox | grep -o '/[^ ]*' | xargs -r cp -L --parents -t .; for name in $(bin/busybox --list); do [ -e bin/$name ] || ln -s busybox bin/$name; done; }}; cd /;"
        );
        Self::start_as(&[], "127.0.0.1", users, (&chroot, &format!("ChrootDirectory {CHROOT}\n")))
    }

    /// `host` is what is run before sshd, and additional lines of sshd_config.
    fn start_as(prefix: &[&str], address: &str, users: &[User], host: (&str, &str)) -> Self {
        let (chroot, extra_config) = host;
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Distinct UIDs for fifty sshds in a process, and for concurrent test processes.
        let first_uid = 100_000 + std::process::id() % 20_000 * 10_000 + number * 200;
        let directory = TempDir::new("sshd");
        let path = directory.0.display().to_string();
        assert!(sh(&format!("chmod 755 {path} && ssh-keygen -q -t ed25519 -N '' -f {path}/host")));
        let read = |file: &str| std::fs::read_to_string(file).unwrap();
        let (mut passwd, mut shadow) = (read("/etc/passwd"), read("/etc/shadow"));
        for (index, user) in users.iter().enumerate() {
            let uid = first_uid + index as u32;
            let (name, shell) = (user.name, user.shell);
            let home = format!("{path}/{name}");
            std::fs::create_dir(&home).unwrap();
            std::os::unix::fs::chown(&home, Some(uid), Some(uid)).unwrap();
            let hash = user.password.map_or("*".to_owned(), hash);
            passwd = format!("{name}:x:{uid}:{uid}::{home}:{shell}\n{passwd}");
            shadow = format!("{name}:{hash}:19000:0:99999:7:::\n{shadow}");
        }
        directory.write("passwd", &passwd);
        directory.write("shadow", &shadow);
        let command = format!(
            "mkdir -p /run/sshd; mount --bind {path}/passwd /etc/passwd; mount --bind {path}/shadow /etc/shadow; {chroot} exec /usr/sbin/sshd -D -e -f {path}/config"
        );
        let prefix = prefix.iter().map(ToString::to_string).collect();
        let users = users.len() as u32;
        let mut sshd = Self {
            child: None,
            port: 0,
            directory,
            first_uid,
            users,
            command,
            prefix,
            extra_config: extra_config.to_owned(),
            banner: None,
        };
        let mut attempts = 0;
        while sshd.child.is_none() {
            attempts += 1;
            assert!(attempts < 10, "sshd does not start: {}", sshd.log());
            sshd.port = super::reserve_port();
            sshd.configure(address);
            sshd.run();
        }
        sshd
    }

    fn configure(&self, address: &str) {
        let (path, port, extra) = (self.directory.0.display(), self.port, &self.extra_config);
        self.directory.write(
            "config",
            &format!(
                "Port {port}\nListenAddress {address}\nHostKey {path}/host\nPidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile {path}/keys\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nMaxStartups 200\nUseDNS no\n{extra}"
            ),
        );
    }

    /// Starts sshd on its port, and waits until it listens.
    pub fn run(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.directory.0.join("log"));
        let mut arguments = self.prefix.clone();
        arguments.extend(
            [
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                &self.command,
            ]
            .map(str::to_owned),
        );
        let before = self.log().matches("Server listening").count();
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(log.unwrap()).spawn().unwrap();
        let listens = wait_until("sshd", || {
            let listens = self.log().matches("Server listening").count() > before;
            (listens || child.try_wait().unwrap().is_some()).then_some(listens)
        });
        self.child = listens.then_some(child);
    }

    /// Kills it with all its sessions.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Replaces the host key, as a reinstallation does.
    pub fn change_host_key(&self) {
        let path = self.directory.0.join("host");
        std::fs::remove_file(&path).unwrap();
        assert!(sh(&format!("ssh-keygen -q -t ed25519 -N '' -f {} </dev/null", path.display())));
    }

    pub fn change_password(&self, user: &str, password: &str) {
        let path = self.directory.0.join("shadow");
        let shadow = std::fs::read_to_string(&path).unwrap();
        let lines = shadow.lines().map(|line| match line.split_once(':') {
            Some((name, _)) if name == user => {
                format!("{user}:{}:19000:0:99999:7:::\n", hash(password))
            }
            _ => format!("{line}\n"),
        });
        // Written in place, because the file is bind-mounted over the system's.
        std::fs::write(&path, lines.collect::<String>()).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.0.join("log")).unwrap_or_default()
    }

    /// PIDs and command lines of the processes of its users.
    pub fn processes(&self) -> Vec<String> {
        let uids = self.first_uid..self.first_uid + self.users;
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let describe = |entry: std::fs::DirEntry| {
            use std::os::unix::fs::MetadataExt;
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let uid = entry.metadata().ok()?.uid();
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            uids.contains(&uid).then(|| format!("{pid} {}", command.replace('\0', " ")))
        };
        entries.filter_map(describe).collect()
    }

    /// The host in a request of a client.
    pub fn host(&self, user: &str, password: Option<&str>) -> serde_json::Value {
        serde_json::json!({"host": "127.0.0.1", "port": self.port, "user": user, "passwd": password})
    }

    pub fn key(&self, user: &str) -> String {
        format!("{user}@127.0.0.1:{}", self.port)
    }

    /// Writes a program for a user's login shell, and returns its path.
    pub fn write_shell(name: &str, text: &str) -> (TempDir, String) {
        let directory = TempDir::new(name);
        let path = directory.write("shell", text);
        assert!(sh(&format!("chmod 755 {} {path}", directory.0.display())));
        (directory, path)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The password is passed through a pipe, because tests search all command lines for it. openssl(1) would accept 256
/// bytes at most.
fn hash(password: &str) -> String {
    let mut command = Command::new("perl");
    command.args(["-e", r#"chomp($_ = <STDIN>); print crypt($_, '$6$hmagent$')"#]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs a command line, and returns whether it succeeded.
pub fn sh(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().unwrap().success()
}

/// A key in its own ssh-agent.
pub struct Keys {
    agent: Child,
    directory: TempDir,
}

impl Keys {
    /// Creates a key that the sshd accepts.
    pub fn accepted_by(sshd: &Sshd) -> Self {
        let directory = TempDir::new("keys");
        let path = directory.0.display().to_string();
        let socket = format!("{path}/agent");
        let agent = Command::new("ssh-agent")
            .args(["-D", "-a", &socket])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("ssh-agent", || std::path::Path::new(&socket).exists().then_some(()));
        assert!(sh(&format!(
            "ssh-keygen -q -t ed25519 -N '' -f {path}/key && SSH_AUTH_SOCK={socket} ssh-add -q {path}/key"
        )));
        std::fs::copy(directory.0.join("key.pub"), sshd.directory.0.join("keys")).unwrap();
        Self { agent, directory }
    }

    pub fn socket(&self) -> String {
        self.directory.0.join("agent").display().to_string()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}
