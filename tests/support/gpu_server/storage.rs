//! Drives, filesystems, and PCI devices.

use super::GpuServer;

pub fn write(server: &GpuServer) {
    drives(server);
    btrfs(server);
    zfs(server);
    pci(server);
}

/// A drive, one with large blocks, and one that does not answer.
fn drives(server: &GpuServer) {
    let files = [
        ("nvme0/firmware_rev", "MPK9GHB5"),
        ("nvme0/model", "SAMSUNG MZWLO3T8HCLS-00A07              "),
        ("nvme0/serial", "S795NN0W600001"),
        ("nvme0/state", "live"),
        ("nvme0/cntlid", "6"),
        ("nvme0/nvme0c0n1/ana_state", "optimized"),
        ("nvme0/nvme0c0n1/size", "7501476528"),
        ("nvme0/nvme0c0n1/queue/logical_block_size", "512"),
        ("nvme0/hwmon5/name", "nvme"),
        ("nvme2/firmware_rev", "1.3.0"),
        ("nvme2/model", "KIOXIA KCD8XPUG7T68"),
        ("nvme2/serial", "Y3B0A001T3F8"),
        ("nvme2/state", "live"),
        ("nvme2/cntlid", "1"),
        ("nvme2/nvme2n1/size", "15002931888"),
        ("nvme2/nvme2n1/queue/logical_block_size", "4096"),
        ("nvme10/firmware_rev", "2.0.1"),
        ("nvme10/model", "KIOXIA KCD8XPUG7T68"),
        ("nvme10/serial", "Y3B0A002T3F8"),
        ("nvme10/state", "resetting"),
        ("nvme10/cntlid", "1"),
        ("nvme10/nvme10n1/size", "15002931888"),
        ("nvme10/nvme10n1/queue/logical_block_size", "512"),
    ];
    for (file, text) in files {
        server.write(&format!("sys/class/nvme/{file}"), &format!("{text}\n"));
    }
}

/// A filesystem of one device and one of two.
fn btrfs(server: &GpuServer) {
    let stats = |first: u32| {
        let names = ["write", "read", "flush", "corruption", "generation"];
        let line = |(name, value): (&str, u32)| format!("{name}_errs {value}\n");
        names.into_iter().zip(first..).map(line).collect::<String>()
    };
    let directory = "sys/fs/btrfs/0abb23a9-579b-43e6-ad30-227ef47fcb9d";
    server.write(&format!("{directory}/devinfo/1/error_stats"), &stats(10));
    server.write(&format!("{directory}/devices/nvme2n1/size"), "7501476528\n");
    let directory = "sys/fs/btrfs/7f07c59f-6136-449c-ab87-e1cf2328731b";
    server.write(&format!("{directory}/devinfo/1/error_stats"), &stats(20));
    server.write(&format!("{directory}/devinfo/2/error_stats"), "invalid\n");
    server.write(&format!("{directory}/devices/sda/size"), "1\n");
    server.write(&format!("{directory}/devices/sdb/size"), "1\n");
    server.write("sys/fs/btrfs/features/skinny_metadata", "0\n");
}

fn zfs(server: &GpuServer) {
    server.write("proc/spl/kstat/zfs/arcstats", "name type data\n");
    server.write("proc/spl/kstat/zfs/scratch/state", "ONLINE\n");
    server.write("proc/spl/kstat/zfs/tank/state", "DEGRADED\n");
}

/// A GPU, an adapter whose link is slower and narrower than it can be, one of its virtual functions, a drive that is suspended, and a
/// device of another class.
fn pci(server: &GpuServer) {
    let device = |path: &str, class: &str, vendor: &str, speed: &str, width: &str| {
        let path = format!("sys/devices/pci0000:00/{path}");
        for (file, text) in [
            ("class", class),
            ("vendor", vendor),
            ("device", "0x2330"),
            ("subsystem_vendor", "0x10de"),
            ("subsystem_device", "0x16c1"),
            ("revision", "0xa1"),
            ("numa_node", if vendor == "0x15b3" { "1" } else { "-1" }),
            ("current_link_speed", speed),
            ("current_link_width", width),
            ("max_link_speed", "32.0 GT/s PCIe"),
            ("max_link_width", "16"),
        ] {
            server.write(&format!("{path}/{file}"), &format!("{text}\n"));
        }
        let name = path.rsplit('/').next().unwrap();
        let target = path.strip_prefix("sys/").unwrap();
        server.link(&format!("sys/bus/pci/devices/{name}"), &format!("../../../{target}"));
    };
    device("0000:00:01.0/0000:1b:00.0", "0x030200", "0x10de", "32.0 GT/s PCIe", "16");
    device("0000:00:02.0/0000:2c:00.1", "0x020700", "0x15b3", "16.0 GT/s PCIe", "8");
    device("0000:00:02.0/0000:2c:01.0", "0x020700", "0x15b3", "Unknown", "0");
    server.link("sys/devices/pci0000:00/0000:00:02.0/0000:2c:01.0/physfn", "../0000:2c:00.1");
    device("0000:00:03.0/0000:3d:00.0", "0x010802", "0x144d", "8.0 GT/s PCIe", "4");
    let suspended = "sys/devices/pci0000:00/0000:00:03.0/0000:3d:00.0/power/runtime_status";
    server.write(suspended, "suspended\n");
    device("0000:00:04.0", "0x060400", "0x8086", "8.0 GT/s PCIe", "4");
    device("0000:00:05.0", "0x030000", "0x1a03", "Unknown", "63");
}
