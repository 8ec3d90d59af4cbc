//! `/proc/net/sockstat` and `/proc/net/sockstat6`: sockets by protocol.
//!
//! Format: a protocol, then pairs of a name and a number. `mem` is in pages, `memory` in bytes. Two real lines:
//!
//! ```text
//! sockets: used 229
//! TCP: inuse 4 orphan 0 tw 4 alloc 17 mem 1
//! ```

use std::collections::BTreeMap;

use crate::procfs::{ParseError, fields, find_name, lines, number};

/// Values by protocol and name, such as `TCP_inuse`.
pub type Sockstat = BTreeMap<&'static str, u64>;

const NAMES: [&str; 18] = [
    "FRAG6_inuse",
    "FRAG6_memory",
    "FRAG_inuse",
    "FRAG_memory",
    "RAW6_inuse",
    "RAW_inuse",
    "TCP6_inuse",
    "TCP_alloc",
    "TCP_inuse",
    "TCP_mem",
    "TCP_orphan",
    "TCP_tw",
    "UDP6_inuse",
    "UDPLITE6_inuse",
    "UDPLITE_inuse",
    "UDP_inuse",
    "UDP_mem",
    "sockets_used",
];

pub fn parse(text: &[u8]) -> Result<Sockstat, ParseError> {
    let mut sockstat = Sockstat::new();
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        let Some(protocol) = fields.next().and_then(|field| field.strip_suffix(b":")) else {
            continue;
        };
        while let Some(field) = fields.next() {
            let value = fields.next();
            if let Some(name) = find_name(&NAMES, protocol, field) {
                sockstat.insert(name, number(at, value)?);
            }
        }
    }
    Ok(sockstat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"sockets: used 229
TCP: inuse 4 orphan 0 tw 5 alloc 17 mem 1
UDP: inuse 2 mem 3
UDPLITE: inuse 0
RAW: inuse 6
FRAG: inuse 7 memory 1024
";

    #[test]
    fn parses_a_real_sample() {
        let expected = [
            ("FRAG_inuse", 7),
            ("FRAG_memory", 1024),
            ("RAW_inuse", 6),
            ("TCP_alloc", 17),
            ("TCP_inuse", 4),
            ("TCP_mem", 1),
            ("TCP_orphan", 0),
            ("TCP_tw", 5),
            ("UDPLITE_inuse", 0),
            ("UDP_inuse", 2),
            ("UDP_mem", 3),
            ("sockets_used", 229),
        ];
        assert_eq!(parse(REAL).unwrap().into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn skips_unknown_protocols_and_names() {
        let text = b"SMC: inuse 1\nTCP6: idle many inuse 2\n\nnonsense\n";
        assert_eq!(parse(text), Ok(Sockstat::from([("TCP6_inuse", 2)])));
        assert_eq!(parse(b""), Ok(Sockstat::new()));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"TCP: inuse\n").is_err());
        assert!(parse(b"TCP: inuse -1\n").is_err());
        assert!(parse(b"TCP: inuse 99999999999999999999\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
