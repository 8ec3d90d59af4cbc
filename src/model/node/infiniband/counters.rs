//! The counters of a port: which file has which series. The files are described in the kernel's
//! `Documentation/ABI/stable/sysfs-class-infiniband`, those of `hw_counters` in NVIDIA's "Understanding mlx5 counters".

/// A counter of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Path below the directory of the port.
    pub file: &'static str,
    /// Name of the series.
    pub series: &'static str,
    pub help: &'static str,
    pub unit: Unit,
}

/// What the file counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Events or packets.
    Count,
    /// Words of four bytes; the series is in bytes.
    Words,
    /// Not a counter; the series is a gauge in seconds.
    Milliseconds,
}

const fn count(file: &'static str, series: &'static str, help: &'static str) -> Counter {
    Counter { file, series, help, unit: Unit::Count }
}

const fn words(file: &'static str, series: &'static str, help: &'static str) -> Counter {
    Counter { file, series, help, unit: Unit::Words }
}

const fn milliseconds(file: &'static str, series: &'static str, help: &'static str) -> Counter {
    Counter { file, series, help, unit: Unit::Milliseconds }
}

/// All counters, in the order in which they are read. Every device that has counters has the first one.
pub const COUNTERS: [Counter; 60] = [
    words(
        "counters/port_rcv_data",
        "node_infiniband_port_data_received_bytes_total",
        "Number of bytes received.",
    ),
    words(
        "counters/port_xmit_data",
        "node_infiniband_port_data_transmitted_bytes_total",
        "Number of bytes transmitted.",
    ),
    count(
        "counters/port_rcv_packets",
        "node_infiniband_port_packets_received_total",
        "Number of packets received, erroneous ones included.",
    ),
    count(
        "counters/port_xmit_packets",
        "node_infiniband_port_packets_transmitted_total",
        "Number of packets transmitted, erroneous ones included.",
    ),
    count(
        "counters/link_downed",
        "node_infiniband_link_downed_total",
        "Number of times the link went down because it could not recover from an error.",
    ),
    count(
        "counters/link_error_recovery",
        "node_infiniband_link_error_recovery_total",
        "Number of times the link recovered from an error.",
    ),
    count(
        "counters/symbol_error",
        "node_infiniband_symbol_error_total",
        "Number of minor link errors.",
    ),
    count(
        "counters/local_link_integrity_errors",
        "node_infiniband_local_link_integrity_errors_total",
        "Number of times local physical errors exceeded their threshold.",
    ),
    count(
        "counters/excessive_buffer_overrun_errors",
        "node_infiniband_excessive_buffer_overrun_errors_total",
        "Number of times consecutive flow control periods had buffer overruns.",
    ),
    count(
        "counters/port_rcv_errors",
        "node_infiniband_port_errors_received_total",
        "Number of packets received with an error.",
    ),
    count(
        "counters/port_rcv_remote_physical_errors",
        "node_infiniband_port_receive_remote_physical_errors_total",
        "Number of packets received that were marked as bad at the remote end.",
    ),
    count(
        "counters/port_rcv_switch_relay_errors",
        "node_infiniband_port_receive_switch_relay_errors_total",
        "Number of packets received that the switch could not forward.",
    ),
    count(
        "counters/port_rcv_discards",
        "node_infiniband_port_discards_received_total",
        "Number of received packets dropped because the port was down or congested.",
    ),
    count(
        "counters/port_xmit_discards",
        "node_infiniband_port_discards_transmitted_total",
        "Number of packets not transmitted because the port was down or congested.",
    ),
    count(
        "counters/port_rcv_constraint_errors",
        "node_infiniband_port_constraint_errors_received_total",
        "Number of received packets that the port filtered out.",
    ),
    count(
        "counters/port_xmit_constraint_errors",
        "node_infiniband_port_constraint_errors_transmitted_total",
        "Number of packets to transmit that the port filtered out.",
    ),
    count(
        "counters/port_xmit_wait",
        "node_infiniband_port_transmit_wait_total",
        "Number of ticks in which data waited to be transmitted, and none was.",
    ),
    count(
        "counters/VL15_dropped",
        "node_infiniband_vl15_dropped_total",
        "Number of management packets dropped for lack of resources.",
    ),
    count(
        "counters/unicast_rcv_packets",
        "node_infiniband_unicast_packets_received_total",
        "Number of unicast packets received, erroneous ones included.",
    ),
    count(
        "counters/unicast_xmit_packets",
        "node_infiniband_unicast_packets_transmitted_total",
        "Number of unicast packets transmitted, erroneous ones included.",
    ),
    count(
        "counters/multicast_rcv_packets",
        "node_infiniband_multicast_packets_received_total",
        "Number of multicast packets received, erroneous ones included.",
    ),
    count(
        "counters/multicast_xmit_packets",
        "node_infiniband_multicast_packets_transmitted_total",
        "Number of multicast packets transmitted, erroneous ones included.",
    ),
    // Of the hardware, by queue pair or of congestion control. Linux 4.6 and later have them.
    milliseconds(
        "hw_counters/lifespan",
        "node_infiniband_lifespan_seconds",
        "Time for which the driver keeps the other counters before it queries the hardware again, in seconds.",
    ),
    count(
        "hw_counters/duplicate_request",
        "node_infiniband_duplicate_requests_packets_total",
        "Number of requests received that had been executed before.",
    ),
    count(
        "hw_counters/implied_nak_seq_err",
        "node_infiniband_implied_nak_seq_errors_total",
        "Number of responses that skipped a read or an atomic operation.",
    ),
    count(
        "hw_counters/local_ack_timeout_err",
        "node_infiniband_local_ack_timeout_errors_total",
        "Number of times the timer for an acknowledgement expired at the sender.",
    ),
    count(
        "hw_counters/np_cnp_sent",
        "node_infiniband_np_cnp_packets_sent_total",
        "Number of congestion notifications sent.",
    ),
    count(
        "hw_counters/np_ecn_marked_roce_packets",
        "node_infiniband_np_ecn_marked_roce_packets_received_total",
        "Number of RoCE packets received that were marked with congestion.",
    ),
    count(
        "hw_counters/out_of_buffer",
        "node_infiniband_out_of_buffer_drops_total",
        "Number of packets dropped because a queue pair had no receive buffer.",
    ),
    count(
        "hw_counters/out_of_sequence",
        "node_infiniband_out_of_sequence_packets_received_total",
        "Number of packets received out of sequence.",
    ),
    count(
        "hw_counters/packet_seq_err",
        "node_infiniband_packet_sequence_errors_total",
        "Number of negative acknowledgements received because packets arrived out of sequence.",
    ),
    count(
        "hw_counters/req_cqe_error",
        "node_infiniband_req_cqes_errors_total",
        "Number of requests completed with an error.",
    ),
    count(
        "hw_counters/req_cqe_flush_error",
        "node_infiniband_req_cqes_flush_errors_total",
        "Number of requests flushed because of an error.",
    ),
    count(
        "hw_counters/req_remote_access_errors",
        "node_infiniband_req_remote_access_errors_total",
        "Number of requests that the remote end refused to give access.",
    ),
    count(
        "hw_counters/req_remote_invalid_request",
        "node_infiniband_req_remote_invalid_request_errors_total",
        "Number of requests that the remote end found invalid.",
    ),
    count(
        "hw_counters/resp_cqe_error",
        "node_infiniband_resp_cqes_errors_total",
        "Number of responses completed with an error.",
    ),
    count(
        "hw_counters/resp_cqe_flush_error",
        "node_infiniband_resp_cqes_flush_errors_total",
        "Number of responses flushed because of an error.",
    ),
    count(
        "hw_counters/resp_local_length_error",
        "node_infiniband_resp_local_length_errors_total",
        "Number of requests received that had the wrong length.",
    ),
    count(
        "hw_counters/resp_remote_access_errors",
        "node_infiniband_resp_remote_access_errors_total",
        "Number of requests received that were refused access.",
    ),
    count(
        "hw_counters/rnr_nak_retry_err",
        "node_infiniband_rnr_nak_retry_packets_received_total",
        "Number of times the remote end was not ready to receive.",
    ),
    count(
        "hw_counters/roce_adp_retrans",
        "node_infiniband_roce_adp_retransmits_total",
        "Number of adaptive retransmissions of RoCE.",
    ),
    count(
        "hw_counters/roce_adp_retrans_to",
        "node_infiniband_roce_adp_retransmits_timeout_total",
        "Number of timeouts with adaptive retransmission of RoCE.",
    ),
    count(
        "hw_counters/roce_slow_restart",
        "node_infiniband_roce_slow_restart_used_total",
        "Number of times slow restart of RoCE was used.",
    ),
    count(
        "hw_counters/roce_slow_restart_cnps",
        "node_infiniband_roce_slow_restart_cnps_total",
        "Number of congestion notifications generated by slow restart of RoCE.",
    ),
    count(
        "hw_counters/roce_slow_restart_trans",
        "node_infiniband_roce_slow_restart_total",
        "Number of changes to the state slow restart of RoCE.",
    ),
    count(
        "hw_counters/rp_cnp_handled",
        "node_infiniband_rp_cnp_packets_handled_total",
        "Number of congestion notifications that throttled the sender.",
    ),
    count(
        "hw_counters/rp_cnp_ignored",
        "node_infiniband_rp_cnp_ignored_packets_received_total",
        "Number of congestion notifications received and ignored.",
    ),
    count(
        "hw_counters/rx_atomic_requests",
        "node_infiniband_rx_atomic_requests_total",
        "Number of atomic requests received.",
    ),
    count(
        "hw_counters/rx_dct_connect",
        "node_infiniband_rx_dct_connect_requests_total",
        "Number of connection requests received for dynamically connected transport.",
    ),
    count(
        "hw_counters/rx_icrc_encapsulated",
        "node_infiniband_rx_icrc_encapsulated_errors_total",
        "Number of RoCE packets received with a wrong checksum.",
    ),
    count(
        "hw_counters/rx_read_requests",
        "node_infiniband_rx_read_requests_total",
        "Number of read requests received.",
    ),
    count(
        "hw_counters/rx_write_requests",
        "node_infiniband_rx_write_requests_total",
        "Number of write requests received.",
    ),
    // Of kernels before 4.5.
    words(
        "counters_ext/port_rcv_data_64",
        "node_infiniband_legacy_data_received_bytes_total",
        "Number of bytes received.",
    ),
    words(
        "counters_ext/port_xmit_data_64",
        "node_infiniband_legacy_data_transmitted_bytes_total",
        "Number of bytes transmitted.",
    ),
    count(
        "counters_ext/port_rcv_packets_64",
        "node_infiniband_legacy_packets_received_total",
        "Number of packets received.",
    ),
    count(
        "counters_ext/port_xmit_packets_64",
        "node_infiniband_legacy_packets_transmitted_total",
        "Number of packets transmitted.",
    ),
    count(
        "counters_ext/port_unicast_rcv_packets",
        "node_infiniband_legacy_unicast_packets_received_total",
        "Number of unicast packets received.",
    ),
    count(
        "counters_ext/port_unicast_xmit_packets",
        "node_infiniband_legacy_unicast_packets_transmitted_total",
        "Number of unicast packets transmitted.",
    ),
    count(
        "counters_ext/port_multicast_rcv_packets",
        "node_infiniband_legacy_multicast_packets_received_total",
        "Number of multicast packets received.",
    ),
    count(
        "counters_ext/port_multicast_xmit_packets",
        "node_infiniband_legacy_multicast_packets_transmitted_total",
        "Number of multicast packets transmitted.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_or_series_is_listed_twice() {
        for names in [COUNTERS.map(|counter| counter.file), COUNTERS.map(|counter| counter.series)]
        {
            let unique: std::collections::HashSet<_> = names.iter().collect();
            assert_eq!(unique.len(), names.len());
        }
    }
}
