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

/// A request head larger than this is refused (431). nginx's own bound.
pub const HEAD_BYTES: usize = 8 << 10;
/// Header lines in a head; browsers behind two proxies send about thirty.
pub const HEAD_LINES: usize = 64;
/// After the last message, how long to wait for the client's own end, so that the kernel does not
/// throw our last words away with a reset.
pub const LINGER: Duration = Duration::from_secs(1);
