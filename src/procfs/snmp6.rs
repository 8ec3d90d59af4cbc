//! `/proc/net/snmp6`: the counters of IPv6 that node_exporter serves.
//!
//! Format: the protocol, which ends in 6, the name of the counter and its value. Two real lines:
//!
//! ```text
//! Ip6InOctets                      460
//! Udp6RcvbufErrors                 0
//! ```

use crate::procfs::netstat::{COUNTERS, Counters};
use crate::procfs::{ParseError, fields, find_name, lines, number};

pub fn parse(text: &[u8]) -> Result<Counters, ParseError> {
    let mut counters = Counters::new();
    for (at, line) in lines(text) {
        let mut fields = fields(line);
        let key = fields.next().unwrap_or_default();
        let end = key.iter().position(|&byte| byte == b'6').map(|at| at.saturating_add(1));
        let Some((protocol, field)) = end.and_then(|end| key.split_at_checked(end)) else {
            continue;
        };
        if let Some(name) = find_name(&COUNTERS, protocol, field) {
            counters.insert(name, number(at, fields.next())?);
        }
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"Ip6InReceives                   \t3119
Ip6InOctets                     \t226160
Ip6OutOctets                    \t4611
Icmp6InMsgs                     \t7
Icmp6OutType133                 \t5
Udp6InDatagrams                 \t9
UdpLite6InErrors                \t1
";

    #[test]
    fn keeps_counters_of_a_real_sample_that_node_exporter_serves() {
        let expected = [
            ("Icmp6_InMsgs", 7),
            ("Ip6_InOctets", 226_160),
            ("Ip6_OutOctets", 4611),
            ("Udp6_InDatagrams", 9),
            ("UdpLite6_InErrors", 1),
        ];
        assert_eq!(parse(REAL).unwrap().into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(parse(b"six\n\nIp6\n"), Ok(Counters::new()));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"Ip6InOctets\n").is_err());
        assert!(parse(b"Ip6InOctets -1\n").is_err());
        assert!(parse(b"Ip6InOctets 99999999999999999999\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
