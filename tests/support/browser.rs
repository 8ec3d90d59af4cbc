//! Chromium with one page, controlled through tests/peers/browser.mjs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Agent, TEST_TIMEOUT};

/// Closed when dropped.
pub struct Browser {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Browser {
    pub fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/browser.mjs");
        let mut command = Command::new("node");
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { input: child.stdin.take(), output, child }
    }

    /// Opens a page on a wide screen.
    pub fn at(url: &str) -> Self {
        let mut browser = Self::start();
        browser.open(url, &json!({ "viewport": { "width": 1440, "height": 900 } }));
        browser
    }

    fn execute(&mut self, command: &Value) -> Value {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["error"].is_null(), "{command}: {}", answer["error"].as_str().unwrap());
        answer["value"].clone()
    }

    /// Opens a page without history or storage. Options are those of playwright's browser contexts.
    pub fn open(&mut self, url: &str, options: &Value) {
        self.execute(&json!({ "name": "open", "url": url, "options": options }));
    }

    pub fn reload(&mut self) {
        self.execute(&json!({ "name": "reload" }));
    }

    /// Evaluates an expression.
    pub fn run(&mut self, code: &str) -> Value {
        self.execute(&json!({ "name": "run", "code": code }))
    }

    /// Evaluates an expression to a string.
    pub fn text(&mut self, code: &str) -> String {
        self.run(code).as_str().unwrap_or_default().to_owned()
    }

    /// The visible text of an element with white space collapsed; empty if there is none.
    pub fn seen(&mut self, selector: &str) -> String {
        self.text(&visible(selector)).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, code: &str) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while self.run(&format!("Boolean({code})")) != json!(true) {
            let late = Instant::now() > deadline;
            assert!(!late, "waited too long for {code}; the page: {}", self.seen("body"));
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Waits until the visible text of an element contains `text`.
    pub fn until_seen(&mut self, selector: &str, text: &str) {
        let contains = "?.replace(/\\s+/g, ' ').includes";
        self.until(&format!("{}{contains}({})", visible(selector), json!(text)));
    }

    pub fn fill(&mut self, selector: &str, text: &str) {
        self.execute(&json!({ "name": "fill", "at": selector, "text": text }));
    }

    pub fn press(&mut self, key: &str) {
        self.execute(&json!({ "name": "press", "key": key }));
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        self.execute(&json!({ "name": "resize", "width": width, "height": height }));
    }

    /// E.g. `{"colorScheme": "dark"}`.
    pub fn media(&mut self, media: &Value) {
        self.execute(&json!({ "name": "media", "media": media }));
    }

    /// Saves a screenshot in `target/page`.
    pub fn shot(&mut self, name: &str) {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../page");
        std::fs::create_dir_all(&directory).unwrap();
        self.execute(&json!({ "name": "shot", "file": directory.join(format!("{name}.png")) }));
    }

    /// Errors and warnings in the console, including violations of the content security policy.
    pub fn console(&mut self) -> Vec<String> {
        self.recorded("console")
    }

    /// The URLs that the page requested.
    pub fn requests(&mut self) -> Vec<String> {
        self.recorded("requests")
    }

    fn recorded(&mut self, what: &str) -> Vec<String> {
        let recorded = self.execute(&json!({ "name": "recorded" }));
        serde_json::from_value(recorded[what].clone()).unwrap()
    }
}

/// An expression for the visible text of an element. Hidden elements have an `innerText`, too.
fn visible(selector: &str) -> String {
    let seen = "(each => each?.checkVisibility() ? each.innerText : '')";
    format!("{seen}(document.querySelector({}))", json!(selector))
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.input = None; // at the end of its input the script closes Chromium and exits
        let deadline = Instant::now() + super::SLACK;
        while self.child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// URL of an agent's dashboard.
pub fn page_of(agent: &Agent) -> String {
    format!("http://{}/", agent.address)
}

/// Opens an agent's dashboard and waits for values.
pub fn browser_at(agent: &Agent) -> Browser {
    let mut browser = Browser::at(&page_of(agent));
    browser.until("document.querySelector('#hero .value')");
    browser
}

/// Asserts that the page logged no errors and sent requests to its agent only.
pub fn assert_quiet(browser: &mut Browser, agent: &Agent) {
    assert_eq!(browser.console(), [""; 0]);
    let page = page_of(agent);
    let own = [page.clone(), format!("ws://{}/usage", agent.address), format!("{page}health")];
    let queries = [format!("{page}history?range="), format!("{page}events?since=")];
    for request in browser.requests() {
        let has_query = queries.iter().any(|it| request.starts_with(it));
        let is_own = own.contains(&request) || has_query || request.starts_with("data:");
        assert!(is_own, "unexpected request: {request}");
    }
}
