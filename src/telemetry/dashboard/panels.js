// The panels. Each function renders one part of an update.

const SHOWN_APPS = 60;
const LEVELS = { warning: "Warning: ", critical: "Critical: " };

/** Creates a row of the history: a large number and its curve. */
const createVital = name => {
  const value = make("span", { class: "value" });
  const unit = make("span", { class: "unit" });
  const aside = make("p", { class: "aside" });
  const heading = make("h3", {}, name);
  const plot = createPlot(["100 %", "50", "0"], { hasAxis: false });
  const node = make("div", { class: "vital" }, heading, make("p", { class: "figure" }, value, unit), aside, plot.node);
  return { node, heading, value, unit, aside, plot };
};

const memoryPercent = gpu =>
  isKnown(gpu.memory_used_bytes) && gpu.memory_total_bytes ? (100 * gpu.memory_used_bytes) / gpu.memory_total_bytes : null;
const pick = (items, name) => items.map(item => item[name]).filter(isKnown);
const sum = values => values.reduce((one, two) => one + two, 0);
const total = values => (values.length ? sum(values) : null);
const mean = values => (values.length ? sum(values) / values.length : null);

/** Why GPUs are not in a mean, e.g. `without GPU 5 (lost), GPU 6 (MIG)`. */
const gpusWithout = (gpus, name) => {
  const missing = gpus.filter(gpu => !isKnown(gpu[name]));
  const names = missing.slice(0, 4).map(gpu => `GPU ${gpu.index} (${absenceOf(gpu)})`);
  return missing.length ? `without ${names.join(", ")}${missing.length > 4 ? ` and ${missing.length - 4} more` : ""}` : "";
};

const gpuVital = (gpus, store) => {
  const memory = sum(pick(gpus, "memory_total_bytes"));
  const watts = pick(gpus, "power_watts");
  const hot = pick(gpus, "temperature_celsius");
  const uses = pick(gpus, "utilization_percent");
  const several = uses.length < gpus.length ? `GPUs, mean of ${uses.length} of ${gpus.length}` : `${gpus.length} GPUs, mean`;
  return {
    name: gpus.length === 1 ? "GPU" : several,
    key: "gpu",
    value: mean(uses),
    values: meanOfGpus(store, "gpu_utilization_percent"),
    aside: [
      joinDots([
        memory ? share(sum(pick(gpus, "memory_used_bytes")), memory) : "",
        watts.length ? watt(sum(watts)) : "",
        hot.length ? `${gpus.length > 1 ? "hottest " : ""}${Math.max(...hot)} °C` : "",
      ]),
      gpusWithout(gpus, "utilization_percent"),
    ],
  };
};

/** The rows of the history, with their values. */
let vitals = [];

/** Shows the values of the curves at the time under the pointer. */
const showReadout = ({ clientX }) => {
  const { times, seconds } = shownStore();
  const { left, width } = $("hero").querySelector(".curve").getBoundingClientRect();
  const at = (clientX - left) / width;
  const index = times.findIndex(time => time >= times.at(-1) - (1 - at) * seconds);
  const isInside = at >= 0 && at <= 1 && index >= 0;
  show($("cursor"), isInside);
  $("cursor").style.left = `${clientX - $("hero").getBoundingClientRect().left}px`;
  const when = isInside ? new Date(times[index] * 1000).toLocaleTimeString([], { hourCycle: "h23" }) : "";
  setText($("readout"), isInside ? `${when}: ${vitals.map(({ name, values }) => `${name.split(",")[0]} ${percent(values[index])}`).join(", ")}` : "");
};

const hideReadout = () => {
  show($("cursor"), false);
  setText($("readout"), "");
};

$("hero").addEventListener("pointermove", showReadout);
$("hero").addEventListener("pointerleave", hideReadout);

const renderVitals = (update, info) => {
  const { load, gpus } = update;
  const store = shownStore();
  const swap = update.swap_total_bytes
    ? `swap ${share(update.swap_used_bytes ?? 0, update.swap_total_bytes)}` : "no swap";
  const kills = update.oom_kills ? `${plural(update.oom_kills, "process", "processes")} killed by the OOM killer` : "";
  const MIB = 1024 * 1024;
  const memory = isKnown(update.ram_used_mb) ? share(update.ram_used_mb * MIB, update.ram_total_mb * MIB) : "";
  const loads = load ? `load ${[load.one, load.five, load.fifteen].map(each => each.toFixed(each < 10 ? 2 : 1)).join("  ")}` : "";
  const shown = [
    { name: "CPU", key: "cpu", value: update.cpu_percent, values: valuesOf(store, "cpu_percent"), aside: [plural(info.cpu_count, "core"), loads] },
    { name: "Memory", key: "memory", value: update.ram_percent, values: valuesOf(store, "memory_percent"), aside: [joinDots([memory, swap]), kills] },
  ];
  if (gpus.length) shown.push(gpuVital(gpus, store));
  vitals = shown;
  reconcile($("hero"), shown, each => each.key, each => createVital(each.name), (parts, { name, value, values, aside }) => {
    setText(parts.heading, name);
    setText(parts.value, isKnown(value) ? number(value) : "–");
    setText(parts.unit, isKnown(value) ? "%" : "");
    setText(parts.aside, aside.filter(Boolean).join("\n"));
    drawCurve(parts.plot.picture, store, values, { label: name, columns: 500 });
    setPlotAxis(parts.plot, store, WIDE_TICKS);
  });
  setText($("h-past"), history.range === "1h" ? "Last hour" : "Last 24 hours");
  const why = whyMissing(feeds.history);
  setText($("past-aside"), why && `No history: ${why}${link.isUnavailable ? "" : " The curves begin when this page is opened."}`);
};

const watt = value => (value < 9995 ? `${Math.round(value)} W` : `${(value / 1000).toFixed(1)} kW`);

const renderFacts = update => {
  const online = update.links.filter(each => each.state === "online").length;
  const { heartbeats: apps, heartbeats_truncated: hidden } = update;
  const well = apps.filter(each => appLevel(each) === "ok").length;
  const found = currentFindings();
  const isUnknown = isUnchecked() || health?.status === "unknown" || link.isUnavailable;
  const shown = [["Health", countsOf(found) || (isUnknown ? "unknown" : "OK"), isUnknown ? "unknown" : worstOf(found)],
    ["Uptime", isKnown(update.uptime_seconds) ? duration(update.uptime_seconds) : "–", ""]];
  if (update.links.length) {
    shown.push(["Upstreams", `${online} of ${update.links.length} online`, online < update.links.length ? "warning" : "ok"]);
  }
  if (apps.length) {
    const levels = apps.map(appLevel);
    const level = ["critical", "warning"].find(each => levels.includes(each)) ?? "ok";
    shown.push(["Applications", `${well} of ${apps.length} OK${hidden ? `, ${hidden} not shown` : ""}`, level]);
  }
  reconcile($("facts"), shown, ([name]) => name, ([name]) => {
    const [sign, text] = [make("span"), make("span")];
    return { node: make("div", {}, make("dt", {}, name), make("dd", {}, sign, text)), sign, text };
  }, (parts, [, text, level]) => {
    setMark(parts.sign, level || "sr-only");
    setText(parts.text, text);
  });
};

/** Each core is a cell with its number, utilisation and curve. */
const renderCores = update => {
  const each = update.cpus ?? [];
  show($("cpus"), each.length > 0);
  const busy = each.filter(core => core.percent >= 90).length;
  const { recent } = history.stores;
  setText($("cores-aside"), each.length ? `${plural(each.length, "core")}, ${busy} above 90 %. Curves: 0 to 100 %, ${sinceOpened()}` : "");
  setAttr($("cores"), "class", `cores ${each.length <= 16 ? "few" : each.length <= 64 ? "some" : "many"}`);
  const columns = each.length > 64 ? 40 : 100; // small cells need fewer points
  reconcile($("cores"), each, core => String(core.cpu), core => {
    const value = make("b");
    const picture = createCurve();
    picture.node.setAttribute("aria-hidden", "true"); // screen readers read the number
    const hiddenText = text => make("span", { class: "sr-only" }, text);
    const name = make("span", { class: "name" }, hiddenText("core "), String(core.cpu), hiddenText(": "));
    return { node: make("li", {}, picture.node, name, value, hiddenText(" %")), value, picture };
  }, ({ node, value, picture }, core) => {
    setText(value, String(Math.round(core.percent)));
    setAttr(node, "class", core.percent >= 90 ? "hot" : "");
    node.style.setProperty("--heat", `${Math.round(core.percent * 0.42)}%`);
    drawCurve(picture, recent, valuesOf(recent, `core ${core.cpu}`), { columns });
  });
};

/** Of curves that are not recorded. */
const sinceOpened = () => `last ${duration(history.stores.recent.seconds)}, while this page is open`;

/** The plot of a section: the sum of its devices. */
const plots = new Map();

const renderTotal = (id, up, down, label) => {
  if (!plots.has(id)) {
    plots.set(id, createPlot(["", "0", ""], { mirrored: true }));
    $(`${id}-plot`).append(plots.get(id).node);
  }
  const plot = plots.get(id);
  const top = drawMirrored(plot.picture, shownStore(), up, down, label);
  setText(plot.labels[0], rate(top));
  setText(plot.labels[2], rate(top));
  setPlotAxis(plot, shownStore(), NARROW_TICKS);
};

/** Devices with two rates each. Idle ones share one line. */
const renderRates = (id, devices) => {
  const { recent } = history.stores;
  const moved = devices.filter(each => peakOf(recent, each.up) > 0 || peakOf(recent, each.down) > 0);
  const shown = devices.length <= 3 ? devices : moved.length ? moved : devices.slice(0, 1);
  const idle = devices.filter(each => !shown.includes(each));
  show($(`${id}-idle`), idle.length > 0);
  setText($(`${id}-idle`), `Idle: ${idle.map(each => each.name).join(", ")}`);
  reconcile($(id), shown, each => each.name, each => {
    const [first, second, note] = [make("b"), make("b"), make("p", { class: "rest" })];
    const picture = createCurve(true);
    const flow = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
    const flows = make("dl", {}, flow(each.labels[0], first), flow(each.labels[1], second));
    return { node: make("li", {}, make("h3", {}, each.name), note, flows, picture.node), first, second, note, picture };
  }, ({ first, second, note, picture }, each) => {
    setText(first, rate(each.values[0]));
    setText(second, rate(each.values[1]));
    const top = drawMirrored(picture, recent, each.up, each.down, each.name);
    setText(note, joinDots([each.note, `±${rate(top)}`]));
  });
};

const isLoopback = ({ device }) => device === "lo";
const loopbackLast = (one, two) => isLoopback(one) - isLoopback(two);

const renderNetworks = update => {
  renderTotal("networks", "network_receive_bytes_per_second", "network_transmit_bytes_per_second", "All interfaces");
  renderRates("networks", [...update.networks].sort(loopbackLast).map(toNetwork));
};

const toNetwork = each => {
  const { receive, transmit } = each;
  const bad = sum([receive, transmit].filter(isKnown).map(flow => flow.errors_per_second + flow.drops_per_second));
  return {
    name: each.device,
    labels: ["receive", "transmit"],
    values: [receive?.bytes_per_second, transmit?.bytes_per_second],
    up: `net ${each.device} receive`,
    down: `net ${each.device} transmit`,
    note: bad ? `${number(bad)} errors or drops per second` : "",
  };
};

const renderDisks = update => {
  renderTotal("disks", "disk_read_bytes_per_second", "disk_write_bytes_per_second", "All disks");
  renderRates("disks", update.disks.map(toDisk));
};

const toDisk = each => ({
  name: each.device,
  labels: ["read", "write"],
  values: [each.read_bytes_per_second, each.write_bytes_per_second],
  up: `disk ${each.device} read`,
  down: `disk ${each.device} write`,
  note: isKnown(each.busy_percent) ? `${percent(each.busy_percent)} busy` : "",
});

const createBar = () => {
  const fill = make("i");
  return { node: make("span", { class: "bar", "aria-hidden": "true" }, fill), fill };
};
const setBar = (parts, share, level = "") => {
  parts.fill.style.width = `${Math.min(100, Math.max(0, share ?? 0)).toFixed(1)}%`;
  setAttr(parts.fill, "class", level);
};

const renderMounts = update => {
  reconcile($("mounts"), update.file_systems, each => each.mount_point, each => {
    const [sign, kind] = [make("span"), make("small")];
    const [used, left] = [make("td", { class: "number" }), make("td", { class: "number" })];
    const full = createBar();
    const head = make("th", { scope: "row" }, sign, make("span", {}, each.mount_point), " ", kind);
    return { node: make("tr", {}, head, make("td", { class: "wide" }, full.node), used, left), sign, kind, used, left, full };
  }, (parts, each) => {
    const level = mountLevel(each);
    setMark(parts.sign, level || "sr-only");
    setText(parts.kind, `${each.type}${each.read_only ? ", read-only" : ""}`);
    setText(parts.used, percent(each.used_percent));
    setText(parts.left, bytes(each.available_bytes));
    setBar(parts.full, each.used_percent, level);
  });
};

const renderPressures = update => {
  const names = { cpu: "CPU", memory: "memory", io: "I/O" };
  const there = Object.keys(names).filter(name => update.pressure[name]);
  reconcile($("pressures"), there, name => name, name => {
    const cells = Array.from({ length: 4 }, () => make("td", { class: "number" }));
    return { node: make("tr", {}, make("th", { scope: "row" }, names[name]), ...cells), cells };
  }, ({ cells }, name) => {
    const { some, full } = update.pressure[name];
    [some.avg10_percent, some.avg60_percent, some.avg300_percent, full?.avg60_percent]
      .forEach((value, at) => setText(cells[at], percent(value)));
  });
  show($("h-pressure").parentElement, there.length + update.temperatures.length > 0);
  show($("heat"), update.temperatures.length > 0);
  reconcile($("temperatures"), update.temperatures, each => `${each.zone} ${each.sensor}`, each => {
    const value = make("b");
    return { node: make("li", {}, make("span", {}, each.sensor), " ", value), value };
  }, (parts, each) => setText(parts.value, `${Math.round(each.celsius)} °C`));
};

/** Creates an item with a name, and its state as mark and text. */
const createStateItem = name => {
  const [sign, word, note] = [make("span"), make("span", { class: "state" }), make("p", { class: "rest" })];
  return { node: make("li", {}, sign, make("b", {}, name), " ", word, note), sign, word, note };
};

const renderUpstreams = update => {
  show($("links-none"), update.links.length === 0);
  reconcile($("links"), update.links, each => each.name, each => createStateItem(each.name), (parts, each) => {
    setMark(parts.sign, linkLevel(each));
    setText(parts.word, each.state);
    setText(parts.note, joinDots([
      `for ${duration(update.timestamp - each.since_unix_seconds)}`,
      each.backlog ? `${plural(each.backlog, "report")} waiting` : "",
      each.dropped ? `${each.dropped} dropped` : "",
      each.last_outage ? `last disconnect: ${each.last_outage}` : "",
    ]));
  });
};

const renderApps = update => {
  const order = { critical: 0, warning: 1, unknown: 2, ok: 3 };
  const all = [...update.heartbeats].sort((a, b) => order[appLevel(a)] - order[appLevel(b)]);
  const shown = all.slice(0, SHOWN_APPS);
  show($("apps-none"), all.length === 0);
  const rest = all.length - shown.length + (update.heartbeats_truncated ?? 0);
  show($("apps-rest"), rest > 0);
  setText($("apps-rest"), `and ${rest} more in the same or a better state`);
  reconcile($("apps"), shown, each => each.app_id, each => createStateItem(each.app_id), (parts, each) => {
    setMark(parts.sign, appLevel(each));
    setText(parts.word, isKnown(each.maintenance_seconds) ? "maintenance" : each.state);
    setText(parts.note, isKnown(each.maintenance_seconds)
      ? `${duration(each.maintenance_seconds)} left`
      : `last heartbeat ${duration(each.od * each.granted_seconds)} ago, timeout ${duration(each.granted_seconds)}`);
  });
};
