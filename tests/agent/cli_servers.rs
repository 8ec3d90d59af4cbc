//! The commands that query a server, when that server hangs or sends terminal control characters. Any local user can listen on
//! the ports of an agent that does not run.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::support::{Agent, SLACK, TempDir, hm_agent, sleep_for};

/// `REQUEST_TIMEOUT` of the heartbeat client, and what `sample` needs for itself.
const MAX_DURATION: Duration = Duration::from_secs(5);

/// A window title, a cleared screen, C1 control characters, reordered text and a second line.
const CONTROLS: &str =
    "\x1b]0;title\x07\x1b[2J\u{9b}31m\u{85}\x7f\u{202e}\u{2028}\x08\r\nCRITICAL - more";

/// A server that passes each connection to `serve`, with the first bytes of the request.
fn serve(serve: impl Fn(TcpStream, &str) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let (mut socket, serve) = (socket.unwrap(), serve.clone());
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let length = socket.read(&mut request).unwrap_or(0);
                serve(socket, &String::from_utf8_lossy(&request[..length]));
            });
        }
    });
    address
}

fn respond(mut socket: &TcpStream, status: &str, body: &str) {
    let length = body.len();
    // The client may have given up.
    let _ = write!(
        socket,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

fn hang(socket: TcpStream) {
    sleep_for(Duration::from_secs(60));
    drop(socket);
}

fn run(arguments: &[&str]) -> (Output, Duration) {
    let start = Instant::now();
    let output = hm_agent().args(arguments).output().unwrap();
    (output, start.elapsed())
}

fn assert_in_time(name: &str, arguments: &[&str]) {
    let (output, took) = run(arguments);
    assert!(took < MAX_DURATION + SLACK, "{name}: {took:?} {output:?}");
}

#[test]
fn hanging_server_delays_commands_by_one_timeout_only() {
    let ids: String = (0..100).map(|number| format!("app{number}\n")).collect();
    let lists = ids.clone();
    let after_list = serve(move |socket, request| match request.contains("/list") {
        true => respond(&socket, "200 OK", &lists),
        false => hang(socket),
    });
    let slowly = serve(move |mut socket, request| match request.contains("/list") {
        true => respond(&socket, "200 OK", &ids),
        false => {
            while socket.write_all(b"H").is_ok() {
                sleep_for(Duration::from_millis(500));
            }
        }
    });
    let silent = serve(|socket, _| hang(socket));
    let endless =
        serve(|mut socket, _| while socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_ok() {});
    let usage = silent;
    std::thread::scope(|scope| {
        for (name, server) in [
            ("after list", after_list),
            ("slowly", slowly),
            ("silent", silent),
            ("endless", endless),
        ] {
            scope.spawn(move || {
                let listen = format!("heartbeat.listen={server}");
                let usage = format!("usage.listen={usage}");
                let sample = ["sample", "-s", "gpu.source=none", "-s", &listen, "-s", &usage];
                assert_in_time(name, &[&sample[..], &["-s", "hm.url=ws://127.0.0.1:1/"]].concat());
                let url = format!("http://{server}");
                assert_in_time(name, &["status", "app", "--url", &url]);
                assert_in_time(name, &["beat", "--url", &url, "--", "true"]);
            });
        }
    });
}

fn assert_printable(name: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let is_control = |letter: char| letter.is_control() && letter != '\n';
    let found = text.find(|each| is_control(each) || ['\u{202e}', '\u{2028}'].contains(&each));
    assert!(found.is_none(), "{name}: {text:?}");
}

#[test]
fn text_of_servers_is_printed_as_one_escaped_line() {
    for status in ["200 OK", "503 Unavailable"] {
        let body = format!("OK - fine {CONTROLS}");
        let server = serve(move |socket, _| respond(&socket, status, &body));
        let url = format!("http://{server}");
        let (output, _) = run(&["status", "x", "--url", &url]);
        assert_printable("status", &output.stdout);
        let line = String::from_utf8(output.stdout).unwrap();
        assert!(line.contains(r"OK - fine \u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        let (output, _) = run(&["beat", "--url", &url, "--", "true"]);
        assert_printable("beat", &output.stderr);
        assert!(String::from_utf8_lossy(&output.stderr).lines().count() <= 1, "{output:?}");
    }
}

#[test]
fn ids_of_applications_are_escaped_in_reports() {
    let agent = Agent::start(&["gpu.source=none"]);
    let mut socket = TcpStream::connect(agent.heartbeat()).unwrap();
    let id = "a%C2%9B31m%E2%80%AEb";
    write!(socket, "GET /hb_ping?60000&appid={id} HTTP/1.0\r\n\r\n").unwrap();
    socket.read_to_string(&mut String::new()).unwrap();
    let listen = format!("heartbeat.listen={}", agent.heartbeat());
    for format in [&["--json"][..], &[]] {
        let sample =
            ["sample", "-s", "gpu.source=none", "-s", "usage.enabled=false", "-s", &listen];
        let (output, _) = run(&[&sample[..], format].concat());
        assert_printable("sample", &output.stdout);
        if !format.is_empty() {
            serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
        }
    }
    agent.stop();
}

#[test]
fn settings_paths_and_arguments_are_escaped_in_errors_and_check() {
    let directory = TempDir::new("controls");
    let name = "a\x1b[2J.toml";
    let file = directory.write(name, "node_id = \"n\\u001b[31m\\u009b\"\n");
    let (output, _) = run(&["check", "-c", &file]);
    assert_printable("check", &output.stdout);
    assert_printable("check", &output.stderr);
    let text = format!("no\x1b[31msuch = \"{CONTROLS}\"\n").replace('\n', "\r\n");
    let broken = directory.write("b\u{9b}.toml", &text);
    let missing = format!("{}/\x1b[31mmissing", directory.0.display());
    for arguments in [
        &["check", "-c", &broken][..],
        &["check", "-c", &missing],
        &["check", "-s", CONTROLS],
        &["check", "-s", &format!("{CONTROLS}=1")],
        &["check", "-s", &format!("interval={CONTROLS}")],
        &["check", "-s", &format!("usage.listen={CONTROLS}")],
        &["check", "-s", &format!("hm.url={CONTROLS}")],
        &["check", "-s", &format!("state_dir={CONTROLS}")],
        &[CONTROLS],
        &[&format!("--{CONTROLS}")],
        &["status", "--url", CONTROLS],
        &["beat", "--every", CONTROLS, "--", "true"],
        &["beat", "--url", "http://127.0.0.1:1", "--", &format!("./{CONTROLS}")],
    ] {
        let (output, _) = run(arguments);
        assert_printable(&format!("{arguments:?}"), &output.stdout);
        assert_printable(&format!("{arguments:?}"), &output.stderr);
    }
    let invalid = std::ffi::OsString::from_vec(b"\xff\x1b[2J\x9b".to_vec());
    let output = hm_agent().arg(invalid).output().unwrap();
    assert_printable("invalid UTF-8", &output.stderr);
}
