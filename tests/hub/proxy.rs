//! hm-hub behind nginx, with the locations of docs/hub.md.

use serde_json::json;

use crate::fleet_api::entry;
use crate::support::hub::{Hub, Node, http, json_body};
use crate::support::nginx::Nginx;
use crate::support::{Agent, TempDir, wait_until};

/// The directives of the server in the document, with the addresses of this hub and without TLS.
fn documented(hub: &Hub) -> String {
    let document = include_str!("../../docs/hub.md");
    let block = document.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
    let lines = block.lines().filter(|line| line.starts_with("    "));
    let lines = lines.filter(|line| !line.contains("ssl") && !line.contains("listen"));
    let text: Vec<&str> = lines.collect();
    let ports = [("9521", hub.address), ("9999", hub.core), ("9520", hub.web)];
    ports.iter().fold(text.join("\n"), |text, (port, address)| {
        text.replace(&format!("127.0.0.1:{port}"), &address.to_string())
    })
}

#[test]
#[ignore = "needs nginx"]
fn page_and_nodes_work_through_nginx() {
    let state = TempDir::new("hub");
    let nodes = format!("nodes.tokens_file={}", state.write("nodes", "join\n"));
    let operators = state.write("operators", "all command eve\n");
    let operators = format!("operators.tokens_file={operators}");
    let settings = ["nodes.admission=token", &nodes, &operators, "commands.enabled=true"];
    let hub = Hub::start(&state, &settings);
    let nginx = Nginx::start("", &documented(&hub));
    let proxy = ([127, 0, 0, 1], nginx.port).into();
    let url = format!("hm.url=ws://{proxy}/websocket");
    let core = format!("core.url=ws://{proxy}/api/v1/ws");
    let node_id = "node_id=a/b";
    let agent = Agent::start(&[
        &url,
        &core,
        node_id,
        "hm.token=join",
        "core.token=join",
        "gpu.source=none",
    ]);
    hub.wait_log("node a/b has a credential now");

    assert!(http(proxy, "GET", "/", "", "").contains("<title>"));
    assert!(http(proxy, "GET", "/nodes/a%2Fb", "", "").contains("<title>"));
    let body = r#"{"token":"all"}"#;
    let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let response = http(proxy, "POST", "/api/login", &headers, body);
    let cookie = response.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")).unwrap();
    let cookie =
        format!("Cookie: {}\r\nOrigin: http://localhost\r\n", cookie.split(';').next().unwrap());
    wait_until("both connections", || {
        let fleet = json_body(&http(proxy, "GET", "/api/fleet", &cookie, ""));
        (entry(&fleet, "a/b")?["protocols"] == json!(["hm", "core"])).then_some(())
    });
    let snapshot = wait_until("the snapshot", || {
        let response = http(proxy, "GET", "/nodes/a%2Fb/snapshot", &cookie, "");
        response.starts_with("HTTP/1.1 200 ").then_some(response)
    });
    assert!(snapshot.contains("\"type\":\"snapshot\""), "{snapshot}");

    // A shared token is no proof for a client of another machine, which the proxy may have forwarded.
    let mut published = hub_core(proxy);
    published.register("published");
    let command = r#"{"command_text":"uptime"}"#;
    let headers = format!("{cookie}Content-Length: {}\r\n", command.len());
    let target = "/api/v1/nodes/published/commands";
    let refused = http(proxy, "POST", target, &headers, command);
    assert!(refused.contains("has not proved its identity"), "{refused}");
    assert!(Node::connect(proxy, "wrong").is_err());
    agent.stop();
}

fn hub_core(proxy: std::net::SocketAddr) -> crate::support::hub::CoreLink {
    let path = "/ws/node?token=join&node_id=published";
    crate::support::hub::CoreLink(crate::support::websocket::connect(proxy, path))
}
