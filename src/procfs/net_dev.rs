//! `/proc/net/dev`: traffic counters of every network interface.
//!
//! Format: proc(5); two header lines, then a name and sixteen counters per line. Two real lines:
//!
//! ```text
//!     lo: 2776770   11307    0    0    0     0          0         0  2776770   11307    0    0    0     0       0          0
//!   eth0: 1215645    2751    0    0    0     0          0         0  1782404    4324    0    0    0   427       0          0
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// Counters of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub drops: u64,
    /// Lost because the queue of the device was full.
    pub fifo: u64,
    pub compressed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDev {
    /// Any bytes but white space, `/` and `:`.
    pub name: Vec<u8>,
    pub receive: Traffic,
    /// Framing errors.
    pub receive_frame: u64,
    pub receive_multicast: u64,
    pub transmit: Traffic,
    pub collisions: u64,
    /// Carrier losses while transmitting.
    pub carrier: u64,
}

pub fn parse(text: &[u8]) -> Result<Vec<NetDev>, ParseError> {
    parse_matching(text, usize::MAX, |_| true)
}

/// Parses the first `max` interfaces whose names match.
pub fn parse_matching(
    text: &[u8],
    max: usize,
    matches: impl Fn(&[u8]) -> bool,
) -> Result<Vec<NetDev>, ParseError> {
    let mut devices = Vec::new();
    for (at, line) in lines(text).skip(2) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        if devices.len() >= max {
            break;
        }
        // The last colon, because the name of an alias ("eth0:1") contains one.
        let colon = line.iter().rposition(|&byte| byte == b':');
        let (name, counters) = colon
            .and_then(|colon| line.split_at_checked(colon))
            .and_then(|(name, rest)| Some((name.trim_ascii(), rest.get(1..)?)))
            .ok_or_else(|| ParseError::new(at, "an interface and its counters", line))?;
        if matches(name) {
            devices.push(device(at, name, fields(counters))?);
        }
    }
    Ok(devices)
}

fn device<'a>(
    at: usize,
    name: &[u8],
    mut counters: impl Iterator<Item = &'a [u8]>,
) -> Result<NetDev, ParseError> {
    let mut next = || number(at, counters.next());
    let mut receive = Traffic { bytes: next()?, packets: next()?, ..Traffic::default() };
    (receive.errors, receive.drops, receive.fifo) = (next()?, next()?, next()?);
    let receive_frame = next()?;
    receive.compressed = next()?;
    let receive_multicast = next()?;
    let mut transmit = Traffic { bytes: next()?, packets: next()?, ..Traffic::default() };
    (transmit.errors, transmit.drops, transmit.fifo) = (next()?, next()?, next()?);
    let (collisions, carrier) = (next()?, next()?);
    transmit.compressed = next()?;
    Ok(NetDev {
        name: name.to_vec(),
        receive,
        receive_frame,
        receive_multicast,
        transmit,
        collisions,
        carrier,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 2776770   11307    0    0    0     0          0         0  2776770   11307    0    0    0     0       0          0
  eth0: 1215645    2751    1    2    3     4          5         6  1782404    4324    7    8    9   427      10         11
br-1:2:1 1 0 0 0 0 0 0 2 2 0 0 0 0 0 0
";

    #[test]
    fn parses_a_real_sample() {
        let devices = parse(REAL).unwrap();
        assert_eq!(devices.len(), 3);
        assert_eq!(devices[1].name, b"eth0");
        let eth0 = &devices[1];
        let receive =
            Traffic { bytes: 1215645, packets: 2751, errors: 1, drops: 2, fifo: 3, compressed: 5 };
        let transmit =
            Traffic { bytes: 1782404, packets: 4324, errors: 7, drops: 8, fifo: 9, compressed: 11 };
        assert_eq!((eth0.receive, eth0.transmit), (receive, transmit));
        assert_eq!((eth0.receive_frame, eth0.receive_multicast), (4, 6));
        assert_eq!((eth0.collisions, eth0.carrier), (427, 10));
        assert_eq!((&devices[2].name[..], devices[2].receive.bytes), (&b"br-1:2"[..], 1));
    }

    #[test]
    fn rejects_malformed_text() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert!(parse(b"a\nb\neth0 1 2 3\n").is_err());
        assert!(parse(b"a\nb\neth0: 1 2 3\n").is_err());
        assert!(parse(b"a\nb\neth0: 1 2 3 x\n").is_err());
        assert!(parse(b"a\nb\neth0: 1 2 3 4 5 6 7 8 1 2 3 4 5 6 7\n").is_err(), "one too few");
        assert!(
            parse(b"a\nb\neth0: 99999999999999999999 2 3 4 5 6 7 8 1 2 3 4 5 6 7 8\n").is_err()
        );
        parse_every_prefix(REAL, parse);
    }
}
