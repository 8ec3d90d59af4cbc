//! Command line of hm-hub.

mod arguments;
pub mod client;
mod nodes;
mod tokens;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::config::{Settings, Sources};
use crate::hub::cli::arguments::{Command, Options, Target, help, parse};
use crate::hub::cli::client::{HubPort, RestClient};
use crate::hub::config::{HubConfig, SCHEMA};
use crate::hub::core::rest_actions::DEFAULT_TIMEOUT_S;
use crate::hub::original_config::{self, OriginalConfig};
use crate::hub::store::StoreError;
use crate::hub::store::database::Writer;
use crate::hub::store::sqlite::schema;
use crate::hub::{import, run, status};
use crate::util::error::Error;
use crate::util::supervisor;

/// Operator token of `status`, `node` and `command`.
const TOKEN_VARIABLE: &str = "HM_HUB_TOKEN";

/// Runs the command and returns the exit code.
pub fn execute(arguments: impl IntoIterator<Item = OsString>) -> Result<u8, Error> {
    let mut arguments = arguments.into_iter().peekable();
    if arguments.next_if(|first| first == supervisor::SUBCOMMAND).is_some() {
        return Ok(supervisor::process::run(&arguments.collect::<Vec<_>>()));
    }
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
            import(&options.sources()?.0, |writer| import::hm(writer, &from))?;
        }
        Command::ImportCore(from) => {
            import(&options.sources()?.0, |writer| import::core(writer, &from))?;
        }
        Command::NodeList => print(&nodes::list(&rest_client(options)?)?)?,
        Command::NodeShow(id) => print(&nodes::show(&rest_client(options)?, &id)?)?,
        Command::NodeForget(id) => {
            let is_forced = options.force;
            nodes::forget(&rest_client(options)?, &id, is_forced)?;
        }
        Command::RunOn(target, words) => {
            let timeout_s = options.timeout_s.unwrap_or(DEFAULT_TIMEOUT_S);
            let hub = rest_client(options)?;
            return run_on(&hub, target, &words, timeout_s);
        }
        Command::TokenNew(fields) => {
            let token = tokens::new(&tokens_file(options)?, &fields)?;
            print(&format!("{token}\n"))?;
        }
        Command::TokenList => print(&tokens::list(&tokens_file(options)?)?)?,
        Command::TokenRevoke(id) => tokens::revoke(&tokens_file(options)?, &id)?,
        Command::Status => {
            let web = port(options, "web")?;
            let token = std::env::var(TOKEN_VARIABLE).ok();
            let (line, code) = status::query(&web, token.as_deref());
            print(&(line + "\n"))?;
            return Ok(code);
        }
        Command::Help => print(&help())?,
        Command::Version => print(concat!("hm-hub ", env!("CARGO_PKG_VERSION"), "\n"))?,
    }
    Ok(0)
}

/// Runs words on nodes. Returns the exit code: 0 if every node has succeeded.
fn run_on(hub: &RestClient, target: Target, words: &[String], timeout_s: u32) -> Result<u8, Error> {
    let (node_ids, not_online) = match &target {
        Target::Node(id) => (vec![id.clone()], 0),
        Target::Group(group) => nodes::of_group(hub, group)?,
    };
    let succeeded = nodes::run(hub, &node_ids, words, timeout_s, print)?;
    if let Target::Group(_) = target {
        let online = node_ids.len();
        print(&format!("{succeeded} of {online} nodes succeeded, {not_online} are not online\n"))?;
    }
    Ok(u8::from(succeeded < node_ids.len() + not_online))
}

/// The hub that runs with these settings.
fn rest_client(options: Options) -> Result<RestClient, Error> {
    Ok(RestClient { port: port(options, "core")?, token: std::env::var(TOKEN_VARIABLE).ok() })
}

fn port(options: Options, name: &str) -> Result<HubPort, Error> {
    HubPort::new(&Settings::load(&options.sources()?.0)?, name)
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
    let settings = Settings::load(sources)?;
    let config = HubConfig::new(&settings)?;
    if config.postgres.is_some() {
        let why = "is a PostgreSQL database: use pg_dump, or the backups of its server";
        return Err(settings.invalid("store", why));
    }
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
    import: impl FnOnce(&mut dyn Writer) -> Result<usize, StoreError>,
) -> Result<(), Error> {
    let config = HubConfig::new(&Settings::load(sources)?)?;
    let _lock = run::lock_state_dir(&config.state_dir)?;
    let fail = |error: StoreError| Error::system("import", std::io::Error::other(error.0));
    let mut writer = run::open_database(&config).map_err(fail)?.writer;
    let count = import(&mut *writer).map_err(fail)?;
    print(&format!("{count} records imported\n"))
}

/// Writes to standard output. Does not use `print!`, which panics when the reader has closed the pipe.
fn print(text: &str) -> Result<(), Error> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Error::system("write to standard output", error))
}
