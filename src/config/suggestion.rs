//! Finds the setting that a misspelled key or variable means.

use strsim::damerau_levenshtein;

use crate::config::schema::Schema;

/// A key with more edits is more likely something else.
const MAX_EDITS: usize = 2;

/// The known key that is most similar to an unknown one, if one is near. A key without its section ("listen") is near too.
pub(super) fn nearest_key(schema: &Schema, unknown: &str) -> Option<&'static str> {
    let near = |known| {
        let edits = edits_up_to(MAX_EDITS, unknown, known)?;
        (edits * 3 <= unknown.chars().count()).then_some(edits)
    };
    let distance = |key: &'static str| {
        let name = key.rsplit_once('.').map_or(key, |(_, name)| name);
        let as_name = near(name).map(|edits| edits + 1);
        near(key).or(as_name).map(|edits| (edits, key))
    };
    schema
        .rows
        .iter()
        .filter_map(|row| distance(row.key))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, key)| key)
}

/// The variable that one edit makes of an unknown one, or upper case.
pub(super) fn misspelled_variable(schema: &Schema, unknown: &str) -> Option<String> {
    let unknown = unknown.to_ascii_uppercase();
    let mut variables = schema.rows.iter().map(|row| schema.variable(row.key));
    variables.find(|known| edits_up_to(1, &unknown, known).is_some())
}

/// The number of letters to insert, delete, replace or transpose. Bounds the effort for long texts.
fn edits_up_to(max: usize, from: &str, to: &str) -> Option<usize> {
    let edits = || damerau_levenshtein(from, to);
    (from.len().abs_diff(to.len()) <= 4 * max).then(edits).filter(|edits| *edits <= max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table::AGENT;

    #[test]
    fn suggests_near_keys_only() {
        for (unknown, meant) in [
            ("usage.lisen", Some("usage.listen")),
            ("usage.lsiten", Some("usage.listen")),
            ("Usage.Listen", Some("usage.listen")),
            ("intervall", Some("interval")),
            ("max_connections", Some("usage.max_connections")),
            ("usage.max_connection", Some("usage.max_connections")),
            ("loglevel", Some("log_level")),
            ("heartbeat.units", Some("heartbeat.unit")),
            ("usage.tokenfile", Some("usage.token_file")),
            ("nodeid", Some("node_id")),
            ("hm.ur", Some("hm.url")),
            ("nosuch", None),
            ("usage", None),
            ("url2", Some("hm.url")),
            ("usage.port", None),
            ("hm", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest_key(&AGENT, unknown), meant, "{unknown}");
        }
        assert_eq!(nearest_key(&AGENT, &"x".repeat(100_000)), None);
    }

    #[test]
    fn one_edit_away_from_a_variable_is_misspelled() {
        for (unknown, meant) in [
            ("HM_AGENT_USAGE_TOKEN_FIL", "HM_AGENT_USAGE_TOKEN_FILE"),
            ("HM_AGENT_USAGE_TOKEN_FILEE", "HM_AGENT_USAGE_TOKEN_FILE"),
            ("HM_AGENT_USAGE_TOKEN_FIKE", "HM_AGENT_USAGE_TOKEN_FILE"),
            ("HM_AGENT_USAGE_TOKEN_FIEL", "HM_AGENT_USAGE_TOKEN_FILE"),
            ("HM_AGENT_USAGE_TOKNE", "HM_AGENT_USAGE_TOKEN"),
            ("HM_AGENT_USAGE__TOKEN", "HM_AGENT_USAGE_TOKEN"),
            ("HM_AGENT_USAGE.TOKEN", "HM_AGENT_USAGE_TOKEN"),
            ("HMAGENT_USAGE_TOKEN", "HM_AGENT_USAGE_TOKEN"),
            ("HM_AGENTUSAGE_TOKEN", "HM_AGENT_USAGE_TOKEN"),
            ("hm_agent_usage_token", "HM_AGENT_USAGE_TOKEN"),
            ("HM_AGENT_INTERVALL", "HM_AGENT_INTERVAL"),
        ] {
            assert_eq!(misspelled_variable(&AGENT, unknown).as_deref(), Some(meant), "{unknown}");
        }
    }

    #[test]
    fn variables_of_kubernetes_services_are_not_misspelled() {
        for service in
            ["HM_AGENT", "HM_AGENT_USAGE", "HM_AGENT_HM", "HM_AGENT_CORE", "HM_AGENT_TLS"]
        {
            for name in ["PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_80_TCP"]
            {
                assert_eq!(misspelled_variable(&AGENT, &format!("{service}_{name}")), None);
            }
        }
    }
}
