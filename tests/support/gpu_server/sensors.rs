//! Sensors and power.

use super::GpuServer;

pub fn write(server: &GpuServer) {
    board(server);
    processor(server);
    power_meter(server);
    other_chips(server);
    cooling(server);
    energy(server);
    power_supplies(server);
}

fn chip(server: &GpuServer, number: u32, device: &str, files: &[(&str, &str)]) {
    let directory = format!("sys/class/hwmon/hwmon{number}");
    server.write(&format!("sys/devices/{device}/uevent"), "\n");
    server.link(&format!("{directory}/device"), &format!("../../../devices/{device}"));
    for (file, text) in files {
        server.write(&format!("{directory}/{file}"), &format!("{text}\n"));
    }
}

/// The chip of the mainboard, with most kinds of attributes.
fn board(server: &GpuServer) {
    let files = [
        ("name", "nct6798"),
        ("beep_enable", "0"),
        ("update_interval", "1500"),
        ("cpu0_vid", "1187"),
        ("fan1_input", "1462"),
        ("fan1_min", "300"),
        ("fan1_alarm", "0"),
        ("fan1_beep", "1"),
        ("fan1_label", "CPU Fan"),
        ("fan1_pulses", "2"),
        ("fan10_input", "7413"),
        ("in0_input", "1032"),
        ("in0_min", "-12"),
        ("in0_max", "1744"),
        ("in0_alarm", "1"),
        ("in0_max_alarm", "1"),
        ("intrusion0_alarm", "1"),
        ("humidity1_input", "45200"),
        ("pwm1", "153"),
        ("pwm1_enable", "5"),
        ("pwm1_mode", "1"),
        ("pwm1_auto_point1_pwm", "77"),
        ("temp1_input", "36500"),
        ("temp1_max", "80000"),
        ("temp1_max_hyst", "75000"),
        ("temp1_fault", "0"),
        ("temp1_offset", "-1500"),
        ("temp1_type", "4"),
    ];
    chip(server, 0, "platform/nct6775.656", &files);
}

fn processor(server: &GpuServer) {
    let files = [
        ("name", "coretemp"),
        ("temp1_label", "Package id 0"),
        ("temp1_input", "61000"),
        ("temp1_max", "101000"),
        ("temp1_crit", "103000"),
        ("temp1_crit_hyst", "98000"),
        ("temp1_crit_alarm", "1"),
        ("temp2_label", "Core 0"),
        ("temp2_input", "59000"),
        ("temp2_crit_alarm", "0"),
    ];
    chip(server, 1, "platform/coretemp.0", &files);
}

/// Its driver has the attributes in the directory of the device.
fn power_meter(server: &GpuServer) {
    let device = "LNXSYSTM:00/LNXSYBUS:00/ACPI000D:00";
    chip(server, 2, device, &[("name", "power_meter")]);
    let files = [
        ("power1_average", "2847000000"),
        ("power1_average_interval", "1000"),
        ("power1_cap", "4200000000"),
        ("power1_accuracy", "95.0%"),
        ("power1_alarm", "0"),
    ];
    for (file, text) in files {
        server.write(&format!("sys/devices/{device}/{file}"), &format!("{text}\n"));
    }
}

/// A power supply, a GPU, and a drive that is suspended.
fn other_chips(server: &GpuServer) {
    let supply = [
        ("name", "psu 1"),
        ("curr1_input", "11562"),
        ("curr1_crit", "80000"),
        ("energy1_input", "9007199254740993"),
        ("power1_input", "137500000"),
        ("in1_input", "not a number"),
    ];
    chip(server, 3, "pci0000:00/0000:00:1f.4/i2c-7/7-0058", &supply);
    let gpu = [
        ("name", "amdgpu"),
        ("freq1_input", "2105000000"),
        ("freq1_label", "sclk"),
        ("temp1_input", "52000"),
        ("temp1_label", "junction"),
        ("temp1_emergency", "113000"),
        ("temp1_min", "-273150"),
    ];
    chip(server, 4, "pci0000:c0/0000:c1:00.0", &gpu);
    let drive = [("name", "nvme"), ("temp1_input", "38850"), ("temp1_alarm", "0")];
    chip(server, 5, "pci0000:40/0000:41:00.0/nvme/nvme0", &drive);
    server.write(
        "sys/devices/pci0000:40/0000:41:00.0/nvme/nvme0/power/runtime_status",
        "suspended\n",
    );
}

fn cooling(server: &GpuServer) {
    for (device, kind, current, max) in
        [(0, "Processor", "0", "10"), (1, "Fan", "1", "2"), (10, "intel_powerclamp", "-1", "50")]
    {
        let directory = format!("sys/class/thermal/cooling_device{device}");
        server.write(&format!("{directory}/type"), &format!("{kind}\n"));
        server.write(&format!("{directory}/cur_state"), &format!("{current}\n"));
        server.write(&format!("{directory}/max_state"), &format!("{max}\n"));
    }
}

fn energy(server: &GpuServer) {
    server.write("sys/class/powercap/intel-rapl/enabled", "1\n");
    for (directory, name, energy) in [
        ("intel-rapl:0", "package-0", "170123456789"),
        ("intel-rapl:0:0", "dram", "23456789012"),
        ("intel-rapl:1", "package-1", "180000000001"),
        ("intel-rapl:1:0", "dram", "34567890123"),
    ] {
        let directory = format!("sys/class/powercap/{directory}");
        server.write(&format!("{directory}/name"), &format!("{name}\n"));
        server.write(&format!("{directory}/energy_uj"), &format!("{energy}\n"));
        server.write(&format!("{directory}/max_energy_range_uj"), "262143328850\n");
    }
    // As for users other than root: a zone without a counter that can be read.
    server.write("sys/class/powercap/intel-rapl:2/name", "psys\n");
    server.write("sys/class/powercap/intel-rapl:2/max_energy_range_uj", "262143328850\n");
}

fn power_supplies(server: &GpuServer) {
    let files = [
        ("AC/type", "Mains"),
        ("AC/online", "1"),
        ("AC/uevent", "POWER_SUPPLY_NAME=AC"),
        ("UPS/type", "UPS"),
        ("UPS/status", "Discharging"),
        ("UPS/model_name", "Smart-UPS 3000"),
        ("UPS/serial_number", "00123"),
        ("UPS/capacity", "87"),
        ("UPS/voltage_now", "27300000"),
        ("UPS/current_now", "-1250000"),
        ("UPS/temp", "315"),
        ("UPS/time_to_empty_now", "2460"),
    ];
    for (file, text) in files {
        server.write(&format!("sys/class/power_supply/{file}"), &format!("{text}\n"));
    }
}
