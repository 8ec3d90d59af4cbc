// The entry point: renders each message, and the age of the data once a second.

/** Data older than this many intervals, plus a second for the network, is stale. */
const STALE_INTERVALS = 1.5;

let info = {};
let update = null;
let sampledAt = 0; // by the browser's clock
let gaps = [];
let redrawScheduled = false;
let announced = "";
let announcedAt = 0;

const age = () => Math.max(0, clock() - sampledAt);
/** The time of the agent's clock. */
const agentNow = () => (update ? update.timestamp + age() : clock());
const isStale = () => update && (link.isUnavailable || age() > STALE_INTERVALS * (history.interval || 5) + 1);

const onMessage = message => {
  if (message.type === "system_info") {
    info = message;
    if (history.host !== info.hostname) clearFeeds();
    history.host = info.hostname;
    for (const feed of Object.values(feeds)) feed.dueAt = 0;
  } else if (message.type === "usage_update") {
    onUpdate(message);
    scheduleRedraw();
  }
};

const scheduleRedraw = () => {
  if (!redrawScheduled && update) requestAnimationFrame(redraw);
  redrawScheduled = Boolean(update);
};

/** The age of the first sample on a connection is known from the agent's clock; later samples are new. */
const onUpdate = message => {
  const again = update?.timestamp === message.timestamp;
  const old = info.received ? 0 : Math.max(0, info.timestamp - message.timestamp);
  // The agent does not send its interval; it is the median gap. Before there are gaps, it is at least the highest age seen, so
  // that an agent with an hourly interval is not considered dead.
  if (info.received && !again) gaps = [...gaps, message.timestamp - update.timestamp].slice(-5);
  info.received = true;
  if (!again || !update) sampledAt = clock() - old;
  const usual = [...gaps].sort((one, two) => one - two)[gaps.length >> 1];
  history.interval = Math.max(usual ?? Math.max(history.interval, link.isUnavailable ? 0 : age()), 1);
  const had = update ? textOfAlerts() : "";
  update = message;
  recordUpdate(message);
  // What the page sees itself is soon a finding and an event.
  if (had !== textOfAlerts()) for (const name of ["health", "events"]) feeds[name].dueAt = 0;
  refreshFeeds();
};

const textOfAlerts = () => alertsOf(update).map(({ device, severity, target }) => device + severity + target).join();

const redraw = () => {
  redrawScheduled = false;
  show($("main"), true);
  show($("token-form"), false);
  setText($("host"), info.hostname || "(no host name)");
  setText($("machine"), joinDots([info.os, info.kernel && `Linux ${info.kernel}`, info.architecture, info.cpu_model]));
  renderFacts(update);
  const found = currentFindings();
  renderFindings(found);
  renderVitals(update, info);
  renderEvents();
  renderGpus(update);
  renderCores(update);
  renderNetworks(update);
  renderDisks(update);
  renderMounts(update);
  renderPressures(update);
  renderUpstreams(update);
  renderApps(update);
  setText($("foot"), `${joinDots([`hm-agent ${info.agent}`, `sample interval ${duration(history.interval)}`])}, sampled `);
  const sampledOn = new Date(update.timestamp * 1000);
  setAttr($("sampled"), "datetime", sampledOn.toISOString());
  setText($("sampled"), sampledOn.toLocaleString());
  show($("raw"), !link.token); // the links carry no token
  updateTab(found);
  renderConnection();
};

/** Title and icon of the tab. */
const updateTab = found => {
  const name = info.hostname || "hm-agent";
  const count = found.filter(isOpen).length;
  setText(document.querySelector("title"), `${isStale() ? "no data: " : count ? `(${count}) ` : ""}${name}`);
  setIcon(isStale() ? "unknown" : worstOf(found));
};

/** Renders the connection state and the age of the data: once a second, and on every change. */
const renderConnection = () => {
  const old = isStale();
  const { state } = link;
  show($("token-form"), state === "token" || ($("token-form").hidden === false && state === "connecting"));
  if (state === "token") show($("main"), false);
  document.body.classList.toggle("stale", Boolean(old));
  const wait = Math.max(0, Math.ceil(link.retryAt - clock()));
  const [level, text] = state === "token" ? ["unknown", "Token required"]
    : state === "live" ? (old ? ["warning", `${duration(age())} old`] : ["ok", "Live"])
    : state === "waiting" ? ["warning", "Reconnecting"] : ["unknown", "Connecting"];
  setMark($("pill-mark"), level);
  setText($("pill-text"), text);
  const lost = state !== "token" && (old || (state === "waiting" && !update));
  show($("notice"), Boolean(lost));
  const next = state === "waiting" ? `${link.reason} Next try in ${wait} s.` : state === "connecting" ? "Connecting …" : "";
  setText($("notice-text"), lost ? [update && `No data for ${duration(age())}.`, next].filter(Boolean).join(" ") : "");
  show($("retry"), state === "waiting");
  announce(old || state === "waiting" ? `No connection. ${link.reason}` : state === "live" ? statusText() : "");
  if (old) updateTab([]);
};

const statusText = () => {
  if (isUnchecked()) return "";
  return `${info.hostname}: live, ${countsOf(currentFindings()) || "no findings"}`;
};

/** Announces a text to screen readers, every ten seconds at most. */
const announce = text => {
  if (!text || text === announced || clock() - announcedAt < 10) return;
  [announced, announcedAt] = [text, clock()];
  setText($("announcement"), text);
};

const tick = () => {
  renderConnection();
  checkLink();
  refreshFeeds();
};

$("token-form").addEventListener("submit", event => {
  event.preventDefault();
  submitToken($("token").value);
});
$("retry").addEventListener("click", retryNow);
addEventListener("online", retryNow);
document.addEventListener("visibilitychange", () => { if (!document.hidden) retryNow(); });
setInterval(tick, 1000);
startLink();
