//! Every cap, deadline and interval that is not a setting, with its reason.

use std::time::Duration;

/// The first sample has nothing to be compared with; the next one comes so soon, so that nobody looks at
/// a mean since boot for a whole interval. Long enough for whole percents on one processor.
pub const WARM_UP: Duration = Duration::from_millis(500);

/// Stack of the other threads: reading and serialising a machine of 1 000 processors fits many times.
pub const SERVICE_STACK_BYTES: usize = 256 << 10;

/// A TCP connection to one address is there within this, or the next address is tried.
pub const CONNECT: Duration = Duration::from_secs(10);
/// A proxy's answer, TLS, and the upgrade to a WebSocket take each no longer than this.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// tungstenite's read buffer for a link: answers are a few hundred bytes long.
pub const LINK_READ_BUFFER_BYTES: usize = 4 << 10;
/// What is longer is sent in parts.
pub const FRAME_BYTES: usize = 128 << 10;
/// A server's message larger than this ends the connection. A command may be longer than what can be run, and is
/// answered all the same.
pub const SERVER_MESSAGE_BYTES: usize = 4 << 20;
/// Time between two pings to Core.
pub const CORE_PING: Duration = Duration::from_secs(10);
/// Core's welcome is waited for so long, then it is spoken to all the same.
pub const WELCOME: Duration = Duration::from_secs(3);
/// A result that Core has not confirmed is sent again so much later.
pub const RESULT_AGAIN: Duration = Duration::from_secs(30);
/// A report that a server has not answered within this ends the connection.
pub const ANSWER: Duration = Duration::from_secs(20);
/// Between two reports, when many wait: a hub that comes back has all its nodes to listen to.
pub const REPORT_PAUSE: Duration = Duration::from_millis(50);
/// A hub that asks for later is asked after the first, then after twice as long each time, up to the second.
pub const LATER: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));
/// A hub that still holds this node's old connection notices within 30 s that it is gone.
pub const ALREADY_ONLINE: Duration = Duration::from_secs(10);
/// A link on which reports were answered for so long is good: the next outage is a new one.
pub const STABLE: Duration = Duration::from_secs(120);
/// The first and the longest wait between two tries to connect; see [`crate::net::reconnect::Backoff`].
pub const RECONNECT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));
/// A server that has answered pings and has been silent for so long is gone.
pub const PONG: Duration = Duration::from_secs(45);
/// Reports that wait for a server to come back: three and a half days of one every 30 s.
pub const BACKLOG_REPORTS: usize = 10_000;
/// A clock that is set back by no more than this does not set reports back: that is what time servers do, and
/// a report's time is wrong by no more than this for twice as long.
pub const CLOCK_SET_BACK: Duration = Duration::from_secs(600);
/// Lines of delivered reports in the file of those that wait, before it is written anew.
pub const STALE_LINES: usize = 2000;
/// That file is never so large, nor the one of commands.
pub const JOURNAL_BYTES: u64 = 64 << 20;
/// A disk that was full is tried again so much later, with the next report or command.
pub const JOURNAL_AGAIN: Duration = Duration::from_secs(10);

/// A command that Core gives no time for ends after this.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// It may ask for more, up to this.
pub const COMMAND_LONGEST: Duration = Duration::from_secs(3600);
/// From SIGTERM to SIGKILL, when a command's time is up.
pub const COMMAND_GRACE: Duration = Duration::from_secs(2);
/// The same when the agent ends, which has less time.
pub const INTERRUPTED_GRACE: Duration = Duration::from_millis(700);
/// Whoever is left of a command then is killed again and again for so long.
pub const COMMAND_REST: Duration = Duration::from_secs(2);
/// So many commands run at a time.
pub const COMMANDS_AT_ONCE: usize = 4;
/// So many wait for their turn.
pub const COMMANDS_WAITING: usize = 16;
/// What is kept of each of a command's two streams: half of it is the beginning, half the end.
pub const OUTPUT_BYTES: usize = 256 << 10;
/// Commands that are remembered, so that none is run twice.
pub const COMMANDS_REMEMBERED: usize = 1000;
/// Answers to one command that was asked for again and again.
pub const ANSWERS_DUE: usize = 16;
/// Memory for results that Core has not confirmed: four of the longest fit, six letters for each byte of them, and twenty usual ones.
pub const RESULTS_BYTES: usize = 12 << 20;
/// Memory for results that Core has: few ask for the same command again, and if they do, then soon.
pub const ANSWERED_BYTES: usize = 1 << 20;
/// A result is given up when Core could not read it so often.
pub const UNREADABLE: u32 = 3;
/// Stack of a command's thread, which starts the command and reads what it writes into the heap.
pub const COMMAND_STACK_BYTES: usize = 128 << 10;

/// Hosts that are watched over SSH.
pub const MONITOR_HOSTS: usize = 256;
/// A client's message may be so long: 256 hosts, each with a password.
pub const MONITOR_MESSAGE_BYTES: usize = 128 << 10;
/// Requests of one client to /monitor: so many at once, then one a second, then it is closed (1008).
pub const MONITOR_REQUESTS: u32 = 60;
/// ssh processes that connect at a time: each takes 10 ms of a processor for its keys, and as much at a host they may share.
pub const LOGINS_AT_ONCE: usize = 16;
/// ssh's own limit for a TCP connection and the server's first words, in whole seconds.
pub const SSH_CONNECT_SECONDS: u32 = 10;
/// From the start of ssh to the first word of the host's shell. Some servers ask a name server first, for ten seconds.
pub const SSH_LOGIN: Duration = Duration::from_secs(30);
/// A request of many hosts is answered after this, even if some have not had their turn to log in.
pub const MONITOR_ANSWER: Duration = Duration::from_secs(120);
/// Time between two looks at a host.
pub const REMOTE_LOOK: Duration = Duration::from_secs(2);
/// Time between two lists of a host's processes.
pub const REMOTE_PROCESSES: Duration = Duration::from_secs(5);
/// Time between two looks at what seldom changes.
pub const REMOTE_SLOW: Duration = Duration::from_secs(10);
/// A host that has not printed what it was asked for after this is lost. ssh itself notices a cut network within 15 s.
pub const REMOTE_ANSWER: Duration = Duration::from_secs(30);
/// One file of a host, or a line, is never so long: 20 000 processes.
pub const REMOTE_FILE_BYTES: usize = 4 << 20;
/// All that it prints from one question to the next.
pub const REMOTE_LOOK_BYTES: usize = 8 << 20;
/// What goes on beside, and is complete in that time: sizes and GPUs, and those that were late.
pub const REMOTE_ASIDES: u32 = 4;
/// What a host prints of a look has so many parts at the most; there are fifteen.
pub const REMOTE_PARTS: usize = 32;
/// Of each kind but processes, so many things of a host are taken; the rest is left out. They are compared each with each.
pub const REMOTE_THINGS: usize = 4096;
/// What is kept of ssh's own messages.
pub const SSH_WORDS_BYTES: usize = 4 << 10;
/// A session without a watcher ends after this: a page that is loaded again comes back within it.
pub const REMOTE_LINGER: Duration = Duration::from_secs(3);
/// A login that was refused is not tried again within this by clients that ask for the host anew, …
pub const REFUSED_LOGIN: Duration = Duration::from_secs(3);
/// … nor within this by ourselves: servers lock accounts.
pub const REFUSED_LOGIN_AGAIN: Duration = Duration::from_secs(600);
/// Clients that ask for a host anew have it tried before its time, but not more often than this.
pub const LOGIN_PAUSE: Duration = Duration::from_secs(1);

/// A request head larger than this is refused (431). nginx's own bound.
pub const HEAD_BYTES: usize = 8 << 10;
/// Header lines in a head; browsers behind two proxies send about thirty.
pub const HEAD_LINES: usize = 64;
/// After the last message, how long to wait for the client's own end, so that the kernel does not
/// throw our last words away with a reset.
pub const LINGER: Duration = Duration::from_secs(1);
