//! Tests of the collector against directory trees.

use super::*;
use std::fs::create_dir_all;
use std::os::unix::fs::symlink;

/// A directory that stands for `/sys`, removed when dropped.
struct SysTree(PathBuf);

impl SysTree {
    fn new(name: &str) -> Self {
        let name = format!("hm-agent-sysfs-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for SysTree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn names_chip_after_device_and_skips_suspended_one() {
    let tree = SysTree::new("chips");
    let nvme = "devices/pci0000:00/0000:01:00.0/nvme/nvme0";
    tree.write(&format!("{nvme}/power/runtime_status"), "active\n");
    tree.write("class/hwmon/hwmon2/name", "nvme\n");
    tree.write("class/hwmon/hwmon2/temp1_input", "49850\n");
    tree.write("class/hwmon/hwmon2/temp1_label", "Composite\n");
    tree.write("class/hwmon/hwmon2/temp1_max", "81850\n");
    tree.write("class/hwmon/hwmon2/temp1_crit", "84850\n");
    tree.write("class/hwmon/hwmon2/temp10_input", "nonsense\n");
    symlink(tree.0.join(nvme), tree.0.join("class/hwmon/hwmon2/device")).unwrap();
    tree.write("class/hwmon/hwmon10/name", "cpu_thermal\n");
    tree.write("class/hwmon/hwmon10/temp1_input", "-1500\n");
    tree.write("class/hwmon/hwmon0/name", "a battery\n");
    tree.write("class/hwmon/hwmon0/in0_input", "12\n");
    let mut collector = SysfsCollector::new(&tree.0, &DisabledCollectors::default());
    let chips = collector.collect().chips;
    let names: Vec<&str> = chips.iter().map(|chip| &*chip.id).collect();
    assert_eq!(names, ["nvme_nvme0", "cpu_thermal"]);
    let first = &chips[0].sensors[0];
    assert_eq!((first.celsius, first.label.as_deref()), (Some(49.85), Some("Composite")));
    assert_eq!((first.max_celsius, first.critical_celsius), (Some(81.85), Some(84.85)));
    assert_eq!((&*chips[0].sensors[1].id, chips[0].sensors[1].celsius), ("temp10", None));
    assert_eq!(chips[1].sensors[0].celsius, Some(-1.5));
    tree.write(&format!("{nvme}/power/runtime_status"), "suspended\n");
    assert_eq!(collector.collect().chips.len(), 1, "suspended");
}

#[test]
fn lists_devices_again_when_an_interface_changes() {
    let tree = SysTree::new("net");
    tree.write("class/thermal/thermal_zone2/type", "x86_pkg_temp\n");
    tree.write("class/thermal/thermal_zone2/temp", "45000\n");
    tree.write("class/thermal/thermal_zone10/type", "off\n");
    tree.write("class/thermal/cooling_device0/type", "fan\n");
    tree.write("class/net/eth0/operstate", "up\n");
    tree.write("class/net/eth0/carrier", "1\n");
    tree.write("class/net/eth0/speed", "1000\n");
    tree.write("class/net/eth0/mtu", "1500\n");
    tree.write("class/net/ifb0/operstate", "down\n");
    tree.write("class/net/ifb0/speed", "-1\n");
    tree.write("class/net/bonding_masters", "bond0\n");
    let mut collector = SysfsCollector::new(&tree.0, &DisabledCollectors::default());
    let found = collector.collect();
    assert_eq!(found.temperatures.len(), 1);
    assert_eq!((found.temperatures[0].zone, found.temperatures[0].celsius), (2, 45.0));
    let [eth0, ifb0] = &found.interfaces[..] else { panic!("{found:?}") };
    assert_eq!((&*eth0.device, &*eth0.state, eth0.carrier), ("eth0", "up", Some(true)));
    assert_eq!(
        (eth0.attributes.speed_bytes, eth0.attributes.mtu_bytes),
        (Some(125_000_000), Some(1500))
    );
    assert_eq!((ifb0.carrier, ifb0.attributes.speed_bytes), (None, None));
    tree.write("class/thermal/thermal_zone2/temp", "46000\n");
    tree.write("class/net/eth1/operstate", "up\n");
    assert_eq!(collector.collect().temperatures[0].celsius, 46.0);
    assert_eq!(collector.collect().interfaces.len(), 2, "listed a moment ago");
    tree.write("class/net/eth0/operstate", "down\n");
    assert_eq!(collector.collect().interfaces.len(), 3, "listed again after a change");
}

#[test]
fn missing_sysfs_has_no_devices() {
    assert_eq!(
        SysfsCollector::new(Path::new("/nonexistent"), &DisabledCollectors::default()).collect(),
        Devices::default()
    );
}

#[test]
fn implausible_temperatures_and_speeds_are_absent() {
    let tree = SysTree::new("sentinels");
    for (zone, temp) in ["47400", "-256000", "-273200", "-38500", "255000"].iter().enumerate() {
        tree.write(&format!("class/thermal/thermal_zone{zone}/type"), "zone\n");
        tree.write(&format!("class/thermal/thermal_zone{zone}/temp"), temp);
    }
    tree.write("class/hwmon/hwmon0/temp1_input", "-128000\n");
    tree.write("class/hwmon/hwmon0/temp1_max", "65261850\n");
    tree.write("class/hwmon/hwmon0/temp1_crit", "84850\n");
    for (name, speed) in [("a", "65535"), ("b", "4294967295"), ("c", "0"), ("d", "2500")] {
        tree.write(&format!("class/net/{name}/operstate"), "up\n");
        tree.write(&format!("class/net/{name}/speed"), speed);
    }
    let found = SysfsCollector::new(&tree.0, &DisabledCollectors::default()).collect();
    let zones: Vec<f64> = found.temperatures.iter().map(|zone| zone.celsius).collect();
    assert_eq!(zones, [47.4, -38.5]);
    let sensor = &found.chips[0].sensors[0];
    assert_eq!((sensor.celsius, sensor.max_celsius), (None, None));
    assert_eq!(sensor.critical_celsius, Some(84.85));
    let speeds: Vec<_> = found.interfaces.iter().map(|each| each.attributes.speed_bytes).collect();
    assert_eq!(speeds, [None, None, None, Some(312_500_000)]);
}

#[test]
fn chips_of_one_device_have_different_ids() {
    let tree = SysTree::new("same-device");
    let device = tree.0.join("devices/platform/radio/ieee80211/phy0");
    create_dir_all(&device).unwrap();
    for (number, name) in ["radio 0", "radio 1", "radio 1", ""].iter().enumerate() {
        let chip = format!("class/hwmon/hwmon{number}");
        tree.write(&format!("{chip}/name"), name);
        tree.write(&format!("{chip}/temp1_input"), "55000\n");
        symlink(&device, tree.0.join(&chip).join("device")).unwrap();
    }
    let chips = SysfsCollector::new(&tree.0, &DisabledCollectors::default()).collect().chips;
    let ids: Vec<&str> = chips.iter().map(|chip| &*chip.id).collect();
    let phy = "ieee80211_phy0";
    let expected = [
        format!("{phy}_radio_0"),
        format!("{phy}_radio_1"),
        format!("{phy}_radio_1_2"),
        phy.to_owned(),
    ];
    assert_eq!(ids, expected);
}

/// Names of the interfaces that are read, and the number of the others.
fn listed(tree: &SysTree) -> (Vec<String>, usize) {
    let found = SysfsCollector::new(&tree.0, &DisabledCollectors::default()).collect();
    (found.interfaces.iter().map(|each| each.device.to_string()).collect(), found.truncated)
}

#[test]
fn keeps_hardware_interfaces_among_many_others() {
    let tree = SysTree::new("many");
    for number in 0..300 {
        // Container interfaces named like hardware.
        let name = format!("class/net/eth{number}");
        tree.write(&format!("{name}/operstate"), "up\n");
        tree.write(&format!("{name}/ifindex"), &format!("{}\n", 100 + number));
        tree.write(&format!("{name}/iflink"), "2\n");
    }
    for name in ["zz-uplink", "eth777"] {
        tree.write(&format!("class/net/{name}/operstate"), "up\n");
        create_dir_all(tree.0.join("class/net").join(name).join("device")).unwrap();
    }
    tree.write("class/net/ethvlan/operstate", "up\n");
    tree.write("class/net/ethvlan/ifindex", "9\n");
    tree.write("class/net/ethvlan/iflink", "2\n");
    create_dir_all(tree.0.join("class/net/ethvlan/lower_zz-uplink")).unwrap();
    let (names, truncated) = listed(&tree);
    assert_eq!((names.len(), truncated), (256, 47));
    assert_eq!(names[..3], ["zz-uplink", "eth777", "ethvlan"]);
}

#[test]
fn keeps_interfaces_with_rare_names_when_sysfs_lacks_details() {
    let tree = SysTree::new("rare");
    for number in 0..300 {
        tree.write(&format!("class/net/cali{number:011x}/operstate"), "up\n");
    }
    for name in ["eno1", "eth0", "ibp25s0", "lo"] {
        tree.write(&format!("class/net/{name}/operstate"), "up\n");
    }
    let (names, truncated) = listed(&tree);
    assert_eq!(
        (&names[..4], truncated),
        (&["eno1", "eth0", "ibp25s0", "lo"].map(String::from)[..], 48)
    );
}
