//! No log, response, file or process list contains a secret, also when something fails. Every secret contains `s3cret`, so that one
//! search finds all. Passwords of hosts are also tested in `monitor.rs`, Core's token in `core/link.rs`.

use crate::support;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use crate::support::core_fixture::{children, command_line};
use crate::support::heartbeat::list_setting;
use crate::support::{Agent, Client, TempDir, hm_agent, wait_until};
use data_encoding::BASE64;

const MARK: &str = "s3cret";

/// Plain and in base64.
fn assert_hidden(what: &str, text: &str) {
    let encoded = BASE64.encode(b"me:pr0xy-s3cret");
    for secret in [MARK, &encoded] {
        assert!(!text.contains(secret), "{what}: {text}");
    }
}

/// A server that answers every request with 403 and repeats the request in each part of the response.
fn echoing_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut part) = (client.unwrap(), [0; 4096]);
            let read = client.read(&mut part).unwrap_or_default();
            let request = String::from_utf8_lossy(&part[..read]).replace("\r\n", " ");
            let answer = format!(
                "HTTP/1.1 403 {request}\r\nLocation: {request}\r\nContent-Length: {}\r\n\r\n{request}",
                request.len()
            );
            let _ = client.write_all(answer.as_bytes()); // the client may have closed
        }
    });
    address
}

/// The text of all files in a directory.
fn files(directory: &Path) -> String {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let read = |entry: std::fs::DirEntry| std::fs::read(entry.path()).unwrap();
    entries.map(|entry| String::from_utf8_lossy(&read(entry)).into_owned()).collect()
}

fn output_of(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn configuration_errors_do_not_repeat_values_of_secret_settings() {
    let scratch = TempDir::new("secrets");
    for (wrong, expected) in [
        ("[usage]\ntoken = us4ge-s3cret", "line 2"),
        ("[usage]\ntoken = \"us4ge-s3cret", "line 2"),
        ("[usage]\ntoken = [\"us4ge-s3cret\"]", "usage.token: expected a text"),
        ("[usage]\ntokn = \"us4ge-s3cret\"", "did you mean usage.token"),
        ("[usage]\ntoken_file = \"us4ge-s3cret\"", "expected the absolute path of a file"),
        ("[core]\ntoken_file = \"c0re-s3cret\"", "expected the absolute path of a file"),
        ("[core]\nurl = \"https://h/?token=c0re-s3cret\"", "got \"https://h/?(not shown)\""),
        ("[hm]\nurl = \"ws://me:hub-s3cret@h/\"", "got \"ws://(not shown)@h/\""),
        ("[hm]\nurl = \"ws://me:hub/s3cret@h/\"", "got \"ws://(not shown)@h/\""),
    ] {
        let file = scratch.write("hm-agent.toml", wrong);
        let (code, text) = output_of(hm_agent().args(["check", "-c", &file]));
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(expected), "{expected}: {text}");
        assert_hidden(wrong, &text);
    }
    for proxy in ["http://me:pr0xy/s3cret@p", "http://p:s3cret", "me:s3cret", "s3cret://p"] {
        let mut command = hm_agent();
        command.env("HTTPS_PROXY", proxy).args(["check", "-s", "hm.url=wss://h/"]);
        let (code, text) = output_of(&mut command);
        assert_eq!(code, Some(2), "{text}");
        assert_hidden(proxy, &text);
    }
    let (code, text) =
        output_of(hm_agent().env("HM_AGENT_USAGE_TOKN", "us4ge-s3cret").arg("check"));
    assert!(code == Some(2) && text.contains("HM_AGENT_USAGE_TOKN"), "{text}");
    assert_hidden("a misspelled variable", &text);
    let (code, text) = output_of(hm_agent().env("HM_AGENT_SECRET", "us4ge-s3cret").arg("check"));
    assert!(code == Some(0) && text.contains("HM_AGENT_SECRET"), "{text}");
    assert_hidden("an unknown variable", &text);
}

/// Settings with every kind of secret. All servers are at `server`.
fn settings(scratch: &TempDir, server: SocketAddr, more: &str) -> String {
    let file = scratch.write("token", "c0re-s3cret+&%\n");
    let text = format!(
        "log_level = \"trace\"\ninterval = 1\ngpu.source = \"none\"\n\
         usage = {{ listen = \"127.0.0.1:0\", token = \"us4ge-s3cret\", allowed_origins = [\"http://a\"] }}\n\
         monitor = {{ enabled = true, listen = \"127.0.0.1:0\", token = \"m0nitor-s3cret\" }}\n\
         hm = {{ url = \"ws://{server}/x?key=hub-s3cret%2B&b=1\", report_interval = 1 }}\n\
         core = {{ url = \"ws://{server}/y?more=s3cret-of-Core\", token_file = \"{file}\" }}\n{more}",
    );
    scratch.write("hm-agent.toml", &text)
}

#[test]
fn commands_print_no_secret() {
    let (scratch, server) = (TempDir::new("secrets"), echoing_server());
    let file = settings(&scratch, server, "");
    for arguments in
        [&["check"][..], &["sample"], &["sample", "--json"], &["--version"], &["--help"]]
    {
        let mut command = hm_agent();
        command.env("HTTP_PROXY", "http://me:pr0xy-s3cret@p").args(arguments);
        if !arguments[0].starts_with('-') {
            command.args(["-c", &file]);
        }
        let (code, text) = output_of(&mut command);
        assert_eq!(code, Some(0), "{text}");
        assert_hidden(arguments[0], &text);
        if arguments == ["check"] {
            assert!(
                text.contains(&format!("# hm.url is \"ws://{server}/x?(not shown)\"")),
                "{text}"
            );
        }
    }
}

/// Requests for `path` with its token in correct and wrong places. No more than the log's rate limit lets through.
fn requests(path: &str, token: &str) -> [String; 12] {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    [
        format!("GET {path}?token={token} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!("GET {path}?token={token}x HTTP/1.1\r\nHost: a\r\nOrigin: http://{token}\r\n\r\n"),
        format!(
            "GET {path}?token={token} HTTP/1.1\r\nHost: a\r\nOrigin: http://{token}\r\n{upgrade}\r\n"
        ),
        format!("POST /metrics?token={token} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}x\r\n{upgrade}\r\n"
        ),
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {token}\r\n{token}: {token}\r\n\r\n"
        ),
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {token}\r\n\r\n"),
        format!("GET {path}%3Ftoken={token} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /{path}/Token/{token} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("{token} {path}?{token} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET {path}?token={token} HTTP/9\r\n\r\n"),
        format!("token={token}\r\n\r\n"),
    ]
}

fn send(address: SocketAddr, request: &str) -> String {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(support::TEST_TIMEOUT)).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer); // the server may reset the connection after its response
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn trace_log_responses_and_state_contain_no_secret() {
    let (scratch, server) = (TempDir::new("secrets"), echoing_server());
    let report = scratch.0.join("children");
    let script = format!("cat /proc/self/environ /proc/self/cmdline >>{}", report.display());
    let action = list_setting("on_overdue", &["/bin/sh", "-c", &script]);
    let file = settings(&scratch, server, &format!("[heartbeat]\n{action}\n"));
    let mut command = hm_agent();
    let state = scratch.0.join("state");
    command.args(["-c", &file, "-s", &format!("state_dir={}", state.display())]);
    command.env("HM_AGENT_MONITOR_TOKEN", "m0nitor-s3cret");
    let agent = Agent::spawn(command);
    agent.wait_log("HTTP status 403");
    let line = agent.wait_log("monitor listening on ");
    let monitor: SocketAddr = line.rsplit(' ').next().unwrap().parse().unwrap();
    for (address, path, token) in
        [(agent.address, "/usage", "us4ge-s3cret"), (monitor, "/monitor", "m0nitor-s3cret")]
    {
        for request in requests(path, token) {
            assert_hidden(&request.replace(MARK, "…"), &send(address, &request));
        }
    }
    let authorized = "Connection: close\r\nAuthorization: Bearer us4ge-s3cret\r\n";
    for path in ["/snapshot", "/metrics"] {
        let (status, answer) = agent.http(path, authorized);
        assert_eq!(status, 200);
        assert_hidden(path, &answer);
    }
    assert_hidden("the page", &agent.http("/", authorized).1);
    hosts(monitor);
    // The environment of a hook, and a reload of a file with an error.
    agent.signal("-HUP");
    agent.wait_log("configuration reloaded");
    send(agent.heartbeat(), "GET /hb_ping?1&appid=late HTTP/1.0\r\n\r\n");
    wait_until("the hook's output", || report.exists().then_some(()));
    std::fs::write(&file, "[usage]\ntoken = \"us4ge-s3cret\n").unwrap();
    agent.signal("-HUP");
    agent.wait_log("line 2");
    let processes = children(agent.pid()).into_iter().map(|(_, line)| line);
    assert_hidden("children", &processes.collect::<String>());
    assert_hidden("arguments", &command_line(agent.pid()));
    let log = agent.stop().join("\n");
    for code in [400, 401, 403, 404, 405, 426] {
        assert!(log.contains(&format!("rejected: {code} ")), "{code}: {log}");
    }
    assert!(!log.contains("suppressed"), "some lines were suppressed: {log}");
    assert_hidden("the log", &log);
    let kept = files(&state);
    assert!(kept.contains("late"), "{kept}");
    assert_hidden("state", &kept);
    assert_hidden("the environment of a hook", &std::fs::read_to_string(report).unwrap());
}

fn client(address: SocketAddr, target: &str) -> Client {
    Client(support::websocket::connect(address, &format!("/{target}")))
}

/// Passwords for invalid hosts, and for one that refuses connections.
fn hosts(monitor: SocketAddr) {
    let mut client = client(monitor, "monitor?token=m0nitor-s3cret");
    let host = |host: &str, port: &str, user: &str| {
        format!(r#"{{"host":"{host}","port":{port},"user":"{user}","passwd":"pa55-s3cret"}}"#)
    };
    let start =
        |hosts: &str| format!(r#"{{"id":"1","method":"ssh.start_monitor","params":[{hosts}]}}"#);
    for text in [
        start(&host("127.0.0.1", "1", "nobody")),
        start(&host("-oProxyCommand=x", "22", "nobody")),
        start(&host("127.0.0.1", "99999", "no body")),
        start(&host("127.0.0.1", "1", "nobody")).replace("\"params\"", "\"parms\""),
        start(&host("127.0.0.1", "1", "nobody")).replace("ssh.start_monitor", "pa55-s3cre-t"),
        start(&host("127.0.0.1", "1", "nobody")).replace(']', ""),
    ] {
        client.send_text(&text);
        let answer =
            wait_until("an answer", || Some(client.json()).filter(|it| it["error"].is_string()));
        assert_hidden(&text.replace(MARK, "…"), &answer.to_string());
    }
}

#[test]
fn proxy_password_is_redacted_when_the_proxy_repeats_it() {
    let proxy = echoing_server();
    let scratch = TempDir::new("secrets");
    let file = settings(&scratch, "192.0.2.1:9".parse().unwrap(), "");
    let mut command = hm_agent();
    command.env("http_proxy", format!("http://me:pr0xy-s3cret@{proxy}")).args(["-c", &file]);
    for name in ["NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    let agent = Agent::spawn(command);
    agent.wait_log("hm: ws://192.0.2.1:9/x proxy: HTTP status 403");
    agent.wait_log("core: ws://192.0.2.1:9/y proxy: HTTP status 403");
    let mut client = client(agent.address, "usage?token=us4ge-s3cret");
    client.send_text("subscribe:detail");
    let update = wait_until("a failed upstream", || {
        let update = client.json();
        update["links"][0]["last_outage"].is_string().then(|| update.to_string())
    });
    assert_hidden("an update", &update);
    assert_hidden("the log", &agent.stop().join("\n"));
}
