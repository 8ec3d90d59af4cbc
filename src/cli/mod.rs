//! Command line of hm-agent: [`args`] parses it into a [`Command`], which [`Command::execute`] runs.

pub mod args;
pub mod beat;
mod check;
mod events;
mod flags;
mod health;
pub mod help;
pub mod report;
pub mod sample;
pub mod status;
mod telemetry;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use crate::agent;
use crate::agent::supervise::{self, SuperviseOptions};
pub use crate::cli::args::parse;
use crate::cli::beat::Beat;
use crate::config::{Config, Settings, Sources, table};
use crate::heartbeat::client::HeartbeatClient;
use crate::telemetry::messages;
use crate::util::error::Error;
use crate::util::logger;
use crate::util::logger::unix_seconds;
use crate::util::supervisor;
use crate::util::text::{escape_for_terminal, escape_json_for_terminal};

const DEFAULT_BEAT_INTERVAL: Duration = Duration::from_secs(5);

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the agent.
    Run(Options),
    /// Run the agent as the child of the supervisor with this process id. Internal.
    Supervised(Options, u32),
    /// Run and restart the agent.
    Supervise(SuperviseOptions),
    /// Validate and print the settings, as this user.
    Check {
        options: Options,
        user: Option<String>,
    },
    /// Measure this machine once.
    Sample {
        options: Options,
        json: bool,
    },
    /// Print the event log of the running agent.
    Events {
        options: Options,
        json: bool,
        /// As entered; `None`: all events.
        since: Option<String>,
    },
    /// Print the findings of the running agent, or acknowledge one.
    Health {
        options: Options,
        json: bool,
        acknowledge: Option<String>,
    },
    /// Query the heartbeat status of an application; `None`: of the host.
    Status {
        app_id: Option<String>,
        url: Option<String>,
    },
    /// Run a command and send heartbeats until it exits.
    Beat {
        id: Option<String>,
        every: Option<Duration>,
        url: Option<String>,
        command: Vec<OsString>,
    },
    /// Supervise a program that the agent starts. Internal.
    SuperviseCommand(Vec<OsString>),
    Help,
    Version,
}

/// Configuration sources that the command line names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `-c`.
    pub file: Option<PathBuf>,
    /// `-s`, in order.
    pub overrides: Vec<(String, String)>,
}

impl Command {
    /// Runs the command and returns the exit code.
    pub fn execute(self) -> Result<u8, Error> {
        match self {
            Self::Run(options) => agent::run(&options.sources()?, None)?,
            Self::Supervised(options, supervisor) => {
                agent::run(&options.sources()?, Some(supervisor))?;
            }
            Self::Supervise(options) => return supervise::run(options),
            Self::Check { options, user } => check::check(&options.sources()?, user.as_deref())?,
            Self::Sample { options, json } => sample(&options.sources()?, json)?,
            Self::Events { options, json, since } => {
                print_events(&options.sources()?, json, since.as_deref())?;
            }
            Self::Health { options, json, acknowledge } => {
                return health(&options.sources()?, json, acknowledge.as_deref());
            }
            Self::Status { app_id, url } => {
                let app_id = app_id.or_else(|| variable("APP_ID"));
                let (line, code) = status::query(&server(url)?, app_id.as_deref());
                print(&format!("{}\n", escape_for_terminal(&line)))?;
                return Ok(code);
            }
            Self::Beat { id, every, url, command } => {
                let id = id.or_else(|| variable("APP_ID")).unwrap_or_else(|| file_name(&command));
                let interval = every.unwrap_or(DEFAULT_BEAT_INTERVAL);
                return Ok(Beat { server: server(url)?, id, interval, command }.run());
            }
            Self::SuperviseCommand(arguments) => return Ok(supervisor::process::run(&arguments)),
            Self::Help => print(&help::help())?,
            Self::Version => print(help::VERSION)?,
        }
        Ok(0)
    }
}

impl Options {
    /// Converts the options back to arguments, with absolute paths.
    fn into_arguments(self) -> Result<Vec<OsString>, Error> {
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
        Sources::new(&table::AGENT, self.file, self.overrides)
    }
}

fn server(url: Option<String>) -> Result<HeartbeatClient, Error> {
    let server = match url {
        Some(url) => HeartbeatClient::parse(&url).map_err(|why| format!("--url: {why}")),
        None => HeartbeatClient::from_environment(),
    };
    server.map_err(Error::Arguments)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn file_name(command: &[OsString]) -> String {
    let program = Path::new(command.first().map_or(OsStr::new(""), OsString::as_os_str));
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes a path independent of the working directory, which the supervisor changes.
fn absolute(path: OsString) -> Result<PathBuf, Error> {
    let fail = |error| Error::system(format!("resolve {}", path.display()), error);
    std::path::absolute(&path).map_err(fail)
}

fn sample(sources: &Sources, json: bool) -> Result<(), Error> {
    let without_file;
    let sources = match sources.unreadable_default_file() {
        // Tokens are of no use here, so every user can measure the machine.
        Some(why) => {
            let _ = writeln!(std::io::stderr(), "hm-agent: default settings are used: {why}");
            without_file = Sources { file: Some("/dev/null".into()), ..sources.clone() };
            &without_file
        }
        None => sources,
    };
    let config = Config::new(&Settings::load(sources)?)?;
    // The report shows the result. Log lines below errors appear only if the user sets another level.
    logger::init(if config.log_level == LevelFilter::Info {
        LevelFilter::Error
    } else {
        config.log_level
    });
    let primary = config.gpu.primary;
    let (host, snapshot) = sample::sample_once(config)?;
    print(&if json {
        escape_json_for_terminal(&messages::sample(&host, &snapshot, primary)) + "\n"
    } else {
        report::text(&host, &snapshot)
    })
}

fn print_events(sources: &Sources, json: bool, since: Option<&str>) -> Result<(), Error> {
    let since = since.map(|text| events::parse_since(text, unix_seconds()));
    let since = since.transpose().map_err(Error::Arguments)?.unwrap_or_default();
    let config = Config::new(&Settings::load(sources)?)?;
    let page = events::fetch(&config.usage, since)?;
    print(&if json {
        // Serialization cannot fail: the types have neither maps nor custom implementations.
        let text = serde_json::to_string(&page).unwrap_or_default();
        escape_json_for_terminal(&text) + "\n"
    } else {
        events::to_text(&page.events)
    })
}

fn health(sources: &Sources, json: bool, acknowledge: Option<&str>) -> Result<u8, Error> {
    let config = Settings::load(sources).and_then(|settings| Config::new(&settings));
    if let Some(id) = acknowledge {
        health::acknowledge(&config?, id)?;
        print(&format!("{id} is acknowledged\n"))?;
        return Ok(0);
    }
    let report = config.map_err(|error| error.to_string());
    let report = report.and_then(|config| health::fetch(&config.usage));
    let (text, code) = health::to_text(&report);
    match &report {
        Ok(report) if json => {
            // Serialization cannot fail: the types have neither maps nor custom implementations.
            let text = serde_json::to_string(report).unwrap_or_default();
            print(&(escape_json_for_terminal(&text) + "\n"))?;
        }
        _ => print(&text)?,
    }
    Ok(code)
}

/// Writes to standard output. Does not use `print!`, which panics when the reader has closed the pipe.
fn print(text: &str) -> Result<(), Error> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Error::system("write to standard output", error))
}
