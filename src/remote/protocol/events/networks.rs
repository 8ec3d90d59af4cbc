//! `net_dev` and `net_stat`: throughput of interfaces, and counters of TCP and UDP.

use serde_json::{Map, Value};

use crate::model::previous::PreviousItems;
use crate::procfs::net_dev::{NetDev, Traffic};
use crate::procfs::snmp::Snmp;
use crate::remote::collect::sample::{RemoteInventory, RemoteSample};
use crate::remote::protocol::events::fields::Fields;

/// Bytes and packets since the interface was created, and rates since the previous sample.
#[derive(Default)]
struct TrafficDelta {
    /// Received bytes and packets.
    down: [f64; 2],
    /// Transmitted bytes and packets.
    up: [f64; 2],
    /// Bytes per second, received and transmitted. `None` without a previous sample, or if a counter has decreased.
    speeds: Option<[f64; 2]>,
}

impl TrafficDelta {
    fn new(previous: Option<(&NetDev, f64)>, now: &NetDev) -> Self {
        let both = |traffic: &Traffic| [traffic.bytes as f64, traffic.packets as f64];
        let speeds = previous.and_then(|(previous, seconds)| {
            let speed = |previous: u64, now: u64| Some(now.checked_sub(previous)? as f64 / seconds);
            let down = speed(previous.receive.bytes, now.receive.bytes)?;
            Some([down, speed(previous.transmit.bytes, now.transmit.bytes)?])
        });
        Self { down: both(&now.receive), up: both(&now.transmit), speeds }
    }

    fn add(&mut self, other: &Self) {
        for at in 0..2 {
            self.down[at] += other.down[at];
            self.up[at] += other.up[at];
        }
        if let Some([down, up]) = other.speeds {
            let speeds = self.speeds.get_or_insert_default();
            speeds[0] += down;
            speeds[1] += up;
        }
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        let [down, up] = self.speeds.map_or([None; 2], |speeds| speeds.map(Some));
        for (direction, [bytes, packets], speed) in [("up", self.up, up), ("down", self.down, down)]
        {
            fields
                .count(&format!("{direction}_bytes"), Some(bytes as u64))
                .count(&format!("{direction}_packets"), Some(packets as u64))
                .size(&format!("{direction}_bytes_h"), Some(bytes))
                .size(&format!("{direction}_speed"), speed);
        }
        fields
    }
}

/// Limit of the interfaces in a notification; hardware is first.
const MAX_INTERFACES: usize = 256;

/// The interfaces of a host.
pub(super) struct Interfaces {
    pub(super) total: Value,
    /// By name.
    pub(super) each: Value,
    /// Number of interfaces beyond [`MAX_INTERFACES`].
    pub(super) omitted: usize,
}

/// The total of all interfaces, and each of them.
pub(super) fn interfaces(
    inventory: &RemoteInventory,
    previous: &RemoteSample,
    now: &RemoteSample,
    seconds: f64,
) -> Interfaces {
    let (mut total, mut each) = (TrafficDelta::default(), Map::new());
    // Traffic of bridges and tunnels is counted at the hardware already. Without hardware, as in a container, all
    // interfaces but the loopback count.
    let is_hardware = |device: &NetDev| inventory.is_hardware(&device.name);
    let any_hardware = now.net_dev.iter().any(is_hardware);
    let mut before = PreviousItems::new(&previous.net_dev);
    for (at, device) in now.net_dev.iter().enumerate() {
        let before = before.find(|before| before.name == device.name);
        let delta = TrafficDelta::new(before.map(|before| (before, seconds)), device);
        if if any_hardware { is_hardware(device) } else { *device.name != *b"lo" } {
            total.add(&delta);
        }
        if at >= MAX_INTERFACES {
            continue;
        }
        let name = String::from_utf8_lossy(&device.name).into_owned();
        let own = inventory.addresses.iter().filter(|(name, _)| **name == *device.name);
        let addresses: Vec<Value> = own.map(|(_, address)| address.to_string().into()).collect();
        let mut fields = delta.fields();
        fields.put("name", Some(name.as_str().into())).put("ip", Some(addresses.into()));
        fields.put("virtual", Some((!is_hardware(device)).into()));
        each.insert(name, fields.finish());
    }
    let omitted = now.net_dev.len().saturating_sub(MAX_INTERFACES);
    Interfaces { total: total.fields().finish(), each: Value::Object(each), omitted }
}

/// Counters of TCP and UDP.
pub(super) fn protocols(snmp: &Snmp) -> (Value, Value) {
    let as_float = |count: Option<u64>| count.map(|count| count as f64);
    let mut tcp = Fields::default();
    tcp.count("active_opens", snmp.tcp_active_opens)
        .count("passive_opens", snmp.tcp_passive_opens)
        .count("fail_opens", snmp.tcp_attempt_fails)
        .count("curr_conn", snmp.tcp_curr_estab)
        .count("in_segments", snmp.tcp_in_segs)
        .count("out_segments", snmp.tcp_out_segs)
        .count("re_trans_segments", snmp.tcp_retrans_segs)
        .share_of("re_trans_rate", as_float(snmp.tcp_retrans_segs), as_float(snmp.tcp_out_segs));
    let mut udp = Fields::default();
    udp.count("in_datagrams", snmp.udp_in_datagrams)
        .count("out_datagrams", snmp.udp_out_datagrams)
        .count("receive_buf_errors", snmp.udp_rcvbuf_errors)
        .count("send_buf_errors", snmp.udp_sndbuf_errors);
    (tcp.finish(), udp.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::net_dev;
    use serde_json::json;

    fn sample(eth0: [u64; 4], docker0: u64) -> RemoteSample {
        let line = |name: &str, [down, down_packets, up, up_packets]: [u64; 4]| {
            format!("{name}: {down} {down_packets} 0 0 0 0 0 0 {up} {up_packets} 0 0 0 0 0 0\n")
        };
        let text =
            ["a\nb\n", &line("eth0", eth0), &line("docker0", [docker0; 4]), &line("lo", [9; 4])];
        let net_dev = net_dev::parse(text.concat().as_bytes()).unwrap();
        RemoteSample { net_dev, ..RemoteSample::default() }
    }

    #[test]
    fn total_counts_hardware_interfaces_if_any() {
        let mut inventory = RemoteInventory {
            physical_interfaces: vec![b"eth0".to_vec()],
            ..RemoteInventory::default()
        };
        inventory.addresses = vec![(b"eth0".to_vec(), [192, 0, 2, 7].into())];
        let (one, two) = (sample([1000, 10, 100, 1], 50), sample([5096, 20, 300, 3], 70));
        let Interfaces { total, each, omitted: 0 } = interfaces(&inventory, &one, &two, 2.0) else {
            panic!("interfaces are omitted")
        };
        let expected = json!({
            "down_bytes": 5096, "down_packets": 20, "down_bytes_h": 4.98, "down_bytes_h_unit": "KB",
            "down_speed": 2.0, "down_speed_unit": "KB",
            "up_bytes": 300, "up_packets": 3, "up_bytes_h": 300.0, "up_bytes_h_unit": "B",
            "up_speed": 100.0, "up_speed_unit": "B",
        });
        assert_eq!(total, expected, "traffic of docker0 is counted at eth0");
        assert_eq!(
            (&each["eth0"]["ip"], &each["eth0"]["virtual"]),
            (&json!(["192.0.2.7"]), &json!(false))
        );
        assert_eq!(
            (&each["docker0"]["name"], &each["docker0"]["virtual"]),
            (&json!("docker0"), &json!(true))
        );
        inventory.physical_interfaces.clear();
        let total = interfaces(&inventory, &one, &two, 2.0).total;
        assert_eq!(total["up_bytes"], 370, "without hardware, all but the loopback");
        let total = interfaces(&inventory, &two, &one, 2.0).total;
        assert_eq!(
            (&total["up_speed"], &total["up_bytes"]),
            (&Value::Null, &json!(150)),
            "the counters have decreased"
        );
    }

    #[test]
    fn counts_interfaces_that_are_omitted() {
        let line = |number: usize| format!("veth{number}: 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0\n");
        let text: String = (0..300).map(line).collect();
        let net_dev = net_dev::parse(format!("a\nb\n{text}").as_bytes()).unwrap();
        let sample = RemoteSample { net_dev, ..RemoteSample::default() };
        let found = interfaces(&RemoteInventory::default(), &sample, &sample, 2.0);
        assert_eq!((found.each.as_object().unwrap().len(), found.omitted), (256, 44));
        assert_eq!(found.total["up_bytes"], 600, "of all");
    }

    #[test]
    fn retransmission_rate_is_share_of_sent_segments() {
        let snmp = Snmp { tcp_out_segs: Some(200), tcp_retrans_segs: Some(3), ..Snmp::default() };
        let (tcp, udp) = protocols(&snmp);
        assert_eq!(
            tcp,
            json!({"out_segments": 200, "re_trans_segments": 3, "re_trans_rate": 0.02})
        );
        assert_eq!(udp, json!({}));
    }
}
