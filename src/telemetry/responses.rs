//! What the telemetry port answers to plain requests: the page, /metrics, /snapshot, and how the agent is. All of it comes
//! from the last sample; nobody waits for a driver.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::collector::latest::LatestSample;
use crate::collector::process_stats;
use crate::config::Current;
use crate::http::connection::Request;
use crate::http::gzip;
use crate::http::message::{ErrorResponse, Head};
use crate::http::stats::Counters;
use crate::limits;
use crate::metrics::{Exposition, Format, PortStatus, render};
use crate::model::host_info::HostInfo;
use crate::sys;
use crate::sys::EventFd;
use crate::telemetry::dashboard;
use crate::telemetry::messages;
use crate::util::sync::{Shutdown, lock};

/// What the answers are made of.
pub struct Responses<'a> {
    /// The samples.
    pub feed: &'a LatestSample,
    /// What does not change.
    pub machine: &'a HostInfo,
    /// The settings in force.
    pub settings: &'a Current,
    /// Readable when samples say how it stands with the GPUs.
    pub complete: &'a EventFd,
    /// Readable when the agent stops.
    pub stop: &'a Shutdown,
    /// Every port and its counters.
    pub ports: Vec<(&'static str, &'a Counters)>,
    /// Those that are being answered.
    pub scrapes: ScrapeLimit,
    /// Memory for answers.
    pub spare: BufferPool,
    /// Answers for those who come beyond them.
    pub shared: Shared,
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// For people.
    Page,
    /// For Prometheus.
    Metrics,
    /// For curl and jq.
    Snapshot,
    /// Whether the agent lives.
    Healthy,
    /// Whether it knows all that it will know.
    Ready,
}

impl Document {
    /// What is at this path.
    pub fn at(path: &str) -> Option<Self> {
        match path {
            "/" => Some(Self::Page),
            "/metrics" => Some(Self::Metrics),
            "/snapshot" => Some(Self::Snapshot),
            "/-/healthy" | "/healthz" => Some(Self::Healthy),
            "/-/ready" => Some(Self::Ready),
            _ => None,
        }
    }

    /// Whether anybody may have it, for it tells nothing of the machine: whether the agent lives, and the page, which
    /// asks for the token itself.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Healthy | Self::Ready | Self::Page)
    }
}

/// An answer.
pub struct Answer<'a> {
    status: &'static str,
    body: Body<'a>,
    /// Held until it is sent.
    _place: Option<Place<'a>>,
}

/// A document as it was made.
struct Made {
    content_type: &'static str,
    headers: &'static str,
    gzip: bool,
    /// Behind room for the head.
    bytes: Vec<u8>,
}

/// Whose memory an answer is in.
enum Body<'a> {
    /// Its own, and where that goes when it is sent.
    Own(Made, &'a BufferPool),
    /// That of others who were told the same; and its head.
    Shared(Arc<Made>, String),
}

impl Answer<'_> {
    /// Number and words, e.g. `200 OK`.
    pub fn status(&self) -> &'static str {
        self.status
    }

    /// As it goes over the wire. Head and body are one piece, but for what is shared.
    pub fn parts(&mut self, request: &Request) -> [&[u8]; 2] {
        let made = match &self.body {
            Body::Own(made, _) => made,
            Body::Shared(made, _) => &**made,
        };
        let Made { content_type, headers, gzip, bytes } = made;
        let (status, length) = (self.status, bytes.len() - HEAD_ROOM);
        let connection = if request.keep { "keep-alive" } else { "close" };
        let encoding = if *gzip { "Content-Encoding: gzip\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{headers}{encoding}X-Content-Type-Options: nosniff\r\nConnection: {connection}\r\n\r\n"
        );
        match &mut self.body {
            Body::Own(Made { bytes, .. }, _) => {
                // One that needs more room moves the body.
                let begin = HEAD_ROOM.saturating_sub(head.len());
                drop(bytes.splice(begin..HEAD_ROOM, head.bytes()));
                let end = if request.head_only { begin + head.len() } else { bytes.len() };
                [&bytes[begin..end], &[]]
            }
            Body::Shared(made, room) => {
                *room = head;
                [room.as_bytes(), if request.head_only { &[] } else { &made.bytes[HEAD_ROOM..] }]
            }
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if let Body::Own(made, spare) = &mut self.body {
            spare.put(std::mem::take(&mut made.bytes));
        }
    }
}

/// The usual head of an answer has some 300 bytes, that of the page twice as many.
const HEAD_ROOM: usize = 1024;

/// Memory of answers that were sent, for the next ones: new memory costs several times what is written into it.
#[derive(Default)]
pub struct BufferPool(Mutex<Vec<Vec<u8>>>);

impl BufferPool {
    /// With room for a head.
    fn take(&self) -> Vec<u8> {
        let mut bytes = lock(&self.0).pop().unwrap_or_default();
        bytes.clear();
        bytes.resize(HEAD_ROOM, 0);
        bytes
    }

    fn put(&self, bytes: Vec<u8>) {
        let mut spare = lock(&self.0);
        // Two: the text, and what it is compressed into.
        if bytes.capacity() <= limits::SPARE_BYTES && spare.len() < 2 {
            spare.push(bytes);
        }
    }
}

impl<'a> Responses<'a> {
    /// The answer to a request for it. What it needs of the stack is not that of a subscriber.
    #[inline(never)]
    pub fn answer(
        &'a self,
        document: Document,
        head: &Head<'_>,
    ) -> Result<Answer<'a>, ErrorResponse> {
        if matches!(document, Document::Healthy | Document::Ready) {
            return Ok(self.health(document));
        }
        let format = Format::negotiate(head.all("accept"));
        let accepted = gzip::is_accepted(head.all("accept-encoding"));
        let make = || self.make(document, format, accepted);
        let tick = self.feed.current().tick();
        let place = self.scrapes.enter();
        let body = if place.is_some() {
            self.shared.forget(tick);
            Body::Own(make()?, &self.spare)
        } else {
            let kind = (document, format.content_type(), accepted);
            Body::Shared(self.shared.get(kind, tick, make)?, String::new())
        };
        Ok(Answer { status: "200 OK", body, _place: place })
    }

    fn health(&'a self, document: Document) -> Answer<'a> {
        let (status, text) = match self.trouble(document) {
            None => ("200 OK", "ok".to_owned()),
            Some(trouble) => ("503 Service Unavailable", trouble),
        };
        let mut bytes = self.spare.take();
        bytes.extend(text.bytes().chain([b'\n']));
        let content_type = "text/plain; charset=utf-8";
        let made =
            Made { content_type, headers: "Cache-Control: no-store\r\n", gzip: false, bytes };
        Answer { status, body: Body::Own(made, &self.spare), _place: None }
    }

    fn make(
        &self,
        document: Document,
        format: Format,
        accepted: bool,
    ) -> Result<Made, ErrorResponse> {
        let spare = &self.spare;
        let mut bytes = spare.take();
        let of_now = "Vary: Accept, Accept-Encoding\r\nCache-Control: no-store\r\n";
        // The page is carried as nearly all want it.
        let carried = accepted && document == Document::Page;
        let (content_type, headers) = match document {
            Document::Page => {
                if carried {
                    bytes.extend(dashboard::PAGE);
                } else {
                    bytes.extend(dashboard::plain()?);
                }
                (dashboard::CONTENT_TYPE, dashboard::headers()?)
            }
            Document::Metrics => {
                bytes = self.metrics(format, bytes);
                (format.content_type(), of_now)
            }
            _ => {
                bytes.extend(self.snapshot().into_bytes());
                ("application/json", of_now)
            }
        };
        let long = bytes.len() - HEAD_ROOM >= limits::GZIP_BYTES;
        let gzip = carried || (long && accepted);
        if gzip && !carried {
            let packed = gzip::compress(&bytes[HEAD_ROOM..], spare.take());
            spare.put(std::mem::replace(&mut bytes, packed));
        }
        Ok(Made { content_type, headers, gzip, bytes })
    }

    /// Waits, three seconds after the start at most, until it is known how it stands with the GPUs: who asks only
    /// once what there is, and all dashboards do that when the agent was restarted, is not told too little.
    pub fn wait_until_complete(&self) {
        sys::wait_readable([self.stop.as_fd(), self.complete.as_fd()], None);
    }

    /// Whether samples say how it stands with the GPUs.
    pub fn is_complete(&self) -> bool {
        sys::wait_readable([self.complete.as_fd()], Some(Duration::ZERO)) == [true]
    }

    /// What is wrong, if something is.
    fn trouble(&self, document: Document) -> Option<String> {
        let interval = self.settings.get().interval;
        let stale = stale(self.feed.current().age(), interval);
        match document {
            Document::Ready if !self.is_complete() => {
                Some("the first word on the GPUs is still to come".to_owned())
            }
            _ => stale,
        }
    }

    fn metrics(&self, format: Format, mut bytes: Vec<u8>) -> Vec<u8> {
        let sample = self.feed.current();
        let boot = sample.raw.stat.as_ref().and_then(|stat| stat.boot_time_seconds);
        let input = Exposition {
            sample: &sample.raw,
            host: self.machine,
            now: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            interval: self.settings.get().interval,
            samples: sample.tick() + 1,
            process: process_stats::process(boot),
            ports: &self.ports(),
        };
        bytes.extend(render(&input, format).into_bytes());
        bytes
    }

    fn snapshot(&self) -> String {
        let sample = self.feed.current();
        let boot = sample.raw.stat.as_ref().and_then(|stat| stat.boot_time_seconds);
        let primary = self.settings.get().gpu.primary;
        let own =
            messages::OwnStatus { process: process_stats::process(boot), ports: &self.ports() };
        messages::whole(self.machine, &sample.raw, &sample.snapshot, primary, own)
    }

    fn ports(&self) -> Vec<PortStatus> {
        self.ports.iter().map(|(name, counters)| counters.status(name)).collect()
    }
}

/// A sample that is older than three intervals: the sampler hangs, or the machine is too busy for it.
fn stale(age: Duration, interval: Duration) -> Option<String> {
    (age > interval * 3).then(|| {
        let (age, interval) = (age.as_secs(), interval.as_secs());
        format!("the last sample is {age} s old, and there should be one every {interval} s")
    })
}

/// Answers that take memory until they are sent.
#[derive(Default)]
pub struct ScrapeLimit(AtomicUsize);

/// One of them, given back when it is dropped.
pub struct Place<'a>(&'a ScrapeLimit);

impl ScrapeLimit {
    fn enter(&self) -> Option<Place<'_>> {
        let place = Place(self);
        // The place that is too many is dropped, and so given back.
        (self.0.fetch_add(1, Ordering::Relaxed) < limits::SCRAPES).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request asks for: the document, its kind, and whether it may be compressed.
type Kind = (Document, &'static str, bool);

/// Answers for those who come when all places are taken: the same for all, and made once for a sample. However many of
/// them do not read, they hold the memory of few answers.
#[derive(Default)]
pub struct Shared(Mutex<Vec<(Kind, u64, Arc<Made>)>>);

impl Shared {
    fn get(
        &self,
        kind: Kind,
        tick: u64,
        make: impl FnOnce() -> Result<Made, ErrorResponse>,
    ) -> Result<Arc<Made>, ErrorResponse> {
        let mut known = lock(&self.0);
        known.retain(|(_, of, _)| *of == tick);
        if let Some((.., made)) = known.iter().find(|(known, ..)| *known == kind) {
            return Ok(made.clone());
        }
        // Others wait: they want the same.
        let made = Arc::new(make()?);
        known.push((kind, tick, made.clone()));
        Ok(made)
    }

    /// Those of earlier samples.
    fn forget(&self, tick: u64) {
        lock(&self.0).retain(|(_, of, _)| *of == tick);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_may_be_three_intervals_old() {
        let second = Duration::from_secs(1);
        assert_eq!(stale(second * 15, second * 5), None);
        let trouble = stale(second * 16, second * 5).unwrap();
        assert_eq!(trouble, "the last sample is 16 s old, and there should be one every 5 s");
    }

    #[test]
    fn beyond_the_places_an_answer_is_made_once_for_a_sample() {
        let shared = Shared::default();
        let make = || Ok(Made { content_type: "", headers: "", gzip: false, bytes: Vec::new() });
        let get = |kind, tick| shared.get(kind, tick, make).ok().unwrap();
        let (metrics, page) = ((Document::Metrics, "", true), (Document::Page, "", true));
        let first = get(metrics, 1);
        assert!(Arc::ptr_eq(&first, &get(metrics, 1)) && !Arc::ptr_eq(&first, &get(page, 1)));
        assert!(!Arc::ptr_eq(&first, &get(metrics, 2)));
        shared.forget(3);
        assert_eq!(Arc::strong_count(&first), 1);
        assert!(lock(&shared.0).is_empty());
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let scrapes = ScrapeLimit::default();
        let mut places: Vec<_> = (0..limits::SCRAPES).map(|_| scrapes.enter()).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(scrapes.enter().is_none() && scrapes.enter().is_none());
        places.pop();
        assert!(scrapes.enter().is_some());
        drop(places);
        assert_eq!(scrapes.0.load(Ordering::Relaxed), 0);
    }
}
