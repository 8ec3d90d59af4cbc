// The connection to the agent. It comes back by itself, after random and growing waits, and finds out by a plain
// request why a WebSocket was refused: a browser does not say.

const SHORTEST_WAIT = 1;
const LONGEST_WAIT = 30;
/** A connection that lasted for so long was a good one: the next wait is short again. Seconds. */
const STAYED = 10;

const KEPT_TOKEN = `hm-agent token ${new URL(".", location.href).pathname}`;

const link = {
  socket: null,
  state: "connecting", // live, waiting, asking
  tries: 0,
  retryAt: 0,
  timer: 0,
  heardAt: 0,
  reason: "",
  token: "",
};

const clock = () => Date.now() / 1000; // unlike performance.now(), it goes on while a laptop sleeps

/** The token of the page's own address, which is taken out of sight, or the one that was typed in before. */
const findToken = () => {
  const address = new URL(location.href);
  // A `+` is a `+`, as the agent reads it; URLSearchParams would make it a space.
  const given = address.search.slice(1).split("&").find(item => item.startsWith("token="));
  if (!given) return sessionStorage.getItem(KEPT_TOKEN) ?? "";
  let token = given.slice("token=".length);
  try {
    token = decodeURIComponent(token);
  } catch {
    // Not encoded, then.
  }
  sessionStorage.setItem(KEPT_TOKEN, token);
  address.search = address.search.slice(1).split("&").filter(item => item !== given).join("&");
  window.history.replaceState(null, "", address);
  return token;
};

const connect = () => {
  clearTimeout(link.timer);
  const address = new URL("usage", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (link.token) address.search = `token=${encodeURIComponent(link.token)}`;
  const socket = new WebSocket(address);
  const began = clock();
  let opened = false;
  Object.assign(link, { socket, state: "connecting", heardAt: began });
  socket.onopen = () => {
    opened = true;
    socket.send("subscribe:detail");
  };
  socket.onmessage = event => {
    if (link.socket !== socket) return;
    const message = JSON.parse(event.data);
    link.heardAt = clock();
    if (message.type === "usage_update") link.state = "live";
    if (link.heardAt - began > STAYED) link.tries = 0;
    heard(message);
  };
  socket.onclose = async event => {
    if (link.socket !== socket) return;
    link.socket = null;
    if (opened) return retry(event.code === 1001 ? "The agent was stopped." : "The connection was lost.");
    link.state = "connecting";
    const [reason, asks] = await refusal();
    if (link.socket) return; // "Try now" was faster
    if (asks) ask();
    else retry(reason);
  };
  changed();
};

/** Why there was no WebSocket, and whether a token would help. */
const refusal = async () => {
  try {
    const headers = link.token ? { Authorization: `Bearer ${link.token}` } : {};
    const signal = AbortSignal.timeout(10_000);
    const answer = await fetch(new URL("usage", location.href), { headers, cache: "no-store", signal });
    if (answer.status === 401) return ["", true];
    if (answer.status === 426) return ["The agent answers, but something in between passes no WebSockets on.", false];
    if (answer.status === 403) return ["The agent refuses pages of this origin (usage.allowed_origins).", false];
    if (answer.status === 503) return ["The agent has too many connections.", false];
    return [`The agent, or a proxy, answers ${answer.status}.`, false];
  } catch {
    return ["The agent cannot be reached.", false];
  }
};

const retry = reason => {
  const most = Math.min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** link.tries++);
  const wait = 0.2 + Math.random() * most; // spread, so that a wall of dashboards does not come back at once
  Object.assign(link, { state: "waiting", reason, retryAt: clock() + wait, timer: setTimeout(connect, wait * 1000) });
  changed();
};

const tryNow = () => {
  if (link.state === "waiting") connect();
};

/** Gives a connection up on which nothing comes any more. */
const giveUp = () => {
  const socket = link.socket;
  link.socket = null;
  socket?.close();
  retry("Nothing came any more.");
};

const ask = () => {
  link.state = "asking";
  sessionStorage.removeItem(KEPT_TOKEN);
  say($("ask-wrong"), link.token ? "The agent refused this token." : "");
  link.token = "";
  $("token").value = "";
  changed();
  $("token").focus();
};

const answerWith = token => {
  sessionStorage.setItem(KEPT_TOKEN, token);
  Object.assign(link, { token, tries: 0 });
  connect();
};
