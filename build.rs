//! Makes what the agent carries with it, for `src/embedded.rs`: the page of `src/telemetry/dashboard` as `$OUT_DIR/page.gz`, and the
//! other binary of this package, the GPU probe, as `$OUT_DIR/gpu-probe.zlib`.
//!
//! The probe is always a release build for glibc, whatever the agent is built for: NVIDIA's library needs glibc, and a
//! static agent has none.
//!
//! Without a probe the agent works and knows nothing of NVIDIA's GPUs. So a machine that cannot build it gets an empty
//! file and a warning. A release must not be made without; it names its probe in `HM_GPU_PROBE`, and then nothing is
//! forgiven.

use std::env;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;

/// What the probe is made of. Not the whole of `src`: building it takes ten times as long as building the agent for
/// debugging, and an edit of the agent does not change it. A test in `src/embedded.rs` compares this with its imports.
const PROBE: &[&str] = &[
    "src/bin/gpu-probe",
    "src/util/logger.rs",
    "src/collector/gpu/nvidia/protocol.rs",
    "src/model/gpu.rs",
    "src/sys",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let target = env::var("TARGET")?;
    let build = commit().map_or(target.clone(), |commit| format!("{commit}, {target}"));
    println!("cargo:rustc-env=HM_BUILD={build}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("page.gz"), gzip(&page()?)?)?;
    let probe = if env::var_os("CARGO_FEATURE_GPU_PROBE").is_some() {
        Vec::new() // this is the probe's own build
    } else {
        println!("cargo:rerun-if-env-changed=HM_GPU_PROBE");
        match env::var("HM_GPU_PROBE") {
            Ok(file) => handed_in(&file)?,
            Err(env::VarError::NotPresent) => built(&out_dir)?,
            Err(error) => return Err(format!("HM_GPU_PROBE: {error}").into()),
        }
    };
    // The agent is copied to every machine and the probe unpacked on a few of them, once.
    let packed = match probe.is_empty() {
        true => probe,
        false => miniz_oxide::deflate::compress_to_vec_zlib(&probe, 10),
    };
    Ok(fs::write(out_dir.join("gpu-probe.zlib"), packed)?)
}

/// The dashboard: one document without external resources. Its script is several files in this order; the last one starts it.
fn page() -> Result<Vec<u8>, String> {
    println!("cargo:rerun-if-changed=src/telemetry/dashboard");
    let mut page = String::new();
    let mut add = |begin: &str, files: &[&str], end: &str| {
        page.push_str(begin);
        for file in files {
            let file = Path::new("src/telemetry/dashboard").join(file);
            let text = fs::read_to_string(&file)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            page.push_str(&text);
        }
        page.push_str(end);
        Ok::<(), String>(())
    };
    add("", &["head.html"], "")?;
    add("<style>", &["page.css"], "</style>\n")?;
    add("", &["body.html"], "")?;
    let scripts =
        ["dom.js", "history.js", "alerts.js", "panels.js", "gpus.js", "link.js", "page.js"];
    add("<script type=\"module\">", &scripts, "</script>\n")?;
    Ok(page.into_bytes())
}

/// Compressed as browsers accept it (RFC 1952).
fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The commit that the agent is made of, for `--version`: what `HM_COMMIT` says, or Git, in a build for release: others would be
/// made anew after every commit. It is left out where it is not known, and where its sources were changed since. Seven letters,
/// whatever else the repository holds: the same commit makes the same bytes.
fn commit() -> Option<String> {
    if env::var_os("CARGO_FEATURE_GPU_PROBE").is_some() {
        return None; // the probe's bytes depend on the probe alone
    }
    println!("cargo:rerun-if-env-changed=HM_COMMIT");
    let hash = match env::var("HM_COMMIT") {
        Ok(commit) => commit,
        Err(_) if env::var("PROFILE").ok()? == "release" && Path::new(".git").exists() => {
            let head = git(&["rev-parse", "--symbolic-full-name", "HEAD"])?;
            for name in ["HEAD", &head, "packed-refs"] {
                let path = git(&["rev-parse", "--git-path", name])?;
                // One that is not there would have this done every time.
                if Path::new(&path).exists() {
                    println!("cargo:rerun-if-changed={path}");
                }
            }
            let sources = ["src", "Cargo.toml", "Cargo.lock", "build.rs"];
            sources.iter().for_each(|source| println!("cargo:rerun-if-changed={source}"));
            git(&[&["diff", "--quiet", "HEAD", "--"][..], &sources].concat())?;
            git(&["rev-parse", "HEAD"])?
        }
        Err(_) => return None,
    };
    let is_hash = hash.len() >= 7 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| hash[..7].to_owned())
}

/// What Git says, if it can.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn handed_in(file: &str) -> Result<Vec<u8>, String> {
    println!("cargo:rerun-if-changed={file}");
    match fs::read(file) {
        Ok(probe) if probe.is_empty() => Err(format!("HM_GPU_PROBE={file}: the file is empty")),
        Ok(probe) => Ok(probe),
        Err(error) => Err(format!("HM_GPU_PROBE={file}: {error}")),
    }
}

fn built(out_dir: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    for input in PROBE {
        println!("cargo:rerun-if-changed={input}");
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let has_drivers = ["x86_64", "aarch64"].contains(&arch.as_str());
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" || !has_drivers {
        return Ok(Vec::new());
    }
    let target = format!("{arch}-unknown-linux-gnu");
    let directory = target_dir(out_dir).ok_or_else(|| "OUT_DIR is not where Cargo puts it".into());
    let probe = directory.and_then(|directory| run_cargo(&target, &directory.join("gpu-probe")));
    Ok(probe.unwrap_or_else(|reason| {
        // Whatever is mended next may have been the reason.
        println!("cargo:rerun-if-changed=src");
        println!(
            "cargo:warning=this agent will know nothing of NVIDIA's GPUs, for its GPU probe could not be built: \
             {reason}; {}, then `touch build.rs`",
            remedy(&reason, &target),
        );
        Vec::new()
    }))
}

/// `T` where `OUT_DIR` is `T[/TRIPLE]/PROFILE/build/…`: one probe serves all profiles and targets.
fn target_dir(out_dir: &Path) -> Option<&Path> {
    let build = out_dir.ancestors().find(|above| above.ends_with("build"))?;
    let above = build.ancestors().nth(2)?;
    if above.ends_with(env::var("TARGET").ok()?) { above.parent() } else { Some(above) }
}

/// The probe, or the line in which Cargo says why not.
fn run_cargo(target: &str, target_dir: &Path) -> Result<Vec<u8>, String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--bin", "gpu-probe", "--features", "gpu-probe"]);
    cargo.args(["--target", target]).arg("--target-dir").arg(target_dir);
    // The other build holds the lock of its own build directory, which may be set apart from the target directory.
    cargo.env("CARGO_BUILD_BUILD_DIR", target_dir);
    cargo.env("CARGO_TERM_COLOR", "never"); // the messages are read below
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_the_agent_only) {
            cargo.env_remove(name);
        }
    }
    let output = cargo.output().map_err(|error| format!("cargo: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    eprint!("{stderr}"); // `cargo build -vv` shows it
    if !output.status.success() {
        let reason = stderr.lines().find(|line| line.starts_with("error"));
        return Err(reason.map_or_else(|| format!("cargo: {}", output.status), str::to_owned));
    }
    let file = target_dir.join(target).join("release/gpu-probe");
    fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))
}

/// Variables that would make the probe another one: Clippy's driver, flags for the agent's target (`+crt-static`), and
/// what describes the agent's build to this script and would do so to those of the probe's dependencies. What is set for
/// the probe's target, the compiler, its cache and the job server stay.
fn is_of_the_agent_only(variable: &str) -> bool {
    let names = ["RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"];
    let groups = ["CARGO_CFG_", "CARGO_FEATURE_", "DEP_"];
    names.contains(&variable) || groups.iter().any(|group| variable.starts_with(group))
}

/// What helps against `reason`.
fn remedy(reason: &str, target: &str) -> String {
    if reason.contains("E0463") {
        format!("`rustup target add {target}`")
    } else if reason.contains("linker") || reason.contains("linking") {
        format!("install a C linker for {target}")
    } else if reason.contains("download") {
        "`cargo fetch` with a network".to_owned()
    } else {
        "`cargo build -vv` says more".to_owned()
    }
}
