//! Arguments become a [`Command`], and commands that are no service are carried out here.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use lexopt::Parser;
use lexopt::prelude::{Long, Short, Value, ValueExt};
use log::LevelFilter;

use crate::agent;
use crate::config::{Config, Settings, Sources};
use crate::error::Error;
use crate::logger;
use crate::proto::usage;
use crate::report;
use crate::source::machine;

const HELP: &str = "\
hm-agent watches a GPU node and tells whoever asks.

usage:
  hm-agent [run]    run in the foreground until SIGTERM or SIGINT; SIGHUP reads the settings again
  hm-agent check    validate the settings; print them all with where each comes from
  hm-agent sample   one look at this machine
  hm-agent --help | --version

options:
  -c, --config FILE     settings file (default: /etc/hm-agent/hm-agent.toml, if it exists)
  -s, --set KEY=VALUE   one setting, over environment (HM_AGENT_KEY) and file; may be repeated
      --json            with sample: as JSON, the messages of subscribe:detail

Telemetry is at ws://HOST:33931/usage. Exit codes: 0 stopped or done, 1 failed, 2 wrong arguments
or settings.
";

/// What the user wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the agent.
    Run(Options),
    /// Validate the settings and print them.
    Check(Options),
    /// Look at this machine once.
    Sample {
        /// Settings.
        options: Options,
        /// As JSON.
        json: bool,
    },
    /// Say how to use it.
    Help,
    /// Say which version it is.
    Version,
}

/// Where settings come from, by command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-c`.
    pub file: Option<PathBuf>,
    /// `-s`, in their order.
    pub overrides: Vec<(String, String)>,
}

/// Reads the arguments, without the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let wrong = |error: lexopt::Error| Error::Arguments(error.to_string());
    let mut parser = Parser::from_args(args);
    let mut options = Options::default();
    let mut verb: Option<String> = None;
    let mut json = false;
    while let Some(argument) = parser.next().map_err(wrong)? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Short('c') | Long("config") => {
                options.file = Some(parser.value().map_err(wrong)?.into());
            }
            Short('s') | Long("set") => {
                let text = parser.value().map_err(wrong)?.string().map_err(wrong)?;
                let (key, value) = text.split_once('=').ok_or_else(|| {
                    Error::Arguments(format!("-s needs KEY=VALUE, got \"{}\"", text.escape_debug()))
                })?;
                options.overrides.push((key.trim().to_owned(), value.to_owned()));
            }
            Long("json") => json = true,
            Value(value) if verb.is_none() => verb = Some(value.string().map_err(wrong)?),
            other => return Err(wrong(other.unexpected())),
        }
    }
    let command = match verb.as_deref() {
        None | Some("run") => Command::Run(options),
        Some("check") => Command::Check(options),
        Some("sample") => return Ok(Command::Sample { options, json }),
        Some("help") => Command::Help,
        Some(other) => {
            return Err(Error::Arguments(format!(
                "unknown command \"{}\": expected run, check or sample",
                other.escape_debug()
            )));
        }
    };
    if json {
        return Err(Error::Arguments("--json belongs to sample".to_owned()));
    }
    Ok(command)
}

impl Command {
    /// Does it.
    pub fn carry_out(self) -> Result<(), Error> {
        match self {
            Self::Run(options) => agent::run(&options.sources()?),
            Self::Check(options) => check(&options.sources()?),
            Self::Sample { options, json } => sample(&options.sources()?, json),
            Self::Help => print(HELP),
            Self::Version => print(concat!("hm-agent ", env!("CARGO_PKG_VERSION"), "\n")),
        }
    }
}

impl Options {
    fn sources(self) -> Result<Sources, Error> {
        Sources::new(self.file, self.overrides)
    }
}

fn check(sources: &Sources) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = Config::new(&settings)?;
    for remark in &settings.remarks {
        // As in the agent's own log: a line that cannot be written is lost.
        let _ = writeln!(std::io::stderr(), "hm-agent: {remark}");
    }
    let node = machine::node_id(config.node_id.as_deref(), &config.roots).unwrap_or_default();
    print(&format!("{}# this node is \"{}\"\n", settings.effective(), node.escape_debug()))
}

fn sample(sources: &Sources, json: bool) -> Result<(), Error> {
    let config = Config::new(&Settings::load(sources)?)?;
    // The table says how it stands; what happened on the way is for those who ask.
    logger::init(if config.log_level == LevelFilter::Info {
        LevelFilter::Error
    } else {
        config.log_level
    });
    let primary = config.gpu.primary;
    let (machine, snapshot) = agent::look(config)?;
    print(&if json {
        usage::sample(&machine, &snapshot, primary) + "\n"
    } else {
        report::text(&machine, &snapshot)
    })
}

/// Not `print!`, which panics when the reader has gone.
fn print(text: &str) -> Result<(), Error> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Error::system("write to standard output", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn commands_and_options() {
        assert_eq!(parsed(""), Ok(Command::Run(Options::default())));
        assert_eq!(parsed("run"), parsed(""));
        let options = Options {
            file: Some("/a.toml".into()),
            overrides: vec![("interval".into(), "1".into()), ("usage.token".into(), "a=b".into())],
        };
        let line = "sample --json -c /a.toml -s interval=1 --set usage.token=a=b";
        assert_eq!(parsed(line), Ok(Command::Sample { options, json: true }));
        assert_eq!(parsed("check --help"), Ok(Command::Help));
        assert_eq!(parsed("-V"), Ok(Command::Version));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, message) in [
            (
                "runn",
                "unknown command \"runn\": expected run, check or sample; see hm-agent --help",
            ),
            ("run twice", "unexpected argument \"twice\"; see hm-agent --help"),
            ("--fast", "invalid option '--fast'; see hm-agent --help"),
            ("-c", "missing argument for option '-c'; see hm-agent --help"),
            ("-s interval", "-s needs KEY=VALUE, got \"interval\"; see hm-agent --help"),
            ("check --json", "--json belongs to sample; see hm-agent --help"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), message);
        }
    }
}
