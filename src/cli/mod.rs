//! Arguments become a [`Command`], and commands that are no service are carried out here.

pub mod agent_client;
pub mod beat;
pub mod help;
pub mod report;
pub mod sample;
pub mod status;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::Parser;
use lexopt::prelude::{Long, Short, Value, ValueExt};
use log::LevelFilter;

use crate::agent;
use crate::agent::supervise;
use crate::agent::supervise::{Plan, Target};
use crate::cli::beat::Beat;
use crate::cli::help::{HELP, VERSION};
use crate::collector::cached_file::Files;
use crate::collector::host_info;
use crate::config::{Config, Settings, Sources};
use crate::core_client::client as core;
use crate::core_client::command_supervisor;
use crate::core_client::messages::Node;
use crate::heartbeat::client::Server;
use crate::hm_client::client as hm;
use crate::procfs::decimal;
use crate::telemetry::messages;
use crate::util::error::Error;
use crate::util::logger;

/// Time between two beats, if the user does not say.
const EVERY: Duration = Duration::from_secs(5);

/// What the user wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Be the agent.
    Run(Options),
    /// The same for a supervisor of this number; not for people.
    Supervised(Options, u32),
    /// Keep an agent alive.
    Supervise(Plan),
    /// Validate the settings and print them.
    Check(Options),
    /// Look at this machine once.
    Sample {
        /// Settings.
        options: Options,
        /// As JSON.
        json: bool,
    },
    /// Ask how an application beats.
    Status {
        /// Which; `None`: the host.
        app_id: Option<String>,
        /// `--url`.
        url: Option<String>,
    },
    /// Run a command and beat while it lives.
    Beat {
        /// `--id`.
        id: Option<String>,
        /// `--every`.
        every: Option<Duration>,
        /// `--url`.
        url: Option<String>,
        /// The command and its arguments.
        command: Vec<OsString>,
    },
    /// Look after one command of Core; not for people.
    RunCommand(Vec<OsString>),
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
    let (mut json, mut supervise, mut detach, mut syslog) = (false, false, false, false);
    let (mut pid_file, mut log_file, mut supervisor) = (None, None, None);
    let (mut app_id, mut url, mut id, mut every) = (None, None, None, None);
    let mut command = Vec::new();
    while let Some(argument) = parser.next().map_err(wrong)? {
        let is = |name| verb.as_deref() == Some(name);
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
            Long("supervise") => supervise = true,
            Long("detach") => detach = true,
            Long("syslog") => syslog = true,
            Long("pid-file") => pid_file = Some(absolute(parser.value().map_err(wrong)?)?),
            Long("log-file") => log_file = Some(absolute(parser.value().map_err(wrong)?)?),
            Long("supervised") => {
                supervisor = Some(parser.value().map_err(wrong)?.parse().map_err(wrong)?);
            }
            Long("url") => {
                url = Some(parser.value().map_err(wrong)?.string().map_err(wrong)?);
            }
            Long("id") => {
                id = Some(parser.value().map_err(wrong)?.string().map_err(wrong)?);
            }
            Long("every") => {
                every = Some(milliseconds(&parser.value().map_err(wrong)?)?);
            }
            Value(value) if verb.is_none() => verb = Some(value.string().map_err(wrong)?),
            Value(value) if is(command_supervisor::VERB) => {
                // Whatever follows is the warden's own.
                command.push(value);
                command.extend(parser.raw_args().map_err(wrong)?);
            }
            Value(value) if is("status") && app_id.is_none() => {
                app_id = Some(value.string().map_err(wrong)?);
            }
            Value(value) if is("beat") => {
                // Whatever follows is the command's own.
                command.push(value);
                command.extend(parser.raw_args().map_err(wrong)?);
            }
            other => return Err(wrong(other.unexpected())),
        }
    }
    for (given, option, verbs) in [
        (json, "--json", &["sample"][..]),
        (url.is_some(), "--url", &["status", "beat"]),
        (id.is_some(), "--id", &["beat"]),
        (every.is_some(), "--every", &["beat"]),
        (supervise, "--supervise", &["run"]),
        (supervisor.is_some(), supervise::OPTION, &["run"]),
    ] {
        if given && !verbs.contains(&verb.as_deref().unwrap_or("run")) {
            return Err(Error::Arguments(format!("{option} belongs to {}", verbs.join(" and "))));
        }
    }
    for (given, option) in [
        (pid_file.is_some(), "--pid-file"),
        (log_file.is_some(), "--log-file"),
        (syslog, "--syslog"),
        (detach, "--detach"),
    ] {
        if given && !supervise {
            return Err(Error::Arguments(format!("{option} belongs to run --supervise")));
        }
    }
    let log = match log_file {
        Some(_) if syslog => {
            return Err(Error::Arguments("--log-file and --syslog exclude each other".to_owned()));
        }
        Some(file) => Target::File(file),
        // In the background nobody reads standard error.
        None if syslog || detach => Target::Syslog,
        None => Target::Stderr,
    };
    match verb.as_deref() {
        None | Some("run") if supervise => {
            let arguments = options.arguments()?;
            Ok(Command::Supervise(Plan { arguments, pid_file, log, detach }))
        }
        None | Some("run") => Ok(match supervisor {
            Some(supervisor) => Command::Supervised(options, supervisor),
            None => Command::Run(options),
        }),
        Some("check") => Ok(Command::Check(options)),
        Some("sample") => Ok(Command::Sample { options, json }),
        Some("status") => Ok(Command::Status { app_id, url }),
        Some("beat") if command.is_empty() => {
            Err(Error::Arguments("beat needs a command: hm-agent beat -- COMMAND".to_owned()))
        }
        Some("beat") => Ok(Command::Beat { id, every, url, command }),
        Some(command_supervisor::VERB) => Ok(Command::RunCommand(command)),
        Some("help") => Ok(Command::Help),
        Some(other) => Err(Error::Arguments(format!(
            "unknown command \"{}\": expected run, check, sample, status or beat",
            other.escape_debug()
        ))),
    }
}

fn milliseconds(text: &OsStr) -> Result<Duration, Error> {
    let number = text.to_str().and_then(|text| decimal(text.as_bytes()));
    number
        .filter(|number| (1..=604_800_000).contains(number))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            let shown = text.to_string_lossy();
            Error::Arguments(format!(
                "--every needs milliseconds from 1 to 604800000, a week, got \"{}\"",
                shown.escape_debug()
            ))
        })
}

impl Command {
    /// Does it. What comes back is the exit code.
    pub fn carry_out(self) -> Result<u8, Error> {
        match self {
            Self::Run(options) => agent::run(&options.sources()?, None)?,
            Self::Supervised(options, supervisor) => {
                agent::run(&options.sources()?, Some(supervisor))?;
            }
            Self::Supervise(plan) => return supervise::run(plan),
            Self::Check(options) => check(&options.sources()?)?,
            Self::Sample { options, json } => sample(&options.sources()?, json)?,
            Self::Status { app_id, url } => {
                let app_id = app_id.or_else(|| variable("APP_ID"));
                let (line, code) = status::ask(&server(url)?, app_id.as_deref());
                print(&(line + "\n"))?;
                return Ok(code);
            }
            Self::Beat { id, every, url, command } => {
                let name = Path::new(command.first().map_or(OsStr::new(""), OsString::as_os_str));
                let name = || name.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let id = id.or_else(|| variable("APP_ID")).unwrap_or_else(name);
                let every = every.unwrap_or(EVERY);
                return Ok(Beat { server: server(url)?, id, every, command }.run());
            }
            Self::RunCommand(arguments) => return Ok(command_supervisor::run(&arguments)),
            Self::Help => print(HELP)?,
            Self::Version => print(VERSION)?,
        }
        Ok(0)
    }
}

/// The heartbeat server that is meant.
fn server(url: Option<String>) -> Result<Server, Error> {
    let server = match url {
        Some(url) => Server::parse(&url).map_err(|why| format!("--url: {why}")),
        None => Server::from_environment(),
    };
    server.map_err(Error::Arguments)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// What the command line names is found also from another directory.
fn absolute(path: OsString) -> Result<PathBuf, Error> {
    let fail = |error| Error::system(format!("find {}", path.display()), error);
    std::path::absolute(&path).map_err(fail)
}

impl Options {
    /// The same as arguments again.
    fn arguments(self) -> Result<Vec<OsString>, Error> {
        let mut arguments = Vec::new();
        if let Some(file) = self.file {
            arguments.extend(["-c".into(), absolute(file.into())?.into()]);
        }
        for (key, value) in self.overrides {
            arguments.extend(["-s".into(), format!("{key}={value}").into()]);
        }
        Ok(arguments)
    }

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
    let node = host_info::node_id(config.node_id.as_deref(), &config.roots).unwrap_or_default();
    let mut text = format!("{}# this node is \"{}\"\n", settings.effective(), node.escape_debug());
    if let Some(hm) = &config.hm {
        text += &hm::Link::rehearse(hm, &node, config.ca_file.as_deref())?;
    }
    if let Some(core) = &config.core {
        let ip_address = "…".to_owned();
        let os_info = host_info::read(&config.roots).os;
        let hostname = host_info::hostname(&mut Files::default(), &config.roots);
        let hostname = hostname.unwrap_or_else(|| node.clone());
        let node = Node { node_id: node, hostname, ip_address, os_info };
        text += &core::Link::rehearse(core, &node, config.ca_file.as_deref())?;
    }
    print(&text)
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
        messages::sample(&machine, &snapshot, primary) + "\n"
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
    fn a_supervisor_hands_on_what_is_the_agents() {
        let plan = |line: &str| match parsed(line) {
            Ok(Command::Supervise(plan)) => plan,
            other => panic!("{line}: {other:?}"),
        };
        let quiet = plan("--supervise -c /a.toml -s interval=1 --pid-file /b");
        assert_eq!(quiet.arguments, ["-c", "/a.toml", "-s", "interval=1"]);
        assert_eq!((quiet.pid_file, quiet.log), (Some("/b".into()), Target::Stderr));
        assert!(plan("run --supervise -c a --detach").arguments[1].as_encoded_bytes()[0] == b'/');
        assert_eq!(plan("run --supervise --detach").log, Target::Syslog);
        let file = plan("run --supervise --detach --log-file /c");
        assert_eq!((file.detach, file.log), (true, Target::File("/c".into())));
        let options = Options { overrides: vec![("a".into(), "b".into())], ..Default::default() };
        assert_eq!(parsed("run --supervised 7 -s a=b"), Ok(Command::Supervised(options, 7)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (line, message) in [
            (
                "runn",
                "unknown command \"runn\": expected run, check, sample, status or beat; see hm-agent --help",
            ),
            ("run twice", "unexpected argument \"twice\"; see hm-agent --help"),
            ("--fast", "invalid option '--fast'; see hm-agent --help"),
            ("-c", "missing argument for option '-c'; see hm-agent --help"),
            ("-s interval", "-s needs KEY=VALUE, got \"interval\"; see hm-agent --help"),
            ("check --json", "--json belongs to sample; see hm-agent --help"),
            ("check --supervise", "--supervise belongs to run; see hm-agent --help"),
            ("run --detach", "--detach belongs to run --supervise; see hm-agent --help"),
            ("--pid-file a", "--pid-file belongs to run --supervise; see hm-agent --help"),
            (
                "--supervise --syslog --log-file a",
                "--log-file and --syslog exclude each other; see hm-agent --help",
            ),
        ] {
            assert_eq!(parsed(line).unwrap_err(), message);
        }
    }
}
