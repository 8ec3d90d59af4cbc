//! Builds what is embedded in the agent: the dashboard of `src/telemetry/dashboard` as `$OUT_DIR/page.gz`, and the program of the
//! package `gpu-probe` as `$OUT_DIR/gpu-probe.zlib`. With the feature `hub` also the pages of `src/hub/web/pages`.
//!
//! The probe is always a release build for glibc, whatever the agent is built for: NVIDIA's library needs glibc, and a
//! static agent has none.
//!
//! Without a probe the agent works but reads no NVIDIA GPUs. So where the probe cannot be built, an empty file is embedded and
//! Cargo prints a warning. A release must have one: it names its probe in `HM_GPU_PROBE`, and then every failure is an error.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let target = env::var("TARGET")?;
    let build = commit().map_or(target.clone(), |commit| format!("{commit}, {target}"));
    println!("cargo:rustc-env=HM_BUILD={build}");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("page.gz"), gzip(&document(&DASHBOARD)?)?)?;
    if env::var_os("CARGO_FEATURE_HUB").is_some() {
        fs::write(out_dir.join("fleet.gz"), gzip(&document(&FLEET_PAGE)?)?)?;
        fs::write(out_dir.join("node.gz"), gzip(&document(&NODE_PAGE)?)?)?;
    }
    println!("cargo:rerun-if-env-changed=HM_GPU_PROBE");
    let probe = match env::var("HM_GPU_PROBE") {
        Ok(file) => read_probe(&file)?,
        Err(env::VarError::NotPresent) => build_probe(&out_dir)?,
        Err(error) => return Err(format!("HM_GPU_PROBE: {error}").into()),
    };
    // Most machines have no GPU and never decompress it.
    let compressed = if probe.is_empty() { probe } else { zlib(&probe)? };
    Ok(fs::write(out_dir.join("gpu-probe.zlib"), compressed)?)
}

/// The sources of an HTML document: files of `src/telemetry/dashboard`, and those of `src/hub/web/pages` with `hub/` before the
/// name. Order matters: the last script starts the page.
struct Sources {
    head: &'static str,
    styles: &'static [&'static str],
    body: &'static [&'static str],
    scripts: &'static [&'static str],
}

const DASHBOARD: Sources = Sources {
    head: "head.html",
    styles: &["base.css", "page.css"],
    body: &["body.html", "main.html", "foot.html"],
    scripts: &[
        "dom.js",
        "history.js",
        "curves.js",
        "xids.js",
        "alerts.js",
        "findings.js",
        "events.js",
        "panels.js",
        "gpus.js",
        "gpu_table.js",
        "feeds.js",
        "link.js",
        "page.js",
    ],
};

const FLEET_PAGE: Sources = Sources {
    head: "hub/fleet/head.html",
    styles: &["base.css", "hub/hub.css", "hub/fleet/fleet.css", "hub/fleet/rows.css"],
    body: &["hub/fleet/top.html", "hub/login.html", "hub/fleet/main.html"],
    scripts: &[
        "dom.js",
        "hub/link.js",
        "hub/session.js",
        "hub/fleet/nodes.js",
        "hub/fleet/filters.js",
        "hub/fleet/totals.js",
        "hub/fleet/rows.js",
        "hub/fleet/grid.js",
        "hub/fleet/fleet.js",
    ],
};

/// The dashboard with another transport.
const NODE_PAGE: Sources = Sources {
    head: "hub/node/head.html",
    styles: &["base.css", "page.css", "hub/hub.css", "hub/node/node.css"],
    body: &["hub/node/top.html", "hub/login.html", "main.html", "hub/node/commands.html"],
    scripts: &[
        "dom.js",
        "history.js",
        "curves.js",
        "xids.js",
        "alerts.js",
        "findings.js",
        "events.js",
        "panels.js",
        "gpus.js",
        "gpu_table.js",
        "feeds.js",
        "hub/link.js",
        "hub/session.js",
        "hub/node/snapshot.js",
        "hub/node/commands.js",
        "page.js",
    ],
};

/// One HTML document without external resources.
fn document(sources: &Sources) -> Result<Vec<u8>, String> {
    let mut html = String::new();
    let mut add = |begin: &str, files: &[&str], end: &str| {
        html.push_str(begin);
        for file in files {
            let file = match file.strip_prefix("hub/") {
                Some(file) => Path::new("src/hub/web/pages").join(file),
                None => Path::new("src/telemetry/dashboard").join(file),
            };
            println!("cargo:rerun-if-changed={}", file.display());
            let text = fs::read_to_string(&file)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            html.extend(text.split_inclusive('\n').filter(|line| !is_comment(line)));
        }
        html.push_str(end);
        Ok::<(), String>(())
    };
    add("", &[sources.head], "")?;
    add("<style>", sources.styles, "</style>\n")?;
    add("", sources.body, "")?;
    add("<script type=\"module\">", sources.scripts, "</script>\n")?;
    Ok(html.into_bytes())
}

/// Whether a line of a script is a comment as a whole. The page is sent without these.
fn is_comment(line: &str) -> bool {
    let line = line.trim();
    line.starts_with("// ") || (line.starts_with("/** ") && line.ends_with(" */"))
}

/// Without time or file name: the same input gives the same bytes.
fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn zlib(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The commit for `--version`, seven digits: `HM_COMMIT`, or in a release build Git's HEAD. Debug builds have none, because every
/// commit would rebuild them. `None` if it is unknown or the sources differ from it.
fn commit() -> Option<String> {
    println!("cargo:rerun-if-env-changed=HM_COMMIT");
    let hash = match env::var("HM_COMMIT") {
        Ok(commit) => commit,
        Err(_) if env::var("PROFILE").ok()? == "release" && Path::new(".git").exists() => {
            let head = git(&["rev-parse", "--symbolic-full-name", "HEAD"])?;
            for name in ["HEAD", &head, "packed-refs"] {
                let path = git(&["rev-parse", "--git-path", name])?;
                // Cargo would rerun this script every time for a missing file.
                if Path::new(&path).exists() {
                    println!("cargo:rerun-if-changed={path}");
                }
            }
            let sources = ["src", "gpu-probe", "Cargo.toml", "Cargo.lock", "build.rs"];
            sources.iter().for_each(|source| println!("cargo:rerun-if-changed={source}"));
            git(&[&["diff", "--quiet", "HEAD", "--"][..], &sources].concat())?;
            git(&["rev-parse", "HEAD"])?
        }
        Err(_) => return None,
    };
    let is_hash = hash.len() >= 7 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| hash[..7].to_owned())
}

/// Git's output; `None` if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn read_probe(file: &str) -> Result<Vec<u8>, String> {
    println!("cargo:rerun-if-changed={file}");
    match fs::read(file) {
        Ok(probe) if probe.is_empty() => Err(format!("HM_GPU_PROBE={file}: the file is empty")),
        Ok(probe) => Ok(probe),
        Err(error) => Err(format!("HM_GPU_PROBE={file}: {error}")),
    }
}

fn build_probe(out_dir: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    for source in ["gpu-probe", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={source}");
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    let has_driver = ["x86_64", "aarch64"].contains(&arch.as_str());
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" || !has_driver {
        return Ok(Vec::new());
    }
    let target = format!("{arch}-unknown-linux-gnu");
    let directory = target_dir(out_dir).ok_or_else(|| "OUT_DIR is not where Cargo puts it".into());
    let probe = directory.and_then(|directory| run_cargo(&target, &directory.join("gpu-probe")));
    Ok(probe.unwrap_or_else(|reason| {
        // Tried again at the next edit: the missing target or linker may have been installed.
        println!("cargo:rerun-if-changed=src");
        println!(
            "cargo:warning=this agent will not read NVIDIA GPUs, because its GPU probe could not be built: {reason}; \
             {}, then `touch build.rs`",
            remedy(&reason, &target),
        );
        Vec::new()
    }))
}

/// `T` if `OUT_DIR` is `T[/TRIPLE]/PROFILE/build/…`: all profiles and targets share one probe.
fn target_dir(out_dir: &Path) -> Option<&Path> {
    let build = out_dir.ancestors().find(|above| above.ends_with("build"))?;
    let above = build.ancestors().nth(2)?;
    if above.ends_with(env::var("TARGET").ok()?) { above.parent() } else { Some(above) }
}

/// Builds the probe and returns its bytes, or Cargo's error.
fn run_cargo(target: &str, target_dir: &Path) -> Result<Vec<u8>, String> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--locked", "--package", "gpu-probe", "--features", "nvml"]);
    cargo.args(["--target", target]).arg("--target-dir").arg(target_dir);
    // The outer build holds the lock of its build directory, which may differ from its target directory.
    cargo.env("CARGO_BUILD_BUILD_DIR", target_dir);
    cargo.env("CARGO_TERM_COLOR", "never"); // the messages are read below
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_for_agent_only) {
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

/// Variables that must not reach the probe's build: Clippy's driver, flags for the agent's target (`+crt-static`), and what Cargo
/// tells this script about the agent's build. The compiler, its cache, the job server and settings for the probe's target stay.
fn is_for_agent_only(variable: &str) -> bool {
    let names = ["RUSTC_WORKSPACE_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"];
    let groups = ["CARGO_CFG_", "CARGO_FEATURE_", "DEP_"];
    names.contains(&variable) || groups.iter().any(|group| variable.starts_with(group))
}

/// How to fix `reason`.
fn remedy(reason: &str, target: &str) -> String {
    if reason.contains("E0463") {
        format!("`rustup target add {target}`")
    } else if reason.contains("linker") || reason.contains("linking") {
        format!("install a C linker for {target}")
    } else if reason.contains("download") {
        "`cargo fetch` with a network".to_owned()
    } else {
        "see `cargo build -vv`".to_owned()
    }
}
