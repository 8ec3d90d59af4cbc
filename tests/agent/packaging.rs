//! The example settings, the man page and the completions agree with the program. `tests/packages` tests the packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{TempDir, hm_agent};

fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// Runs `hm-agent` and returns its standard output, or its standard error if it fails.
fn run(arguments: &[&str]) -> Result<String, String> {
    let output = hm_agent().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Parses the settings that `hm-agent check` prints; `None`: without a default, or secret.
fn settings(checked: &str) -> BTreeMap<String, Option<String>> {
    // The others are about the node and its ports: `# usage: …`.
    let is_setting = |line: &&str| !line.starts_with("# this node") && !line.contains(": ");
    let lines = checked.lines().filter(is_setting);
    let setting = |line: &str| {
        let line = line.rsplit_once(" # ").map_or(line, |(setting, _origin)| setting).trim();
        match line.strip_prefix("# ") {
            Some(unset) => (unset.split(' ').next().unwrap().to_owned(), None),
            None => {
                let (key, value) = line.split_once(" = ").unwrap();
                (key.to_owned(), Some(value.to_owned()))
            }
        }
    };
    lines.map(setting).collect()
}

/// Finds the settings of the example, with their line numbers.
fn find_settings(example: &str) -> Vec<(String, usize)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for (number, line) in example.lines().enumerate() {
        let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#']));
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned() + ".";
        } else if let Some((key, _)) = setting.and_then(|setting| setting.split_once(" = ")) {
            found.push((format!("{section}{key}"), number));
        }
    }
    found
}

/// Uncomments one line of the example.
fn uncomment(example: &str, uncommented: usize) -> String {
    let lines = example.lines().enumerate();
    let line = |(number, line): (usize, &str)| match number == uncommented {
        true => line.strip_prefix('#').unwrap().to_owned() + "\n",
        false => line.to_owned() + "\n",
    };
    lines.map(line).collect()
}

#[test]
fn example_contains_every_setting_with_its_default() {
    let example = file("hm-agent.toml");
    let defaults = settings(&run(&["check"]).unwrap());
    let found = find_settings(&example);
    let mut keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
    assert_eq!(keys, known);

    let scratch = TempDir::new("example");
    for (key, number) in &found {
        let path = scratch.write("hm-agent.toml", &uncomment(&example, *number));
        let checked = run(&["check", "-c", &path]);
        match &defaults[key] {
            Some(default) => {
                assert_eq!(settings(&checked.unwrap())[key].as_ref(), Some(default), "{key}");
            }
            // An example value: its files and users may not exist on this machine.
            None => {
                let wrong = ["unknown key", "expected", "TOML"];
                let why = checked.err().unwrap_or_default();
                assert!(!wrong.iter().any(|part| why.contains(part)), "{key}: {why}");
            }
        }
    }
}

#[test]
fn unmodified_example_changes_no_setting() {
    let scratch = TempDir::new("example");
    let path = scratch.write("hm-agent.toml", &file("hm-agent.toml"));
    let checked = run(&["check", "-c", &path]).unwrap();
    assert_eq!(settings(&checked), settings(&run(&["check"]).unwrap()));
}

/// The long options in `--help`.
fn options() -> Vec<String> {
    let help = run(&["--help"]).unwrap();
    let words = help.split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '-');
    let long = words.filter(|word| word.strip_prefix("--").is_some_and(|name| !name.is_empty()));
    let mut found: Vec<String> = long.map(str::to_owned).collect();
    found.sort_unstable();
    found.dedup();
    assert!(found.len() > 10, "{found:?}");
    found
}

#[test]
fn man_page_contains_every_option_setting_and_command() {
    let page = file("hm-agent.8");
    for option in options() {
        let short = option.trim_start_matches('-');
        assert!(page.contains(&format!("-{short}")), "{option}");
    }
    for key in settings(&run(&["check"]).unwrap()).keys() {
        assert!(page.contains(&format!("Ic {key}")), "{key}");
    }
    for command in ["run", "check", "sample", "status", "beat"] {
        assert!(page.contains(&format!(".It Cm {command}")), "{command}");
    }
}

#[test]
fn completions_contain_every_option() {
    for (shell, name) in
        [("bash", "hm-agent.bash"), ("zsh", "_hm-agent"), ("fish", "hm-agent.fish")]
    {
        let completions = file(&format!("completions/{name}"));
        for option in options() {
            let expected = match shell {
                "fish" => format!("-l {}", option.trim_start_matches('-')),
                _ => option,
            };
            assert!(completions.contains(&expected), "{shell}: {expected}");
        }
    }
}

/// Relative links in the Markdown files of the repository's top level and of docs/.
#[test]
fn links_in_documents_point_to_files() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for directory in [root.clone(), root.join("docs")] {
        for entry in std::fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            let is_local = |target: &&str| !target.is_empty() && !target.contains(':');
            for target in targets.filter(is_local).filter(|target| !directory.join(target).exists())
            {
                missing.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// What the tarball contains, without the documents' text.
fn unpack_tarball(to: &Path) {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging");
    let names = ["install.sh", "uninstall.sh", "user.sh", "hm-agent.8", "hm-agent.toml"];
    let copied = Command::new("cp")
        .arg("-r")
        .args(names.map(|name| source.join(name)))
        .args(["completions", "systemd", "init"].map(|name| source.join(name)))
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
    for name in ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        std::fs::write(to.join(name), "").unwrap();
    }
    for name in ["THIRD-PARTY.txt", "hm-agent.cdx.json"] {
        std::fs::write(to.join(name), "").unwrap();
    }
    std::fs::copy(env!("CARGO_BIN_EXE_hm-agent"), to.join("hm-agent")).unwrap();
}

/// Installs below `target`.
fn install(unpacked: &Path, target: &Path, arguments: &[&str]) -> Output {
    let script = unpacked.join("install.sh");
    Command::new("sh").arg(script).args(arguments).env("DESTDIR", target).output().unwrap()
}

#[test]
fn install_script_writes_nothing_beside_itself() {
    let scratch = TempDir::new("install");
    let (unpacked, target) = (scratch.0.join("unpacked"), scratch.0.join("target"));
    std::fs::create_dir(&unpacked).unwrap();
    unpack_tarball(&unpacked);
    // Root may write to a read-only directory, so the time of its last change counts.
    let changed = || std::fs::metadata(&unpacked).unwrap().modified().unwrap();
    let before = changed();
    for init in ["systemd", "openrc", "sysv", "none"] {
        let output = install(&unpacked, &target, &["--init", init]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(changed(), before, "{init}");
    }
    assert!(target.join("etc/systemd/system/hm-agent.service").exists());
}

#[test]
fn install_prefix_is_used_exactly_or_refused_before_writing() {
    let scratch = TempDir::new("prefix");
    let (unpacked, target) = (scratch.0.join("unpacked"), scratch.0.join("target"));
    std::fs::create_dir(&unpacked).unwrap();
    unpack_tarball(&unpacked);
    for (prefix, installed) in
        [("/opt/a,b", "/opt/a,b"), ("/opt/a-b_c+d=e@f:1.0//", "/opt/a-b_c+d=e@f:1.0"), ("/", "")]
    {
        let output = install(&unpacked, &target, &["--init", "systemd", "--prefix", prefix]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let unit = target.join("etc/systemd/system/hm-agent.service");
        let unit = std::fs::read_to_string(unit).unwrap();
        assert!(unit.contains(&format!("\nExecStart={installed}/bin/hm-agent run\n")), "{unit}");
        let share = target.join(installed.trim_start_matches('/')).join("share/hm-agent");
        let script = std::fs::read_to_string(share.join("uninstall.sh")).unwrap();
        assert!(script.contains(&format!("\nprogram={installed}/bin/hm-agent\n")), "{script}");
        std::fs::remove_dir_all(&target).unwrap();
    }
    let long = format!("/opt/{}", "a".repeat(200));
    for prefix in [
        "",
        "opt",
        "/opt/a b",
        "/opt/a&b",
        "/opt/a|b",
        "/opt/a\\b",
        "/opt/a\nb",
        "/opt/a'b",
        "/opt/a\"b",
        "/opt/$HOME",
        "/opt/`id`",
        "/opt/%h",
        "/opt/a;b",
        "/opt/a#b",
        "/opt/*",
        "/opt/ä",
        "/opt/../a",
        "/opt/..",
        "/opt/x,g;e touch /tmp/pwned #",
        long.as_str(),
    ] {
        let output = install(&unpacked, &target, &["--init", "systemd", "--prefix", prefix]);
        assert_eq!(output.status.code(), Some(2), "{prefix:?}");
        assert!(!target.exists(), "{prefix:?}");
    }
    assert_eq!(install(&unpacked, &target, &["--init", "runit"]).status.code(), Some(2));
    assert!(!target.exists());
}
