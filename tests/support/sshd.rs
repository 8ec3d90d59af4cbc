//! A real sshd with users of its own, in namespaces of its own: its users are nobody's else, and all its processes end with
//! it. Wants root.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Scratch, wait_until};

/// A user there.
pub struct User<'a> {
    pub name: &'a str,
    /// None: logs in with a key.
    pub password: Option<&'a str>,
    pub shell: &'a str,
}

pub const PASSWORD: &str = r#"pa ss"w0rd$1'"#;

/// One user with a password and an ordinary shell.
pub const CC: User<'static> = User { name: "cc", password: Some(PASSWORD), shell: "/bin/sh" };

/// Where a host with BusyBox only is, in its mount namespace. sshd wants root alone to be able to write above it.
const CHROOT: &str = "/mnt";

pub struct Sshd {
    child: Option<Child>,
    pub port: u16,
    pub directory: Scratch,
    /// The first user's number; the others follow.
    first_uid: u32,
    users: u32,
    command: String,
    prefix: Vec<String>,
    /// Further lines of its configuration.
    more: String,
}

impl Sshd {
    pub fn start(users: &[User]) -> Self {
        Self::start_in(&[], "127.0.0.1", users)
    }

    /// Behind a command that puts it elsewhere, e.g. into a network namespace.
    pub fn start_in(prefix: &[&str], address: &str, users: &[User]) -> Self {
        Self::start_as(prefix, address, users, "")
    }

    /// A host on which there is nothing but BusyBox, and what the kernel shows; or not even that.
    pub fn start_with_busybox_only(users: &[User], with_proc: bool) -> Self {
        let kernel = "mount -t proc proc proc && mount --bind /sys sys &&";
        let kernel = if with_proc { kernel } else { "" };
        // Links: as many programs as it has. What it needs itself, if it is not linked statically, comes along.
        let chroot = format!(
            "mount -t tmpfs -o mode=755 none {CHROOT} && cd {CHROOT} && mkdir bin proc sys dev && touch dev/null && mount --bind /dev/null dev/null && {kernel} \
             cp $(command -v busybox) bin/busybox && {{ ldd bin/busybox | grep -o '/[^ ]*' | xargs -r cp -L --parents -t .; for name in $(bin/busybox --list); do [ -e bin/$name ] || ln -s busybox bin/$name; done; }}; cd /;"
        );
        Self::start_as(&[], "127.0.0.1", users, &chroot)
    }

    fn start_as(prefix: &[&str], address: &str, users: &[User], chroot: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Fifty of them in a process, and other processes beside it.
        let first_uid = 100_000 + std::process::id() % 20_000 * 10_000 + number * 200;
        let directory = Scratch::new("sshd");
        let path = directory.0.display().to_string();
        assert!(sh(&format!("chmod 755 {path} && ssh-keygen -q -t ed25519 -N '' -f {path}/host")));
        let read = |file: &str| std::fs::read_to_string(file).unwrap();
        let (mut passwd, mut shadow) = (read("/etc/passwd"), read("/etc/shadow"));
        for (at, user) in users.iter().enumerate() {
            let uid = first_uid + at as u32;
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
        let more =
            if chroot.is_empty() { String::new() } else { format!("ChrootDirectory {CHROOT}\n") };
        let mut sshd =
            Self { child: None, port: 0, directory, first_uid, users, command, prefix, more };
        let mut tries = 0;
        while sshd.child.is_none() {
            tries += 1;
            assert!(tries < 10, "sshd does not start: {}", sshd.log());
            sshd.port = super::lasting_port();
            sshd.configure(address);
            sshd.run();
        }
        sshd
    }

    fn configure(&self, address: &str) {
        let (path, port, more) = (self.directory.0.display(), self.port, &self.more);
        self.directory.write(
            "config",
            &format!(
                "Port {port}\nListenAddress {address}\nHostKey {path}/host\nPidFile none\nUsePAM no\nStrictModes no\nAuthorizedKeysFile {path}/keys\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nMaxStartups 200\nUseDNS no\n{more}"
            ),
        );
    }

    /// Starts it (again) on its port, and waits until it listens.
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

    /// It is gone at once, with all its sessions.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Another host key, as a host that was set up anew has.
    pub fn new_host_key(&self) {
        let path = self.directory.0.join("host");
        std::fs::remove_file(&path).unwrap();
        assert!(sh(&format!("ssh-keygen -q -t ed25519 -N '' -f {} </dev/null", path.display())));
    }

    /// The user has another password from now on.
    pub fn new_password(&self, user: &str, password: &str) {
        let path = self.directory.0.join("shadow");
        let shadow = std::fs::read_to_string(&path).unwrap();
        let lines = shadow.lines().map(|line| match line.split_once(':') {
            Some((name, _)) if name == user => {
                format!("{user}:{}:19000:0:99999:7:::\n", hash(password))
            }
            _ => format!("{line}\n"),
        });
        // The same file, which is mounted over the system's.
        std::fs::write(&path, lines.collect::<String>()).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.0.join("log")).unwrap_or_default()
    }

    /// Processes of its users: what is left of sessions.
    pub fn processes(&self) -> Vec<String> {
        let ours = self.first_uid..self.first_uid + self.users;
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let name = |entry: std::fs::DirEntry| {
            use std::os::unix::fs::MetadataExt;
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            let uid = entry.metadata().ok()?.uid();
            let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            ours.contains(&uid).then(|| format!("{number} {}", command.replace('\0', " ")))
        };
        entries.filter_map(name).collect()
    }

    /// As a client names it.
    pub fn host(&self, user: &str, password: Option<&str>) -> serde_json::Value {
        serde_json::json!({"host": "127.0.0.1", "port": self.port, "user": user, "passwd": password})
    }

    pub fn key(&self, user: &str) -> String {
        format!("{user}@127.0.0.1:{}", self.port)
    }

    /// A program that is a user's shell.
    pub fn script(name: &str, text: &str) -> (Scratch, String) {
        let directory = Scratch::new(name);
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

/// Through a pipe: tests look at everybody's arguments. Not by openssl(1), which takes 256 bytes at the most.
fn hash(password: &str) -> String {
    let mut command = Command::new("perl");
    command.args(["-e", r#"chomp($_ = <STDIN>); print crypt($_, '$6$hmagent$')"#]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

pub fn sh(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).status().unwrap().success()
}

/// A key in an ssh-agent of its own.
pub struct Keys {
    agent: Child,
    directory: Scratch,
}

impl Keys {
    /// A key that the sshd lets in.
    pub fn of(sshd: &Sshd) -> Self {
        let directory = Scratch::new("keys");
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
