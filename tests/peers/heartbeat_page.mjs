// A page in Chromium that sends heartbeats to an agent of another origin: XMLHttpRequest while it is open, a beacon when the user
// leaves it. usage: heartbeat_page.mjs AGENT_URL APP_ID [LIBRARY]
// With LIBRARY, the published hilbert-heartbeat.js sends them; without it, a script with the same requests.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [agent, id, library] = process.argv.slice(2);
const { chromium } = createRequire(`${process.env.HM_TEST_NODE}/`)("playwright-core");
const INTERVAL = 300;
const TIMEOUT = 60_000;

const ownScript = `
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
const libraryScript = `
  new Heartbeat({
    url: "${agent}", appId: "${id}", interval: ${INTERVAL}, sendInitCommand: true, sendDoneCommand: true,
    debugLog: text => { if (text.startsWith("RESPONSE: ")) answers.push(text.slice(10)); },
  });`;

const pages = {
  "/": `<!doctype html><script>const answers = []</script>
    ${library ? '<script src="library.js"></script>' : ""}<script>${library ? libraryScript : ownScript}</script>`,
  "/elsewhere": "<!doctype html>no heartbeats",
};
const server = createServer((request, response) => {
  const script = request.url === "/library.js";
  response.setHeader("Content-Type", script ? "text/javascript" : "text/html");
  response.end(script ? readFileSync(library) : (pages[request.url] ?? ""));
}).listen(0, "127.0.0.1");
await new Promise(done => server.on("listening", done));
// Another host name than the agent's makes it another site, not only another origin.
const origin = `http://localhost:${server.address().port}`;

const list = async () => (await (await fetch(`${agent}/list`)).text()).split("\n").filter(Boolean);
const until = async (what, found) => {
  for (const end = Date.now() + TIMEOUT; !(await found()); await new Promise(next => setTimeout(next, 50))) {
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
    await until("the removal of the application", async () => (await list()).length === 0);
  }
  console.log(`${await browser.version()}: every heartbeat answered, and hb_done received from a page that was left`);
} finally {
  await browser.close();
  server.close();
}
