//! Arguments of hm-hub.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value};
use lexopt::{Parser, ValueExt};

use crate::hub::config::SCHEMA;
use crate::hub::core::rest_actions::MAX_TIMEOUT_S;
use crate::util::error::Error;

const USAGE: &str = "hm-hub is the server that hm and Core nodes connect to.

usage:
  hm-hub [run]              Run the hub in the foreground until SIGTERM or SIGINT. SIGHUP reloads the configuration.
  hm-hub check              Validate the configuration and print every setting with its source.
  hm-hub backup FILE        Copy the database to FILE, also while the hub is running.
  hm-hub import hm FILE     Import reports of the published hm: JSON lines of mongoexport. The hub must not run.
  hm-hub import core FILE   Import nodes and metrics of the published Core: its SQLite file. The hub must not run.
  hm-hub status             Nagios plugin: print how many nodes are online, lost and offline. Exit codes are 0 to 3.
  hm-hub node list          Print a line for each node.
  hm-hub node show ID       Print what the hub knows of a node, as JSON.
  hm-hub node forget ID [--force]
                            Delete a node that is not connected, with what it has reported. With --force, any: its
                            connections end, and its credential is not valid any more.
  hm-hub command ID [--timeout S] -- WORDS...
                            Run a command on a node that is connected over Core, and print its result. S is 1 to 3600,
                            30 by default. The node's own settings decide whether it runs.
  hm-hub command --group NAME [--timeout S] -- WORDS...
                            The same on all hm-agents of a group that are online.
  hm-hub token new [node=ID] [group=NAME]
                            Add a random token to nodes.tokens_file, and print it.
  hm-hub token list         Print id and fields of each token. The id is the first digits of its SHA-256.
  hm-hub token revoke ID    Remove a token.
  hm-hub -config FILE.json  Run with a configuration file of the published hm server.

options:
  -c, --config FILE         Configuration file. Default: /etc/hm-hub/hm-hub.toml, if it exists.
  -s, --set KEY=VALUE       Set one setting. Overrides the environment (HM_HUB_KEY) and the file. May be repeated.
  -h, --help                Print this help.
  -V, --version             Print the version.

settings (-s KEY=VALUE, or in the file):
";

const FOOTER: &str = "
status, node and command ask the hub that runs with these settings, on this machine. HM_HUB_TOKEN is the operator token, if
tokens are in force. A running hub applies changed tokens after SIGHUP.
Exit codes: 0 stopped or done, 1 failed, 2 invalid arguments or configuration.
";

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Run,
    Check,
    Backup(PathBuf),
    ImportHm(PathBuf),
    ImportCore(PathBuf),
    Status,
    NodeList,
    NodeShow(String),
    NodeForget(String),
    /// Run words on nodes.
    RunOn(Target, Vec<String>),
    TokenNew(Vec<String>),
    TokenList,
    TokenRevoke(String),
    Help,
    Version,
}

/// The nodes that run a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Node(String),
    Group(String),
}

/// Options of the command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub file: Option<PathBuf>,
    pub overrides: Vec<(String, String)>,
    /// `-config`.
    pub original: Option<PathBuf>,
    pub group: Option<String>,
    pub timeout_s: Option<u32>,
    pub force: bool,
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Command, Options), Error> {
    let mut arguments = arguments.into_iter();
    let before: Vec<OsString> =
        arguments.by_ref().take_while(|argument| argument != "--").collect();
    // The words of a command, which may look like options.
    let after: Vec<OsString> = arguments.collect();
    // The published server's flags have one dash.
    let one_dash = |argument: OsString| match argument.to_str() {
        Some("-config") => "--original-config".into(),
        Some("-version") => "--version".into(),
        _ => argument,
    };
    let mut parser = Parser::from_args(before.into_iter().map(one_dash));
    let (mut words, mut options) = (Vec::new(), Options::default());
    let invalid = |error: lexopt::Error| Error::Arguments(error.to_string());
    while let Some(argument) = parser.next().map_err(invalid)? {
        match argument {
            Short('h') | Long("help") => return Ok((Command::Help, options)),
            Short('V') | Long("version") => return Ok((Command::Version, options)),
            Short('c') | Long("config") => {
                options.file = Some(parser.value().map_err(invalid)?.into());
            }
            Long("original-config") => {
                options.original = Some(parser.value().map_err(invalid)?.into());
            }
            Short('s') | Long("set") => {
                let text = parser.value().map_err(invalid)?;
                let pair = text.to_str().and_then(|text| text.split_once('='));
                let (key, value) =
                    pair.ok_or_else(|| Error::Arguments("-s needs KEY=VALUE".to_owned()))?;
                options.overrides.push((key.to_owned(), value.to_owned()));
            }
            Long("force") => options.force = true,
            Long("group") => options.group = Some(text(parser.value().map_err(invalid)?)?),
            Long("timeout") => {
                options.timeout_s =
                    Some(parser.value().map_err(invalid)?.parse().map_err(invalid)?);
            }
            Value(word) => words.push(word),
            other @ (Short(_) | Long(_)) => return Err(invalid(other.unexpected())),
        }
    }
    if words.first().is_some_and(|word| word == "command") {
        let command = command_on(&words[1..], &after, &options)?;
        return Ok((command, options));
    }
    if options.force && !(words.len() == 3 && words[0] == "node" && words[1] == "forget") {
        return Err(Error::Arguments("--force is for node forget".to_owned()));
    }
    if options.group.is_some() || options.timeout_s.is_some() {
        return Err(Error::Arguments("--group and --timeout are for command".to_owned()));
    }
    words.extend(after);
    Ok((command(&words)?, options))
}

fn text(word: OsString) -> Result<String, Error> {
    word.into_string().map_err(|_| Error::Arguments("an argument is not UTF-8".to_owned()))
}

fn command(words: &[OsString]) -> Result<Command, Error> {
    let names: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    match names.iter().map(|name| &**name).collect::<Vec<_>>()[..] {
        [] | ["run"] => Ok(Command::Run),
        ["check"] => Ok(Command::Check),
        ["status"] => Ok(Command::Status),
        ["node", "list"] => Ok(Command::NodeList),
        ["node", "show", _] => Ok(Command::NodeShow(text(words[2].clone())?)),
        ["node", "forget", _] => Ok(Command::NodeForget(text(words[2].clone())?)),
        ["node", ..] => Err(Error::Arguments("node needs list, show ID or forget ID".to_owned())),
        ["token", "new", ..] => {
            words.iter().skip(2).cloned().map(text).collect::<Result<_, _>>().map(Command::TokenNew)
        }
        ["token", "list"] => Ok(Command::TokenList),
        ["token", "revoke", _] => Ok(Command::TokenRevoke(text(words[2].clone())?)),
        ["token", ..] => {
            let why = "token needs new, list, or revoke and the id of a token";
            Err(Error::Arguments(why.to_owned()))
        }
        ["import", "hm", _] => Ok(Command::ImportHm(PathBuf::from(&words[2]))),
        ["import", "core", _] => Ok(Command::ImportCore(PathBuf::from(&words[2]))),
        ["import", ..] => Err(Error::Arguments("import needs hm or core, and a file".to_owned())),
        ["backup", _] => Ok(Command::Backup(PathBuf::from(&words[1]))),
        ["backup"] => Err(Error::Arguments("backup needs the name of a file".to_owned())),
        [first, ..] => {
            let why = format!("unexpected argument \"{}\"", first.escape_debug());
            Err(Error::Arguments(why))
        }
    }
}

/// `command`, with a node or a group, and the words after `--`.
fn command_on(nodes: &[OsString], words: &[OsString], options: &Options) -> Result<Command, Error> {
    let invalid = |why: &str| Err(Error::Arguments(why.to_owned()));
    if options.timeout_s.is_some_and(|timeout_s| !(1..=MAX_TIMEOUT_S).contains(&timeout_s)) {
        return invalid("--timeout must be 1 to 3600 seconds");
    }
    let target = match (nodes, &options.group) {
        ([node_id], None) => Target::Node(text(node_id.clone())?),
        ([], Some(group)) => Target::Group(group.clone()),
        _ => return invalid("command needs one node or --group before \"--\""),
    };
    match words.is_empty() {
        true => invalid("command needs \"--\" and the words to run"),
        false => {
            let words = words.iter().cloned().map(text).collect::<Result<_, _>>()?;
            Ok(Command::RunOn(target, words))
        }
    }
}

pub fn help() -> String {
    let mut text = USAGE.to_owned();
    for row in SCHEMA.rows {
        let default = row.default.map_or(String::new(), |default| format!(" Default: {default}."));
        text.push_str(&format!("  {:<24}{}{default}\n", row.key, row.description));
    }
    text + FOOTER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Command, Options), String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn parses_commands_and_options() {
        let plain = Options::default;
        let file = |path: &str| Options { file: Some(path.into()), ..plain() };
        let original = |path: &str| Options { original: Some(path.into()), ..plain() };
        for (line, expected) in [
            ("", (Command::Run, plain())),
            ("run -c f", (Command::Run, file("f"))),
            ("-config f.json", (Command::Run, original("f.json"))),
            ("--config f check", (Command::Check, file("f"))),
            ("backup f", (Command::Backup("f".into()), plain())),
            ("-version", (Command::Version, plain())),
            ("check --help", (Command::Help, plain())),
            ("node list", (Command::NodeList, plain())),
            ("node forget a", (Command::NodeForget("a".into()), plain())),
            ("token new node=a", (Command::TokenNew(vec!["node=a".into()]), plain())),
            ("token revoke 0a", (Command::TokenRevoke("0a".into()), plain())),
            (
                "command a -- ls -l",
                (Command::RunOn(Target::Node("a".into()), vec!["ls".into(), "-l".into()]), plain()),
            ),
            (
                "-s a=b command a -- java -version --help",
                (
                    Command::RunOn(
                        Target::Node("a".into()),
                        vec!["java".into(), "-version".into(), "--help".into()],
                    ),
                    Options { overrides: vec![("a".into(), "b".into())], ..plain() },
                ),
            ),
            (
                "command --timeout 5 --group g -- id",
                (
                    Command::RunOn(Target::Group("g".into()), vec!["id".into()]),
                    Options { group: Some("g".into()), timeout_s: Some(5), ..plain() },
                ),
            ),
        ] {
            assert_eq!(parsed(line).unwrap(), expected, "{line}");
        }
        let (_, options) = parsed("-s a=b --set c=d=e").unwrap();
        assert_eq!(options.overrides, [("a".into(), "b".into()), ("c".into(), "d=e".into())]);
    }

    #[test]
    fn rejects_other_arguments() {
        for line in
            ["nonsense", "run check", "backup", "backup a b", "-s x", "-x", "--nonsense", "-c"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
        for line in [
            "node",
            "node show",
            "token",
            "token revoke",
            "command",
            "command a",
            "command --group g",
            "command a ls -l",
            "command a ls",
            "command a b -- ls",
            "command a --group g -- ls",
            "command a --timeout 0 -- ls",
            "node list --group g",
            "node list -- x",
            "command a --timeout x -- ls",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_lists_every_setting() {
        let help = help();
        assert!(SCHEMA.rows.iter().all(|row| help.contains(&format!("\n  {} ", row.key))));
    }
}
