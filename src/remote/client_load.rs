//! How many hosts each client and each address has, so that they share what is limited.

use std::collections::HashMap;
use std::sync::Arc;

use crate::http::client_network::ClientNetwork;
use crate::remote::client_outbox::ClientId;
use crate::remote::host::Host;

/// Numbers of hosts. A host counts for each client that watches it.
pub(super) struct ClientLoad {
    of_network: HashMap<ClientNetwork, usize>,
    of_client: HashMap<ClientId, usize>,
}

impl ClientLoad {
    pub(super) fn of_hosts(hosts: &[Arc<Host>]) -> Self {
        let mut load = Self { of_network: HashMap::new(), of_client: HashMap::new() };
        for client in hosts.iter().flat_map(|host| host.clients()) {
            *load.of_network.entry(client.network).or_default() += 1;
            *load.of_client.entry(client).or_default() += 1;
        }
        load
    }

    /// The hosts of a client's address, and of the client: an address with many connections has no more than others.
    pub(super) fn of(&self, client: &ClientId) -> (usize, usize) {
        let of_network = self.of_network.get(&client.network).copied().unwrap_or(0);
        (of_network, self.of_client.get(client).copied().unwrap_or(0))
    }

    /// The client with the most hosts, of the address with the most hosts.
    pub(super) fn largest(&self) -> Option<ClientId> {
        self.of_client.keys().max_by_key(|client| self.of(client)).copied()
    }
}
