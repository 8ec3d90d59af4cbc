//! `hm-agent check`: validates the settings as the agent will, also as its user. Root can read token files that the agent
//! cannot.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::cli::print;
use crate::collector::file_reader::FileReader;
use crate::collector::host_info;
use crate::config::{Config, Settings, Sources};
use crate::core_client::client::CoreClient;
use crate::core_client::messages::Node;
use crate::hm_client::client::HmClient;
use crate::http::tls::TlsAcceptor;
use crate::sys::users::{self, User};
use crate::util::error::{Error, reason};
use crate::util::programs;
use crate::util::text::{escape_for_terminal, escape_lines_for_terminal};

/// The service, and its user in the packages.
const UNIT: &str = "hm-agent.service";
const USER: &str = "hm-agent";

/// Prints the settings. With `user`, or if root calls it, the files are tested as that user, or as the service's.
pub(super) fn check(sources: &Sources, user: Option<&str>) -> Result<(), Error> {
    let caller = users::effective_uid();
    let name = become_agent_user(user)?;
    report(sources, &name).map_err(|error| match error {
        Error::Setting { origin, why } if users::effective_uid() != caller => {
            Error::Setting { origin, why: format!("{why} (checked as user {name})") }
        }
        error => error,
    })
}

/// Becomes the user that the agent runs as. Returns the name of the user that this process is.
fn become_agent_user(name: Option<&str>) -> Result<String, Error> {
    let fail = |error| Error::system("look up a user", error);
    let own = users::effective_uid();
    let unknown = |name: &str| {
        Error::Arguments(format!("--user: there is no user \"{}\"", name.escape_debug()))
    };
    let user = match name {
        Some(name) => Some(users::user_by_name(name).map_err(fail)?.ok_or_else(|| unknown(name))?),
        None if own == 0 => service_user().map_err(fail)?,
        None => None,
    };
    if let Some(user) = user {
        users::become_user(&user).map_err(|error| {
            Error::system(format!("become user {}", user.name), error)
                .with_hint("only root can check as another user")
        })?;
        return Ok(user.name);
    }
    let own = users::user_by_uid(own).map_err(fail)?.unwrap_or_else(|| User::from_uid(own));
    if own.uid != 0 && users::user_by_name(USER).map_err(fail)?.is_some_and(|user| user != own) {
        warn(&format!(
            "checked as user {}; root can check as the agent's user, which may read other files",
            own.name
        ));
    }
    Ok(own.name)
}

/// The user of the systemd unit, if there is one, else [`USER`]; `None`: root.
fn service_user() -> std::io::Result<Option<User>> {
    let name = match unit_user() {
        Some(name) if name.is_empty() => return Ok(None),
        Some(name) => name,
        None => USER.to_owned(),
    };
    users::user_by_name(&name)
}

/// `User=` of the loaded unit, drop-ins included; empty: root.
fn unit_user() -> Option<String> {
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let show = ["show", UNIT, "--property=LoadState", "--property=User"];
    let output = Command::new("systemctl").args(show).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let value = |name| text.lines().find_map(|line| line.strip_prefix(name));
    (value("LoadState=")? == "loaded").then(|| value("User=").unwrap_or_default().to_owned())
}

fn report(sources: &Sources, user: &str) -> Result<(), Error> {
    let settings = Settings::load(sources)?;
    let config = Config::new(&settings)?;
    for warning in &settings.warnings {
        warn(warning);
    }
    if let Some(why) = programs::missing(&config.heartbeat.on_overdue) {
        return Err(settings.invalid("heartbeat.on_overdue", &why));
    }
    for (port, files) in config.tls_ports() {
        TlsAcceptor::new(files.clone()).map_err(|error| {
            settings.invalid(&format!("{port}.tls_{}", error.setting), &error.why)
        })?;
    }
    if config.state_dir.is_dir()
        && let Err(error) = programs::check_writable(&config.state_dir)
    {
        let directory = config.state_dir.display();
        warn(&format!("state_dir {directory}: {} (checked as user {user})", reason(&error)));
    }
    let node = host_info::node_id(config.node_id.as_deref(), &config.roots).unwrap_or_default();
    let mut text = settings.effective();
    text += &format!("# this node is \"{}\"; checked as user {user}\n", node.escape_debug());
    for access in config.access() {
        text += &format!("# {access}\n");
    }
    if let Some(hm) = &config.hm {
        text += &HmClient::describe(hm, &node, config.ca_file.as_deref())?;
    }
    if let Some(core) = &config.core {
        let ip_address = "…".to_owned();
        let os_info = host_info::read(&config.roots).os;
        let hostname = host_info::hostname(&mut FileReader::default(), &config.roots);
        let hostname = hostname.unwrap_or_else(|| node.clone());
        let node = Node { node_id: node, hostname, ip_address, os_info };
        text += &CoreClient::describe(core, &node, config.ca_file.as_deref())?;
    }
    print(&escape_lines_for_terminal(&text))
}

fn warn(text: &str) {
    // A line that cannot be written is lost, as in the agent's log.
    let _ = writeln!(std::io::stderr(), "hm-agent: {}", escape_for_terminal(text));
}
