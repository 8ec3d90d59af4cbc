// The entry point: polls the fleet, and renders it after each change.

/** Data older than this many seconds are shown as old. */
const STALE_SECONDS = 10;

const age = () => Math.max(0, clock() - fleet.receivedAt);
const isStale = () => fleet.isLoaded && age() > STALE_SECONDS;

const load = async () => {
  await ensureSession();
  const after = fleet.revision ? `?after=${encodeURIComponent(fleet.revision)}` : "";
  const message = await requestJson(`api/fleet${after}`);
  applyFleet(message);
  renderFleet(message.full || message.nodes.length > 0 || message.removed?.length > 0);
};

const renderFleet = hasChanged => {
  const all = fleet.byId.size;
  show($("main"), true);
  show($("token-form"), false);
  show($("empty"), all === 0);
  show($("list"), all > 0);
  if (all === 0) renderConnectLine();
  renderTotals();
  setText($("hub-name"), location.host);
  updateTab();
  if (!hasChanged) return;
  renderFilters();
  renderList(true);
};

const renderList = keepsPosition => {
  const list = listNodes(nodeFilter());
  const all = fleet.byId.size;
  const amount = `${count(all)} node${all === 1 ? "" : "s"}`;
  setText($("count"), list.length === all ? amount : `${count(list.length)} of ${amount}`);
  show($("nothing"), all > 0 && list.length === 0);
  show($("grid"), list.length > 0);
  showList(list, keepsPosition);
};

/** Shows the list of the new filters from its beginning. */
const onFilters = () => {
  if (!fleet.isLoaded) return;
  renderFilters();
  renderTotals();
  renderList(false);
  const top = $("list").getBoundingClientRect().top;
  if (top < 0) scrollBy({ top, behavior: "instant" });
};

const updateTab = () => {
  const { critical = 0, warning = 0 } = fleet.totals.problems ?? {};
  setText(document.querySelector("title"), `${isStale() ? "no data: " : critical ? `(${critical}) ` : ""}Fleet`);
  setIcon(isStale() ? "unknown" : critical ? "critical" : warning ? "warning" : "ok");
};

/** Renders the connection state and the age of the data: once a second, and on every change. */
const renderConnection = () => {
  const { state, reason, retryAt } = link;
  const isOld = isStale();
  const mustLogIn = state === "token";
  show($("token-form"), mustLogIn || ($("token-form").hidden === false && state === "connecting"));
  if (mustLogIn) show($("main"), false);
  document.body.classList.toggle("stale", Boolean(isOld));
  const [level, text] = mustLogIn ? ["unknown", "Login required"]
    : state === "waiting" || isOld ? ["warning", fleet.isLoaded ? `${duration(age())} old` : "Reconnecting"]
    : state === "live" || fleet.isLoaded ? ["ok", "Live"] : ["unknown", "Connecting"];
  setMark($("pill-mark"), level);
  setText($("pill-text"), text);
  const isLost = !mustLogIn && (state === "waiting" || isOld);
  const wait = Math.max(0, Math.ceil(retryAt - clock()));
  const old = fleet.isLoaded ? `The data are ${duration(age())} old.` : "";
  const next = state === "waiting" ? `Next try in ${wait} s.` : "Connecting …";
  const failures = mustLogIn ? "" : fleet.notices.join(" ");
  show($("notice"), Boolean(isLost || failures));
  setText($("notice-text"), isLost ? [reason, old, next].filter(Boolean).join(" ") : failures);
  show($("retry"), state === "waiting");
  announce(isLost ? reason : failures);
};

let announced = "";

const announce = text => {
  if (text === announced) return;
  announced = text;
  setText($("announcement"), text);
};

/** How a node connects. HTTPS on its standard port is that of a proxy, which serves the nodes too; else the hub serves TLS itself. */
const renderConnectLine = () => {
  const isHttps = location.protocol === "https:";
  const host = isHttps && !location.port ? location.host : `${location.hostname}:9521`;
  const token = session.login ? " -s hm.token_file=FILE" : "";
  setText($("connect-line"), `hm-agent -s hm.url=${isHttps ? "wss" : "ws"}://${host}/websocket${token}`);
  show($("connect-token"), session.login);
};

const tick = () => {
  renderConnection();
  if (isStale()) updateTab();
  if (!fleet.isLoaded || document.hidden) return;
  for (const row of grid.rows.values()) updateAge(row);
};

$("token-form").addEventListener("submit", event => {
  event.preventDefault();
  submitToken($("token").value);
});
$("retry").addEventListener("click", retryNow);
addEventListener("online", retryNow);
createFilters();
createGrid();
readFilters();
setInterval(tick, 1000);
poll();
