//! The output of `--help` and `--version`.

use crate::cli::flags::{FLAGS, Flag, SUBCOMMANDS};
use crate::config::table::ROWS;

/// Version, commit if known, target: see build.rs.
pub(super) const VERSION: &str =
    concat!("hm-agent ", env!("CARGO_PKG_VERSION"), " (", env!("HM_BUILD"), ")\n");

const SUMMARY: &str =
    "hm-agent monitors a GPU node: metrics, application heartbeats, reports to hm and Core.\n";

const FOOTER: &str = "
Telemetry is at ws://HOST:33931/usage, heartbeats at http://127.0.0.1:8888, and other hosts over SSH, with
monitor.enabled=true, at ws://127.0.0.1:9097/monitor. Exit codes: 0 stopped or done, 1 failed, 2 invalid arguments or
configuration.
";

const LINE_WIDTH: usize = 110;
const DESCRIPTION_COLUMN: usize = 26;

/// Lists every subcommand, flag and setting with its default.
pub(super) fn help() -> String {
    let mut out = format!("{SUMMARY}\nusage:\n");
    for subcommand in SUBCOMMANDS {
        entry(&mut out, &format!("hm-agent {}", subcommand.synopsis), subcommand.description);
    }
    out.push_str("\noptions:\n");
    for flag in FLAGS.iter().filter(|flag| !flag.description.is_empty()) {
        entry(&mut out, &flag_name(flag), flag.description);
    }
    out.push_str("\nsettings (-s KEY=VALUE, or in the file):\n");
    for row in ROWS {
        let default = row.default.filter(|default| !default.is_empty());
        let default = default.map_or(String::new(), |default| format!(" Default: {default}."));
        entry(&mut out, row.key, &format!("{}{default}", row.description));
    }
    out + FOOTER
}

fn flag_name(flag: &Flag) -> String {
    let short = flag.short.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
    let value = flag.value.map_or(String::new(), |value| format!(" {value}"));
    format!("{short}--{}{value}", flag.long)
}

/// Appends a name and its description, wrapped, in a column of its own.
fn entry(out: &mut String, name: &str, description: &str) {
    let mut line = format!("  {name}");
    if line.len() + 2 > DESCRIPTION_COLUMN {
        out.push_str(&line);
        out.push('\n');
        line.clear();
    }
    let indent = format!("{line:<DESCRIPTION_COLUMN$}");
    line = indent;
    for word in description.split(' ') {
        if line.len() + word.len() > LINE_WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(DESCRIPTION_COLUMN);
        }
        line.push_str(word);
        line.push(' ');
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAN_PAGE: &str = include_str!("../../packaging/hm-agent.8");
    const EXAMPLE: &str = include_str!("../../packaging/hm-agent.toml");
    const COMPLETIONS: [&str; 3] = [
        include_str!("../../packaging/completions/_hm-agent"),
        include_str!("../../packaging/completions/hm-agent.bash"),
        include_str!("../../packaging/completions/hm-agent.fish"),
    ];

    fn visible_flags() -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().filter(|flag| flag.long != "supervised")
    }

    /// Joins the lines of a text, without comment signs, so that wrapped sentences can be found.
    fn unwrap_lines(text: &str) -> String {
        let words = text.split_whitespace().filter(|word| *word != "#");
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn help_lists_every_flag_and_setting_within_line_width() {
        let help = help();
        for flag in visible_flags() {
            assert!(help.contains(&format!("--{}", flag.long)), "{}", flag.long);
        }
        for row in ROWS {
            let starts = |line: &str| line.split_whitespace().next() == Some(row.key);
            assert!(help.lines().any(starts), "{}", row.key);
        }
        let words = unwrap_lines(&help);
        for row in ROWS {
            assert!(words.contains(row.description), "{}", row.key);
        }
        assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    }

    #[test]
    fn man_page_describes_every_flag_and_setting() {
        let words = unwrap_lines(MAN_PAGE);
        for flag in visible_flags() {
            assert!(words.contains(&format!("-{}", flag.long)), "{}", flag.long);
            assert!(words.contains(flag.description), "{}: {}", flag.long, flag.description);
        }
        for row in ROWS {
            let default = row.default.filter(|default| !default.is_empty());
            let default = default.map_or(String::new(), |default| format!(" Default: {default}."));
            let entry = format!(".It Ic {} {}{default}", row.key, row.description);
            assert!(words.contains(&entry), "{entry}");
        }
    }

    #[test]
    fn example_file_describes_every_setting() {
        let words = unwrap_lines(EXAMPLE);
        for row in ROWS {
            let name = row.key.rsplit('.').next().unwrap();
            let entry = format!("{} #{name} = ", row.description);
            assert!(words.contains(&entry), "{entry}");
        }
    }

    #[test]
    fn completions_have_every_flag() {
        for completion in COMPLETIONS {
            for flag in visible_flags() {
                let (bash_or_zsh, fish) =
                    (format!("--{}", flag.long), format!("-l {} ", flag.long));
                let has = completion.contains(&bash_or_zsh) || completion.contains(&fish);
                assert!(has, "{completion}: {}", flag.long);
            }
        }
    }
}
