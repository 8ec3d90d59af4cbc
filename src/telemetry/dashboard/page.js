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
const isStale = () => update && (link.isUnavailable || age() > STALE_INTERVALS * (history.interval || 5) + 1);

const onMessage = message => {
  if (message.type === "system_info") {
    info = message;
    if (history.host !== info.hostname) clearHistory();
    history.host = info.hostname;
  } else if (message.type === "usage_update") {
    onUpdate(message);
    if (!redrawScheduled) requestAnimationFrame(redraw);
    redrawScheduled = true;
  }
};

/** The age of the first sample on a connection is known from the agent's clock; later samples are new. */
const onUpdate = message => {
  const again = history.times.at(-1) === message.timestamp;
  const old = info.received ? 0 : Math.max(0, info.timestamp - message.timestamp);
  // The agent does not send its interval; it is the median gap. Before there are gaps, it is at least the highest age seen, so
  // that an agent with an hourly interval is not considered dead.
  if (info.received && !again) gaps = [...gaps, message.timestamp - update.timestamp].slice(-5);
  info.received = true;
  if (!again || !update) sampledAt = clock() - old;
  const usual = [...gaps].sort((one, two) => one - two)[gaps.length >> 1];
  history.interval = Math.max(usual ?? Math.max(history.interval, link.isUnavailable ? 0 : age()), 1);
  update = message;
  const cores = message.cpus ?? [];
  const values = {
    cpu: message.cpu_percent,
    memory: message.ram_percent,
    gpu: mean(pick(message.gpus, "utilization_percent")),
  };
  for (const gpu of message.gpus) values[`gpu ${gpu.index}`] = gpu.utilization_percent;
  for (const { device, receive, transmit } of message.networks) {
    values[`net ${device} receive`] = receive?.bytes_per_second;
    values[`net ${device} transmit`] = transmit?.bytes_per_second;
  }
  for (const disk of message.disks) {
    values[`disk ${disk.device} read`] = disk.read_bytes_per_second;
    values[`disk ${disk.device} write`] = disk.write_bytes_per_second;
  }
  recordSample(message.timestamp, values, cores);
};

const redraw = () => {
  redrawScheduled = false;
  show($("main"), true);
  show($("token-form"), false);
  setText($("host"), info.hostname || "(no host name)");
  setText($("machine"), joinDots([info.os, info.kernel && `Linux ${info.kernel}`, info.architecture, info.cpu_model]));
  renderFacts(update);
  const found = alertsOf(update);
  renderAlerts(found);
  renderTiles(update, info);
  renderGpus(update);
  renderCores(update);
  renderNetworks(update);
  renderDisks(update);
  renderMounts(update);
  renderPressures(update);
  renderUpstreams(update);
  renderApps(update);
  setText($("foot"), `${joinDots([`hm-agent ${info.agent}`, `sample interval ${duration(history.interval)}`,
    `curves show the last ${duration(windowSeconds())}`])}, sampled `);
  const sampledOn = new Date(update.timestamp * 1000);
  setAttr($("sampled"), "datetime", sampledOn.toISOString());
  setText($("sampled"), sampledOn.toLocaleString());
  show($("raw"), !link.token); // the links carry no token
  updateTab(found.length);
  renderConnection();
};

/** Title and icon of the tab. */
const updateTab = count => {
  const name = info.hostname || "hm-agent";
  setText(document.querySelector("title"), `${isStale() ? "no data: " : count ? `(${count}) ` : ""}${name}`);
  setIcon(isStale() ? "unknown" : count ? "warning" : "ok");
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
  if (old) updateTab(0);
};

const statusText = () => {
  const count = update ? alertsOf(update).length : 0;
  return `${info.hostname}: live, ${count ? plural(count, "alert") : "no alerts"}`;
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
};

$("token-form").addEventListener("submit", event => {
  event.preventDefault();
  submitToken($("token").value);
});
$("retry").addEventListener("click", retryNow);
addEventListener("online", retryNow);
addEventListener("pagehide", saveHistory);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return saveHistory();
  retryNow();
});
setInterval(tick, 1000);
restoreHistory();
startLink();
