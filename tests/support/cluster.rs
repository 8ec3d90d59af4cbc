//! Hubs that share a PostgreSQL database.

use std::net::SocketAddr;
use std::process::Command;

use super::hub::{Hub, hm_hub};
use super::{TempDir, reserve_address};

/// A hub with a name and a `hub.url`.
pub struct Member {
    /// `None` while it is down.
    hub: Option<Hub>,
    state: TempDir,
    pub name: String,
    pub hm: SocketAddr,
    pub core: SocketAddr,
    settings: Vec<String>,
}

impl Member {
    /// `store` is the URL of the database.
    pub fn start(name: &str, store: &str, settings: &[&str]) -> Self {
        Self::start_with_scheme("http", name, store, settings)
    }

    /// `scheme` is that of `hub.url`.
    pub fn start_with_scheme(scheme: &str, name: &str, store: &str, settings: &[&str]) -> Self {
        let [hm, core, web] = [(); 3].map(|()| reserve_address());
        let own = [
            format!("store={store}"),
            format!("hub.instance={name}"),
            format!("hub.url={scheme}://{web}"),
            format!("hm.listen={hm}"),
            format!("core.listen={core}"),
            format!("web.listen={web}"),
        ];
        let settings = own.into_iter().chain(settings.iter().map(ToString::to_string)).collect();
        let state = TempDir::new("member");
        let mut member = Self { hub: None, state, name: name.to_owned(), hm, core, settings };
        member.run();
        member
    }

    pub fn command(&self) -> Command {
        let mut command = hm_hub();
        command.arg("-s").arg(format!("state_dir={}", self.state.0.display()));
        for setting in &self.settings {
            command.args(["-s", setting]);
        }
        command
    }

    /// Starts it again, on the same ports.
    pub fn run(&mut self) {
        self.hub = Some(Hub::spawn(self.command()));
    }

    /// The same; fails if the hub exits instead of starting, with its log.
    pub fn try_run(&mut self) -> Result<(), Vec<String>> {
        self.hub = Some(Hub::try_spawn(self.command())?);
        Ok(())
    }

    pub fn hub(&self) -> &Hub {
        self.hub.as_ref().unwrap_or_else(|| panic!("hub {} is down", self.name))
    }

    pub fn is_up(&self) -> bool {
        self.hub.is_some()
    }

    /// Ends it at once, as a crash does. Returns its log.
    pub fn kill(&mut self) -> Vec<String> {
        let hub = self.hub.take().unwrap();
        let log = hub.log();
        hub.kill();
        log
    }

    /// Stops it with SIGTERM. Returns its log.
    pub fn stop(&mut self) -> Vec<String> {
        self.hub.take().unwrap().stop()
    }

    /// The state of a node as this hub shows it; empty: it does not know the node.
    pub fn state_of(&self, node_id: &str) -> String {
        let node = self.hub().rest("GET", &format!("nodes/{node_id}"), "");
        node["data"]["status"].as_str().unwrap_or_default().to_owned()
    }
}
