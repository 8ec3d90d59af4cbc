//! The dashboard after an incident, in Chromium: it shows what happened, where, and what to do, on one screen. Screenshots are
//! written to `target/page`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::page::FIRST_SAMPLE;
use crate::page_gpus::eight;
use crate::support::browser::{Browser, assert_quiet, browser_at};
use crate::support::fake_nvml::{Driver, Watched};
use crate::support::nginx::{Nginx, PASS_UPGRADES};
use crate::support::{Agent, TempDir, wait_until};

const FULL_HD: (u32, u32) = (1920, 1080);

/// GPU 5 has fallen off the bus, GPU 6 hangs, GPU 0 is in MIG mode, and others have errors.
const INCIDENT: &str = "lost = 5\nhang.6 = nvmlDeviceGetUtilizationRates\ngpu.0.mig = 1\ngpu.0.mig_instances = 4\n\
    gpu.1.ecc_volatile_uncorrected = 3\ngpu.3.remapped_pending = 1\n";

/// Records of the kernel log, in the format of `/dev/kmsg`.
fn kernel_log(lines: &[&str]) -> String {
    let record =
        |(number, line): (usize, &&str)| format!("3,{number},{},-;{line}\n", 1000 + number);
    lines.iter().enumerate().map(record).collect()
}

struct Incident {
    _log: TempDir,
    driver: Driver,
    watched: Watched,
}

impl Incident {
    fn start() -> Self {
        let log = TempDir::new("kmsg");
        let path = log.write("kmsg", "");
        let driver = Driver::new(&eight(1));
        let watched = driver.start(&[&format!("path.kmsg={path}")]);
        driver.set_script(&(eight(1) + INCIDENT));
        let text = kernel_log(&[
            "NVRM: Xid (PCI:0000:15:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            "nvme nvme0: I/O 12 QID 3 timeout, aborting",
        ]);
        std::fs::write(path, text).unwrap();
        Self { _log: log, driver, watched }
    }
}

/// Texts with less contrast than WCAG 2 requires (level AA, 4.5:1), with their ratio.
const LOW_CONTRAST: &str = "(() => {
    const channels = color => color.match(/[\\d.]+/g).map(Number);
    const light = rgb => {
        const [r, g, b] = rgb.map(each => each / 255).map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const backgroundOf = node => {
        for (; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            if (!color.startsWith('rgb')) return null; // mixed: the cells of the cores
            const [r, g, b, alpha = 1] = channels(color);
            if (alpha === 1) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const found = [];
    let checked = 0;
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const parent = node.parentElement;
        const behind = backgroundOf(parent);
        if (!node.data.trim() || !parent.checkVisibility() || !behind || ['SCRIPT', 'STYLE'].includes(parent.tagName)) continue;
        const pair = [light(channels(getComputedStyle(parent).color).slice(0, 3)), light(behind)].sort((a, b) => b - a);
        const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
        checked++;
        if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${node.data.trim().slice(0, 40)}`);
    }
    return { checked, found: [...new Set(found)] };
})()";

fn assert_contrast(browser: &mut Browser) {
    let result = browser.run(LOW_CONTRAST);
    assert!(result["checked"].as_u64().unwrap() > 100, "{result}");
    assert_eq!(result["found"], json!([]));
}

fn assert_fits(browser: &mut Browser, width: u32, height: u32) {
    browser.resize(width, height);
    let over = "document.documentElement.scrollWidth - innerWidth";
    assert!(browser.run(over).as_i64() <= Some(0), "the page is wider than {width} pixels");
}

fn height_of(browser: &mut Browser, selector: &str) -> u64 {
    browser.run(&format!("document.querySelector('{selector}').offsetHeight")).as_u64().unwrap()
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn tells_what_happened_and_what_to_do_on_one_screen() {
    let incident = Incident::start();
    let mut browser = browser_at(&incident.watched.agent);
    browser.resize(FULL_HD.0, FULL_HD.1);
    // What is wrong, and what to do.
    browser.until_seen("#alerts", "GPU 5: ");
    browser.until_seen("#alerts", "Reboot the node.");
    browser.until("document.querySelector('#alert-panel').classList.contains('critical')");
    browser.until_seen("#facts", "critical");
    // What happened, in words, under the curves.
    browser.until_seen("#past", "XID 79: GPU has fallen off the bus");
    // Three critical events are visible, the others can be opened.
    browser
        .until("document.querySelector('#events-rest').textContent.includes('timeout, aborting')");
    browser.run("document.querySelector('#events-count').focus()");
    browser.press("Enter");
    browser.until_seen("#events-rest", "NVMe nvme nvme0: I/O 12 QID 3 timeout, aborting");
    browser.press("Enter");
    browser.until("document.querySelector('#lane-marks .critical')");
    // All GPUs are on the screen, and those without values say why.
    browser.until_seen("#gpu-rows tr:nth-child(6)", "GPU 5 lost");
    browser.until_seen("#gpu-rows tr:nth-child(7)", "GPU 6 hung");
    browser.until_seen("#gpu-rows tr:nth-child(1)", "GPU 0 MIG mode");
    browser.until_seen("#gpu-rows tr:nth-child(1)", "4 MIG instances");
    browser.until_seen("#gpu-0", "In MIG mode the driver reports no utilization.");
    browser.until_seen("#gpu-1", "3 uncorrected memory errors");
    browser.until_seen("#hero", "GPUs, mean of 5 of 8");
    browser.until_seen("#hero", "without GPU 0 (MIG mode), GPU 5 (lost), GPU 6 (hung)");
    browser.until_seen("#gpu-5 .events", "XID 79: GPU has fallen off the bus");
    let last = "document.querySelector('#gpu-rows tr:nth-child(8)').getBoundingClientRect().bottom";
    let bottom = browser.run(last).as_f64().unwrap();
    assert!(bottom <= f64::from(FULL_HD.1), "the last GPU ends at {bottom}");
    let (lost, whole) = (height_of(&mut browser, "#gpu-5"), height_of(&mut browser, "#gpu-4"));
    assert!(lost <= whole, "the card of a lost GPU has {lost} pixels, others {whole}");
    browser.shot("incident");
    // A finding leads to its GPU, also with the keyboard.
    browser.run("document.querySelector('#alerts a[href=\"#gpu-5\"]').focus()");
    browser.press("Enter");
    browser.until("document.activeElement.id === 'gpu-5'");
    assert_contrast(&mut browser);
    browser.media(&json!({ "colorScheme": "dark" }));
    assert_contrast(&mut browser);
    browser.shot("incident-dark");
    assert_fits(&mut browser, 390, 844);
    browser.shot("incident-phone");
    // A GPU that is back has values again.
    incident.driver.set_script(&eight(1));
    browser.until_seen("#gpu-rows tr:nth-child(6)", "GPU 5 52 %");
    assert_quiet(&mut browser, &incident.watched.agent);
    incident.watched.stop();
}

/// A response of `/health` with every part of a finding.
fn findings() -> Value {
    let now = unix_now() as u64;
    let yesterday = now - 90_000;
    let finding = |id: &str, severity: &str, device: Option<&str>, summary: &str, action: &str| {
        json!({"id": id, "component": "gpu", "device": device, "severity": severity, "summary": summary, "evidence": [],
            "action": action, "service": null, "since": yesterday, "reboots": 0, "acknowledged": null})
    };
    let mut bus = finding("a", "critical", Some("GPU 5"), "fell off the bus", "inspect_hardware");
    bus["reboots"] = json!(2);
    bus["evidence"] = json!([
        {"time": yesterday, "text": "NVRM: Xid (PCI:0000:15:00): 79, GPU has fallen off the bus."},
        {"time": null, "text": "on the PCI bus, but not listed by the driver"},
    ]);
    let mut fabric =
        finding("b", "warning", None, "<b>fabric manager</b> stopped", "restart_service");
    fabric["service"] = json!("nvidia-fabricmanager");
    let mut known = finding("c", "critical", None, "/var is 98 % full", "none");
    known["component"] = json!("filesystem");
    known["acknowledged"] = json!(yesterday);
    json!({"status": "critical", "checked": now, "findings": [known, fabric, bus]})
}

#[test]
#[ignore = "needs Chromium, playwright-core and nginx"]
fn findings_have_evidence_action_and_age() {
    let driver = Driver::new(&eight(1));
    let watched = driver.start(&[]);
    let address = watched.agent.address;
    let health = format!(
        "location = /health {{ default_type application/json; return 200 '{}'; }}",
        findings()
    );
    let rest = format!("location / {{ proxy_pass http://{address}/; {PASS_UPGRADES} }}");
    let nginx = Nginx::start("", &format!("{health} {rest}"));
    let mut browser = Browser::at(&format!("http://127.0.0.1:{}/", nginx.port));
    let first = "#alerts > li:nth-child(1)";
    browser.until_seen(first, "Critical: GPU 5: fell off the bus");
    browser.until_seen(first, "Have the hardware inspected.");
    browser.until_seen(first, "It has come back after 2 reboots.");
    browser.until_seen(first, "For 1 d 1 h.");
    browser.until_seen(&format!("{first} summary"), "1 d 1 h ago NVRM: Xid (PCI:0000:15:00): 79");
    browser.run(&format!("document.querySelector('{first} summary').focus()"));
    browser.press("Enter");
    browser
        .until_seen(&format!("{first} .evidence"), "on the PCI bus, but not listed by the driver");
    browser.until_seen("#alerts > li:nth-child(2)", "Warning: <b>fabric manager</b> stopped");
    browser.until_seen("#alerts > li:nth-child(2)", "Restart the service nvidia-fabricmanager.");
    // What is acknowledged is closed, and counts no more.
    browser.until_seen("#alerts-count", "1 acknowledged");
    assert_eq!(browser.seen("#alerts-aside"), "1 critical, 1 warning");
    browser.until("document.title.startsWith('(2) ')");
    assert_eq!(browser.seen("#alerts-rest"), "");
    browser.run("document.querySelector('#alerts-count').focus()");
    browser.press("Enter");
    browser.until_seen("#alerts-rest", "/var is 98 % full");
    browser.until_seen("#alerts-rest", "Acknowledged 1 d 1 h ago.");
    let link = "document.querySelector('#alerts-rest a').getAttribute('href')";
    assert_eq!(browser.text(link), "#h-mounts");
    assert_eq!(browser.run("document.querySelectorAll('#alert-panel b b').length"), json!(0));
    assert_eq!(browser.console(), [""; 0]);
    watched.stop();
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn recorded_samples(agent: &Agent) -> Option<usize> {
    let (status, answer) = agent.http("/history?range=1h", "");
    assert_eq!(status, 200, "{answer}");
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let series = body["series"].as_array()?.iter().find(|it| it["name"] == "cpu_percent")?;
    Some(series["values"].as_array()?.iter().filter(|value| value.is_number()).count())
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn curves_begin_with_recorded_samples_and_have_axes() {
    let agent = Agent::start(&["interval=1", "gpu.source=none"]);
    wait_until("samples", || recorded_samples(&agent).filter(|count| *count >= 3));
    let opened = unix_now();
    let mut browser = browser_at(&agent);
    browser.until(&format!("{FIRST_SAMPLE} < {}", opened - 5.0));
    // Updates continue them.
    let path = "document.querySelector('#hero .line').getAttribute('d')";
    let before = browser.text(path);
    browser.until(&format!("{path} !== {}", json!(before)));
    for selector in ["#hero .vital", "#networks-plot", "#disks-plot"] {
        browser
            .until(&format!("document.querySelector('{selector} .scale').innerText.includes('0')"));
    }
    browser.until_seen("#hero .scale", "100 % 50 0");
    browser.until(
        "/^\\d\\d:(00|15|30|45)$/.test(document.querySelector('#lane-axis span').innerText)",
    );
    let label = browser.text("document.querySelector('#hero svg').getAttribute('aria-label')");
    assert!(label.starts_with("CPU, last hour: ") && label.contains(" %, now "), "{label}");
    // The other range, with the keyboard.
    browser.run("document.querySelector('#range-1h').focus()");
    browser.press("Tab");
    assert_eq!(browser.text("document.activeElement.id"), "range-24h");
    browser.press("Enter");
    browser.until("document.querySelector('#range-24h').getAttribute('aria-pressed') === 'true'");
    browser.until_seen("#h-past", "Last 24 hours");
    browser.until(
        "document.querySelector('#hero svg').getAttribute('aria-label').includes('last 1 d')",
    );
    let requests = browser.requests();
    assert!(requests.iter().any(|it| it.ends_with("/history?range=24h")), "{requests:?}");
    assert_quiet(&mut browser, &agent);
    agent.stop();
}

#[test]
#[ignore = "needs Chromium, playwright-core and nginx"]
fn works_with_an_agent_that_has_neither_history_nor_findings() {
    let incident = Incident::start();
    let address = incident.watched.agent.address;
    let older = "location ~ ^/(history|events|health)$ { return 404; }";
    let rest = format!("location / {{ proxy_pass http://{address}/; {PASS_UPGRADES} }}");
    let nginx = Nginx::start("", &format!("{older} {rest}"));
    let mut browser = Browser::at(&format!("http://127.0.0.1:{}/", nginx.port));
    browser.until_seen("#past-aside", "No history: The agent responded with status 404. The curves begin when this page is opened.");
    browser.until_seen("#events-none", "No events: The agent responded with status 404.");
    browser.until_seen("#alerts", "GPU 5: lost");
    browser.until_seen("#alerts", "GPU 1: 3 uncorrected memory errors");
    browser.until("document.querySelector('#hero .line').getAttribute('d').includes('L')");
    for line in browser.console() {
        assert!(line.contains("status of 404"), "{line}");
    }
    incident.watched.stop();
}
