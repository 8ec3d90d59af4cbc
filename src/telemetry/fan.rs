//! The fan: one thread that hands each sample to every subscriber whose own thread sleeps.
//!
//! Waking ten thousand threads so that each sends the same bytes costs three times what sending them does. So a
//! subscriber's thread, while it has nothing to do, lends its socket to the fan, which writes what the socket takes at once
//! and never waits. What it does not take is left to the thread, which then is woken, with its deadline for writing; and who
//! is awake sends the sample itself before it sleeps again. Of a socket's bytes everyone is therefore written by one of the
//! two, in order.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::collector::latest::{LatestSample, PublishedSample};
use crate::config::Current;
use crate::limits;
use crate::model::primary_gpu::Primary;
use crate::sys;
use crate::sys::EventFd;
use crate::telemetry::messages;
use crate::util::deadline_stream::Traffic;
use crate::util::liveness::Liveness;
use crate::util::sync::{Shutdown, lock};

/// What a subscriber wants, and has.
#[derive(Clone, Copy)]
pub struct Subscription {
    /// With the fields of our own.
    pub detailed: bool,
    /// The tick whose update was sent last.
    pub sent: u64,
}

/// Everybody whose socket the fan may use.
pub struct Fan {
    lines: Mutex<BTreeMap<u64, Arc<Line>>>,
    next_line: AtomicU64,
    /// They ring in turn: one for those who sleep now, the other for those who sleep when it has rung.
    bells: [EventFd; 2],
    rung: AtomicU64,
    /// Rings when somebody lends a socket and nobody did before: until then the fan sleeps through all samples.
    first: EventFd,
    liveness: Arc<Liveness>,
}

/// One subscriber's socket.
struct Line {
    socket: Arc<TcpStream>,
    turn: Mutex<Turn>,
}

/// Who may write.
enum Turn {
    /// The subscriber's thread.
    Thread,
    /// The fan.
    Fan(Subscription),
    /// The thread, from this byte of the sample's update on.
    Rest(Arc<PublishedSample>, Subscription, usize),
}

/// A socket that the fan knows of until this is dropped.
pub struct Lent<'a> {
    fan: &'a Fan,
    number: u64,
    line: Arc<Line>,
}

/// An update that was begun, or that the socket did not take at all.
pub struct Owed {
    sample: Arc<PublishedSample>,
    detailed: bool,
    from: usize,
}

impl Fan {
    /// Knows nobody yet.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            lines: Mutex::default(),
            next_line: AtomicU64::new(0),
            bells: [EventFd::new()?, EventFd::new()?],
            rung: AtomicU64::new(0),
            first: EventFd::new()?,
            liveness: Arc::new(Liveness::new("fan")),
        })
    }

    /// Whether it gets on.
    pub fn liveness(&self) -> Arc<Liveness> {
        self.liveness.clone()
    }

    /// Hands out every sample until `stop` rings, and wakes everybody then.
    pub fn run(&self, feed: &LatestSample, settings: &Current, traffic: &Traffic, stop: &Shutdown) {
        let primary = || settings.get().gpu.primary;
        while !stop.is_triggered() {
            self.liveness.busy();
            let sample = feed.current();
            self.hand_out(&sample, &primary, traffic);
            self.liveness.idle(None);
            let nobody = lock(&self.lines).is_empty();
            let next = if nobody { self.first.as_fd() } else { feed.changed_fd(sample.tick()) };
            sys::wait_readable([next, stop.as_fd()], None);
            if nobody {
                self.first.reset();
            }
        }
        self.bells.iter().for_each(EventFd::notify);
    }

    /// From now on the fan writes there, whenever its thread [sleeps](Lent::sleep).
    pub fn lend(&self, socket: Arc<TcpStream>) -> Lent<'_> {
        let number = self.next_line.fetch_add(1, Ordering::Relaxed);
        let line = Arc::new(Line { socket, turn: Mutex::new(Turn::Thread) });
        let mut lines = lock(&self.lines);
        if lines.is_empty() {
            self.first.notify();
        }
        lines.insert(number, line.clone());
        drop(lines);
        Lent { fan: self, number, line }
    }

    /// How often it has woken all threads.
    pub fn rung(&self) -> u64 {
        self.rung.load(Ordering::SeqCst)
    }

    /// What becomes readable when it does so again, because some thread has to write what the fan could not, or because the
    /// agent stops.
    pub fn bell(&self, rung: u64) -> BorrowedFd<'_> {
        self.bells[parity(rung)].as_fd()
    }

    fn hand_out(
        &self,
        sample: &Arc<PublishedSample>,
        primary: &impl Fn() -> Primary,
        traffic: &Traffic,
    ) {
        let (mut next, mut rests) = (0, false);
        loop {
            // A few at a time, so that nobody who comes or goes waits for all.
            let some: Vec<_> = lock(&self.lines)
                .range(next..)
                .take(limits::FAN_LINES)
                .map(|(number, line)| (*number, line.clone()))
                .collect();
            let Some((last, _)) = some.last() else { break };
            next = last + 1;
            for (_, line) in some {
                rests |= line.send(sample, primary, traffic);
            }
        }
        if rests {
            self.wake();
        }
    }

    /// Wakes all threads; those whom it does not concern sleep on.
    fn wake(&self) {
        let rung = self.rung();
        // Who still waits for this one has been woken, a sample ago or earlier.
        self.bells[parity(rung + 1)].reset();
        self.rung.store(rung + 1, Ordering::SeqCst);
        self.bells[parity(rung)].notify();
    }
}

fn parity(number: u64) -> usize {
    usize::from(number % 2 == 1)
}

impl Line {
    /// Sends the update if it is the fan's turn and this one is new. Says whether something is left to the thread.
    fn send(
        &self,
        sample: &Arc<PublishedSample>,
        primary: &impl Fn() -> Primary,
        traffic: &Traffic,
    ) -> bool {
        let mut turn = lock(&self.turn);
        let Turn::Fan(subscription) = &mut *turn else { return false };
        if subscription.sent == sample.tick() {
            return false;
        }
        subscription.sent = sample.tick();
        let update = messages::update_frame(sample, primary, subscription.detailed);
        // The socket never blocks. What is wrong with it, its thread will see and say.
        let written = (&*self.socket).write(update).unwrap_or(0);
        traffic.add_sent(written);
        if written == update.len() {
            return false;
        }
        *turn = Turn::Rest(sample.clone(), *subscription, written);
        true
    }
}

impl Lent<'_> {
    /// The thread sleeps from now on, and the fan may write.
    pub fn sleep(&self, subscription: Subscription) {
        *lock(&self.line.turn) = Turn::Fan(subscription);
    }

    /// The thread is awake, and the fan does not write any more. What it has sent meanwhile, and what it could not.
    pub fn wake(&self) -> (Option<Subscription>, Option<Owed>) {
        match std::mem::replace(&mut *lock(&self.line.turn), Turn::Thread) {
            Turn::Thread => (None, None),
            Turn::Fan(subscription) => (Some(subscription), None),
            Turn::Rest(sample, subscription, from) => {
                let detailed = subscription.detailed;
                (Some(subscription), Some(Owed { sample, detailed, from }))
            }
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        lock(&self.fan.lines).remove(&self.number);
    }
}

impl Owed {
    /// The bytes that were not sent.
    pub fn bytes(&self, primary: impl FnOnce() -> Primary) -> &[u8] {
        messages::update_frame(&self.sample, primary, self.detailed)
            .get(self.from..)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::model::RawSample;

    const PRIMARY: Primary = Primary::Index(0);

    struct Stage {
        feed: LatestSample,
        traffic: Traffic,
        ours: Arc<TcpStream>,
        client: TcpStream,
    }

    impl Stage {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let client = TcpStream::connect(address).expect("a connection");
            let (ours, _) = listener.accept().expect("its other end");
            ours.set_nonblocking(true).expect("a setting");
            client.set_nonblocking(true).expect("a setting");
            let feed = LatestSample::new(RawSample::default()).expect("a feed");
            Self { feed, traffic: Traffic::default(), ours: Arc::new(ours), client }
        }

        fn publish(&self) -> Arc<PublishedSample> {
            self.feed.publish(RawSample::default());
            self.feed.current()
        }

        fn hand_out(&self, fan: &Fan, sample: &Arc<PublishedSample>) {
            fan.hand_out(sample, &|| PRIMARY, &self.traffic);
        }

        /// What has arrived since the last time.
        fn arrived(&mut self) -> Vec<u8> {
            let mut bytes = Vec::new();
            let end = self.client.read_to_end(&mut bytes);
            assert_eq!(end.map_err(|error| error.kind()), Err(io::ErrorKind::WouldBlock));
            bytes
        }
    }

    fn rings(fan: &Fan, rung: u64) -> bool {
        sys::wait_readable([fan.bell(rung)], Some(Duration::ZERO)) == [true]
    }

    #[test]
    fn who_sleeps_is_sent_each_sample_once_and_who_is_awake_none() {
        let (mut stage, fan) = (Stage::new(), Fan::new().expect("a fan"));
        let sample = stage.publish();
        let lent = fan.lend(stage.ours.clone());
        stage.hand_out(&fan, &sample);
        assert!(matches!(lent.wake(), (None, None)), "it was awake");
        lent.sleep(Subscription { detailed: true, sent: 0 });
        stage.hand_out(&fan, &sample);
        stage.hand_out(&fan, &sample);
        let (subscription, owed) = lent.wake();
        assert!(subscription.is_some_and(|each| each.detailed && each.sent == 1) && owed.is_none());
        stage.hand_out(&fan, &stage.publish());
        drop(lent);
        assert!(lock(&fan.lines).is_empty() && !rings(&fan, 0));
        let update = messages::update_frame(&sample, || PRIMARY, true);
        assert_eq!(stage.traffic.sent(), update.len() as u64);
        assert_eq!(stage.arrived(), update, "once, and not the next one, which is its thread's");
    }

    #[test]
    fn what_a_socket_does_not_take_is_left_to_its_thread() {
        let (mut stage, fan) = (Stage::new(), Fan::new().expect("a fan"));
        let lent = fan.lend(stage.ours.clone());
        let filler = [b'.'; 4096];
        let mut expected = Vec::new();
        while let Ok(written) = (&*stage.ours).write(&filler) {
            expected.extend_from_slice(&filler[..written]);
        }
        lent.sleep(Subscription { detailed: false, sent: 0 });
        let sample = stage.publish();
        stage.hand_out(&fan, &sample);
        assert!(rings(&fan, 0) && fan.rung() == 1 && !rings(&fan, 1));
        stage.hand_out(&fan, &stage.publish());
        assert!(fan.rung() == 1 && !rings(&fan, 1), "it is not the fan's turn any more");
        let (subscription, owed) = lent.wake();
        assert_eq!(subscription.map(|each| each.sent), Some(1));
        let rest = owed.map(|owed| owed.bytes(|| PRIMARY).to_vec()).expect("something is owed");
        let update = messages::update_frame(&sample, || PRIMARY, false);
        assert!(update.ends_with(&rest));
        expected.extend_from_slice(&update[..update.len() - rest.len()]);
        let mut arrived = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while arrived.len() < expected.len() && Instant::now() < deadline {
            arrived.extend(stage.arrived());
        }
        assert!(arrived == expected, "{} of {} bytes", arrived.len(), expected.len());
        assert!(!rings(&fan, 1));
    }
}
