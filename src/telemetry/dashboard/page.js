// What runs: messages come in, one picture a message goes out, and a clock says how old it is.

/** Behind this many intervals, and a second for the way, data are old. */
const OLD = 1.5;
/** Behind this many, and some seconds, the connection is given up. */
const DEAD = 3;

let info = {};
let update = null;
let sampledAt = 0; // by this machine's clock
let gaps = [];
let drawing = false;
let spoken = "";
let spokenAt = 0;

const age = () => Math.max(0, clock() - sampledAt);
const isOld = () => update && age() > OLD * (history.interval || 5) + 1;

const heard = message => {
  if (message.type === "system_info") {
    info = message;
    if (history.host !== info.hostname) forget();
    history.host = info.hostname;
  } else if (message.type === "usage_update") {
    sampled(message);
    if (!drawing) requestAnimationFrame(redraw);
    drawing = true;
  }
};

/** The first sample on a connection is as old as the agent's clock says; those that follow are new. */
const sampled = message => {
  const again = history.times.at(-1) === message.timestamp;
  const old = info.received ? 0 : Math.max(0, info.timestamp - message.timestamp);
  // The interval is not said: it is the usual gap. Before there are gaps, it is no less than any age that was seen, so
  // that an agent that samples every hour is not taken for dead.
  if (info.received) gaps = [...gaps, Math.round(clock() - sampledAt)].slice(-5);
  info.received = true;
  if (!again || !update) sampledAt = clock() - old;
  const usual = [...gaps].sort((one, two) => one - two)[gaps.length >> 1];
  history.interval = Math.max(usual ?? Math.max(history.interval, age()), 1);
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
  remember(message.timestamp, values, cores);
};

const redraw = () => {
  drawing = false;
  show($("main"), true);
  show($("ask"), false);
  say($("host"), info.hostname || "a node without a name");
  say($("machine"), dots([info.os, info.kernel && `Linux ${info.kernel}`, info.architecture, info.cpu_model]));
  facts(update);
  const found = troublesOf(update);
  troubles(found);
  tiles(update, info);
  gpus(update);
  cores(update);
  networks(update);
  disks(update);
  mounts(update);
  pressures(update);
  links(update);
  apps(update);
  say($("foot"), `${dots([`hm-agent ${info.agent}`, `a sample every ${duration(history.interval)}`,
    `curves show the last ${duration(windowSeconds())}`])}, this one of `);
  const sampledOn = new Date(update.timestamp * 1000);
  attribute($("sampled"), "datetime", sampledOn.toISOString());
  say($("sampled"), sampledOn.toLocaleString());
  show($("raw"), !link.token); // a link carries none
  tab(found.length);
  changed();
};

/** The tab's name and sign. */
const tab = count => {
  const name = info.hostname || "hm-agent";
  say(document.querySelector("title"), `${isOld() ? "no data: " : count ? `(${count}) ` : ""}${name}`);
  const colour = isOld() ? "gray" : count ? "orange" : "teal";
  const shape = count && !isOld() ? "M8 1l7 14H1z" : "M8 1a7 7 0 1 0 .01 0z";
  attribute($("icon"), "href", "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    + `<path fill='${colour}' d='${shape}'/></svg>`);
};

/** How it stands with the connection and the age of what is seen; once a second, and whenever it changes. */
const changed = () => {
  const old = isOld();
  const { state } = link;
  show($("ask"), state === "asking" || ($("ask").hidden === false && state === "connecting"));
  if (state === "asking") show($("main"), false);
  document.body.classList.toggle("old", Boolean(old));
  const wait = Math.max(0, Math.ceil(link.retryAt - clock()));
  const [level, text] = state === "asking" ? ["unknown", "Token needed"]
    : state === "live" ? (old ? ["poor", `${duration(age())} old`] : ["good", "Live"])
    : state === "waiting" ? ["poor", "Reconnecting"] : ["unknown", "Connecting"];
  mark($("pill-mark"), level);
  say($("pill-text"), text);
  const lost = state !== "asking" && (old || (state === "waiting" && !update));
  show($("notice"), Boolean(lost));
  const next = state === "waiting" ? `${link.reason} Next try in ${wait} s.` : state === "connecting" ? "Connecting …" : "";
  say($("notice-text"), lost ? [update && `No data for ${duration(age())}.`, next].filter(Boolean).join(" ") : "");
  show($("again"), state === "waiting");
  speak(old || state === "waiting" ? `No connection. ${link.reason}` : state === "live" ? summary() : "");
  if (old) tab(0);
};

const summary = () => {
  const count = update ? troublesOf(update).length : 0;
  return `${info.hostname}: live, ${count ? `${plural(count, "thing")} to look at` : "all is well"}`;
};

/** For screen readers, seldom: what is said twice in ten seconds is noise. */
const speak = text => {
  if (!text || text === spoken || clock() - spokenAt < 10) return;
  [spoken, spokenAt] = [text, clock()];
  say($("spoken"), text);
};

const tick = () => {
  changed();
  if (link.socket && clock() - link.heardAt > DEAD * (history.interval || 5) + 15) giveUp();
};

$("ask").addEventListener("submit", event => {
  event.preventDefault();
  answerWith($("token").value);
});
$("again").addEventListener("click", tryNow);
addEventListener("online", tryNow);
addEventListener("pagehide", store);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return store();
  tryNow();
});
setInterval(tick, 1000);
restore();
link.token = findToken();
connect();
