// A page in Chromium that beats to an agent of another origin: XMLHttpRequest while it is open, a beacon when it is
// left. usage: heartbeat_page.mjs AGENT_URL APP_ID [LIBRARY]
// With LIBRARY, the protocol's own hilbert-heartbeat.js makes the calls, without it a script of ours that makes the same.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [agent, id, library] = process.argv.slice(2);
const { chromium } = createRequire(`${process.env.HM_TEST_NODE}/`)("playwright-core");
const INTERVAL = 300;
const PATIENCE = 60_000;

const ours = `
  const url = command => \`${agent}/\${command}&appid=${id}&cache_buster=\${Date.now()}\`;
  const send = command => {
    const request = new XMLHttpRequest();
    request.onload = () => answers.push(request.responseText);
    request.onerror = () => answers.push("failed");
    request.open("GET", url(command));
    request.send();
  };
  addEventListener("load", () => {
    send("hb_init?${INTERVAL}");
    setInterval(() => send("hb_ping?${INTERVAL}"), ${INTERVAL});
  });
  addEventListener("pagehide", () => navigator.sendBeacon(url("hb_done?0")));`;
const theirs = `
  new Heartbeat({
    url: "${agent}", appId: "${id}", interval: ${INTERVAL}, sendInitCommand: true, sendDoneCommand: true,
    debugLog: text => { if (text.startsWith("RESPONSE: ")) answers.push(text.slice(10)); },
  });`;

const pages = {
  "/": `<!doctype html><script>const answers = []</script>
    ${library ? '<script src="library.js"></script>' : ""}<script>${library ? theirs : ours}</script>`,
  "/elsewhere": "<!doctype html>nothing beats here",
};
const server = createServer((request, response) => {
  const script = request.url === "/library.js";
  response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
  response.end(script ? readFileSync(library) : (pages[request.url] ?? ""));
}).listen(0, "127.0.0.1");
await new Promise(done => server.on("listening", done));
// Another host name than the agent's: another site, not only another origin.
const origin = `http://localhost:${server.address().port}`;

const list = async () => (await (await fetch(`${agent}/list`)).text()).split("\n").filter(Boolean);
const until = async (what, found) => {
  for (const end = Date.now() + PATIENCE; !(await found()); await new Promise(next => setTimeout(next, 50))) {
    assert.ok(Date.now() < end, `waited too long for ${what}`);
  }
};

const root = process.getuid() === 0;
const browser = await chromium.launch({
  executablePath: process.env.HM_TEST_CHROMIUM ?? "/usr/bin/chromium",
  args: root ? ["--no-sandbox"] : [],
});
try {
  const page = await browser.newPage();
  for (const leave of [() => page.goto(`${origin}/elsewhere`), () => page.close()]) {
    await page.goto(`${origin}/`);
    await until("five answers", () => page.evaluate("answers.length >= 5"));
    assert.deepEqual(new Set(await page.evaluate("answers")), new Set([String(INTERVAL + 1000)]));
    assert.deepEqual(await list(), [id]);
    await leave();
    await until("the goodbye", async () => (await list()).length === 0);
  }
  console.log(`${await browser.version()}: every beat answered, and the goodbye of a page that was left heard`);
} finally {
  await browser.close();
  server.close();
}
