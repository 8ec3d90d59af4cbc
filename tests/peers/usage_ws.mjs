// A client with Node's ws and its defaults, like the one of the protocol's document.
//
// usage_ws.mjs URL INTERVAL SECONDS: fails unless messages arrive in order and updates on time.

import assert from 'node:assert';
import { createRequire } from 'node:module';

const require = createRequire(`${process.env.HM_TEST_NODE}/package.json`);
const WebSocket = require('ws');
const [url, interval, seconds] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const ws = new WebSocket(url);
const seen = [];
let pongs = 0;
const times = [];

ws.on('open', () => ws.send('subscribe:usage'));
ws.on('pong', () => { pongs += 1; });
ws.on('error', (error) => { throw error; });
ws.on('message', (message, isBinary) => {
  assert(!isBinary);
  const data = JSON.parse(message);
  seen.push(data.status ?? data.type);
  if (seen.length < 4) return;
  times.push(performance.now() / 1000);
  ws.ping();
});
ws.on('close', (code) => {
  assert.equal(code, 1005, 'closed by this client, without a code');
  assert.deepEqual(seen.slice(0, 3), ['subscribed', 'system_info', 'usage_update']);
  // How many arrived at the same phase of the interval: a busy machine delays some.
  const off = (time, base) => Math.abs((((time - base) % interval) + 1.5 * interval) % interval - interval / 2);
  const good = Math.max(...times.map((base) => times.filter((time) => off(time, base) < 0.25).length));
  assert(good >= 0.6 * (seconds / interval) && times.length <= seconds / interval + 5, `at ${times}`);
  assert(pongs >= times.length - 2, `${pongs} pongs to ${times.length} pings`);
  console.log(`${good} of ${times.length} updates on time, ${pongs} pings answered`);
});
setTimeout(() => ws.close(), (seconds + interval + 0.5) * 1000);
