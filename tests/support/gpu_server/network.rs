//! Network protocols and interfaces.

use super::GpuServer;

pub fn write(server: &GpuServer) {
    server.write("proc/sys/net/netfilter/nf_conntrack_count", "1234\n");
    server.write("proc/sys/net/netfilter/nf_conntrack_max", "262144\n");
    server.write(
        "proc/net/stat/nf_conntrack",
        "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart\n\
         000004d2  00000000 00000001 00000000 00000003 00000005 00000000 00000004 00000007 00000009 0000000b 0000000d 00000001  00000000 00000000 00000000 0000000f\n\
         000004d2  00000000 00000010 00000000 00000020 00000030 00000000 00000004 00000040 00000050 00000060 00000070 00000002  00000000 00000000 00000000 00000080\n",
    );
}
