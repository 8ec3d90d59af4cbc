//! What the agent carries with it. `build.rs` puts it there.

/// The GPU probe, a program for glibc, in zlib's form (RFC 1950), which is less than half of it; empty when the machine
/// that built the agent could not build the probe.
pub const GPU_PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gpu-probe.zlib"));

/// The page of `src/page`, in gzip's form (RFC 1952), as browsers take it: a third of it.
pub const PAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/page.gz"));

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_probe_is_built_again_when_a_module_that_it_uses_changes() {
        let build = include_str!("../../../../build.rs");
        let listed = |file: &str| build.contains(&format!("    \"{file}\",\n"));
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/gpu-probe");
        let mut seen = 0;
        for file in std::fs::read_dir(directory).unwrap() {
            let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for import in source.lines().filter_map(|line| line.strip_prefix("use hm_agent::")) {
                seen += 1;
                let mut module = "src".to_owned();
                let found = import.split("::").any(|name| {
                    module = format!("{module}/{}", name.trim_end_matches(';'));
                    listed(&module) || listed(&format!("{module}.rs"))
                });
                assert!(found, "build.rs does not list `{import}`");
            }
        }
        assert!(seen > 0, "the probe's imports have another form");
    }
}
