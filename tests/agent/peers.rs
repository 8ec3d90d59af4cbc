//! Real peers: Python's websockets, Node's ws, nginx as proxy, psutil, a hanging filesystem. `tests/run` installs them.

use crate::support;
use std::path::Path;
use std::process::Command;

use crate::support::nginx::{Nginx, PASS_UPGRADES};
use crate::support::{Agent, TempDir};

fn peer(script: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(script);
    path.display().to_string()
}

/// The interpreter with the packages of the peers.
fn python() -> String {
    std::env::var("HM_TEST_PYTHON").expect("HM_TEST_PYTHON is set by ./tests/run")
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{stdout}\n{stderr}");
    print!("{stdout}");
    stdout
}

/// nginx with the protocol document's location block, in front of an agent.
fn start_nginx(agent: &Agent) -> Nginx {
    let pass = format!("proxy_pass http://{}/usage; {PASS_UPGRADES}", agent.address);
    Nginx::start("", &format!("location /gpu-ws {{ {pass} }}"))
}

#[test]
#[ignore = "needs Python's websockets; 26 s"]
fn serves_python_websockets_directly_and_through_nginx() {
    let agent = Agent::start(&["interval=2"]);
    let nginx = start_nginx(&agent);
    let direct = format!("ws://{}/usage", agent.address);
    let proxied = format!("ws://127.0.0.1:{}/gpu-ws", nginx.port);
    std::thread::scope(|scope| {
        for url in [direct, proxied] {
            scope.spawn(move || {
                let script = peer("usage_websockets.py");
                succeeds(Command::new(python()).args([&script, &url, "2", "24"]));
            });
        }
    });
    drop(nginx);
    agent.stop();
}

#[test]
#[ignore = "needs Node's ws"]
fn serves_node_ws_directly_and_through_nginx() {
    let agent = Agent::start(&["interval=1"]);
    let nginx = start_nginx(&agent);
    let direct = format!("ws://{}/usage", agent.address);
    let proxied = format!("ws://127.0.0.1:{}/gpu-ws", nginx.port);
    for url in [direct, proxied] {
        succeeds(Command::new("node").args([&peer("usage_ws.mjs"), &url, "1", "5"]));
    }
    drop(nginx);
    agent.stop();
}

#[test]
#[ignore = "needs nginx"]
fn nginx_forwards_client_address_and_close_code() {
    let agent = Agent::start(&["usage.max_connections_per_ip=2", "interval=1"]);
    let nginx = start_nginx(&agent);
    let connect = || {
        let socket = std::net::TcpStream::connect(("127.0.0.1", nginx.port)).unwrap();
        socket.set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
        let url = format!("ws://127.0.0.1:{}/gpu-ws", nginx.port);
        tungstenite::client(url, socket).ok().map(|(socket, _)| support::Client(socket))
    };
    let mut first = connect().unwrap();
    let _second = connect().unwrap();
    assert!(connect().is_none(), "the third connection of one address was accepted");
    first.send_text("subscribe:usage");
    assert_eq!(first.json()["status"], "subscribed");
    agent.stop();
    assert_eq!(u16::from(first.closed().code), 1001);
}

#[test]
#[ignore = "needs psutil"]
fn cpu_and_memory_agree_with_psutil() {
    let agent = Agent::start(&["interval=2"]);
    let url = format!("ws://{}/usage", agent.address);
    succeeds(Command::new(python()).args([&peer("compare_psutil.py"), &url]));
    agent.stop();
}

#[test]
#[ignore = "needs root and /dev/fuse"]
fn omits_hung_filesystem_until_it_recovers() {
    let scratch = TempDir::new("hung");
    let directory = scratch.0.display().to_string();
    succeeds(Command::new("unshare").args(["--mount", &python()]).args([
        &peer("hung_mount.py"),
        env!("CARGO_BIN_EXE_hm-agent"),
        &directory,
    ]));
}

#[test]
#[ignore = "needs root"]
fn reports_host_interfaces_and_mounts_from_container() {
    let scratch = TempDir::new("container");
    let host = scratch.0.display();
    let sample = |settings: &str| {
        // A container's network and mount namespaces, with the host's root mounted in a directory.
        let script = format!("mount --rbind / {host}; exec \"$0\" sample --json {settings}");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_hm-agent")]);
        let sample: serde_json::Value = serde_json::from_str(&succeeds(&mut command)).unwrap();
        let names = |list: &str, key: &str| -> Vec<String> {
            let entries = sample["usage_update"][list].as_array().unwrap();
            entries.iter().map(|each| each[key].as_str().unwrap().to_owned()).collect()
        };
        (names("networks", "device"), names("file_systems", "mount_point"))
    };
    let (networks, _) = sample("");
    assert_eq!(networks, ["lo"], "the container's interfaces");
    let (networks, mounts) =
        sample(&format!("-s path.proc={host}/proc -s path.sys={host}/sys -s path.root={host}"));
    let text = std::fs::read_to_string("/proc/net/dev").unwrap();
    let hosts: Vec<&str> =
        text.lines().skip(2).map(|line| line.split(':').next().unwrap().trim()).collect();
    assert_eq!(networks, hosts);
    assert!(mounts.iter().any(|mount| mount == "/"), "{mounts:?}");
    assert!(!mounts.iter().any(|mount| mount.starts_with(&host.to_string())), "{mounts:?}");
}
