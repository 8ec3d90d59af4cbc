//! Memory controllers and software RAID.

use super::GpuServer;

pub fn write(server: &GpuServer) {
    edac(server);
    mdadm(server);
}

/// One controller with legacy directories, and one of a kernel without them.
fn edac(server: &GpuServer) {
    let files = [
        ("mc0/ce_count", "7\n"),
        ("mc0/ue_count", "1\n"),
        ("mc0/ce_noinfo_count", "2\n"),
        ("mc0/ue_noinfo_count", "0\n"),
        ("mc0/csrow0/ce_count", "5\n"),
        ("mc0/csrow0/ue_count", "1\n"),
        ("mc0/csrow0/ch0_ce_count", "3\n"),
        ("mc0/csrow0/ch0_ue_count", "1\n"),
        ("mc0/csrow0/ch0_dimm_label", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0\n"),
        ("mc0/csrow0/ch1_ce_count", "2\n"),
        ("mc0/csrow0/ch1_ue_count", "0\n"),
        ("mc0/csrow0/ch1_dimm_label", "mc#0csrow#0channel#1\n"),
        ("mc0/dimm0/dimm_ce_count", "3\n"),
        ("mc1/ce_count", "11\n"),
        ("mc1/ue_count", "4\n"),
        ("mc1/ce_noinfo_count", "0\n"),
        ("mc1/ue_noinfo_count", "6\n"),
        ("mc1/dimm3/dimm_ce_count", "9\n"),
        ("mc1/dimm3/dimm_ue_count", "8\n"),
        ("mc1/dimm3/dimm_label", "CPU_SrcID#1_MC#0_Chan#1_DIMM#0\n"),
        ("mc1/dimm3/dimm_location", "channel 1 slot 0 \n"),
        ("mc1/power/control", "auto\n"),
    ];
    for (file, text) in files {
        server.write(&format!("sys/devices/system/edac/mc/{file}"), text);
    }
}

fn mdadm(server: &GpuServer) {
    server.write(
        "proc/mdstat",
        "Personalities : [raid1] [raid0] [raid6] [raid5] [raid4] \n\
         md0 : active raid1 nvme1n1p1[1] nvme0n1p1[0](F)\n\
         \x20     1048512 blocks super 1.2 [2/1] [_U]\n\
         \n\
         md1 : active raid5 nvme4n1[3] nvme3n1[1] nvme2n1[0] nvme5n1[4](S)\n\
         \x20     7813770240 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/3] [UUU]\n\
         \x20     [=>...................]  resync =  8.5% (332097536/3906885120) finish=17.0min speed=259783K/sec\n\
         \x20     bitmap: 30/30 pages [120KB], 65536KB chunk\n\
         \n\
         md127 : active raid0 nvme6n1[0] nvme7n1[1]\n\
         \x20     6250957824 blocks super 1.2 512k chunks\n\
         \n\
         unused devices: <none>\n",
    );
    let files = [
        ("md0/md/level", "raid1\n"),
        ("md0/md/raid_disks", "2\n"),
        ("md0/md/degraded", "1\n"),
        ("md1/md/level", "raid5\n"),
        ("md1/md/raid_disks", "4 (3)\n"),
        ("md1/md/degraded", "0\n"),
        ("md127/md/level", "raid0\n"),
        ("md127/md/raid_disks", "2\n"),
    ];
    for (file, text) in files {
        server.write(&format!("sys/block/{file}"), text);
    }
}
