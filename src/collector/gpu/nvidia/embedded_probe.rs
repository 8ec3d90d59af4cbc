//! The GPU probe's executable, embedded by `build.rs`.

/// A glibc program in zlib format (RFC 1950), which halves its size. Empty if the probe could not be built.
pub const GPU_PROBE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gpu-probe.zlib"));

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn build_script_lists_every_module_that_the_probe_imports() {
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
        assert!(seen > 0, "found no `use hm_agent::` in the probe");
    }
}
