// Controls Chromium for tests/support/browser.rs: reads a JSON command per line from standard input and writes a JSON answer per
// line to standard output, {"value": …} or {"error": …}. Exits at the end of its input.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { chromium } = createRequire(`${process.env.HM_TEST_NODE}/`)("playwright-core");
const TIMEOUT = 60_000;

const browser = await chromium.launch({
  executablePath: process.env.HM_TEST_CHROMIUM ?? "/usr/bin/chromium",
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});
let page;
let recorded;

const commands = {
  /** Opens a page without history or storage; options are those of a browser context. */
  async open({ url, options }) {
    await page?.context().close();
    const context = await browser.newContext(options);
    context.setDefaultTimeout(TIMEOUT);
    page = await context.newPage();
    recorded = { console: [], requests: [] };
    const { console, requests } = recorded;
    page.on("console", message => ["error", "warning"].includes(message.type()) && console.push(message.text()));
    page.on("pageerror", error => console.push(error.stack));
    page.on("request", request => requests.push(request.url()));
    page.on("websocket", socket => requests.push(socket.url()));
    await page.goto(url);
  },
  run: ({ code }) => page.evaluate(code),
  reload: () => page.reload(),
  fill: ({ at, text }) => page.fill(at, text),
  press: ({ key }) => page.keyboard.press(key),
  resize: ({ width, height }) => page.setViewportSize({ width, height }),
  media: ({ media }) => page.emulateMedia(media),
  shot: ({ file }) => page.screenshot({ path: file, fullPage: true, animations: "disabled" }),
  /** Console messages and requests of the page. */
  recorded: () => recorded,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { name, ...details } = JSON.parse(line);
  let answer;
  try {
    const value = await commands[name](details);
    // A screenshot is in its file already.
    answer = { value: Buffer.isBuffer(value) || name === "reload" ? null : (value ?? null) };
  } catch (error) {
    answer = { error: String(error.stack) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
