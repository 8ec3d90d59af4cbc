//! A real Prometheus that scrapes nodes through the hub.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::requests::agent;
use crate::support::hm_clients::HmClients;
use crate::support::hub::{Hub, json_body, try_http};
use crate::support::{TempDir, reserve_address, wait_until};

/// A Prometheus that scrapes what `/sd` lists. Dropping it kills the program.
struct Prometheus(Child, SocketAddr);

impl Prometheus {
    fn start(hub: &Hub, state: &TempDir) -> Self {
        let config = format!(
            "global: {{scrape_interval: 2s, scrape_timeout: 2s}}\nscrape_configs:\n- job_name: nodes\n  http_sd_configs: [{{url: 'http://{}/sd', refresh_interval: 1s}}]\n",
            hub.web
        );
        let file = state.write("prometheus.yml", &config);
        let address = reserve_address();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={file}"));
        command.arg(format!("--storage.tsdb.path={}", state.0.join("tsdb").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap(), address)
    }

    /// Values of a query by node.
    fn query(&self, query: &str) -> BTreeMap<String, String> {
        let target = format!("/api/v1/query?query={query}");
        // It starts slowly, and answers with status 503 until it is ready.
        let response = try_http(self.1, "GET", &target, "", "").unwrap_or_default();
        if !response.starts_with("HTTP/1.1 200 ") {
            return BTreeMap::new();
        }
        let body = json_body(&response);
        let series = body["data"]["result"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        series
            .iter()
            .map(|series| (text(&series["metric"]["node_id"]), text(&series["value"][1])))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs Prometheus"]
fn prometheus_scrapes_two_hundred_nodes_and_sees_which_are_down() {
    let (state, clients_state) = (TempDir::new("hub"), TempDir::new("clients"));
    let hub = Hub::start(&state, &[]);
    // An id that has to be encoded in a path.
    let odd = "real/core: é%2F?x#y";
    let real = [agent(&hub, "real-hm", "hm"), agent(&hub, odd, "core")];
    let clients = HmClients::new(hub.address, 200, Duration::from_secs(30), &clients_state);
    std::thread::scope(|scope| {
        let running = clients.start(scope);
        let prometheus = Prometheus::start(&hub, &state);
        wait_until("scrapes of all nodes", || {
            // On a busy machine, not every scrape is in time.
            let up = prometheus.query("max_over_time(up[5m])==1");
            (up.len() == 202).then_some(())
        });
        assert_eq!(prometheus.query("last_over_time(simulated[5m])").len(), 200);
        assert_eq!(prometheus.query("last_over_time(node_uname_info[5m])").len(), 2);
        let [first, second] = real;
        first.stop();
        drop(running);
        wait_until("scrapes that fail", || {
            let down = prometheus.query("up==0");
            (down.len() == 201 && !down.contains_key(odd)).then_some(())
        });
        second.stop();
    });
}
