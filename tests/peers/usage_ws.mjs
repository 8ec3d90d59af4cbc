// A dashboard with Node's ws and its defaults, written like the protocol document's client.
//
// usage_ws.mjs URL INTERVAL SECONDS: fails unless messages come in order and updates on time.

import assert from 'node:assert';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.HM_TEST_NODE}/package.json`);
const WebSocket = require('ws');
const [url, interval, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const ws = new WebSocket(url);
const seen = [];
let first;
let pongs = 0;
const late = [];

ws.on('open', () => ws.send('subscribe:usage'));
ws.on('pong', () => { pongs += 1; });
ws.on('error', (error) => { throw error; });
ws.on('message', (message, isBinary) => {
  assert(!isBinary);
  const data = JSON.parse(message);
  seen.push(data.status ?? data.type);
  if (seen.length < 4) return;
  first ??= performance.now();
  const tick = seen.length - 4;
  late.push((performance.now() - first) / 1000 - tick * interval);
  ws.ping();
});
ws.on('close', (code) => {
  assert.equal(code, 1005, 'we closed it, without a code');
  const ticks = Math.floor(seconds / interval);
  assert.deepEqual(seen.slice(0, 3), ['subscribed', 'system_info', 'usage_update']);
  assert(late.length >= ticks, `${late.length} updates, not ${ticks}`);
  assert(late.every((each) => Math.abs(each) < 0.25), `off by ${late}`);
  assert(pongs >= late.length - 1, `${pongs} pongs to ${late.length} pings`);
  console.log(`${late.length} updates on time, ${pongs} pings answered`);
});
setTimeout(() => ws.close(), (seconds + interval + 0.5) * 1000);
