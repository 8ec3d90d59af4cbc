//! The dashboard with GPUs in Chromium, with a scripted driver. Screenshots are written to `target/page`.

use std::process::{Child, Command, Stdio};

use crate::support::TempDir;
use crate::support::browser::{Browser, assert_quiet, browser_at};
use crate::support::fake_nvml::Driver;
use serde_json::json;

/// Killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Eight GPUs with different values. Process `pid` uses the first one and eleven processes the third one.
pub fn eight(pid: u32) -> String {
    let mut script = format!("gpus = 8\ngpu.0.processes = {pid}:8589934592\ngpu.7.util_gpu = 0\n");
    for gpu in 0..7_u32 {
        script += &format!(
            "gpu.{gpu}.util_gpu = {}\ngpu.{gpu}.memory_used = {}\ngpu.{gpu}.temp = {}\n\
             gpu.{gpu}.power_mw = {}\ngpu.{gpu}.clock_sm = {}\n",
            97 - 9 * gpu,
            (10 + 9 * u64::from(gpu)) << 30,
            41 + 5 * gpu,
            123_000 + 77_000 * gpu,
            1980 - 15 * gpu
        );
    }
    let processes: Vec<_> =
        (0..11).map(|each| format!("{}:{}", 4_199_000 + each, 1 << 30)).collect();
    script + &format!("gpu.2.processes = {}\n", processes.join(", "))
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn shows_eight_gpus_and_their_problems() {
    // A process whose name contains markup.
    let scratch = TempDir::new("process");
    let program = scratch.0.join("<img src=x>");
    std::fs::copy("/bin/sleep", &program).unwrap();
    let process = Process(Command::new(&program).arg("600").stdout(Stdio::null()).spawn().unwrap());
    let driver = Driver::new(&eight(process.0.id()));
    let watched = driver.start(&[]);
    let mut browser = browser_at(&watched.agent);
    browser.until("document.querySelectorAll('.card').length === 8");
    browser.until_seen("#gpus", "driver 550.54.14");
    browser.until_seen(".card:nth-child(4)", "70%");
    let card = browser.seen(".card:nth-child(4)");
    for text in [
        "GPU 3 NVIDIA H100 80GB HBM3",
        "Memory 37.0 of 79.6 GiB",
        "Power 354 of 700 W",
        "Temperature 56 °C",
        "Clock 1935 MHz, P0",
        "No processes.",
    ] {
        assert!(card.contains(text), "no {text:?} in {card}");
    }
    assert!(browser.seen("#hero").contains("8 GPUs, mean"));
    browser.until_seen(".card", &format!("<img src=x> {} 8.0 GiB", process.0.id()));
    assert_eq!(browser.run("document.querySelectorAll('img').length"), json!(0));
    // The other eight are expanded with the keyboard and stay expanded.
    browser.until_seen(".card:nth-child(3) summary", "8 more");
    browser.run("document.querySelector('.card:nth-child(3) summary').focus()");
    browser.press("Enter");
    browser.until_seen(".card:nth-child(3) details", "4199010 1.0 GiB");
    assert!(browser.seen("#alert-panel").is_empty());
    browser.shot("eight-light");

    driver.set_script(&format!(
        "{}lost = 5\ngpu.2.reasons = 64\ngpu.6.remapped_pending = 1\nxid = 1:1:79\n",
        eight(process.0.id())
    ));
    browser.until("document.querySelectorAll('#alert-panel .critical').length >= 1");
    for (card, text) in [
        (6, "lost"),
        (3, "throttled: hw thermal slowdown"),
        (7, "GPU reset required"),
        (2, "XID 79: GPU has fallen off the bus, "),
    ] {
        browser.until_seen(&format!(".card:nth-child({card}) .problems"), text);
    }
    browser.until_seen("#hero", "GPUs, mean of 7 of 8");
    browser.until_seen("#hero", "without GPU 5 (lost)");
    // It has no values, only the curve until then.
    assert_eq!(browser.seen(".card:nth-child(6) .figure"), "lost");
    assert_eq!(browser.seen(".card:nth-child(6) .gauges"), "");
    browser.until_seen(".card:nth-child(4)", "70%"); // other GPUs keep their values
    browser.until("document.title.startsWith('(')");
    assert!(
        browser.run("document.querySelector('.card:nth-child(3) details').open") == json!(true)
    );
    let labels = browser.text("document.querySelector('#alerts').textContent");
    assert!(labels.contains("Critical: GPU 5") && labels.contains("Warning: GPU 6"), "{labels}");
    assert_accessible(&mut browser);
    browser.media(&json!({ "colorScheme": "dark" }));
    browser.shot("eight-dark");
    for width in [360, 1920, 3840] {
        browser.resize(width, 800);
        let over = "document.documentElement.scrollWidth - innerWidth";
        assert!(browser.run(over).as_i64() <= Some(0), "the page is wider than {width} pixels");
        let narrow = "[...document.querySelectorAll('tbody th')].some(each => each.checkVisibility() && each.offsetWidth < 40)";
        assert_eq!(browser.run(narrow), json!(false), "a name is cut off at {width} pixels");
        browser.shot(&format!("eight-{width}"));
    }
    assert_quiet(&mut browser, &watched.agent);
    watched.stop();
}

/// Checks what screen readers need.
fn assert_accessible(browser: &mut Browser) {
    for (what, selector) in [
        ("an image without a label", "svg:not([aria-label]):not([aria-hidden])"),
        ("a table without a caption", "table:not(:has(caption))"),
        ("a section without a name", "section:not([aria-labelledby]):not(.tile)"),
        ("a field without a label", "input:not(#token)"),
    ] {
        let found = format!("document.querySelectorAll('{selector}').length");
        assert_eq!(browser.run(&found), json!(0), "{what}");
    }
    for one in
        ["h1", "header", "main", "footer", "html[lang=en]", "[role=status]", "label[for=token]"]
    {
        let found = format!("document.querySelectorAll('{one}').length");
        assert_eq!(browser.run(&found), json!(1), "{one}");
    }
    // Each marker has a text, so that no information depends on color alone.
    // Those of the events have the list as their text.
    let bare = "[...document.querySelectorAll('.mark:not([aria-hidden] .mark)')].filter(each => !each.parentElement.textContent.trim()).length";
    assert_eq!(browser.run(bare), json!(0));
}

#[test]
#[ignore = "needs Chromium and playwright-core"]
fn shows_driver_upgrade_without_reboot() {
    let driver = Driver::new("init = 18");
    let watched = driver.start(&[]);
    let mut browser = browser_at(&watched.agent);
    browser.until_seen("#driver-message", "upgraded while loaded");
    browser.until_seen("#alert-panel", "NVIDIA driver upgraded while loaded");
    assert_eq!(browser.run("document.querySelectorAll('.card').length"), json!(0));
    browser.shot("no-driver");
    driver.set_script("gpus = 1");
    browser.until("document.querySelectorAll('.card').length === 1");
    browser.until("document.querySelector('#driver-message').hidden");
    assert_quiet(&mut browser, &watched.agent);
    watched.stop();
}
