//! Command line of hm-hub.

pub mod client;
mod nodes;
mod tokens;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lexopt::prelude::{Long, Short, Value};
use lexopt::{Parser, ValueExt};
use rusqlite::Connection;

use crate::config::{Settings, Sources};
use crate::hub::cli::client::RestClient;
use crate::hub::config::{HubConfig, SCHEMA};
use crate::hub::core::messages::unix_ms;
use crate::hub::core::rest::DEFAULT_TIMEOUT_S;
use crate::hub::original_config::{self, OriginalConfig};
use crate::hub::store::{StoreError, schema};
use crate::hub::{import, run, status};
use crate::util::error::Error;

const USAGE: &str = "hm-hub is the server that hm nodes connect to.

usage:
  hm-hub [run]              Run the hub in the foreground until SIGTERM or SIGINT. SIGHUP reloads the configuration.
  hm-hub check              Validate the configuration and print every setting with its source.
  hm-hub backup FILE        Copy the database to FILE, also while the hub is running.
  hm-hub import hm FILE     Import reports of the published hm: JSON lines of mongoexport. The hub must not run.
  hm-hub import core FILE   Import nodes and metrics of the published Core: its SQLite file. The hub must not run.
  hm-hub status             Nagios plugin: print how many nodes are online, lost and offline. Exit codes are 0 to 3.
  hm-hub node list          Print a line for each node.
  hm-hub node show ID       Print what the hub knows of a node, as JSON.
  hm-hub node forget ID     Delete a node that is not connected, with what it has reported.
  hm-hub command ID [--timeout S] -- WORDS...
                            Run a command on a node that is connected over Core, and print its result. S is 1 to 3600,
                            30 by default. The node's own settings decide whether it runs.
  hm-hub command --group NAME [--timeout S] -- WORDS...
                            The same on all nodes of a group.
  hm-hub token new [node=ID] [group=NAME]
                            Add a random token to nodes.tokens_file, and print it.
  hm-hub token list         Print id and fields of each token. The id is not secret.
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

/// Operator token of `status`, `node` and `command`.
const TOKEN_VARIABLE: &str = "HM_HUB_TOKEN";

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
enum Command {
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
enum Target {
    Node(String),
    Group(String),
}

/// Options of the command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    file: Option<PathBuf>,
    overrides: Vec<(String, String)>,
    /// `-config`.
    original: Option<PathBuf>,
    group: Option<String>,
    timeout_s: Option<u32>,
}

/// Runs the command and returns the exit code.
pub fn execute(arguments: impl IntoIterator<Item = OsString>) -> Result<u8, Error> {
    let (command, options) = parse(arguments)?;
    match command {
        Command::Run => {
            let (sources, notes) = options.sources()?;
            run::run(&sources, &notes)?;
        }
        Command::Check => {
            let (sources, notes) = options.sources()?;
            let settings = Settings::load(&sources)?;
            HubConfig::new(&settings)?;
            for warning in settings.warnings.iter().chain(&notes) {
                // A line that cannot be written is lost, as in the hub's log.
                let _ = writeln!(std::io::stderr(), "hm-hub: {warning}");
            }
            print(&settings.effective())?;
        }
        Command::Backup(to) => backup(&options.sources()?.0, &to)?,
        Command::ImportHm(from) => {
            import(&options.sources()?.0, |db| import::hm(db, &from, now()))?;
        }
        Command::ImportCore(from) => {
            import(&options.sources()?.0, |db| import::core(db, &from, now()))?;
        }
        Command::NodeList => print(&nodes::list(&rest_client(options)?)?)?,
        Command::NodeShow(id) => print(&nodes::show(&rest_client(options)?, &id)?)?,
        Command::NodeForget(id) => nodes::forget(&rest_client(options)?, &id)?,
        Command::RunOn(target, words) => {
            let timeout_s = options.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S);
            let hub = rest_client(options)?;
            let node_ids = match target {
                Target::Node(id) => vec![id],
                Target::Group(group) => nodes::of_group(&hub, &group)?,
            };
            let (report, succeeded) = nodes::run(&hub, &node_ids, &words, timeout_s)?;
            print(&report)?;
            return Ok(u8::from(!succeeded));
        }
        Command::TokenNew(fields) => {
            let token = tokens::new(&tokens_file(options)?, &fields)?;
            print(&format!("{token}\n"))?;
        }
        Command::TokenList => print(&tokens::list(&tokens_file(options)?)?)?,
        Command::TokenRevoke(id) => tokens::revoke(&tokens_file(options)?, &id)?,
        Command::Status => {
            let config = HubConfig::new(&Settings::load(&options.sources()?.0)?)?;
            let token = std::env::var(TOKEN_VARIABLE).ok();
            let (line, code) = status::query(config.web_listen, token.as_deref());
            print(&(line + "\n"))?;
            return Ok(code);
        }
        Command::Help => print(&help())?,
        Command::Version => print(concat!("hm-hub ", env!("CARGO_PKG_VERSION"), "\n"))?,
    }
    Ok(0)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Command, Options), Error> {
    // The published server's flags have one dash.
    let one_dash = |argument: OsString| match argument.to_str() {
        Some("-config") => "--original-config".into(),
        Some("-version") => "--version".into(),
        _ => argument,
    };
    let mut parser = Parser::from_args(arguments.into_iter().map(one_dash));
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
            Long("group") => options.group = Some(text(parser.value().map_err(invalid)?)?),
            Long("timeout") => {
                options.timeout_s =
                    Some(parser.value().map_err(invalid)?.parse().map_err(invalid)?);
            }
            Value(word) => words.push(word),
            other @ (Short(_) | Long(_)) => return Err(invalid(other.unexpected())),
        }
    }
    Ok((command(&words, options.group.as_deref())?, options))
}

fn text(word: OsString) -> Result<String, Error> {
    word.into_string().map_err(|_| Error::Arguments("an argument is not UTF-8".to_owned()))
}

fn command(words: &[OsString], group: Option<&str>) -> Result<Command, Error> {
    let names: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    match names.iter().map(|name| &**name).collect::<Vec<_>>()[..] {
        [] | ["run"] => Ok(Command::Run),
        ["check"] => Ok(Command::Check),
        ["status"] => Ok(Command::Status),
        ["node", "list"] => Ok(Command::NodeList),
        ["node", "show", _] => Ok(Command::NodeShow(text(words[2].clone())?)),
        ["node", "forget", _] => Ok(Command::NodeForget(text(words[2].clone())?)),
        ["node", ..] => Err(Error::Arguments("node needs list, show ID or forget ID".to_owned())),
        ["command", ..] => run_on(words.get(1..).unwrap_or_default(), group),
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

/// A node, unless there is a group, and the words of the command.
fn run_on(words: &[OsString], group: Option<&str>) -> Result<Command, Error> {
    let words = words.iter().cloned().map(text).collect::<Result<Vec<_>, _>>()?;
    let (target, words) = match (group, words.split_first()) {
        (Some(group), Some(_)) => (Target::Group(group.to_owned()), words),
        (None, Some((node_id, words))) => (Target::Node(node_id.clone()), words.to_vec()),
        (_, None) => (Target::Node(String::new()), Vec::new()),
    };
    match words.is_empty() {
        true => Err(Error::Arguments("command needs a node or --group, and a command".to_owned())),
        false => Ok(Command::RunOn(target, words)),
    }
}

/// The hub that runs with these settings.
fn rest_client(options: Options) -> Result<RestClient, Error> {
    let config = HubConfig::new(&Settings::load(&options.sources()?.0)?)?;
    Ok(RestClient { address: config.core_listen, token: std::env::var(TOKEN_VARIABLE).ok() })
}

fn tokens_file(options: Options) -> Result<PathBuf, Error> {
    let settings = Settings::load(&options.sources()?.0)?;
    let path = settings.text("nodes.tokens_file").map(PathBuf::from);
    path.ok_or_else(|| settings.invalid("nodes.tokens_file", "must be set"))
}

impl Options {
    /// The sources, and what the operator must know about a configuration of the published server.
    fn sources(self) -> Result<(Sources, Vec<String>), Error> {
        let original = match &self.original {
            Some(path) => original_config::read(path)?,
            None => OriginalConfig::default(),
        };
        let overrides = original.settings.into_iter().chain(self.overrides).collect();
        Ok((Sources::new(&SCHEMA, self.file, overrides)?, original.notes))
    }
}

fn backup(sources: &Sources, to: &Path) -> Result<(), Error> {
    let config = HubConfig::new(&Settings::load(sources)?)?;
    let database = run::database(&config);
    let fail = |what: &str, error: String| Error::system(what, std::io::Error::other(error));
    if to.exists() {
        let exists = std::io::Error::from(nix::errno::Errno::EEXIST);
        return Err(Error::system(format!("create {}", to.display()), exists));
    }
    let source = schema::open_read_only(&database)
        .map_err(|error| fail(&format!("open database {}", database.display()), error.0))?;
    schema::back_up(&source, to)
        .map_err(|error| fail(&format!("copy the database to {}", to.display()), error.0))
}

fn import(
    sources: &Sources,
    import: impl FnOnce(&mut Connection) -> Result<usize, StoreError>,
) -> Result<(), Error> {
    let config = HubConfig::new(&Settings::load(sources)?)?;
    let _lock = run::lock_state_dir(&config.state_dir)?;
    let fail = |error: StoreError| Error::system("import", std::io::Error::other(error.0));
    let mut db = schema::open(&run::database(&config)).map_err(fail)?;
    let count = import(&mut db).map_err(fail)?;
    print(&format!("{count} records imported\n"))
}

fn now() -> i64 {
    unix_ms(SystemTime::now())
}

fn help() -> String {
    let mut text = USAGE.to_owned();
    for row in SCHEMA.rows {
        let default = row.default.map_or(String::new(), |default| format!(" Default: {default}."));
        text.push_str(&format!("  {:<24}{}{default}\n", row.key, row.description));
    }
    text + FOOTER
}

/// Writes to standard output. Does not use `print!`, which panics when the reader has closed the pipe.
fn print(text: &str) -> Result<(), Error> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Error::system("write to standard output", error))
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
