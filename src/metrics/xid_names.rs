//! Names of XID errors in NVIDIA's catalog, <https://docs.nvidia.com/deploy/xid-errors/>, for the label `err_msg`.

/// Sorted by code. Codes that the catalog lists as unused are left out.
const NAMES: [(u64, &str); 88] = [
    (0, "No Error"),
    (8, "GPU stopped processing"),
    (11, "Invalid or corrupted push buffer stream"),
    (13, "Graphics Engine Exception"),
    (25, "Invalid or illegal push buffer stream"),
    (31, "GPU memory page fault"),
    (32, "Invalid or corrupted push buffer stream"),
    (37, "Driver firmware error"),
    (38, "Driver firmware error"),
    (39, "Copy Engine Exception"),
    (43, "GPU stopped processing"),
    (44, "Graphics Engine fault during context switch"),
    (45, "Preemptive cleanup, due to previous errors"),
    (46, "GPU stopped processing"),
    (48, "Double Bit ECC Error"),
    (54, "Auxiliary power is not connected to the GPU board"),
    (60, "Video processor exception"),
    (61, "Internal micro-controller breakpoint/warning"),
    (62, "Internal micro-controller halt"),
    (63, "ECC page retirement or row remapping recording event"),
    (64, "ECC page retirement or row remapper recording failure"),
    (65, "Video processor exception"),
    (66, "Illegal access by driver"),
    (67, "Illegal access by driver"),
    (68, "NVDEC0 Exception"),
    (69, "Graphics Engine class error"),
    (74, "NVLINK Error"),
    (78, "vGPU Start Error"),
    (79, "GPU has fallen off the bus"),
    (80, "Corrupted data sent to GPU"),
    (81, "VGA Subsystem Error"),
    (82, "NVJPG0 Error"),
    (83, "NVDEC1 Error"),
    (84, "NVDEC2 Error"),
    (86, "OFA Exception"),
    (88, "NVDEC3 Error"),
    (89, "NVDEC4 Error"),
    (92, "High single-bit ECC error rate"),
    (93, "Non-fatal violation of provisioned InfoROM wear limit"),
    (94, "Contained ECC error"),
    (95, "Uncontained ECC error"),
    (96, "NVDEC5 Error"),
    (97, "NVDEC6 Error"),
    (98, "NVDEC7 Error"),
    (99, "NVJPG1 Error"),
    (100, "NVJPG2 Error"),
    (101, "NVJPG3 Error"),
    (102, "NVJPG4 Error"),
    (103, "NVJPG5 Error"),
    (104, "NVJPG6 Error"),
    (105, "NVJPG7 Error"),
    (106, "SMBPBI Test Message"),
    (107, "SMBPBI Test Message Silent"),
    (109, "Context Switch Timeout Error"),
    (110, "Security Fault Error"),
    (119, "GSP RPC Timeout"),
    (120, "GSP Error"),
    (121, "C2C Link Error"),
    (122, "SPI PMU RPC Read Failure"),
    (123, "SPI PMU RPC Write Failure"),
    (124, "SPI PMU RPC Erase Failure"),
    (125, "Inforom FS Failure"),
    (136, "ALI Training Fail"),
    (137, "NVLink Privilege Error"),
    (140, "Unrecovered ECC Error"),
    (141, "CUDA Fast Path Error"),
    (143, "GPU Initialization Failure"),
    (144, "NVLINK: SAW Error"),
    (145, "NVLINK: RLW Error"),
    (146, "NVLINK: TLW Error"),
    (147, "NVLINK: TREX Error"),
    (148, "NVLINK: NVLPW_CTRL Error"),
    (149, "NVLINK: NETIR Error"),
    (150, "NVLINK: MSE Error"),
    (151, "Key rotation Error"),
    (154, "GPU Recovery Action Changed"),
    (155, "NVLINK: SW Defined Error"),
    (156, "Resource Retirement Event"),
    (157, "Resource Retirement Failure"),
    (158, "GPU Fatal Timeout"),
    (160, "Channel Retirement Event"),
    (161, "Channel Retirement Failure"),
    (166, "NVLINK Secure Crypto Error"),
    (167, "PCIe Fatal Timeout"),
    (168, "Reduced GPU Memory Capacity"),
    (169, "Internal micro-controller halt"),
    (171, "Uncorrectable DRAM Error"),
    (172, "Uncorrectable SRAM Error"),
];

/// Name of an XID; "Unknown Error" for others, as in dcgm-exporter.
pub(crate) fn name(code: u64) -> &'static str {
    let found = NAMES.binary_search_by_key(&code, |(known, _)| *known).ok();
    found.and_then(|at| NAMES.get(at)).map_or("Unknown Error", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_known_and_unknown_xids() {
        assert!(NAMES.is_sorted_by_key(|(code, _)| *code));
        assert_eq!(name(0), "No Error");
        assert_eq!(name(79), "GPU has fallen off the bus");
        assert_eq!(name(999), "Unknown Error");
    }
}
