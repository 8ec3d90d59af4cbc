// The panels: each function turns a part of an update into its part of the document.

const SHOWN_APPS = 60;
const LEVELS = { good: "", poor: "Warning: ", bad: "Critical: ", unknown: "" };

/** One of the big numbers with its curve. */
const tile = name => {
  const value = make("span", { class: "value" });
  const unit = make("span", { class: "unit" });
  const aside = make("p", { class: "aside" });
  const picture = curve();
  const heading = make("h2", {}, name);
  const node = make("section", { class: "tile" }, heading, make("p", { class: "figure" }, value, unit), aside, picture.node);
  return { node, value, unit, aside, picture };
};

const memoryPercent = gpu =>
  known(gpu.memory_used_bytes) && gpu.memory_total_bytes ? (100 * gpu.memory_used_bytes) / gpu.memory_total_bytes : null;
const pick = (items, name) => items.map(item => item[name]).filter(known);
const sum = values => values.reduce((one, two) => one + two, 0);
const mean = values => (values.length ? sum(values) / values.length : null);

const tiles = (update, info) => {
  const { load, gpus } = update;
  const swap = update.swap_total_bytes
    ? `swap ${share(update.swap_used_bytes ?? 0, update.swap_total_bytes)}` : "no swap";
  const kills = update.oom_kills ? `${plural(update.oom_kills, "process", "processes")} killed for want of memory` : "";
  const MIB = 1024 * 1024;
  const memory = known(update.ram_used_mb) ? share(update.ram_used_mb * MIB, update.ram_total_mb * MIB) : "";
  const loads = load ? `load ${[load.one, load.five, load.fifteen].map(each => each.toFixed(each < 10 ? 2 : 1)).join("  ")}` : "";
  const shown = [
    { name: "Processor", series: "cpu", value: update.cpu_percent, aside: [plural(info.cpu_count, "core"), loads] },
    { name: "Memory", series: "memory", value: update.ram_percent, aside: [memory, swap, kills] },
  ];
  if (gpus.length) {
    const total = sum(pick(gpus, "memory_total_bytes"));
    const watts = pick(gpus, "power_watts");
    const hot = pick(gpus, "temperature_celsius");
    shown.push({
      name: gpus.length === 1 ? "GPU" : `${gpus.length} GPUs, mean`,
      series: "gpu",
      value: mean(pick(gpus, "utilization_percent")),
      aside: [
        total ? share(sum(pick(gpus, "memory_used_bytes")), total) : "",
        watts.length ? watt(sum(watts)) : "",
        hot.length ? `${gpus.length > 1 ? "hottest " : ""}${Math.max(...hot)} °C` : "",
      ],
    });
  }
  keep($("hero"), shown, each => each.series, each => tile(each.name), (parts, each) => {
    const { value } = each;
    say(parts.node.firstChild, each.name);
    say(parts.value, known(value) ? number(value) : "–");
    say(parts.unit, known(value) ? "%" : "");
    say(parts.aside, each.aside.filter(Boolean).join("\n"));
    draw(parts.picture, each.series, each.name, 100);
  });
};

const watt = value => (value < 9995 ? `${Math.round(value)} W` : `${(value / 1000).toFixed(1)} kW`);

const facts = update => {
  const online = update.links.filter(each => each.state === "online").length;
  const apps = update.heartbeats;
  const well = apps.filter(each => appLevel(each) === "good").length;
  const shown = [["Up", known(update.uptime_seconds) ? duration(update.uptime_seconds) : "–", ""]];
  if (update.links.length) {
    shown.push(["Uplinks", `${online} of ${update.links.length} online`, online < update.links.length ? "poor" : "good"]);
  }
  if (apps.length) {
    const levels = apps.map(appLevel);
    const level = ["bad", "poor"].find(each => levels.includes(each)) ?? "good";
    shown.push(["Applications", `${well} of ${apps.length} OK`, level]);
  }
  keep($("facts"), shown, ([name]) => name, ([name]) => {
    const [sign, text] = [make("span"), make("span")];
    return { node: make("div", {}, make("dt", {}, name), make("dd", {}, sign, text)), sign, text };
  }, (parts, [, text, level]) => {
    mark(parts.sign, level || "unseen");
    say(parts.text, text);
  });
};

const troubles = found => {
  show($("attention"), found.length > 0);
  const shown = found.slice(0, 8);
  if (found.length > shown.length) shown.push(["poor", `and ${found.length - shown.length} more`]);
  keep($("troubles"), shown, ([, text]) => text, () => {
    const [sign, kind, text] = [make("span"), make("span", { class: "unseen" }), make("span")];
    return { node: make("li", {}, sign, kind, text), sign, kind, text };
  }, (parts, [level, text]) => {
    mark(parts.sign, level);
    say(parts.kind, LEVELS[level]);
    say(parts.text, text);
  });
};

/** Every core as a cell: its number, how busy it is, and its own curve behind. */
const cores = update => {
  const each = update.cpus ?? [];
  show($("cpus"), each.length > 0);
  const busy = each.filter(core => core.percent >= 90).length;
  say($("cores-aside"), each.length ? `${plural(each.length, "core")}, ${busy} of them over 90 %` : "");
  attribute($("cores"), "class", `cores ${each.length <= 16 ? "few" : each.length <= 64 ? "some" : "many"}`);
  const samples = sparse(each.length > 64 ? 40 : 200); // a cell of a few pixels has no use for more
  keep($("cores"), each.map((core, at) => ({ ...core, at })), core => String(core.cpu), core => {
    const value = make("b");
    const picture = curve();
    picture.node.setAttribute("aria-hidden", "true"); // its number is read, and 256 curves would be too much
    const unseen = text => make("span", { class: "unseen" }, text);
    const name = make("span", { class: "name" }, unseen("core "), String(core.cpu), unseen(": "));
    return { node: make("li", {}, picture.node, name, value, unseen(" %")), value, picture };
  }, ({ node, value, picture }, core) => {
    say(value, String(Math.round(core.percent)));
    attribute(node, "class", core.percent >= 90 ? "hot" : "");
    node.style.setProperty("--heat", `${Math.round(core.percent * 0.42)}%`);
    const valueAt = at => history.cores[at].charCodeAt(core.at) - 35;
    setPaths(picture.paths, outline(runs(valueAt, samples), HEIGHT, value => HEIGHT - 1 - 0.98 * value));
  });
};

/** Devices with two flows each. What stood still in the whole time is one line. */
const strips = (id, devices) => {
  const moved = devices.filter(each => most(each.up) > 0 || most(each.down) > 0);
  const shown = devices.length <= 3 ? devices : moved.length ? moved : devices.slice(0, 1);
  const idle = devices.filter(each => !shown.includes(each));
  show($(`${id}-idle`), idle.length > 0);
  say($(`${id}-idle`), `Idle: ${idle.map(each => each.name).join(", ")}`);
  keep($(id), shown, each => each.name, each => {
    const [first, second, note] = [make("b"), make("b"), make("p", { class: "rest" })];
    const picture = curve(true);
    const flow = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
    const flows = make("dl", {}, flow(each.words[0], first), flow(each.words[1], second));
    return { node: make("li", {}, make("h3", {}, each.name), note, flows, picture.node), first, second, note, picture };
  }, ({ first, second, note, picture }, each) => {
    say(first, rate(each.values[0]));
    say(second, rate(each.values[1]));
    const peak = drawMirrored(picture, each.up, each.down, each.name);
    say(note, dots([each.note, `peak ${rate(peak)}`]));
  });
};

const isLoop = ({ device }) => device === "lo";
const ownLast = (one, two) => isLoop(one) - isLoop(two);

const networks = update => strips("networks", [...update.networks].sort(ownLast).map(each => {
  const { receive, transmit } = each;
  const bad = sum([receive, transmit].filter(known).map(flow => flow.errors_per_second + flow.drops_per_second));
  return {
    name: each.device,
    words: ["receive", "transmit"],
    values: [receive?.bytes_per_second, transmit?.bytes_per_second],
    up: `net ${each.device} receive`,
    down: `net ${each.device} transmit`,
    note: bad ? `${number(bad)} errors or drops a second` : "",
  };
}));

const disks = update => strips("disks", update.disks.map(each => ({
  name: each.device,
  words: ["read", "write"],
  values: [each.read_bytes_per_second, each.write_bytes_per_second],
  up: `disk ${each.device} read`,
  down: `disk ${each.device} write`,
  note: known(each.busy_percent) ? `${percent(each.busy_percent)} busy` : "",
})));

const bar = () => {
  const fill = make("i");
  return { node: make("span", { class: "bar", "aria-hidden": "true" }, fill), fill };
};
const fill = (parts, share, level = "") => {
  parts.fill.style.width = `${Math.min(100, Math.max(0, share ?? 0)).toFixed(1)}%`;
  attribute(parts.fill, "class", level);
};

const mounts = update => {
  keep($("mounts"), update.file_systems, each => each.mount_point, each => {
    const [sign, kind] = [make("span"), make("small")];
    const [used, left] = [make("td", { class: "number" }), make("td", { class: "number" })];
    const full = bar();
    const head = make("th", { scope: "row" }, sign, make("span", {}, each.mount_point), " ", kind);
    return { node: make("tr", {}, head, make("td", { class: "wide" }, full.node), used, left), sign, kind, used, left, full };
  }, (parts, each) => {
    const level = mountLevel(each);
    mark(parts.sign, level || "unseen");
    say(parts.kind, `${each.type}${each.read_only ? ", read-only" : ""}`);
    say(parts.used, percent(each.used_percent));
    say(parts.left, bytes(each.available_bytes));
    fill(parts.full, each.used_percent, level);
  });
};

const pressures = update => {
  const names = { cpu: "a processor", memory: "memory", io: "disks" };
  const there = Object.keys(names).filter(name => update.pressure[name]);
  keep($("pressures"), there, name => name, name => {
    const cells = Array.from({ length: 4 }, () => make("td", { class: "number" }));
    return { node: make("tr", {}, make("th", { scope: "row" }, names[name]), ...cells), cells };
  }, ({ cells }, name) => {
    const { some, full } = update.pressure[name];
    [some.avg10_percent, some.avg60_percent, some.avg300_percent, full?.avg60_percent]
      .forEach((value, at) => say(cells[at], percent(value)));
  });
  show($("h-pressure").parentElement, there.length + update.temperatures.length > 0);
  show($("heat"), update.temperatures.length > 0);
  keep($("temperatures"), update.temperatures, each => `${each.zone} ${each.sensor}`, each => {
    const value = make("b");
    return { node: make("li", {}, make("span", {}, each.sensor), " ", value), value };
  }, (parts, each) => say(parts.value, `${Math.round(each.celsius)} °C`));
};

/** A name with its state, as a sign and as a word. */
const stateItem = name => {
  const [sign, word, note] = [make("span"), make("span", { class: "word" }), make("p", { class: "rest" })];
  return { node: make("li", {}, sign, make("b", {}, name), " ", word, note), sign, word, note };
};

const links = update => {
  show($("links-none"), update.links.length === 0);
  keep($("links"), update.links, each => each.name, each => stateItem(each.name), (parts, each) => {
    mark(parts.sign, linkLevel(each));
    say(parts.word, each.state);
    say(parts.note, dots([
      `for ${duration(update.timestamp - each.since_unix_seconds)}`,
      each.backlog ? `${plural(each.backlog, "report")} waiting` : "",
      each.dropped ? `${each.dropped} dropped` : "",
      each.last_outage ? `last outage: ${each.last_outage}` : "",
    ]));
  });
};

const apps = update => {
  const order = { bad: 0, poor: 1, unknown: 2, good: 3 };
  const all = [...update.heartbeats].sort((a, b) => order[appLevel(a)] - order[appLevel(b)]);
  const shown = all.slice(0, SHOWN_APPS);
  show($("apps-none"), all.length === 0);
  show($("apps-rest"), all.length > shown.length);
  say($("apps-rest"), `and ${all.length - shown.length} more, none of them worse`);
  keep($("apps"), shown, each => each.app_id, each => stateItem(each.app_id), (parts, each) => {
    mark(parts.sign, appLevel(each));
    say(parts.word, known(each.maintenance_seconds) ? "maintenance" : each.state);
    say(parts.note, known(each.maintenance_seconds)
      ? `${duration(each.maintenance_seconds)} left`
      : `beat ${duration(each.od * each.granted_seconds)} ago, promised within ${duration(each.granted_seconds)}`);
  });
};
