//! Reports over hm in the REST API.

use serde_json::Value;

use crate::support::TempDir;
use crate::support::hub::{Hub, http, report};

/// More than one part of an answer.
const REPORTS: i64 = 1200;

fn times(answer: &Value) -> Vec<i64> {
    let reports = answer["data"]["reports"].as_array().unwrap_or_else(|| panic!("{answer}"));
    reports.iter().map(|report| report["timestamp"].as_i64().unwrap()).collect()
}

#[test]
fn many_reports_are_sent_in_parts_newest_first() {
    let state = TempDir::new("hub");
    let hub = Hub::start(&state, &[]);
    let mut node = hub.node();
    assert_eq!(node.online("a"), 0);
    for sent in 0..REPORTS {
        node.send(2, 1, sent, &report());
    }
    for _ in 0..REPORTS {
        assert_eq!(node.header().2, 0);
    }
    let all: Vec<i64> = (0..REPORTS).rev().collect();
    let get = |query: &str| times(&hub.rest("GET", &format!("nodes/a/reports{query}"), ""));
    assert_eq!(get("?limit=1000000"), all);
    assert_eq!(get(""), all[..1000]);
    assert_eq!(get("?limit=501"), all[..501]);
    assert_eq!(get("?start_time=1970-01-01T00:00:00.100Z&limit=5000"), all[..1100]);
    assert!(get("?end_time=1969-01-01T00:00:00Z").is_empty());
    let none = hub.rest("GET", "nodes/nonexistent/reports", "");
    assert!(times(&none).is_empty() && none["success"] == true, "{none}");
    let head = http(hub.core, "HEAD", "/api/v1/nodes/a/reports?limit=1000000", "", "");
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}
