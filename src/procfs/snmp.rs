//! `/proc/net/snmp`: counters of the network protocols since boot.
//!
//! Format: pairs of lines, names and then values, each prefixed with the protocol. A real pair:
//!
//! ```text
//! Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
//! Udp: 2109 40 0 2149 0 0 0 12 0
//! ```

use crate::procfs::{ParseError, fields, lines, number};

/// A selection of the counters, defined by RFC 4022 and RFC 4113; `None` if the kernel does not have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snmp {
    pub tcp_active_opens: Option<u64>,
    pub tcp_passive_opens: Option<u64>,
    pub tcp_attempt_fails: Option<u64>,
    pub tcp_curr_estab: Option<u64>,
    pub tcp_in_segs: Option<u64>,
    pub tcp_out_segs: Option<u64>,
    pub tcp_retrans_segs: Option<u64>,
    pub udp_in_datagrams: Option<u64>,
    pub udp_out_datagrams: Option<u64>,
    pub udp_rcvbuf_errors: Option<u64>,
    pub udp_sndbuf_errors: Option<u64>,
}

pub fn parse(text: &[u8]) -> Result<Snmp, ParseError> {
    let mut snmp = Snmp::default();
    for_each(text, |at, protocol, key, value| {
        if let Some(slot) = slot(&mut snmp, protocol, key) {
            // Only MaxConn, which is not selected, may be -1.
            *slot = Some(number(at, Some(value))?);
        }
        Ok(())
    })?;
    Ok(snmp)
}

/// Passes every counter to `visit`: line number, protocol, name and value. Skips a protocol that has not as many values as names.
/// `/proc/net/netstat` has the same format.
pub(super) fn for_each<'a>(
    text: &'a [u8],
    mut visit: impl FnMut(usize, &'a [u8], &'a [u8], &'a [u8]) -> Result<(), ParseError>,
) -> Result<(), ParseError> {
    let mut names: Option<&[u8]> = None;
    for (at, line) in lines(text) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let Some(before) = names.take() else {
            names = Some(line);
            continue;
        };
        let (mut keys, mut values) = (fields(before), fields(line));
        let protocol = keys.next();
        if protocol != values.next() {
            return Err(ParseError::new(at, "the values of the previous line", line));
        }
        let protocol = protocol.unwrap_or_default();
        let protocol = protocol.strip_suffix(b":").unwrap_or(protocol);
        if fields(before).count() == fields(line).count() {
            keys.zip(values).try_for_each(|(key, value)| visit(at, protocol, key, value))?;
        }
    }
    Ok(())
}

fn slot<'a>(snmp: &'a mut Snmp, protocol: &[u8], key: &[u8]) -> Option<&'a mut Option<u64>> {
    Some(match (protocol, key) {
        (b"Tcp", b"ActiveOpens") => &mut snmp.tcp_active_opens,
        (b"Tcp", b"PassiveOpens") => &mut snmp.tcp_passive_opens,
        (b"Tcp", b"AttemptFails") => &mut snmp.tcp_attempt_fails,
        (b"Tcp", b"CurrEstab") => &mut snmp.tcp_curr_estab,
        (b"Tcp", b"InSegs") => &mut snmp.tcp_in_segs,
        (b"Tcp", b"OutSegs") => &mut snmp.tcp_out_segs,
        (b"Tcp", b"RetransSegs") => &mut snmp.tcp_retrans_segs,
        (b"Udp", b"InDatagrams") => &mut snmp.udp_in_datagrams,
        (b"Udp", b"OutDatagrams") => &mut snmp.udp_out_datagrams,
        (b"Udp", b"RcvbufErrors") => &mut snmp.udp_rcvbuf_errors,
        (b"Udp", b"SndbufErrors") => &mut snmp.udp_sndbuf_errors,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"Ip: Forwarding DefaultTTL InReceives
Ip: 2 64 86413202
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 1203 842 31 77 12 91842 90217 15 0 411 0
Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors
Udp: 2109 40 0 2149 3 4 0 12 0
";

    #[test]
    fn parses_a_real_sample() {
        let snmp = parse(REAL).unwrap();
        assert_eq!((snmp.tcp_active_opens, snmp.tcp_passive_opens), (Some(1203), Some(842)));
        assert_eq!((snmp.tcp_attempt_fails, snmp.tcp_curr_estab), (Some(31), Some(12)));
        assert_eq!((snmp.tcp_in_segs, snmp.tcp_out_segs), (Some(91842), Some(90217)));
        assert_eq!(snmp.tcp_retrans_segs, Some(15));
        assert_eq!((snmp.udp_in_datagrams, snmp.udp_out_datagrams), (Some(2109), Some(2149)));
        assert_eq!((snmp.udp_rcvbuf_errors, snmp.udp_sndbuf_errors), (Some(3), Some(4)));
    }

    #[test]
    fn counters_missing_in_old_kernels_are_none() {
        let snmp = parse(b"Udp: InDatagrams OutDatagrams\nUdp: 1 2\n").unwrap();
        assert_eq!((snmp.udp_out_datagrams, snmp.udp_rcvbuf_errors), (Some(2), None));
        assert_eq!(parse(b""), Ok(Snmp::default()));
    }

    #[test]
    fn skips_protocol_with_more_names_than_values() {
        let text = b"Tcp: InSegs OutSegs\nTcp: 1\nUdp: InDatagrams\nUdp: 2\n";
        let snmp = parse(text).unwrap();
        assert_eq!((snmp.tcp_in_segs, snmp.udp_in_datagrams), (None, Some(2)));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"Udp: InDatagrams\nTcp: 1\n").is_err());
        assert!(parse(b"Udp: InDatagrams\nUdp: many\n").is_err());
        assert!(parse(b"Udp: InDatagrams\nUdp: 99999999999999999999\n").is_err());
        parse_every_prefix(REAL, parse);
    }
}
