//! `/proc/net/snmp` and `/proc/net/netstat`: the counters of the network protocols that node_exporter serves.
//!
//! Format: that of [`crate::procfs::snmp`]. A real pair of lines:
//!
//! ```text
//! IpExt: InNoRoutes InTruncatedPkts InMcastPkts OutMcastPkts InBcastPkts OutBcastPkts InOctets OutOctets InMcastOctets OutMcastOctets InBcastOctets OutBcastOctets InCsumErrors InNoECTPkts InECT1Pkts InECT0Pkts InCEPkts ReasmOverlaps
//! IpExt: 0 0 0 0 12 0 6286396970 2786264347 0 0 936 0 0 4712830 0 4 0 0
//! ```

use std::collections::BTreeMap;

use crate::procfs::{ParseError, find_name, number, snmp};

/// Counters by protocol and name, such as `Tcp_InSegs`.
pub type Counters = BTreeMap<&'static str, u64>;

/// What matches the default of node_exporter's flag `--collector.netstat.fields`.
pub(super) const COUNTERS: [&str; 42] = [
    "Icmp6_InErrors",
    "Icmp6_InMsgs",
    "Icmp6_OutMsgs",
    "Icmp_InErrors",
    "Icmp_InMsgs",
    "Icmp_OutMsgs",
    "Ip6_InOctets",
    "Ip6_OutOctets",
    "IpExt_InOctets",
    "IpExt_OutOctets",
    "Ip_Forwarding",
    "TcpExt_ListenDrops",
    "TcpExt_ListenOverflows",
    "TcpExt_SyncookiesFailed",
    "TcpExt_SyncookiesRecv",
    "TcpExt_SyncookiesSent",
    "TcpExt_TCPOFOQueue",
    "TcpExt_TCPRcvQDrop",
    "TcpExt_TCPSynRetrans",
    "TcpExt_TCPTimeouts",
    "Tcp_ActiveOpens",
    "Tcp_CurrEstab",
    "Tcp_InErrs",
    "Tcp_InSegs",
    "Tcp_OutRsts",
    "Tcp_OutSegs",
    "Tcp_PassiveOpens",
    "Tcp_RetransSegs",
    "Udp6_InDatagrams",
    "Udp6_InErrors",
    "Udp6_NoPorts",
    "Udp6_OutDatagrams",
    "Udp6_RcvbufErrors",
    "Udp6_SndbufErrors",
    "UdpLite6_InErrors",
    "UdpLite_InErrors",
    "Udp_InDatagrams",
    "Udp_InErrors",
    "Udp_NoPorts",
    "Udp_OutDatagrams",
    "Udp_RcvbufErrors",
    "Udp_SndbufErrors",
];

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Netstat {
    pub counters: Counters,
    /// RFC 4022: -1 if there is no fixed maximum. All others are counters.
    pub tcp_max_connections: Option<i64>,
}

pub fn parse(text: &[u8]) -> Result<Netstat, ParseError> {
    let mut netstat = Netstat::default();
    snmp::for_each(text, |at, protocol, key, value| {
        if (protocol, key) == (b"Tcp", b"MaxConn") {
            let text = std::str::from_utf8(value).ok();
            netstat.tcp_max_connections = text.and_then(|text| text.parse().ok());
        } else if let Some(name) = find_name(&COUNTERS, protocol, key) {
            netstat.counters.insert(name, number(at, Some(value))?);
        }
        Ok(())
    })?;
    Ok(netstat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"Ip: Forwarding DefaultTTL InReceives
Ip: 2 64 86413202
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors
Tcp: 1 200 120000 -1 1203 842 31 77 12 91842 90217 15 1 411 0
UdpLite: InDatagrams NoPorts InErrors
UdpLite: 1 2 3
TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPOFOQueue
TcpExt: 4 5 6 18446744073709551615
";

    #[test]
    fn keeps_counters_of_a_real_sample_that_node_exporter_serves() {
        let netstat = parse(REAL).unwrap();
        assert_eq!(netstat.tcp_max_connections, Some(-1));
        let expected = [
            ("Ip_Forwarding", 2),
            ("TcpExt_ListenDrops", 6),
            ("TcpExt_ListenOverflows", 5),
            ("TcpExt_SyncookiesSent", 4),
            ("TcpExt_TCPOFOQueue", u64::MAX),
            ("Tcp_ActiveOpens", 1203),
            ("Tcp_CurrEstab", 12),
            ("Tcp_InErrs", 1),
            ("Tcp_InSegs", 91842),
            ("Tcp_OutRsts", 411),
            ("Tcp_OutSegs", 90217),
            ("Tcp_PassiveOpens", 842),
            ("Tcp_RetransSegs", 15),
            ("UdpLite_InErrors", 3),
        ];
        assert_eq!(netstat.counters.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn unknown_protocols_and_empty_text_have_no_counters() {
        let text = b"MPTcpExt: MPCapableSYNRX InErrs\nMPTcpExt: 1 2\n";
        assert_eq!(parse(text), Ok(Netstat::default()));
        assert_eq!(parse(b""), Ok(Netstat::default()));
    }

    #[test]
    fn rejects_malformed_text() {
        assert!(parse(b"Tcp: InSegs\nTcp: many\n").is_err());
        assert!(parse(b"Tcp: InSegs\nTcp: 18446744073709551616\n").is_err());
        assert_eq!(parse(b"Tcp: MaxConn\nTcp: many\n").unwrap().tcp_max_connections, None);
        parse_every_prefix(REAL, parse);
    }
}
