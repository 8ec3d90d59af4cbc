//! Parses the command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::{Long, Short, Value, ValueExt};
use lexopt::{Arg, Parser};

use crate::agent::supervise::{LogTarget, SuperviseOptions};
use crate::cli::flags::{FLAGS, Flag, SUPERVISE};
use crate::cli::{Command, Options, absolute};
use crate::util::error::Error;
use crate::util::supervisor;
use crate::util::text::parse_decimal;

/// Parses the arguments that follow the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut parser = Parser::from_args(args);
    let mut arguments = Arguments::default();
    while let Some(argument) = parser.next().map_err(invalid)? {
        match (find_flag(&argument), argument) {
            (Some(Flag { long: "help", .. }), _) => return Ok(Command::Help),
            (Some(Flag { long: "version", .. }), _) => return Ok(Command::Version),
            (Some(flag), _) => arguments.set(flag, &mut parser)?,
            (None, Value(value)) => arguments.add_positional(value, &mut parser)?,
            (None, other) => return Err(invalid(other.unexpected())),
        }
    }
    arguments.check_flags()?;
    arguments.into_command()
}

#[derive(Default)]
struct Arguments {
    subcommand: Option<String>,
    given: Vec<&'static Flag>,
    options: Options,
    pid_file: Option<PathBuf>,
    supervisor: Option<u32>,
    app_id: Option<String>,
    user: Option<String>,
    since: Option<String>,
    acknowledge: Option<String>,
    url: Option<String>,
    id: Option<String>,
    every: Option<Duration>,
    /// The command of `beat`, or the arguments of the internal subcommand.
    command: Vec<OsString>,
}

impl Arguments {
    fn set(&mut self, flag: &'static Flag, parser: &mut Parser) -> Result<(), Error> {
        self.given.push(flag);
        if flag.value.is_none() {
            return Ok(());
        }
        let value = parser.value().map_err(invalid)?;
        match flag.long {
            "config" => self.options.file = Some(value.into()),
            "set" => self.options.overrides.push(parse_override(&text(value)?)?),
            "pid-file" => self.pid_file = Some(absolute(value)?),
            "supervised" => self.supervisor = Some(value.parse().map_err(invalid)?),
            "user" => self.user = Some(text(value)?),
            "since" => self.since = Some(text(value)?),
            "acknowledge" => self.acknowledge = Some(text(value)?),
            "url" => self.url = Some(text(value)?),
            "id" => self.id = Some(text(value)?),
            "every" => self.every = Some(parse_interval(&value)?),
            other => return Err(Error::Arguments(format!("--{other} takes no value"))),
        }
        Ok(())
    }

    fn add_positional(&mut self, value: OsString, parser: &mut Parser) -> Result<(), Error> {
        match self.subcommand.as_deref() {
            None => self.subcommand = Some(text(value)?),
            Some("status") if self.app_id.is_none() => self.app_id = Some(text(value)?),
            Some("beat" | supervisor::SUBCOMMAND) => {
                // The rest belongs to the command, flags included.
                self.command.push(value);
                self.command.extend(parser.raw_args().map_err(invalid)?);
            }
            Some(_) => return Err(invalid(Value(value).unexpected())),
        }
        Ok(())
    }

    fn has(&self, long: &str) -> bool {
        self.given.iter().any(|flag| flag.long == long)
    }

    /// Rejects flags that the subcommand does not accept.
    fn check_flags(&self) -> Result<(), Error> {
        let subcommand = self.subcommand.as_deref().unwrap_or("run");
        let supervised = subcommand == "run" && self.has("supervise");
        for Flag { long, subcommands, .. } in &self.given {
            let accepts = |name: &&str| **name == *subcommand || supervised && *name == SUPERVISE;
            if !subcommands.is_empty() && !subcommands.iter().any(accepts) {
                let names = subcommands.join(", ");
                let names = match names.rsplit_once(", ") {
                    Some((others, last)) => format!("{others} and {last}"),
                    None => names,
                };
                return Err(Error::Arguments(format!("--{long} is only valid with {names}")));
            }
        }
        Ok(())
    }

    fn into_command(self) -> Result<Command, Error> {
        match self.subcommand.as_deref() {
            None | Some("run") => self.into_run(),
            Some("check") => Ok(Command::Check { options: self.options, user: self.user }),
            Some("sample") => Ok(Command::Sample { json: self.has("json"), options: self.options }),
            Some("events") => {
                let (json, since) = (self.has("json"), self.since);
                Ok(Command::Events { options: self.options, json, since })
            }
            Some("health") => {
                let (json, acknowledge) = (self.has("json"), self.acknowledge);
                Ok(Command::Health { options: self.options, json, acknowledge })
            }
            Some("status") => Ok(Command::Status { app_id: self.app_id, url: self.url }),
            Some("beat") if self.command.is_empty() => {
                Err(Error::Arguments("beat needs a command: hm-agent beat -- COMMAND".to_owned()))
            }
            Some("beat") => {
                let Self { id, every, url, command, .. } = self;
                Ok(Command::Beat { id, every, url, command })
            }
            Some(supervisor::SUBCOMMAND) => Ok(Command::SuperviseCommand(self.command)),
            Some("help") => Ok(Command::Help),
            Some(other) => Err(Error::Arguments(format!(
                "unknown command \"{}\": expected run, check, sample, events, health, status or beat",
                other.escape_debug()
            ))),
        }
    }

    fn into_run(self) -> Result<Command, Error> {
        if !self.has("supervise") {
            return Ok(match self.supervisor {
                Some(supervisor) => Command::Supervised(self.options, supervisor),
                None => Command::Run(self.options),
            });
        }
        let detach = self.has("detach");
        // A detached supervisor has no terminal for standard error.
        let log = match self.has("syslog") {
            true => LogTarget::Syslog,
            false if detach => LogTarget::RequiredSyslog,
            false => LogTarget::Stderr,
        };
        let (arguments, pid_file) = (self.options.into_arguments()?, self.pid_file);
        Ok(Command::Supervise(SuperviseOptions { arguments, pid_file, log, detach }))
    }
}

fn find_flag(argument: &Arg<'_>) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| match argument {
        Short(letter) => flag.short == Some(*letter),
        Long(name) => flag.long == *name,
        Value(_) => false,
    })
}

fn invalid(error: lexopt::Error) -> Error {
    Error::Arguments(error.to_string())
}

fn text(value: OsString) -> Result<String, Error> {
    value.string().map_err(invalid)
}

fn parse_override(text: &str) -> Result<(String, String), Error> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Error::Arguments(format!("-s needs KEY=VALUE, got \"{}\"", text.escape_debug()))
    })?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Parses milliseconds, at most a week: the longest interval of the heartbeat protocol.
fn parse_interval(text: &OsStr) -> Result<Duration, Error> {
    let number = text.to_str().and_then(|text| parse_decimal(text.as_bytes()));
    number
        .filter(|number| (1..=604_800_000).contains(number))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            Error::Arguments(format!(
                "--every needs milliseconds from 1 to 604800000, a week, got \"{}\"",
                text.to_string_lossy().escape_debug()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn parses_subcommands_and_flags() {
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
    fn passes_rest_of_line_to_command_of_beat() {
        let Ok(Command::Beat { id, command, .. }) = parsed("beat --id a -- ls --id b --help")
        else {
            panic!("not beat");
        };
        assert_eq!((id.as_deref(), command.len()), (Some("a"), 4));
    }

    #[test]
    fn supervisor_passes_settings_to_agent() {
        let supervise = |line: &str| match parsed(line) {
            Ok(Command::Supervise(options)) => options,
            other => panic!("{line}: {other:?}"),
        };
        let options = supervise("--supervise -c /a.toml -s interval=1 --pid-file /b");
        assert_eq!(options.arguments, ["-c", "/a.toml", "-s", "interval=1"]);
        assert_eq!((options.pid_file, options.log), (Some("/b".into()), LogTarget::Stderr));
        let relative = supervise("run --supervise -c a --detach");
        assert!(relative.arguments[1].as_encoded_bytes()[0] == b'/');
        let detached = supervise("run --supervise --detach");
        assert_eq!((detached.detach, detached.log), (true, LogTarget::RequiredSyslog));
        for explicit in ["run --supervise --syslog", "run --supervise --syslog --detach"] {
            assert_eq!(supervise(explicit).log, LogTarget::Syslog);
        }
        let options = Options { overrides: vec![("a".into(), "b".into())], ..Default::default() };
        assert_eq!(parsed("run --supervised 7 -s a=b"), Ok(Command::Supervised(options, 7)));
    }

    #[test]
    fn rejects_invalid_command_lines() {
        for (line, message) in [
            (
                "runn",
                "unknown command \"runn\": expected run, check, sample, events, health, status or beat; see --help",
            ),
            ("run twice", "unexpected argument \"twice\"; see --help"),
            ("--fast", "invalid option '--fast'; see --help"),
            ("-c", "missing argument for option '-c'; see --help"),
            ("-s interval", "-s needs KEY=VALUE, got \"interval\"; see --help"),
            ("check --json", "--json is only valid with sample, events and health; see --help"),
            ("run --url a", "--url is only valid with status and beat; see --help"),
            ("check --supervise", "--supervise is only valid with run; see --help"),
            ("run --detach", "--detach is only valid with run --supervise; see --help"),
            ("--pid-file a", "--pid-file is only valid with run --supervise; see --help"),
            ("--supervise --log-file a", "invalid option '--log-file'; see --help"),
        ] {
            assert_eq!(parsed(line).unwrap_err(), message);
        }
    }
}
