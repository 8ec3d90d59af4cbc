//! Login on the page, roles, pages of other sites, and the audit log.

use serde_json::{Value, json};

use crate::support::TempDir;
use crate::support::hub::{Hub, http, json_body};

fn hub(state: &TempDir) -> Hub {
    let operators = state.write("operators", "t-read read ann\nt-command command eve\n");
    let operators = format!("operators.tokens_file={operators}");
    Hub::start(state, &[&operators, "commands.enabled=true"])
}

fn post(hub: &Hub, target: &str, headers: &str, body: &str) -> String {
    let headers = format!("Content-Length: {}\r\n{headers}", body.len());
    http(hub.web, "POST", target, &headers, body)
}

/// The header with the cookie of a new session.
fn log_in(hub: &Hub, token: &str) -> String {
    let body = json!({"token": token}).to_string();
    let response = post(hub, "/api/login", "Content-Type: application/json\r\n", &body);
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains("; HttpOnly; SameSite=Strict\r\n"), "{response}");
    let cookie = response.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap();
    format!("Cookie: other=1; {}\r\n", cookie.split(';').next().unwrap())
}

fn status(response: &str) -> &str {
    &response[9..12]
}

fn session(hub: &Hub, headers: &str) -> Value {
    json_body(&http(hub.web, "GET", "/api/session", headers, ""))
}

#[test]
fn session_has_role_of_its_token_until_logout_or_revocation() {
    let state = TempDir::new("hub");
    let hub = hub(&state);
    for target in ["/api/fleet", "/sd", "/metrics", "/nodes/a/snapshot", "/nodes/a/last_snapshot"] {
        assert_eq!(status(&http(hub.web, "GET", target, "", "")), "401", "{target}");
        let forged = "Cookie: hm_hub_session=x\r\n";
        assert_eq!(status(&http(hub.web, "GET", target, forged, "")), "401", "{target}");
    }
    let refused =
        post(&hub, "/api/login", "Content-Type: application/json\r\n", r#"{"token":"x"}"#);
    assert_eq!(status(&refused), "401");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    assert_eq!(status(&post(&hub, "/api/login", form, r#"{"token":"t-read"}"#)), "415");

    let (reader, commander) = (log_in(&hub, "t-read"), log_in(&hub, "t-command"));
    assert_eq!(
        session(&hub, &reader),
        json!({"authenticated": true, "login": true, "name": "ann",
        "role": "read", "commands_enabled": true})
    );
    assert_eq!(session(&hub, "")["authenticated"], false);
    assert_eq!(status(&http(hub.web, "GET", "/api/fleet", &reader, "")), "200");
    let command = r#"{"command_text":"uptime"}"#;
    let target = "/api/v1/nodes/missing/commands";
    assert_eq!(status(&post(&hub, target, &reader, command)), "403");
    assert!(post(&hub, target, &commander, command).contains("NODE_NOT_FOUND"));
    // The cookie is for the page. A session is no token of the REST API on the other port.
    assert_eq!(status(&http(hub.core, "GET", "/api/v1/nodes", &commander, "")), "401");

    assert_eq!(status(&post(&hub, "/api/logout", &commander, "")), "200");
    assert_eq!(status(&post(&hub, target, &commander, command)), "401");
    state.write("operators", "t-command command eve\n");
    hub.signal("-HUP");
    hub.wait_log("configuration reloaded");
    assert_eq!(status(&http(hub.web, "GET", "/api/fleet", &reader, "")), "401");
}

#[test]
fn page_of_another_site_cannot_use_a_session() {
    let state = TempDir::new("hub");
    let hub = hub(&state);
    let cookie = log_in(&hub, "t-command");
    let target = "/api/v1/nodes/missing/commands";
    for headers in [
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://localhost:1\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
    ] {
        let response = post(&hub, target, &format!("{cookie}{headers}"), "{}");
        assert_eq!(status(&response), "403", "{headers}");
    }
    let own = format!("{cookie}Origin: https://localhost\r\nSec-Fetch-Site: same-origin\r\n");
    assert_eq!(status(&post(&hub, target, &own, "{}")), "200");
    // The page may have any name, because a page with a rebound name has no session.
    let browser = format!("{cookie}Accept-Language: en\r\n");
    assert_eq!(status(&http(hub.web, "GET", "/api/fleet", &browser, "")), "200");
}

#[test]
fn commands_and_refusals_are_in_the_audit_log() {
    let state = TempDir::new("hub");
    let hub = hub(&state);
    let mut node = hub.core("/ws/node", "token=default-token&node_id=n");
    node.register("n");
    let target = "/api/v1/nodes/n/commands";
    let commander = "Authorization: Bearer t-command\r\n";
    let accepted = json_body(&post(&hub, target, commander, r#"{"command_text":"nvidia-smi -L"}"#));
    let refused = r#"{"command_text":"uptime","timeout":0}"#;
    assert!(post(&hub, target, commander, refused).contains("VALIDATION_ERROR"));
    post(&hub, target, "Authorization: Bearer t-read\r\n", "{}");
    post(&hub, target, "Authorization: Bearer unknown\r\n", "{}");
    let log = std::fs::read_to_string(state.0.join("audit.log")).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries.len(), 3, "{log}");
    assert!(entries.iter().all(|entry| entry["time"].as_str().unwrap().starts_with("20")));
    let fields =
        |entry: &Value| ["operator", "action", "node", "text"].map(|key| entry[key].clone());
    assert_eq!(fields(&entries[0]), ["eve", "command", "n", "nvidia-smi -L"]);
    assert_eq!(entries[0]["command_id"], accepted["data"]["command_id"]);
    assert_eq!(fields(&entries[1]), ["eve", "command", "n", "uptime"]);
    assert_eq!(entries[1]["result"], "refused: timeout must be 1 to 3600 seconds");
    assert_eq!(fields(&entries[2])[..2], ["ann", "request"]);
    assert_eq!(entries[2]["text"], format!("POST {target}"));

    // Without an entry, no command runs.
    std::fs::remove_file(state.0.join("audit.log")).unwrap();
    std::fs::create_dir(state.0.join("audit.log")).unwrap();
    let response = post(&hub, target, commander, r#"{"command_text":"uptime"}"#);
    assert!(response.contains("cannot write the audit log"), "{response}");
    let commands = hub.rest_with("GET", "nodes/n/commands", "t-command");
    assert_eq!(commands["data"]["total"], 1, "{commands}");
}
