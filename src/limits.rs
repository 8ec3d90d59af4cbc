//! Every cap, deadline and interval that is not a setting, with its reason.

use std::time::Duration;

/// The first sample has nothing to be compared with; the next one comes so soon, so that nobody looks at
/// a mean since boot for a whole interval. Long enough for whole percents on one processor.
pub const WARM_UP: Duration = Duration::from_millis(500);

/// Stack of the other threads: reading and serialising a machine of 1 000 processors fits many times.
pub const SERVICE_STACK_BYTES: usize = 256 << 10;

/// A session on which requests were answered for this long is stable: the next disconnect starts a new backoff.
pub const STABLE: Duration = Duration::from_secs(120);
/// First and longest delay between two attempts to connect; see [`crate::net::backoff::Backoff`].
pub const RECONNECT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

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
