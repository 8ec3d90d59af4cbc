// The connection to the agent. It reconnects by itself with backoff and jitter. If the handshake fails, a plain HTTP request
// finds the reason, which browsers do not tell scripts.

const MIN_RETRY_SECONDS = 1;
const MAX_RETRY_SECONDS = 30;
/** A connection that lasted this many seconds resets the backoff. */
const STABLE_SECONDS = 10;
/** After this many intervals without a message, plus 15 s, the connection is closed. */
const DEAD_INTERVALS = 3;

const TOKEN_KEY = `hm-agent token ${new URL(".", location.href).pathname}`;

const link = {
  socket: null,
  state: "connecting", // or live, waiting, token
  tries: 0,
  retryAt: 0,
  timer: 0,
  lastMessageAt: 0,
  reason: "",
  isUnavailable: false, // only on the hub's page: the hub gets no live snapshot of the node
  token: "",
};

const clock = () => Date.now() / 1000; // unlike performance.now(), it advances while a laptop is suspended

/** The token from the page's address, from which it is removed, or else the one entered before. */
const findToken = () => {
  const address = new URL(location.href);
  // `+` stays `+`, as in the agent; URLSearchParams would turn it into a space.
  const given = address.search.slice(1).split("&").find(item => item.startsWith("token="));
  if (!given) return sessionStorage.getItem(TOKEN_KEY) ?? "";
  let token = given.slice("token=".length);
  try {
    token = decodeURIComponent(token);
  } catch {
    // It is not percent-encoded.
  }
  sessionStorage.setItem(TOKEN_KEY, token);
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
  Object.assign(link, { socket, state: "connecting", lastMessageAt: began });
  socket.onopen = () => {
    opened = true;
    socket.send("subscribe:detail");
  };
  socket.onmessage = event => {
    if (link.socket !== socket) return;
    const message = JSON.parse(event.data);
    link.lastMessageAt = clock();
    if (message.type === "usage_update") link.state = "live";
    if (link.lastMessageAt - began > STABLE_SECONDS) link.tries = 0;
    onMessage(message);
  };
  socket.onclose = async event => {
    if (link.socket !== socket) return;
    link.socket = null;
    if (opened) return scheduleRetry(event.code === 1001 ? "The agent was stopped." : "Connection lost.");
    link.state = "connecting";
    const [reason, asks] = await diagnoseFailure();
    if (link.socket) return; // the "Try now" button was pressed meanwhile
    if (asks) askForToken(reason);
    else scheduleRetry(reason);
  };
  renderConnection();
};

/** Why the WebSocket handshake failed, and whether a token is needed. */
const diagnoseFailure = async () => {
  try {
    const headers = link.token ? { Authorization: `Bearer ${link.token}` } : {};
    const signal = AbortSignal.timeout(10_000);
    const response = await fetch(new URL("usage", location.href), { headers, cache: "no-store", signal });
    const challenge = response.headers.get("WWW-Authenticate");
    if (response.status === 401) return [challenge?.includes("invalid_token") ? "Wrong token." : "", true];
    if (response.status === 426) return ["A proxy does not forward WebSockets.", false];
    if (response.status === 403) return ["The agent does not allow this origin (usage.allowed_origins).", false];
    if (response.status === 503) return ["The connection limit of the agent is reached.", false];
    return [`The agent or a proxy responded with status ${response.status}.`, false];
  } catch {
    return ["The agent is unreachable.", false];
  }
};

/** Requests a resource of the agent. */
const fetchJson = async path => {
  const headers = link.token ? { Authorization: `Bearer ${link.token}` } : {};
  const signal = AbortSignal.timeout(10_000);
  const response = await fetch(new URL(path, location.href), { headers, cache: "no-store", signal });
  if (!response.ok) throw new Error(`The agent responded with status ${response.status}.`);
  return response.json();
};

const scheduleRetry = reason => {
  const most = Math.min(MAX_RETRY_SECONDS, MIN_RETRY_SECONDS * 2 ** link.tries++);
  const wait = 0.2 + Math.random() * most; // with jitter, for many dashboards
  Object.assign(link, { state: "waiting", reason, retryAt: clock() + wait, timer: setTimeout(connect, wait * 1000) });
  renderConnection();
};

const retryNow = () => {
  if (link.state === "waiting") connect();
};

/** Closes a connection that has received nothing for too long. */
const checkLink = () => {
  const { socket } = link;
  if (!socket || clock() - link.lastMessageAt <= DEAD_INTERVALS * (history.interval || 5) + 15) return;
  link.socket = null;
  socket.close();
  scheduleRetry("Timeout: no data received.");
};

const askForToken = problem => {
  link.state = "token";
  sessionStorage.removeItem(TOKEN_KEY);
  setText($("token-error"), problem);
  link.token = "";
  $("token").value = "";
  renderConnection();
  $("token").focus();
};

const submitToken = token => {
  sessionStorage.setItem(TOKEN_KEY, token);
  Object.assign(link, { token, tries: 0 });
  connect();
};

const startLink = () => {
  link.token = findToken();
  connect();
};
