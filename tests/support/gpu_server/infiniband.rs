//! RDMA devices: ten ports.

use super::GpuServer;

/// What `counters` contains, in the order of [`all_counters`]'s values.
const COUNTERS: [&str; 22] = [
    "VL15_dropped",
    "excessive_buffer_overrun_errors",
    "link_downed",
    "link_error_recovery",
    "local_link_integrity_errors",
    "multicast_rcv_packets",
    "multicast_xmit_packets",
    "port_rcv_constraint_errors",
    "port_rcv_data",
    "port_rcv_discards",
    "port_rcv_errors",
    "port_rcv_packets",
    "port_rcv_remote_physical_errors",
    "port_rcv_switch_relay_errors",
    "port_xmit_constraint_errors",
    "port_xmit_data",
    "port_xmit_discards",
    "port_xmit_packets",
    "port_xmit_wait",
    "symbol_error",
    "unicast_rcv_packets",
    "unicast_xmit_packets",
];

const HW_COUNTERS: [&str; 30] = [
    "lifespan",
    "duplicate_request",
    "implied_nak_seq_err",
    "local_ack_timeout_err",
    "np_cnp_sent",
    "np_ecn_marked_roce_packets",
    "out_of_buffer",
    "out_of_sequence",
    "packet_seq_err",
    "req_cqe_error",
    "req_cqe_flush_error",
    "req_remote_access_errors",
    "req_remote_invalid_request",
    "resp_cqe_error",
    "resp_cqe_flush_error",
    "resp_local_length_error",
    "resp_remote_access_errors",
    "rnr_nak_retry_err",
    "roce_adp_retrans",
    "roce_adp_retrans_to",
    "roce_slow_restart",
    "roce_slow_restart_cnps",
    "roce_slow_restart_trans",
    "rp_cnp_handled",
    "rp_cnp_ignored",
    "rx_atomic_requests",
    "rx_dct_connect",
    "rx_icrc_encapsulated",
    "rx_read_requests",
    "rx_write_requests",
];

pub fn write(server: &GpuServer) {
    for number in 0..6 {
        let device = format!("mlx5_{number}");
        port(server, &device, ("4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)"));
        counter(server, &device, "counters/port_rcv_data", 1_000_000_000_000 + number);
        counter(server, &device, "counters/port_xmit_data", 2_000_000_000_000 + number);
        counter(server, &device, "counters/link_downed", number);
    }
    all_counters(server, "mlx5_0");
    port(server, "mlx5_6", ("1: DOWN", "2: Polling", "2.5 Gb/sec (1X SDR)"));
    counter(server, "mlx5_6", "counters/link_downed", 17);
    roce(server);
    refused(server);
    without_counters(server);
}

fn port(server: &GpuServer, device: &str, (state, physical_state, rate): (&str, &str, &str)) {
    let class = format!("sys/class/infiniband/{device}");
    server.write(&format!("{class}/board_id"), "MT_0000000838\n");
    server.write(&format!("{class}/fw_ver"), "28.43.2026\n");
    server.write(&format!("{class}/hca_type"), "MT4129\n");
    server.write(&format!("{class}/ports/1/link_layer"), "InfiniBand\n");
    server.write(&format!("{class}/ports/1/state"), &format!("{state}\n"));
    server.write(&format!("{class}/ports/1/phys_state"), &format!("{physical_state}\n"));
    server.write(&format!("{class}/ports/1/rate"), &format!("{rate}\n"));
}

fn counter(server: &GpuServer, device: &str, file: &str, value: u64) {
    let path = format!("sys/class/infiniband/{device}/ports/1/{file}");
    server.write(&path, &format!("{value}\n"));
}

fn all_counters(server: &GpuServer, device: &str) {
    for (file, value) in COUNTERS.iter().zip(1001..) {
        counter(server, device, &format!("counters/{file}"), value);
    }
    for (file, value) in HW_COUNTERS.iter().zip(2001..) {
        counter(server, device, &format!("hw_counters/{file}"), value);
    }
    // Not a series of node_exporter.
    counter(server, device, "hw_counters/rx_vport_rdma_unicast_packets", 3001);
}

/// A port of Ethernet, which counts in `hw_counters`.
fn roce(server: &GpuServer) {
    port(server, "mlx5_7", ("4: ACTIVE", "5: LinkUp", "100 Gb/sec (4X EDR)"));
    server.write("sys/class/infiniband/mlx5_7/ports/1/link_layer", "Ethernet\n");
    counter(server, "mlx5_7", "counters/port_rcv_data", 4001);
    counter(server, "mlx5_7", "hw_counters/lifespan", 10);
    counter(server, "mlx5_7", "hw_counters/np_cnp_sent", 4002);
    counter(server, "mlx5_7", "hw_counters/out_of_sequence", 4003);
}

/// A port of the fabric manager: reads of its counters fail.
fn refused(server: &GpuServer) {
    port(server, "mlx5_8", ("4: ACTIVE", "5: LinkUp", "400 Gb/sec (4X NDR)"));
    server.directory("sys/class/infiniband/mlx5_8/ports/1/counters/port_rcv_data");
    counter(server, "mlx5_8", "counters/link_downed", 5001);
    counter(server, "mlx5_8", "hw_counters/np_cnp_sent", 5002);
}

/// A virtual function, which has no performance management agent.
fn without_counters(server: &GpuServer) {
    port(server, "mlx4_0", ("2: INIT", "4: Training", "40 Gb/sec (4X QDR)"));
    server.remove("sys/class/infiniband/mlx4_0/hca_type");
    for file in COUNTERS {
        let path = format!("sys/class/infiniband/mlx4_0/ports/1/counters/{file}");
        server.write(&path, "N/A (no PMA)\n");
    }
}
