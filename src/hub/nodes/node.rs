//! One node: its connections, and what is known of it.

use std::net::IpAddr;
use std::ops::BitOr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::hub::hm::metrics::GpuUsage;
use crate::hub::nodes::info::NodeInfo;
use crate::hub::nodes::shared::SharedLinks;
use crate::hub::nodes::{LinkId, Presence};

/// A Core connection without a message for this long does not keep its node online: the connections of published node agents are never
/// closed for silence. With the default of `nodes.offline_after`, a node is offline after the three minutes of Core's documents.
pub(super) const CORE_SILENCE: Duration = Duration::from_secs(120);

/// A set of protocols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protocols {
    pub hm: bool,
    pub core: bool,
}

impl Protocols {
    pub const HM: Self = Self { hm: true, core: false };
    pub const CORE: Self = Self { hm: false, core: true };
}

impl BitOr for Protocols {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { hm: self.hm || other.hm, core: self.core || other.core }
    }
}

pub(super) struct Node {
    /// Its hm connection.
    pub(super) link: Option<LinkId>,
    /// Its Core connections, the newest last, each with the time of its last message.
    pub(super) core_links: Vec<(LinkId, Instant)>,
    /// Those of both that answer requests, the newest last.
    pub(super) request_links: Vec<LinkId>,
    /// Whether the agent's description is stored, or queued to be.
    pub(super) is_agent_saved: bool,
    /// Since when it has no connection; `None`: it has one, or has had none since the hub started.
    pub(super) disconnected_at: Option<Instant>,
    pub(super) presence: Presence,
    /// When a lost node becomes offline.
    pub(super) offline_at: Instant,
    /// Last report of the current hm connection.
    pub(super) last_report: Option<GpuUsage>,
    pub(super) info: Arc<NodeInfo>,
    /// Revision of the last change that the fleet page shows.
    pub(super) revision: u64,
    /// When it came online, or was lost; `None`: it has not been online since the hub started.
    pub(super) since: Option<Instant>,
    /// Time of the last message since the hub started.
    pub(super) last_message: Option<Instant>,
    /// Peer of its hm connection, else of its newest Core connection.
    pub(super) address: Option<IpAddr>,
    /// Over which it has connected in this run of the hub.
    pub(super) protocols: Protocols,
    /// Its connections that prove which node they are.
    pub(super) authenticated_links: Vec<LinkId>,
    /// When, and from where, a client without the node's credential has tried to be the node.
    pub(super) refused_duplicate: Option<(Instant, IpAddr)>,
    /// Whether its last status is stored, or queued to be.
    pub(super) is_status_saved: bool,
    pub(super) status_saved_at: Option<Instant>,
    /// Utilization and memory of its GPUs, in percent, at the last revision.
    pub(super) shown_percents: [Option<u8>; 2],
    pub(super) shared: SharedLinks,
    /// Another hub has such a connection.
    pub(super) shared_unauthenticated: bool,
}

impl Node {
    pub(super) fn new(presence: Presence, offline_at: Instant, info: Arc<NodeInfo>) -> Self {
        Self {
            link: None,
            core_links: Vec::new(),
            request_links: Vec::new(),
            is_agent_saved: true,
            disconnected_at: None,
            presence,
            offline_at,
            last_report: None,
            info,
            revision: 0,
            since: None,
            last_message: None,
            address: None,
            protocols: Protocols::default(),
            authenticated_links: Vec::new(),
            refused_duplicate: None,
            is_status_saved: true,
            status_saved_at: None,
            shown_percents: [None; 2],
            shared: SharedLinks::default(),
            shared_unauthenticated: false,
        }
    }

    /// Marks a change that the fleet page shows.
    pub(super) fn touch(&mut self, revision: &mut u64) {
        *revision += 1;
        self.revision = *revision;
    }

    pub(super) fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.link.into_iter().chain(self.core_links.iter().map(|(link, _)| *link))
    }

    /// Whether one of its connections does not prove which node it is.
    pub(super) fn is_unauthenticated(&self) -> bool {
        match self.has_local_connection() {
            true => self.links().any(|link| !self.authenticated_links.contains(&link)),
            false => self.shared.remote_owner().is_some() && self.shared_unauthenticated,
        }
    }

    /// Whether it has a connection to this hub, also a silent one.
    pub(super) fn has_local_connection(&self) -> bool {
        self.link.is_some() || !self.core_links.is_empty()
    }

    /// Whether it has a connection to any hub, also a silent one.
    pub(super) fn has_connection(&self) -> bool {
        self.has_local_connection() || self.shared.remote_owner().is_some()
    }

    pub(super) fn is_connected(&self, now: Instant) -> bool {
        self.link.is_some()
            || self.core_links.iter().any(|(_, at)| *at + CORE_SILENCE > now)
            || self.shared.remote_owner().is_some()
    }

    /// The Core connection to this hub that gets the node's commands: the newest of those that prove which node they are.
    pub(super) fn command_link(&self) -> Option<LinkId> {
        let mut links = self.core_links.iter().rev().map(|(link, _)| *link);
        links.find(|link| self.authenticated_links.contains(link))
    }

    /// The connection that answers requests. The hm connection is preferred, because only one can have the node's id.
    pub(super) fn request_link(&self, now: Instant) -> Option<LinkId> {
        let hm = self.link.filter(|link| self.request_links.contains(link));
        let is_silent = |link: &LinkId| {
            let mut core = self.core_links.iter();
            core.any(|(known, at)| known == link && *at + CORE_SILENCE <= now)
        };
        let is_proven = |link: &&LinkId| self.authenticated_links.contains(link);
        let core = || self.request_links.iter().rev().filter(|link| !is_silent(link));
        hm.or_else(|| core().find(is_proven).or_else(|| core().next()).copied())
    }
}
