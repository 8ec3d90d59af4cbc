//! The dashboard in Chromium: it shows the agent's data, follows updates, shows when data is stale, and never parses names as
//! markup. Screenshots are saved in `target/page`.

use std::time::Duration;

use crate::support::browser::{Browser, assert_quiet, browser_at, page_of};
use crate::support::fake_nvml::UpdateStream;
use crate::support::heartbeat::HttpConnection;
use crate::support::nginx::{Nginx, PASS_UPGRADES};
use crate::support::{Agent, TempDir, sleep_for, wait_until};
use data_encoding::BASE64;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.split_once(start).unwrap().1.split_once(end).unwrap().0
}

#[test]
fn document_is_public_small_and_has_strict_policy() {
    let agent = Agent::start(&["usage.token=secret"]);
    for target in ["/", "/?token=wrong"] {
        let (status, answer) = agent.http(target, "Host: a\r\nConnection: close\r\n");
        assert_eq!(status, 200, "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(body.len() < 95_000, "{} bytes", body.len());
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        for line in [
            "Content-Type: text/html; charset=utf-8",
            "Cache-Control: no-cache",
            "X-Content-Type-Options: nosniff",
            "Referrer-Policy: no-referrer",
        ] {
            assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line}: {head}");
        }
        assert_eq!(head.matches("Cache-Control").count(), 1, "{head}");
        let policy = between(head, "Content-Security-Policy: ", "\r\n");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        let hash = |text: &str| BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref());
        let style = hash(between(body, "<style>", "</style>"));
        let script = hash(between(body, "<script type=\"module\">", "</script>"));
        for part in [
            &*format!("style-src 'sha256-{style}';"),
            &format!("script-src 'sha256-{script}';"),
            "connect-src 'self';",
            "base-uri 'none';",
            "form-action 'none';",
            "frame-ancestors 'none';",
        ] {
            assert!(policy.contains(part), "no {part} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(body.matches("<script").count(), 1);
        for link in ["http://", "https://"] {
            let links = body.matches(link).count();
            let of_svg = body.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(links, if link == "http://" { of_svg } else { 0 }, "{link}");
        }
    }
    let head = agent.raw(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(!agent.raw(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("HTTP/1.1 200"));
    assert_eq!(agent.http("/index.html", "Host: a\r\n").0, 404);
    agent.stop();
}

/// Formats a percentage like the page.
fn formatted(percent: &Value) -> String {
    let percent = percent.as_f64().unwrap();
    if percent < 9.95 { format!("{percent:.1}") } else { format!("{}", percent.round()) }
}

/// The data that the page shows, with the time of the sample.
const SHOWN: &str = "(() => {
    const texts = selector => [...document.querySelectorAll(selector)].map(each => each.textContent);
    return {
        at: Date.parse(document.querySelector('#sampled').dateTime) / 1000,
        figures: texts('#hero .value'),
        cores: texts('#cores b'),
        mounts: texts('#mounts tr').map(each => each.replace(/\\s+/g, ' ')),
        line: document.querySelector('#hero .line').getAttribute('d'),
    };
})()";

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn shows_current_data_of_the_agent() {
    let agent = Agent::start(&["interval=1", "gpu.source=none"]);
    let mut updates = UpdateStream::subscribe(&agent);
    let mut browser = browser_at(&agent);
    let info = updates.info.clone();
    assert_eq!(browser.seen("h1"), info["hostname"].as_str().unwrap());
    assert!(browser.seen("#machine").contains(info["kernel"].as_str().unwrap()));
    browser.until_seen("#pill", "Live");
    assert!(browser.seen("#gpus").contains("monitoring is disabled"));
    let (mut received, mut lines) = (Vec::new(), Vec::new());
    let mut last = updates.next_update()["timestamp"].clone();
    while lines.len() < 4 {
        // The first sample on a connection may have been sent to no other client; later ones are sent to all.
        browser.until(&format!("({SHOWN}).at > {last}"));
        let shown = browser.run(SHOWN);
        last = shown["at"].clone();
        let same = wait_until("the displayed sample", || {
            received.extend(updates.received());
            let same = |update: &&Value| {
                update["timestamp"] == shown["at"]
                    && json!([formatted(&update["cpu_percent"]), formatted(&update["ram_percent"])])
                        == shown["figures"]
            };
            let found = received.iter().find(same).cloned();
            let late = received.last()?["timestamp"].as_f64() > Some(shown["at"].as_f64()? + 3.0);
            assert!(found.is_some() || !late, "{shown:#} is none of {received:#?}");
            found
        });
        let cores = same["cpus"].as_array().unwrap().iter();
        let cores: Vec<_> =
            cores.map(|core| format!("{}", core["percent"].as_f64().unwrap().round())).collect();
        assert_eq!(json!(cores), shown["cores"]);
        for mount in same["file_systems"].as_array().unwrap() {
            let (place, used) = (mount["mount_point"].as_str().unwrap(), &mount["used_percent"]);
            let shown = shown["mounts"].as_array().unwrap().iter();
            let used = format!("{} %", used.as_f64().map_or("–".into(), |_| formatted(used)));
            let mut rows = shown.map(|row| row.as_str().unwrap());
            assert!(
                rows.any(|row| row.starts_with(place) && row.contains(&used)),
                "{place} {used}"
            );
        }
        lines.push(shown["line"].clone());
    }
    lines.dedup();
    assert_eq!(lines.len(), 4, "the curve does not move: {lines:#?}");
    assert_quiet(&mut browser, &agent);
    browser.shot("real");
    agent.stop();
}

/// Time of the first sample of the first curve, which ends with the last sample and covers an hour.
pub const FIRST_SAMPLE: &str = "(() => {
    const at = Date.parse(document.querySelector('#sampled').dateTime) / 1000;
    const [, x] = /^M([\\d.]+)/.exec(document.querySelector('#hero .line').getAttribute('d')) ?? [];
    return x === undefined ? NaN : at - 3600 * (1 - x / 1000);
})()";

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn shows_stale_data_and_reconnects() {
    let agent = Agent::start(&["interval=1"]);
    let mut browser = browser_at(&agent);
    let points =
        "(document.querySelector('#hero .line').getAttribute('d').match(/[ML]/g) ?? []).length";
    browser.until(&format!("{points} >= 4"));
    // The agent hangs: the connection stays open without data.
    agent.signal("-STOP");
    browser.until_seen("#notice", "No data for");
    browser.until("document.body.classList.contains('stale')");
    browser.until_seen("#pill", "old");
    browser.until("document.title.startsWith('no data')");
    agent.signal("-CONT");
    browser.until("document.querySelector('#notice').hidden");
    browser.until_seen("#pill", "Live");
    // The curves survive a reload. The agent returns means of 5 s.
    let first = browser.run(FIRST_SAMPLE).as_f64().unwrap();
    browser.reload();
    browser.until("document.querySelector('#hero .line')");
    browser.until(&format!("{FIRST_SAMPLE} < {}", first + 6.0));
    // The agent exits, and another one starts at the same address.
    let address = agent.address;
    agent.stop();
    browser.until_seen("#notice", "No data for");
    browser.until_seen("#notice", "is unreachable. Next try in");
    // Hidden during an attempt.
    browser.until("!document.querySelector('#retry').hidden");
    let grey = "getComputedStyle(document.querySelector('main')).filter";
    assert_eq!(browser.text(grey), "grayscale(1)");
    browser
        .until("document.querySelector('[role=status]').textContent.startsWith('No connection.')");
    browser.shot("stale");
    sleep_for(Duration::from_secs(20)); // a gap is longer than three means
    let agent = Agent::start(&["interval=1", &format!("usage.listen={address}")]);
    browser.until_seen("#pill", "Live");
    browser.until("document.querySelector('#notice').hidden");
    // The curve has a gap and the samples before it, which the other agent does not know.
    browser
        .until("document.querySelector('#hero .line').getAttribute('d').match(/M/g).length >= 2");
    assert!(browser.run(FIRST_SAMPLE).as_f64().unwrap() < first + 6.0);
    // Chromium logs the failed connections to the console; nothing else is logged.
    for line in browser.console() {
        let failures = ["ERR_CONNECTION", "ERR_EMPTY_RESPONSE", "WebSocket connection to"];
        assert!(failures.iter().any(|each| line.contains(each)), "{line}");
    }
    agent.stop();
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn shows_dropped_application_and_number_of_those_left_out() {
    let agent = Agent::start(&["interval=1"]);
    let mut line = HttpConnection::open(&agent);
    line.get("/hb_init?0&appid=gone");
    for number in 0..210 {
        line.get(&format!("/hb_init?600000&appid=app{number}"));
    }
    let mut browser = browser_at(&agent);
    browser.until_seen("#alerts", "Application gone: dropped, no heartbeat");
    browser.until_seen("#alerts", "Restart the application.");
    browser.until_seen("#apps", "DROPPED");
    browser.until_seen("#facts", "200 of 201 OK, 10 not shown");
    browser.until_seen("#apps-rest", "and 151 more");
    line.get("/hb_done?0&appid=gone");
    browser.until_seen("#facts", "200 of 200 OK, 10 not shown");
    agent.stop();
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn asks_for_token_and_keeps_it_in_the_tab() {
    let agent = Agent::start(&["interval=1", "usage.token=s3cr+t/%"]);
    let mut browser = Browser::at(&page_of(&agent));
    browser.until_seen("#token-form", "Token required");
    assert_eq!(browser.text("document.activeElement.id"), "token");
    assert!(browser.run("document.querySelector('main').hidden") == json!(true));
    browser.shot("token");
    browser.fill("#token", "wrong");
    browser.press("Enter");
    browser.until_seen("#token-error", "Wrong token");
    browser.fill("#token", "s3cr+t/%");
    browser.press("Enter");
    browser.until_seen("#pill", "Live");
    browser.until(
        "document.querySelector('#token-form').hidden && !document.querySelector('main').hidden",
    );
    browser.reload();
    browser.until_seen("#pill", "Live");
    // Another tab does not have the token, but its address may contain it.
    browser.open(&format!("{}?a=1&token=s3cr+t/%25#x", page_of(&agent)), &json!({}));
    browser.until_seen("#pill", "Live");
    assert_eq!(browser.text("location.search + location.hash"), "?a=1#x");
    assert_eq!(browser.console(), [""; 0]);
    browser.reload();
    browser.until_seen("#pill", "Live");
    assert!(browser.seen("#token-form").is_empty());
    agent.stop();
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn shows_applications_and_upstreams_with_any_name() {
    let agent = Agent::start(&["interval=1", "hm.url=ws://127.0.0.1:1/websocket"]);
    let mut line = HttpConnection::open(&agent);
    let hostile = "<script>alert(1)</script>\"'&amp;";
    let encoded: String = hostile.bytes().map(|byte| format!("%{byte:02x}")).collect();
    assert_eq!(line.get(&format!("/hb_init?600000&appid={encoded}")).status, 200);
    let mut browser = browser_at(&agent);
    browser.until_seen("#apps", hostile);
    // Overdue in 17 s and dropped in 34 s unless in maintenance: enough time to observe it.
    assert_eq!(line.get("/hb_init?10000&appid=late").status, 200);
    browser.until_seen("#facts", "of 2 OK");
    browser.until_seen("#alert-panel", "Application late: heartbeat overdue");
    assert_eq!(line.get("/maintenance?600000&appid=late").status, 200);
    browser.until_seen("#apps", "late maintenance");
    browser.until_seen("#links", "hm");
    browser.until_seen("#alert-panel", "hm: not online");
    browser.until_seen("#apps", "ago, timeout 10 min");
    assert_eq!(browser.run("document.querySelectorAll('script').length"), json!(1));
    assert_eq!(browser.console(), [""; 0]);
    browser.shot("applications");
    agent.stop();
}

#[test]
#[ignore = "needs Chromium, playwright-core and nginx"]
fn works_below_a_proxy_path() {
    let agent = Agent::start(&["interval=1", "usage.token=secret"]);
    let location =
        format!("location /node1/ {{ proxy_pass http://{}/; {PASS_UPGRADES} }}", agent.address);
    let nginx = Nginx::start("", &location);
    let mut browser = Browser::at(&format!("http://127.0.0.1:{}/node1/?token=secret", nginx.port));
    browser.until_seen("#pill", "Live");
    browser.reload();
    browser.until_seen("#pill", "Live");
    let below = [
        format!("http://127.0.0.1:{}/node1/", nginx.port),
        format!("ws://127.0.0.1:{}/node1/", nginx.port),
    ];
    for request in browser.requests() {
        assert!(
            below.iter().any(|each| request.starts_with(each)) || request.starts_with("data:"),
            "{request}"
        );
    }
    assert_eq!(browser.console(), [""; 0]);
    drop(nginx);
    browser.until_seen("#notice", "No data for");
    agent.stop();
}

/// /proc with 256 cores: core N is busy for N/256 of the time, and the last one always.
#[test]
#[ignore = "needs Chromium and playwright-core"]
fn shows_256_cores_without_overflow() {
    let proc = TempDir::new("proc");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        if entry.file_name() != "stat" {
            let _ = std::os::unix::fs::symlink(entry.path(), proc.0.join(entry.file_name()));
        }
    }
    let stat = |ticks: u64| {
        let line = |name: &str, busy: u64, all: u64| {
            format!("cpu{name} {} 0 0 {} 0 0 0 0 0 0\n", busy * ticks, (all - busy) * ticks)
        };
        let cores = (0..256).map(|core| line(&core.to_string(), core + core / 255, 256));
        let text = line(" ", 128, 256) + &cores.collect::<String>();
        let draft = proc.write("draft", &format!("{text}ctxt 1\nbtime 1700000000\nprocesses 1\n"));
        std::fs::rename(draft, proc.0.join("stat")).unwrap();
    };
    stat(1);
    let agent = Agent::start(&["interval=1", &format!("path.proc={}", proc.0.display())]);
    let mut browser = Browser::at(&page_of(&agent));
    let mut ticks = 1;
    wait_until("cores", || {
        ticks += 1;
        stat(ticks);
        let shown =
            browser.run("[...document.querySelectorAll('#cores b')].map(each => each.textContent)");
        let wanted = (0..256_u64).map(|core| {
            let tenths = (1000.0 * (core + core / 255) as f64 / 256.0).round();
            ((tenths / 10.0 + 1e-9).round() as u64).to_string()
        });
        (shown == json!(wanted.collect::<Vec<_>>())).then_some(())
    });
    let text = browser.text("document.querySelector('#cores li:nth-child(200)').textContent");
    assert_eq!(text, "core 199: 78 %");
    for width in [360, 1440] {
        browser.resize(width, 900);
        let over = "document.documentElement.scrollWidth - innerWidth";
        assert!(browser.run(over).as_i64() <= Some(0), "the page is wider than {width} pixels");
    }
    let high = browser.run("document.querySelector('#cores').offsetHeight").as_u64().unwrap();
    assert!(high < 450, "256 cores take {high} pixels");
    browser.shot("cores");
    assert_quiet(&mut browser, &agent);
    agent.stop();
}
