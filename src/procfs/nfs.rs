//! `/proc/net/rpc/nfs`: counters of the NFS client.
//!
//! Format: lines that begin with a name. `net` has packets, those of UDP and of TCP, and connections; `rpc` has calls, retransmissions
//! and refreshed credentials; `proc<version>` has the number of procedures and how many requests each had. Real lines:
//!
//! ```text
//! net 18628 0 18628 6
//! rpc 4329785 338291 4338291
//! proc3 22 1 4084749 29200 94754 32580 186 47747 7981 8639 0 6356 0 6962 0 7958 0 0 241 4 4 2 39
//! ```

use crate::procfs::{ParseError, fields, lines, number};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nfs {
    pub network: Option<NfsNetwork>,
    pub rpc: Option<NfsRpc>,
    pub requests: Vec<NfsRequests>,
}

/// Always 0 unless this machine serves callbacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NfsNetwork {
    pub udp_packets: u64,
    pub tcp_packets: u64,
    pub tcp_connections: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NfsRpc {
    pub calls: u64,
    /// The server did not answer in time.
    pub retransmissions: u64,
    pub authentication_refreshes: u64,
}

/// The requests of one procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NfsRequests {
    /// Version of NFS.
    pub version: &'static str,
    /// As node_exporter spells it, which differs between versions.
    pub method: &'static str,
    pub count: u64,
}

/// RFC 1094, in the order of the numbers of the procedures.
#[rustfmt::skip]
const METHODS_V2: [&str; 18] = [
    "Null", "GetAttr", "SetAttr", "Root", "Lookup", "ReadLink", "Read", "WrCache", "Write",
    "Create", "Remove", "Rename", "Link", "SymLink", "MkDir", "RmDir", "ReadDir", "FsStat",
];

/// RFC 1813.
#[rustfmt::skip]
const METHODS_V3: [&str; 22] = [
    "Null", "GetAttr", "SetAttr", "Lookup", "Access", "ReadLink", "Read", "Write", "Create",
    "MkDir", "SymLink", "MkNod", "Remove", "RmDir", "Rename", "Link", "ReadDir", "ReadDirPlus",
    "FsStat", "FsInfo", "PathConf", "Commit",
];

/// The kernel's `NFSPROC4_CLNT_*` in `include/linux/nfs4.h`. Newer kernels have more, which node_exporter does not serve. Some
/// versions of it swap LayoutGet and GetDeviceInfo.
#[rustfmt::skip]
const METHODS_V4: [&str; 59] = [
    "Null", "Read", "Write", "Commit", "Open", "OpenConfirm", "OpenNoattr", "OpenDowngrade",
    "Close", "Setattr", "FsInfo", "Renew", "SetClientID", "SetClientIDConfirm", "Lock", "Lockt",
    "Locku", "Access", "Getattr", "Lookup", "LookupRoot", "Remove", "Rename", "Link", "Symlink",
    "Create", "Pathconf", "StatFs", "ReadLink", "ReadDir", "ServerCaps", "DelegReturn", "GetACL",
    "SetACL", "FsLocations", "ReleaseLockowner", "Secinfo", "FsidPresent", "ExchangeID",
    "CreateSession", "DestroySession", "Sequence", "GetLeaseTime", "ReclaimComplete", "LayoutGet",
    "GetDeviceInfo", "LayoutCommit", "LayoutReturn", "SecinfoNoName", "TestStateID", "FreeStateID",
    "GetDeviceList", "BindConnToSession", "DestroyClientID", "Seek", "Allocate", "DeAllocate",
    "LayoutStats", "Clone",
];

/// Linux 3.13 added FsidPresent in the middle. Kernels with fewer procedures than this do not have it, so only those before it have
/// their place.
const V4_PROCEDURES_WITH_FSID_PRESENT: usize = 54;
const V4_PROCEDURES_BEFORE_FSID_PRESENT: usize = 37;

pub fn parse(text: &[u8]) -> Result<Nfs, ParseError> {
    let mut nfs = Nfs::default();
    for (at, line) in lines(text) {
        let mut words = fields(line);
        let name = words.next().unwrap_or_default();
        let mut next = || number(at, words.next());
        match name {
            b"net" => {
                next()?;
                nfs.network = Some(NfsNetwork {
                    udp_packets: next()?,
                    tcp_packets: next()?,
                    tcp_connections: next()?,
                });
            }
            b"rpc" => {
                nfs.rpc = Some(NfsRpc {
                    calls: next()?,
                    retransmissions: next()?,
                    authentication_refreshes: next()?,
                });
            }
            b"proc2" => nfs.requests.extend(requests(at, "2", &METHODS_V2, line)?),
            b"proc3" => nfs.requests.extend(requests(at, "3", &METHODS_V3, line)?),
            b"proc4" => nfs.requests.extend(requests(at, "4", methods_v4(line), line)?),
            _ => {}
        }
    }
    Ok(nfs)
}

fn methods_v4(line: &[u8]) -> &'static [&'static str] {
    let procedures = fields(line).skip(2).count();
    if procedures >= V4_PROCEDURES_WITH_FSID_PRESENT {
        return &METHODS_V4;
    }
    METHODS_V4.get(..V4_PROCEDURES_BEFORE_FSID_PRESENT).unwrap_or_default()
}

/// The name and the number of procedures precede the counters. A kernel may have fewer procedures than `methods`, or more.
fn requests(
    at: usize,
    version: &'static str,
    methods: &'static [&'static str],
    line: &[u8],
) -> Result<Vec<NfsRequests>, ParseError> {
    let counters = methods.iter().zip(fields(line).skip(2));
    let counters = counters.map(|(method, count)| {
        Ok(NfsRequests { version, method, count: number(at, Some(count))? })
    });
    counters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::testing::parse_every_prefix;

    const REAL: &[u8] = b"net 18628 0 18628 6
rpc 4329785 338291 4338291
proc2 18 2 69 0 0 4410 0 0 0 0 0 0 0 0 0 0 0 99 2
proc3 22 1 4084749 29200 94754 32580 186 47747 7981 8639 0 6356 0 6962 0 7958 0 0 241 4 4 2 39
proc4 61 1 98 51 54 83 85 23 24 1 28 73 68 83 12 84 39 68 59 58 88 29 74 69 96 21 84 15 53 86 54 66 56 97 36 49 32 85 81 11 58 32 67 13 28 35 90 1 26 80 57 3 7 8 9 10 11 12 13 14 15 16
";

    fn count(nfs: &Nfs, version: &str, method: &str) -> Option<u64> {
        let is_same = |each: &&NfsRequests| each.version == version && each.method == method;
        nfs.requests.iter().find(is_same).map(|each| each.count)
    }

    #[test]
    fn parses_a_real_sample() {
        let nfs = parse(REAL).unwrap();
        let network = NfsNetwork { udp_packets: 0, tcp_packets: 18628, tcp_connections: 6 };
        assert_eq!(nfs.network, Some(network));
        let rpc = nfs.rpc.unwrap();
        assert_eq!((rpc.calls, rpc.retransmissions), (4_329_785, 338_291));
        assert_eq!(rpc.authentication_refreshes, 4_338_291);
        assert_eq!(nfs.requests.len(), 18 + 22 + 59, "without the procedures of newer kernels");
        assert_eq!(count(&nfs, "2", "FsStat"), Some(2));
        assert_eq!(count(&nfs, "3", "GetAttr"), Some(4_084_749));
        assert_eq!(count(&nfs, "3", "Commit"), Some(39));
        assert_eq!(count(&nfs, "4", "FsidPresent"), Some(81));
        assert_eq!(
            (count(&nfs, "4", "LayoutGet"), count(&nfs, "4", "Clone")),
            (Some(35), Some(14))
        );
    }

    #[test]
    fn procedures_missing_in_old_kernels_are_absent() {
        let counters: Vec<String> = (101..154).map(|count| count.to_string()).collect();
        let nfs = parse(format!("proc4 53 {}\n", counters.join(" ")).as_bytes()).unwrap();
        assert_eq!(count(&nfs, "4", "Secinfo"), Some(137));
        assert_eq!(nfs.requests.len(), 37);
        assert_eq!((nfs.network, nfs.rpc), (None, None));
        assert_eq!(parse(b"\nproc5 1 2\n"), Ok(Nfs::default()));
    }

    #[test]
    fn rejects_malformed_text() {
        for text in ["net 1 2 3", "rpc 1 2", "rpc 1 2 many", "proc3 2 1 99999999999999999999"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        parse_every_prefix(REAL, parse);
    }
}
