//! `hm-agent status`: a Nagios plugin that prints one line and returns the matching exit code.

use crate::heartbeat::client::HeartbeatClient;
use crate::util::percent;

const CRITICAL: u8 = 2;
const UNKNOWN: u8 = 3;

/// Queries the status of an application, or of the host. Returns the line and the exit code.
pub fn query(server: &HeartbeatClient, app_id: Option<&str>) -> (String, u8) {
    let target = app_id
        .map_or("/status".to_owned(), |id| format!("/status?0&appid={}", percent::encode(id)));
    match server.request("GET", &target) {
        Ok((200, line)) => {
            let code = exit_code(&line);
            (line.trim_end().to_owned(), code)
        }
        Ok((status, text)) => {
            let text = text.lines().next().unwrap_or_default().to_owned();
            (format!("UNKNOWN - {} returned HTTP status {status}: {text}", server.url()), UNKNOWN)
        }
        Err(why) => (
            format!("CRITICAL - cannot reach the heartbeat server {}: {why}", server.url()),
            CRITICAL,
        ),
    }
}

fn exit_code(line: &str) -> u8 {
    let states = [("OK", 0), ("WARNING", 1), ("CRITICAL", CRITICAL)];
    let found = states.iter().find(|(state, _)| line.starts_with(state));
    found.map_or(UNKNOWN, |(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_follows_state_as_in_nagios_plugins() {
        for (line, code) in
            [("OK - x", 0), ("WARNING - x", 1), ("CRITICAL - x", 2), ("UNKNOWN - x", 3), ("", 3)]
        {
            assert_eq!(exit_code(line), code);
        }
    }
}
