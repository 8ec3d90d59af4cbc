//! What the row of a node tells.

use std::sync::Arc;

use tokio_postgres::{Error, Row};

use crate::hub::nodes::Presence;
use crate::hub::nodes::info::{NodeInfo, Registration};

/// Of the columns name, first_seen, hostname, ip_address, os_info, updated_at, agent, node_group, hook_online.
pub fn node_info(row: &Row) -> Result<(Arc<str>, NodeInfo), Error> {
    let hostname: Option<String> = row.try_get(2)?;
    let register = match hostname {
        Some(hostname) => {
            let ip_address: Option<String> = row.try_get(3)?;
            let ip_address = ip_address.unwrap_or_default();
            Some(Registration { hostname, ip_address, os_info: row.try_get(4)? })
        }
        None => None,
    };
    let first_seen = row.try_get(1)?;
    let agent: Option<String> = row.try_get(6)?;
    let group: Option<String> = row.try_get(7)?;
    let is_online: Option<bool> = row.try_get(8)?;
    let info = NodeInfo {
        register,
        first_seen,
        updated_at: row.try_get::<_, Option<i64>>(5)?.unwrap_or(first_seen),
        // What another version has written and this one cannot read is sent again by the node.
        agent: agent.and_then(|text| serde_json::from_str(&text).ok()).map(Arc::new),
        group: group.map(Arc::from),
        hook_state: is_online.map(|it| if it { Presence::Online } else { Presence::Offline }),
        ..NodeInfo::default()
    };
    let name: String = row.try_get(0)?;
    Ok((name.into(), info))
}
