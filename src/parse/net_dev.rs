//! `/proc/net/dev`: what every network interface has moved since it exists.
//!
//! Format: proc(5); two heading lines, then sixteen counters behind each name. Two real lines:
//!
//! ```text
//!     lo: 2776770   11307    0    0    0     0          0         0  2776770   11307    0    0    0     0       0          0
//!   eth0: 1215645    2751    0    0    0     0          0         0  1782404    4324    0    0    0   427       0          0
//! ```

use super::{ParseError, fields, lines, number};

/// Counters of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the kernel's words
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub drops: u64,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDev {
    /// Name of the interface: any bytes but white space, `/` and `:`.
    pub name: Vec<u8>,
    /// What came in.
    pub receive: Traffic,
    /// What went out.
    pub transmit: Traffic,
}

/// Parses `/proc/net/dev`.
pub fn parse(text: &[u8]) -> Result<Vec<NetDev>, ParseError> {
    let mut devices = Vec::new();
    for (at, line) in lines(text).skip(2) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        // The last colon: an alias ("eth0:1") has one in its name, and counters have none.
        let colon = line.iter().rposition(|&byte| byte == b':');
        let (name, counters) = colon
            .and_then(|colon| line.split_at_checked(colon))
            .and_then(|(name, rest)| Some((name.trim_ascii(), rest.get(1..)?)))
            .ok_or_else(|| ParseError::new(at, "an interface and its counters", line))?;
        let mut counters = fields(counters);
        let receive = traffic(at, &mut counters)?;
        let transmit = traffic(at, &mut counters.skip(4))?;
        devices.push(NetDev { name: name.to_vec(), receive, transmit });
    }
    Ok(devices)
}

fn traffic<'a>(
    at: usize,
    counters: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<Traffic, ParseError> {
    Ok(Traffic {
        bytes: number(at, counters.next())?,
        packets: number(at, counters.next())?,
        errors: number(at, counters.next())?,
        drops: number(at, counters.next())?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::survives_every_cut;
    use super::*;

    const REAL: &[u8] = b"Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 2776770   11307    0    0    0     0          0         0  2776770   11307    0    0    0     0       0          0
  eth0: 1215645    2751    1    2    3     4          5         6  1782404    4324    7    8    9   427      10         11
br-1:2:1 1 0 0 0 0 0 0 2 2 0 0 0 0 0 0
";

    #[test]
    fn a_real_sample() {
        let devices = parse(REAL).unwrap();
        assert_eq!(devices.len(), 3);
        assert_eq!(devices[1].name, b"eth0");
        let receive = Traffic { bytes: 1215645, packets: 2751, errors: 1, drops: 2 };
        let transmit = Traffic { bytes: 1782404, packets: 4324, errors: 7, drops: 8 };
        assert_eq!((devices[1].receive, devices[1].transmit), (receive, transmit));
        assert_eq!((&devices[2].name[..], devices[2].receive.bytes), (&b"br-1:2"[..], 1));
    }

    #[test]
    fn refuses_what_it_does_not_understand() {
        assert_eq!(parse(b""), Ok(vec![]));
        assert!(parse(b"a\nb\neth0 1 2 3\n").is_err());
        assert!(parse(b"a\nb\neth0: 1 2 3\n").is_err());
        assert!(parse(b"a\nb\neth0: 1 2 3 x\n").is_err());
        survives_every_cut(REAL, parse);
    }
}
