// The pages of hm-hub in Chromium. usage: fleet_page.mjs HUB_URL PARAMETERS
// PARAMETERS is JSON: `token` of an operator with the role command, whose name is `operator`; `node`, the id of an online hm-agent
// with the Core protocol and `core.commands`; `markup`, the id of a node whose host name is markup; `shots`, a folder for
// screenshots. Where the test needs something from its parent, it writes a line to standard output: `stop NODE` ends the
// connections of a node, `stop hub` the hub.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [base, parameters] = process.argv.slice(2);
const { token, operator, node, markup, shots } = JSON.parse(parameters);
const { chromium } = createRequire(`${process.env.HM_TEST_NODE}/`)("playwright-core");
const TIMEOUT = 60_000;

const browser = await chromium.launch({
  executablePath: process.env.HM_TEST_CHROMIUM ?? "/usr/bin/chromium",
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});
const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
context.setDefaultTimeout(TIMEOUT);
const page = await context.newPage();

/** Chromium logs every response with an error status. */
const expected = [];
const logged = [];
page.on("console", message => ["error", "warning"].includes(message.type()) && logged.push(message.text()));
page.on("pageerror", error => logged.push(error.stack));
page.on("request", request => {
  const url = request.url();
  if (!url.startsWith(`${base}/`) && !url.startsWith("data:")) logged.push(`request to another host: ${url}`);
});
/** Status of the last response by the last part of its path. */
const answered = new Map();
const nameOf = response => new URL(response.url()).pathname.split("/").at(-1);
page.on("response", response => answered.set(nameOf(response), response.status()));
const assertQuiet = () => {
  const unexpected = logged.splice(0).filter(text => !expected.some(part => text.includes(part)));
  assert.deepEqual(unexpected, []);
};

const until = (what, code, argument) => page.waitForFunction(code, argument).catch(error => {
  throw new Error(`waited too long for ${what}: ${error.message}`);
});
const seen = (selector, text) => until(`${text} in ${selector}`, ([selector, text]) => {
  const element = document.querySelector(selector);
  return element?.checkVisibility() && element.innerText.replace(/\s+/g, " ").includes(text);
}, [selector, text]);
const text = selector => page.$eval(selector, element => element.textContent);
const url = () => new URL(page.url());
const rowOf = id => `#rows .line:has(a[href="/nodes/${encodeURIComponent(id)}"])`;
const focusedRow = () => page.evaluate(() => document.activeElement.getAttribute("aria-rowindex"));
const request = line => process.stdout.write(`${line}\n`);
const shot = async name => {
  if (shots) await page.screenshot({ path: `${shots}/${name}.png`, animations: "disabled" });
};

/** What a tool for accessibility checks first. */
const assertAccessible = async () => {
  const findings = await page.evaluate(() => {
    const visible = selector => [...document.querySelectorAll(selector)].filter(element => element.checkVisibility());
    const isNamed = element => element.labels?.length || element.getAttribute("aria-label") || element.textContent.trim();
    const ids = [...document.querySelectorAll("[id]")].map(element => element.id);
    const references = [...document.querySelectorAll("[aria-labelledby], [aria-describedby], [aria-controls]")].flatMap(element =>
      ["aria-labelledby", "aria-describedby", "aria-controls"].map(name => element.getAttribute(name)).filter(Boolean));
    return {
      headings: document.querySelectorAll("h1").length,
      mains: visible("main").length,
      language: document.documentElement.lang,
      unnamed: visible("input, select, button, a").filter(element => !isNamed(element)).map(element => element.outerHTML),
      repeated: ids.filter((id, at) => ids.indexOf(id) !== at),
      missing: references.filter(id => !document.getElementById(id)),
      styles: document.querySelectorAll("script[src], link[href^=http], img").length,
    };
  });
  assert.deepEqual(findings, { headings: 1, mains: 1, language: "en", unnamed: [], repeated: [], missing: [], styles: 0 });
};

const assertFits = async width => {
  await page.setViewportSize({ width, height: 800 });
  await page.waitForTimeout(100);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(over <= 0, `the page is ${over} pixels wider than ${width}`);
};

const logIn = async () => {
  await seen("#token-form", "Log in");
  assert.equal(await page.evaluate(() => document.activeElement.id), "token");
  await page.fill("#token", token);
  await page.keyboard.press("Enter");
  await seen("#user", operator);
};

const steps = {
  async "asks for a token and refuses a wrong one"() {
    expected.push("status of 401");
    await page.goto(`${base}/`);
    await seen("#token-form", "Log in");
    assert.equal(await page.$eval("#main", main => main.checkVisibility()), false);
    await page.fill("#token", "wrong");
    await page.keyboard.press("Enter");
    await seen("#token-error", "Wrong token");
    assert.equal(await page.inputValue("#token"), "");
    await assertAccessible();
    await logIn();
    await seen("#user", "command");
    await seen("#pill", "Live");
    const stored = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie]));
    assert.equal(stored.includes(token), false, stored);
  },

  async "lists the nodes, with markup as text"() {
    await seen(rowOf(node), "online");
    await until("the host name", id => document.querySelector(id)?.textContent.includes("<img"), `${rowOf(markup)} .name`);
    assert.equal(await page.$("img, main script"), null);
    await assertAccessible();
    await shot("fleet");
  },

  async "keeps filters in the address"() {
    const all = await text("#count");
    await page.fill("#q", node);
    await until("one row", () => document.querySelectorAll("#rows .line").length === 1);
    await seen("#count", "1 of");
    assert.equal(url().searchParams.get("q"), node);
    await page.selectOption("#f-state", "offline");
    await seen("#nothing", "No node matches");
    await page.goBack();
    await seen(rowOf(node), "online");
    assert.equal(await page.inputValue("#f-state"), "");
    await page.goBack();
    await seen("#count", all);
    assert.equal(url().search, "");
    await page.click("#sums button:has-text('online')");
    assert.equal(url().search, "?state=online");
    await page.reload();
    await seen(rowOf(node), "online");
    assert.equal(await page.inputValue("#f-state"), "online");
    await page.click("#clear");
    assert.equal(url().search, "");
    await seen("#count", all);
  },

  async "moves between rows with keys"() {
    await page.focus(".choices select:last-of-type");
    for (let presses = 0; presses < 3 && (await focusedRow()) === null; presses++) await page.keyboard.press("Tab");
    assert.equal(await focusedRow(), "2");
    const last = await page.getAttribute("#grid", "aria-rowcount");
    for (const [key, row] of [["ArrowDown", "3"], ["ArrowUp", "2"], ["End", last], ["Home", "2"], ["PageDown", last], ["PageUp", "2"]]) {
      await page.keyboard.press(key);
      assert.equal(await focusedRow(), row, key);
    }
  },

  async "marks a node that has not proved which node it is"() {
    // All nodes of this hub are local, so it marks none.
    const mark = async route => {
      const response = await route.fetch();
      const fleet = await response.json();
      for (const each of fleet.nodes) each.unauthenticated = each.node_id === markup;
      await route.fulfill({ response, json: fleet });
    };
    await page.route("**/api/fleet*", mark);
    await page.goto(`${base}/?problem=unverified`);
    await seen("#count", "1 of");
    await seen(`${rowOf(markup)} .unverified`, "unverified");
    assert.equal(await page.$(rowOf(node)), null);
    for (const width of [1440, 1100, 900, 360]) {
      await assertFits(width);
      const [cell, name, own] = await Promise.all([".node", ".name .text", ".unverified"].map(part =>
        page.$eval(`${rowOf(markup)} ${part}`, element => element.getBoundingClientRect().toJSON())));
      assert.ok(own.width > 30 && own.right <= cell.right + 1 && name.width > 20, `at ${width}: ${JSON.stringify({ cell, name, own })}`);
    }
    await shot("unverified");
    await page.setViewportSize({ width: 1440, height: 900 });
    await page.hover(`${rowOf(markup)} .unverified`);
    await page.selectOption("#f-problem", "");
    assert.equal(await page.isVisible(`${rowOf(node)} .unverified`), false);
    await page.unroute("**/api/fleet*", mark);
    await page.goto(`${base}/`);
    await seen(rowOf(node), "online");
  },

  async "opens a node, which is live"() {
    await page.focus(rowOf(node));
    await page.keyboard.press("Enter");
    await page.waitForURL(`${base}/nodes/${encodeURIComponent(node)}`);
    await seen("#pill", "Live");
    await seen("#user", operator);
    const sampled = () => page.getAttribute("#sampled", "datetime");
    const before = await sampled();
    await until("another sample", before => document.querySelector("#sampled").dateTime !== before, before);
    await seen("#hero", "CPU");
    await seen("#past", "hm-agent");
    for (const name of ["history", "events", "health"]) {
      while (!answered.has(name)) await page.waitForResponse(response => nameOf(response) === name);
      assert.equal(answered.get(name), 200, name);
    }
    assert.equal(await text("#past-aside"), "");
    await page.click("#range-24h");
    await seen("#h-past", "Last 24 hours");
    await assertAccessible();
    await shot("node");
    assert.equal((await page.request.get(await page.$eval("#raw-metrics", link => link.href))).status(), 200);
  },

  async "runs a command on it"() {
    await page.click("#commands summary");
    await page.fill("#command", "echo '<b>out</b>'; echo err >&2; exit 3");
    await page.click("#command-form button");
    await seen("#command-list li", "exit code 3");
    assert.equal(await text("#command-list .stdout"), "<b>out</b>\n");
    assert.equal(await text("#command-list .stderr"), "err\n");
    await shot("command");
  },

  async "fits on a phone"() {
    await assertFits(360);
    await page.click("nav a");
    await seen(rowOf(node), "");
    await assertFits(360);
    await shot("phone");
    await page.setViewportSize({ width: 1440, height: 900 });
    assertQuiet();
  },

  async "shows a node that disconnects"() {
    request(`stop ${node}`);
    await until("the state", row => /lost|offline/.test(document.querySelector(row)?.textContent), rowOf(node));
    await seen(rowOf(node), "last data");
    await page.click("#sums button:has-text('lost'), #sums button:has-text('offline')");
    expected.push("status of 502");
    await page.goto(`${base}/nodes/${encodeURIComponent(node)}`);
    await seen("#notice", "disconnected");
    await seen("#hero", "CPU");
    await until("old data", () => document.body.classList.contains("stale"));
    await seen("#events-none", "The node is not connected.");
    await seen("#facts", "Health unknown");
    await shot("offline");
    await page.goto(`${base}/nodes/no%2Fsuch%20node`);
    expected.push("status of 404");
    await seen("#notice", "unknown");
    assert.equal(await text("h1"), "no/such node");
    await page.click("nav a");
    await seen(rowOf(markup), "");
    assertQuiet();
  },

  async "logs out"() {
    await page.click("#log-out");
    await seen("#token-form", "Log in");
    assert.equal(await page.$("#rows .line"), null);
    await logIn();
    await seen(rowOf(markup), "");
    assertQuiet();
  },

  async "keeps the data without the hub"() {
    request("stop hub");
    await seen("#notice", "No connection to the hub.");
    await seen("#notice", "old. Next try in");
    assert.ok(await page.$(rowOf(markup)));
    await shot("no-hub");
  },
};

try {
  for (const [name, step] of Object.entries(steps)) {
    await step().catch(error => {
      error.message = `${name}: ${error.message}; the console: ${logged.join("; ")}`;
      throw error;
    });
    process.stderr.write(`${name}: ok\n`);
  }
} finally {
  await browser.close();
}
