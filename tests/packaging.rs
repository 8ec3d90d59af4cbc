//! What goes into packages beside the program says what the program says: the example settings, the man page, the
//! completions. The packages themselves are tested by `tests/packages`.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use support::{Scratch, hm_agent};

fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// What `hm-agent` prints with these arguments; the error where it fails.
fn said(arguments: &[&str]) -> Result<String, String> {
    let output = hm_agent().args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The settings that `hm-agent check` prints, with their values; `None`: not set, or not shown.
fn settings(checked: &str) -> BTreeMap<String, Option<String>> {
    let lines = checked.lines().filter(|line| !line.starts_with("# this node"));
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

/// The example's settings, and in which lines they are.
fn in_example(example: &str) -> Vec<(String, usize)> {
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

/// The example with the mark of one line taken away, as an administrator would.
fn with_line(example: &str, wanted: usize) -> String {
    let lines = example.lines().enumerate();
    let line = |(number, line): (usize, &str)| match number == wanted {
        true => line.strip_prefix('#').unwrap().to_owned() + "\n",
        false => line.to_owned() + "\n",
    };
    lines.map(line).collect()
}

#[test]
fn the_example_has_every_setting_with_its_default() {
    let example = file("hm-agent.toml");
    let defaults = settings(&said(&["check"]).unwrap());
    let found = in_example(&example);
    let mut keys: Vec<&str> = found.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
    assert_eq!(keys, known);

    let scratch = Scratch::new("example");
    for (key, number) in &found {
        let path = scratch.write("hm-agent.toml", &with_line(&example, *number));
        let checked = said(&["check", "-c", &path]);
        match &defaults[key] {
            Some(default) => {
                assert_eq!(settings(&checked.unwrap())[key].as_ref(), Some(default), "{key}");
            }
            // An example, whose files and users are not here.
            None => {
                let wrong = ["unknown key", "expected", "TOML"];
                let why = checked.err().unwrap_or_default();
                assert!(!wrong.iter().any(|part| why.contains(part)), "{key}: {why}");
            }
        }
    }
}

#[test]
fn the_example_as_it_is_changes_nothing() {
    let scratch = Scratch::new("example");
    let path = scratch.write("hm-agent.toml", &file("hm-agent.toml"));
    let checked = said(&["check", "-c", &path]).unwrap();
    assert_eq!(settings(&checked), settings(&said(&["check"]).unwrap()));
}

/// The long options of `--help`.
fn options() -> Vec<String> {
    let help = said(&["--help"]).unwrap();
    let words = help.split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '-');
    let long = words.filter(|word| word.strip_prefix("--").is_some_and(|name| !name.is_empty()));
    let mut found: Vec<String> = long.map(str::to_owned).collect();
    found.sort_unstable();
    found.dedup();
    assert!(found.len() > 10, "{found:?}");
    found
}

#[test]
fn the_man_page_has_every_option_setting_and_command() {
    let page = file("hm-agent.8");
    for option in options() {
        let short = option.trim_start_matches('-');
        assert!(page.contains(&format!("-{short}")), "{option}");
    }
    for key in settings(&said(&["check"]).unwrap()).keys() {
        assert!(page.contains(&format!("Ic {key}")), "{key}");
    }
    for command in ["run", "check", "sample", "status", "beat"] {
        assert!(page.contains(&format!(".It Cm {command}")), "{command}");
    }
}

#[test]
fn completions_know_every_option() {
    for (shell, name) in
        [("bash", "hm-agent.bash"), ("zsh", "_hm-agent"), ("fish", "hm-agent.fish")]
    {
        let completions = file(&format!("completions/{name}"));
        for option in options() {
            let wanted = match shell {
                "fish" => format!("-l {}", option.trim_start_matches('-')),
                _ => option,
            };
            assert!(completions.contains(&wanted), "{shell}: {wanted}");
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
