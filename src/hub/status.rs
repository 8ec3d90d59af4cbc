//! `hm-hub status`: the state of the fleet as a Nagios plugin prints it.

use std::time::Duration;

use crate::hub::cli::client::HubPort;
use crate::util::error::reason;
use crate::util::text::{EXCERPT_CHARS, escape_for_terminal};

/// For connecting, and for each wait for data.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The line to print, and the exit code of a Nagios plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. `token` is an operator's.
pub fn query(web: &HubPort, token: Option<&str>) -> (String, u8) {
    match web.request(TIMEOUT, ("GET", "/metrics"), token, "") {
        Ok(response) => summarize(&response),
        Err(error) => (format!("UNKNOWN - hm-hub at {}: {}", web.address, reason(&error)), 3),
    }
}

fn summarize(response: &str) -> (String, u8) {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        let status: String = status.chars().take(EXCERPT_CHARS).collect();
        return (format!("UNKNOWN - hm-hub answered \"{}\"", escape_for_terminal(&status)), 3);
    }
    let value = |series: &str| -> Option<u64> {
        body.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    };
    let nodes = ["online", "lost", "offline"]
        .map(|state| value(&format!("hm_hub_nodes{{state=\"{state}\"}}")));
    let ([Some(online), Some(lost), Some(offline)], Some(store)) =
        (nodes, value("hm_hub_store_up "))
    else {
        return ("UNKNOWN - this is not hm-hub".to_owned(), 3);
    };
    let (word, code) = match (store, offline, lost) {
        (0, ..) => ("CRITICAL - the store cannot commit,", 2),
        (_, 1.., _) => ("CRITICAL -", 2),
        (_, _, 1..) => ("WARNING -", 1),
        _ => ("OK -", 0),
    };
    let counts = format!("{online} online, {lost} lost, {offline} offline");
    (format!("{word} {counts} | online={online} lost={lost} offline={offline}"), code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_follows_the_worst_state() {
        let response = |online, lost, offline, store| {
            format!(
                "HTTP/1.1 200 OK\r\n\r\n# x\nhm_hub_nodes{{state=\"online\"}} {online}\nhm_hub_nodes{{state=\"lost\"}} {lost}\nhm_hub_nodes{{state=\"offline\"}} {offline}\nhm_hub_store_up {store}\n"
            )
        };
        for (text, expected, code) in [
            (
                response(3, 0, 0, 1),
                "OK - 3 online, 0 lost, 0 offline | online=3 lost=0 offline=0",
                0,
            ),
            (response(3, 1, 0, 1), "WARNING - 3 online, 1 lost", 1),
            (response(3, 1, 1, 1), "CRITICAL - 3 online", 2),
            (response(3, 0, 0, 0), "CRITICAL - the store cannot commit, 3 online", 2),
            ("HTTP/1.1 200 OK\r\n\r\n".into(), "UNKNOWN - this is not hm-hub", 3),
            ("HTTP/1.1 401 \x1b[31m\r\n".into(), "UNKNOWN - hm-hub answered \"HTTP/1.1 401 ", 3),
            (String::new(), "UNKNOWN", 3),
        ] {
            let (line, found) = summarize(&text);
            assert!(line.starts_with(expected) && found == code, "{line} {found}");
            assert!(!line.contains('\x1b'), "{line}");
        }
    }
}
