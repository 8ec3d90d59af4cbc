//! The GPU probe's executable, embedded by `build.rs`.

/// A glibc program in zlib format (RFC 1950), which halves its size. Empty if the probe could not be built.
pub const GPU_PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gpu-probe.zlib"));
