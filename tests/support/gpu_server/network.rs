//! Network protocols and interfaces.

use super::GpuServer;

pub fn write(server: &GpuServer) {
    conntrack(server);
    netstat(server);
    sockets(server);
    softnet(server);
    arp(server);
    bonds(server);
    interfaces(server);
    nfs(server);
}

fn conntrack(server: &GpuServer) {
    server.write("proc/sys/net/netfilter/nf_conntrack_count", "1234\n");
    server.write("proc/sys/net/netfilter/nf_conntrack_max", "262144\n");
    server.write(
        "proc/net/stat/nf_conntrack",
        "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
         000004d2  00000000 00000001 00000000 00000003 00000005 00000000 00000004 00000007 00000009 0000000b 0000000d 00000001  00000000 00000000 00000000 0000000f\n\
         000004d2  00000000 00000010 00000000 00000020 00000030 00000000 00000004 00000040 00000050 00000060 00000070 00000002  00000000 00000000 00000000 00000080\n",
    );
}

fn netstat(server: &GpuServer) {
    server.write(
        "proc/net/snmp",
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors\n\
         Ip: 1 64 86413202 0\n\
         Icmp: InMsgs InErrors InCsumErrors OutMsgs OutErrors\n\
         Icmp: 41 3 0 42 0\n\
         IcmpMsg: InType3 OutType3\n\
         IcmpMsg: 5 6\n\
         Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs RetransSegs InErrs OutRsts InCsumErrors\n\
         Tcp: 1 200 120000 -1 3556 230 341 161 4 57252008 54915039 227 5 1003 0\n\
         Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
         Udp: 88542 120 11 53028 9 8 0 12 0\n\
         UdpLite: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
         UdpLite: 0 0 2 0 0 0 0 0 0\n",
    );
    server.write(
        "proc/net/netstat",
        "TcpExt: SyncookiesSent SyncookiesRecv SyncookiesFailed ListenOverflows ListenDrops TCPTimeouts TCPOFOQueue TCPRcvQDrop TCPSynRetrans TCPDSACKRecv\n\
         TcpExt: 21 22 23 24 25 26 27 28 29 30\n\
         IpExt: InNoRoutes InTruncatedPkts InOctets OutOctets InCEPkts\n\
         IpExt: 0 0 6286396970 2786264347 17\n\
         MPTcpExt: MPCapableSYNRX MPCapableSYNTX\n\
         MPTcpExt: 0 0\n",
    );
    server.write(
        "proc/net/snmp6",
        "Ip6InReceives                   \t7\n\
         Ip6InOctets                     \t460\n\
         Ip6OutOctets                    \t536\n\
         Icmp6InMsgs                     \t31\n\
         Icmp6InErrors                   \t32\n\
         Icmp6OutMsgs                    \t33\n\
         Udp6InDatagrams                 \t61\n\
         Udp6NoPorts                     \t62\n\
         Udp6InErrors                    \t63\n\
         Udp6OutDatagrams                \t64\n\
         Udp6RcvbufErrors                \t65\n\
         Udp6SndbufErrors                \t66\n\
         UdpLite6InErrors                \t67\n",
    );
}

fn sockets(server: &GpuServer) {
    server.write(
        "proc/net/sockstat",
        "sockets: used 1229\nTCP: inuse 104 orphan 2 tw 34 alloc 117 mem 11\nUDP: inuse 21 mem 5\nUDPLITE: inuse 1\n\
         RAW: inuse 3\nFRAG: inuse 6 memory 7168\n",
    );
    server.write(
        "proc/net/sockstat6",
        "TCP6: inuse 17\nUDP6: inuse 8\nUDPLITE6: inuse 9\nRAW6: inuse 10\nFRAG6: inuse 12 memory 13312\n",
    );
    let udp = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n";
    server.write(
        "proc/net/udp",
        &format!(
            "{udp} 2372: 0100007F:0143 00000000:0000 07 00000003:00000015 00:00000000 00000000     0        0 19131 2 0000000091186ef9 0\n\
             8204: 00000000:1F90 00000000:0000 07 00000000:00034000 00:00000000 00000000   997        0 24519 2 000000004c1d5b8e 12\n"
        ),
    );
    server.write(
        "proc/net/udp6",
        &format!(
            "{udp} 2372: 00000000000000000000000001000000:0143 00000000000000000000000000000000:0000 07 00000100:00000200 00:00000000 00000000     0        0 19132 2 0000000091186efa 0\n"
        ),
    );
}

fn softnet(server: &GpuServer) {
    // CPU 1 is offline.
    server.write(
        "proc/net/softnet_stat",
        "000dfb82 00000029 0000000a 00000000 00000000 00000000 00000000 00000000 00000001 00000002 00000003 00000004 00000000 00000000 00000000\n\
         00049279 00000005 00000006 00000000 00000000 00000000 00000000 00000000 00000007 00000008 00000009 0000000b 00000002 00000000 00000000\n",
    );
}

fn arp(server: &GpuServer) {
    server.write(
        "proc/net/arp",
        "IP address       HW type     Flags       HW address            Mask     Device\n\
         192.0.2.1        0x1         0x2         02:fc:00:00:00:05     *        bond0\n\
         10.244.1.7       0x1         0x2         0a:58:0a:f4:01:07     *        cni0\n\
         192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        bond0\n",
    );
}

fn bonds(server: &GpuServer) {
    server.write("sys/class/net/bonding_masters", "bond0 storage spare\n");
    for (bond, slaves, statuses) in [
        ("bond0", "eth0 eth1\n", &[("lower_eth0", "up"), ("lower_eth1", "down")][..]),
        // A kernel before 3.12. The third interface was just removed.
        ("storage", "eth2 eth3 eth4\n", &[("slave_eth2", "up"), ("slave_eth3", "up")]),
        ("spare", "\n", &[]),
    ] {
        let directory = format!("sys/class/net/{bond}");
        server.write(&format!("{directory}/bonding/slaves"), slaves);
        for (slave, status) in statuses {
            let path = format!("{directory}/{slave}/bonding_slave/mii_status");
            server.write(&path, &format!("{status}\n"));
        }
    }
}

fn interfaces(server: &GpuServer) {
    for (interface, flags, state, carrier) in [
        ("eth0", "0x1903", "up", "1"),
        ("eth1", "0x1803", "down", "0"),
        ("eth5", "0x1002", "down", ""),
    ] {
        let directory = format!("sys/class/net/{interface}");
        server.write(&format!("{directory}/flags"), &format!("{flags}\n"));
        server.write(&format!("{directory}/operstate"), &format!("{state}\n"));
        server.write(&format!("{directory}/carrier"), &format!("{carrier}\n"));
        server.write(&format!("{directory}/mtu"), "9000\n");
        server.write(&format!("{directory}/address"), "02:fc:00:00:00:0a\n");
    }
}

fn nfs(server: &GpuServer) {
    let counters = |first: usize, count: usize| {
        let counters: Vec<String> = (first..first + count).map(|each| each.to_string()).collect();
        format!("{count} {}", counters.join(" "))
    };
    server.write(
        "proc/net/rpc/nfs",
        &format!(
            "net 18628 5 18623 6\nrpc 4329785 338291 4338291\nproc2 {}\nproc3 {}\nproc4 {}\n",
            counters(2001, 18),
            counters(3001, 22),
            counters(4001, 69)
        ),
    );
}
