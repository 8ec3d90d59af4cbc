//! `run --supervise`: the agent on a machine where nobody but its supervisor looks after it.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::manager::Manager;
use support::supervised::{Post, children, is_there, signal, stat};
use support::{SLACK, wait_until};

#[test]
fn detached_it_returns_when_the_agent_listens_and_leaves_the_terminal() {
    let post = Post::new("detach");
    let supervisor = post.in_background(&[]);
    assert!(post.is_served(), "at once");
    let (own, agent) = (stat(supervisor.pid).unwrap(), supervisor.agent());
    assert_eq!(own[1], "1", "who started it has gone");
    assert_eq!(own[4], "0", "it has no terminal");
    assert_ne!(own[3], supervisor.pid.to_string(), "and cannot get one: it leads no session");
    assert_ne!(own[3], stat(std::process::id()).unwrap()[3]);
    for pid in [supervisor.pid, agent] {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        assert_eq!(link("cwd").as_os_str(), "/");
        assert_eq!(link("fd/1").as_os_str(), "/dev/null");
    }
    let mode = |name: &str| post.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("log"), mode("pid")), (0o640, 0o644));
    post.wait_log("started; settings from no file; on: usage, heartbeat", 1);
    supervisor.stop();
    assert!(!post.path("pid").exists() && !post.is_served());
    let log = post.read("log");
    assert!(log.lines().all(|line| line.contains("Z info ")), "{log}");
    assert!(log.ends_with("Z info stopping\n"), "{log}");
}

#[test]
fn detached_it_says_at_the_terminal_why_the_agent_does_not_start() {
    let post = Post::new("detach-failure");
    let taken = TcpListener::bind(post.address).unwrap();
    let refused = |arguments: &[&str]| {
        let output = post.detach(&[&["--log-file", "log"], arguments].concat());
        assert!(!post.path("pid").exists());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(&[]);
    let lines: Vec<_> = said.lines().collect();
    let [why, given_up] = lines[..] else { panic!("{said}") };
    // In the C library's words.
    assert!(
        why.starts_with(&format!("hm-agent: usage cannot listen on {}: ", post.address)),
        "{why}"
    );
    assert_eq!(given_up, "hm-agent: the agent exited with code 1, and is given up");
    assert_eq!(code, Some(1));
    let (log, why) = (post.read("log"), why.strip_prefix("hm-agent: ").unwrap());
    assert!(log.contains(&format!("Z error {why}\n")), "its last words are in the log: {log}");
    let (code, said) = refused(&["-s", "interval=0"]);
    assert_eq!(code, Some(2));
    assert!(said.starts_with("hm-agent: command line: interval: expected whole seconds"), "{said}");
    // What the supervisor itself needs.
    let (code, said) = refused(&["--log-file", "nowhere/log"]);
    assert_eq!(code, Some(1));
    let path = post.path("nowhere/log");
    let why = format!("open the log {}: no such file or directory", path.display());
    assert_eq!(said, format!("hm-agent: {why}\n"));
    drop(taken);
}

#[test]
fn a_dead_agent_is_started_again_later_each_time() {
    let post = Post::new("crash");
    let mut supervisor = post.in_background(&[]);
    // None that a shell has its background jobs ignore, as SIGQUIT.
    for (round, (how, seconds)) in [("-KILL", 1), ("-ILL", 2), ("-ABRT", 4)].into_iter().enumerate()
    {
        let (agent, start) = (supervisor.agent(), Instant::now());
        signal(agent, how);
        wait_until("its end", || (!children(supervisor.pid).contains(&agent)).then_some(()));
        wait_until("the next one", || post.is_served().then_some(()));
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(seconds), "after {took:?}");
        assert!(took < Duration::from_secs(seconds) + SLACK, "after {took:?}");
        let number = [9, 4, 6][round];
        let line =
            format!("Z warn the agent was killed by signal {number}; started again in {seconds} s");
        post.wait_log(&line, 1);
        assert!(supervisor.lives());
    }
    // It is not waited for.
    signal(supervisor.agent(), "-KILL");
    post.wait_log("started again in 8 s", 1);
    let start = Instant::now();
    supervisor.signal("-TERM");
    supervisor.wait();
    assert!(start.elapsed() < SLACK && !post.path("pid").exists());
}

#[test]
fn in_the_foreground_an_agent_that_cannot_start_is_tried_again_unless_its_settings_are_wrong() {
    let post = Post::new("foreground");
    let taken = TcpListener::bind(post.address).unwrap();
    let supervisor = post.in_foreground(&["--log-file", "log"]);
    post.wait_log("Z warn the agent exited with code 1; started again in 1 s", 1);
    drop(taken);
    wait_until("the next try", || post.is_served().then_some(()));
    supervisor.stop();
    // Wrong later on, they are no reason to give up.
    std::fs::write(post.path("a.toml"), "").unwrap();
    let supervisor = post.in_foreground(&["--log-file", "log", "-c", "a.toml"]);
    wait_until("an agent", || post.is_served().then_some(()));
    std::fs::write(post.path("a.toml"), "nonsense\n").unwrap();
    signal(supervisor.agent(), "-KILL");
    post.wait_log("Z warn the agent exited with code 2; started again in 2 s", 1);
    drop(supervisor);
    let output = post.command(&["-c", "a.toml"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("hm-agent: ") && said.lines().count() == 1, "{said}");
}

#[test]
fn an_agent_that_was_asked_to_stop_stays_stopped() {
    let post = Post::new("asked");
    let mut supervisor = post.in_foreground(&["--pid-file", "pid"]);
    wait_until("an agent", || post.is_served().then_some(()));
    signal(supervisor.agent(), "-TERM");
    assert_eq!(supervisor.wait(), Some(0));
    assert!(!post.path("pid").exists());
}

/// What a terminal sends to its whole process group must not be two signals for the agent: the second ends it at once.
#[test]
fn an_interrupt_is_one_signal_for_the_agent() {
    let post = Post::new("interrupt");
    let mut supervisor = post.in_foreground(&["--log-file", "log"]);
    wait_until("an agent", || post.is_served().then_some(()));
    assert_ne!(stat(supervisor.agent()).unwrap()[2], stat(supervisor.pid).unwrap()[2]);
    supervisor.signal("-INT");
    assert_eq!(supervisor.wait(), Some(0));
    assert!(post.read("log").ends_with("Z info stopping\n"));
}

#[test]
fn an_agent_ends_with_its_supervisor_and_the_next_one_takes_over() {
    let post = Post::new("orphan");
    let mut first = post.in_background(&[]);
    let agent = first.agent();
    first.signal("-KILL");
    wait_until("its end", || (!is_there(agent)).then_some(()));
    first.wait();
    // Its pid file is still there, and stale.
    assert_eq!(post.read("pid"), format!("{}\n", first.pid));
    let second = post.in_background(&[]);
    assert_ne!(second.pid, first.pid);
    second.stop();
    // A number that is somebody's by now is as stale.
    std::fs::write(post.path("pid"), format!("{}\n", std::process::id())).unwrap();
    post.in_background(&[]).stop();
}

#[test]
fn a_second_one_is_refused_and_told_who_runs() {
    let post = Post::new("double");
    let supervisor = post.in_background(&[]);
    for arguments in [&["--log-file", "log2"][..], &[]] {
        let output = post.detach(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let (path, pid) = (post.path("pid"), supervisor.pid);
        let who = format!("take the pid file {}: process {pid} has it and runs", path.display());
        assert_eq!(said, format!("hm-agent: {who}\n"));
    }
    assert!(post.is_served() && !post.path("log2").exists());
    supervisor.stop();
}

#[test]
fn sighup_opens_the_log_anew_and_reads_the_settings_again() {
    let post = Post::new("hup");
    let supervisor = post.in_background(&[]);
    post.wait_log("started", 1);
    std::fs::rename(post.path("log"), post.path("old")).unwrap();
    supervisor.signal("-HUP");
    post.wait_log("Z info configuration reloaded", 1);
    assert!(!post.read("old").contains("configuration reloaded"));
    // Where it cannot be opened anew it is written on.
    std::fs::rename(post.path("log"), post.path("log2")).unwrap();
    std::fs::create_dir(post.path("log")).unwrap();
    supervisor.signal("-HUP");
    wait_until("both lines", || {
        let log = post.read("log2");
        let why = format!("Z warn open the log {} anew: is a dir", post.path("log").display());
        (log.contains(&why) && log.matches("configuration reloaded").count() == 2).then_some(())
    });
    supervisor.stop();
}

/// While an agent starts, a SIGHUP would be its end, as it is for any process that has not said otherwise yet.
#[test]
fn a_signal_that_comes_early_waits_and_kills_nobody() {
    let post = Post::new("early");
    let settings = post.path("a.toml");
    assert!(Command::new("mkfifo").arg(&settings).status().unwrap().success());
    let mut supervisor = post.in_foreground(&["--log-file", "log", "-c", "a.toml"]);
    // It is about to read them.
    let agent = supervisor.agent();
    supervisor.signal("-HUP");
    wait_until("a signal that waits", || {
        let status = std::fs::read_to_string(format!("/proc/{agent}/status")).ok();
        let status = status.expect("the agent lives");
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t")).unwrap();
        pending.ends_with('1').then_some(())
    });
    std::fs::write(&settings, "").unwrap();
    post.wait_log("started", 1);
    std::fs::write(&settings, "").unwrap();
    post.wait_log("configuration reloaded", 1);
    supervisor.signal("-TERM");
    assert_eq!(supervisor.wait(), Some(0));
    assert!(!post.read("log").contains("the agent"), "{}", post.read("log"));
}

#[test]
fn a_log_file_is_put_aside_at_ten_megabytes() {
    let post = Post::new("rotation");
    std::fs::write(post.path("log"), "x".repeat(9_999_999) + "\n").unwrap();
    let supervisor = post.in_background(&[]);
    post.wait_log("started", 1);
    supervisor.stop();
    assert_eq!(post.path("log.1").metadata().unwrap().len(), 10_000_000);
    assert_eq!(post.path("log").metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(post.read("log").lines().count(), 4, "{}", post.read("log"));
}

#[test]
fn under_a_service_manager_it_speaks_for_the_agent() {
    let (post, manager) = (Post::new("manager"), Manager::new());
    let mut command = post.command(&["--log-file", "log"]);
    command.env("NOTIFY_SOCKET", &manager.name).env("WATCHDOG_USEC", "400000");
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    let mut supervisor = support::supervised::Supervisor { pid: child.id(), child: Some(child) };
    let own = format!("MAINPID={}", supervisor.pid);
    assert_eq!(manager.word(), format!("READY=1\nSTATUS=on: usage, heartbeat\n{own}"));
    let agent = supervisor.agent();
    let environment = std::fs::read_to_string(format!("/proc/{agent}/environ")).unwrap();
    assert!(!environment.contains("NOTIFY_SOCKET"));
    signal(agent, "-KILL");
    let news = "STATUS=the agent was killed by signal 9; started again in 1 s";
    assert_eq!(manager.word(), news);
    // It lives and does what it can, so it beats.
    let heard = || manager.hear(support::PATIENCE).unwrap();
    let beats = std::iter::repeat_with(heard).take_while(|word| word == "WATCHDOG=1").count();
    assert!(beats >= 2, "{beats}");
    supervisor.signal("-TERM");
    assert_eq!(manager.word(), format!("STOPPING=1\nSTATUS=stopping\n{own}"));
    assert_eq!(supervisor.wait(), Some(0));
}

#[test]
fn programs_that_outlive_an_agent_still_reach_the_log() {
    let post = Post::new("hook");
    let hook = "heartbeat.on_overdue=[\"sh\", \"-c\", \"echo begun >&2; sleep 3; echo done >&2\"]";
    let supervisor = post.in_background(&["-s", hook]);
    let log = post.wait_log("heartbeat listening on ", 1);
    let line = log.lines().find(|line| line.contains("heartbeat listening on ")).unwrap();
    let mut port = std::net::TcpStream::connect(line.rsplit(' ').next().unwrap()).unwrap();
    std::io::Write::write_all(&mut port, b"GET /hb_init?1&appid=late HTTP/1.0\r\n\r\n").unwrap();
    post.wait_log("Z error begun", 1);
    signal(supervisor.agent(), "-KILL");
    post.wait_log("Z error done", 1);
    supervisor.stop();
}

#[test]
#[ignore = "a minute"]
fn an_agent_that_falls_silent_is_killed_and_started_again() {
    let post = Post::new("silent");
    let supervisor = post.in_background(&[]);
    let (agent, start) = (supervisor.agent(), Instant::now());
    signal(agent, "-STOP");
    // It beats every half minute, so its last one may be that old.
    std::thread::park_timeout(Duration::from_secs(25));
    wait_until("its end", || (!is_there(agent)).then_some(()));
    assert!(start.elapsed() > Duration::from_secs(29), "{:?}", start.elapsed());
    post.wait_log("Z error the agent is killed: it has not said for 60 s that it is well", 1);
    wait_until("the next one", || post.is_served().then_some(()));
    // This one does not listen to SIGTERM either.
    signal(supervisor.agent(), "-STOP");
    let start = Instant::now();
    let mut supervisor = supervisor;
    supervisor.signal("-TERM");
    supervisor.wait();
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", start.elapsed());
    post.wait_log("Z error the agent is killed: it has not stopped within 5 s", 1);
}

#[test]
#[ignore = "needs root and unshare"]
fn a_full_disk_ends_nothing_and_what_is_lost_is_counted() {
    let mut post = Post::new("full");
    let disk = post.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let mount = format!("mount -t tmpfs -o size=64k none {} && exec \"$0\" \"$@\"", disk.display());
    post.wrapper = ["unshare", "--mount", "sh", "-c", &mount].map(str::to_owned).to_vec();
    let supervisor = post.in_foreground(&["--log-file", "disk/log"]);
    wait_until("an agent", || post.is_served().then_some(()));
    // Seen from there.
    let there = format!("/proc/{}/root{}", supervisor.pid, disk.display());
    let log = || std::fs::read_to_string(format!("{there}/log")).unwrap();
    wait_until("its lines", || log().contains("started").then_some(()));
    // Not to the last byte: a line is torn.
    std::fs::write(format!("{there}/filler"), vec![0; 60 << 10]).unwrap();
    // All that there is beside it is the page that the log has already.
    wait_until("a full disk", || {
        supervisor.signal("-HUP");
        (log().len() == 4096).then_some(())
    });
    assert!(post.is_served());
    supervisor.signal("-HUP");
    std::fs::remove_file(format!("{there}/filler")).unwrap();
    wait_until("that it is said", || {
        supervisor.signal("-HUP");
        log().contains(" lines could not be written here\n").then_some(())
    });
    let log = log();
    assert!(
        log.lines().filter(|line| !line.contains("configuration reloaded")).count() < 8,
        "{log}"
    );
    let agent = supervisor.agent();
    supervisor.stop();
    assert!(!is_there(agent));
}

#[test]
#[ignore = "needs root and unshare"]
fn syslog_gets_every_line_also_after_it_was_started_again() {
    let mut post = Post::new("syslog");
    let socket = post.path("socket");
    let listen = || {
        let syslog = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        syslog.set_read_timeout(Some(support::PATIENCE)).unwrap();
        syslog
    };
    // A /dev with a log of ours, as the real one may be a link too.
    let dev = post.path("dev");
    std::fs::create_dir(&dev).unwrap();
    let script = format!(
        "mount -t tmpfs none {0} && mknod -m 666 {0}/null c 1 3 && ln -s {1} {0}/log && \
         mount --bind {0} /dev && exec \"$0\" \"$@\"",
        dev.display(),
        socket.display()
    );
    post.wrapper = ["unshare", "--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
    let syslog = listen();
    let hear = |syslog: &std::os::unix::net::UnixDatagram| {
        let mut line = [0; 4096];
        let length = syslog.recv(&mut line).expect("a line");
        String::from_utf8(line[..length].to_vec()).unwrap()
    };
    let minute = || {
        let date = Command::new("date").arg("+%b %e %H:%M").env("LC_ALL", "C").output().unwrap();
        String::from_utf8(date.stdout).unwrap().trim().to_owned()
    };
    let before = minute();
    let output = post.detach(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let pid = post.read("pid").trim().parse().unwrap();
    let supervisor = support::supervised::Supervisor { pid, child: None };
    let agent = supervisor.agent();
    let line = hear(&syslog);
    let (stamp, text) = line.split_at(20);
    assert_eq!(text, format!("hm-agent[{agent}]: usage listening on {}", post.address));
    let minutes = [before, minute()];
    let is_now = minutes.iter().any(|minute| stamp[4..].starts_with(minute));
    assert!(stamp.starts_with("<30>") && is_now, "{line} is not of {minutes:?}");
    while !hear(&syslog).contains("started") {}
    signal(agent, "-KILL");
    let line = hear(&syslog);
    assert!(line.starts_with("<28>"), "{line}");
    let text = format!(" hm-agent[{pid}]: the agent was killed by signal 9; started again in 1 s");
    assert!(line.ends_with(&text), "{line}");
    drop(syslog);
    std::fs::remove_file(&socket).unwrap();
    wait_until("the next one", || post.is_served().then_some(()));
    let syslog = listen();
    supervisor.signal("-HUP");
    while !hear(&syslog).ends_with(": configuration reloaded") {}
    // One that does not read keeps nobody waiting.
    for _ in 0..100 {
        supervisor.signal("-HUP");
    }
    assert_eq!(children(supervisor.pid).len(), 1);
    supervisor.stop();
}
