// The totals above the list. A click on one sets the filter that shows its nodes; a second click clears it.

const MAX_LISTED_MODELS = 4;

/** Formats 10000 as "10 000", with narrow spaces that do not break. */
const count = value => String(value ?? 0).replace(/\B(?=(\d{3})+$)/g, "\u202f");

const hasFilter = wanted => Object.entries(wanted).every(([name, value]) => filters[name] === value);

const toggleFilter = wanted => {
  const none = Object.fromEntries(Object.keys(wanted).map(name => [name, ""]));
  setFilters(hasFilter(wanted) ? none : wanted);
};

const createTotal = ({ filter }) => {
  const [sign, name] = [make("span"), make("span")];
  const [value, note] = [make("b", { class: "amount" }), make("small")];
  const node = make("button", { type: "button", class: "total" }, make("span", { class: "label" }, sign, name), make("span", { class: "figure" }, value, note));
  node.addEventListener("click", () => toggleFilter(filter));
  return { node, sign, name, value, note };
};

const updateTotal = (parts, { name, value, note = "", level, filter }) => {
  setText(parts.name, name);
  setText(parts.value, value);
  setText(parts.note, note);
  setMark(parts.sign, level || "sr-only");
  setAttr(parts.node, "class", `total ${level}`);
  setAttr(parts.node, "aria-pressed", String(hasFilter(filter)));
};

/** Creates a total with parts. Each part sets its own filter. */
const createSplitTotal = ({ name }) => {
  const [value, parts, rest] = [make("b", { class: "amount" }), make("ul", { class: "parts" }), make("small", { class: "rest" })];
  const node = make("section", { class: "total split" }, make("h3", { class: "label" }, name), value, parts, rest);
  return { node, value, parts, rest };
};

const updateSplitTotal = ({ value, parts, rest }, total) => {
  setText(value, total.value);
  setText(rest, total.rest ?? "");
  reconcile(parts, total.parts, ({ name }) => name, ({ filter }) => {
    const [sign, amount, name] = [make("span"), make("b"), make("span")];
    const button = make("button", { type: "button", class: "part" }, sign, amount, " ", name);
    button.addEventListener("click", () => toggleFilter(filter));
    return { node: make("li", {}, button), button, sign, amount, name };
  }, ({ button, sign, amount, name }, part) => {
    setMark(sign, part.level || "sr-only");
    setText(amount, count(part.amount));
    setText(name, part.name);
    setAttr(button, "aria-pressed", String(hasFilter(part.filter)));
  });
};

const nodeTotal = ({ online = 0, lost = 0, offline = 0 }) => {
  const part = (name, amount, level) => ({ name, amount, level: amount ? level : "", filter: { state: name } });
  return {
    name: "Nodes",
    value: count(online + lost + offline),
    parts: [part("online", online, "ok"), part("lost", lost, "warning"), part("offline", offline, "unknown")],
  };
};

const gpuTotal = gpus => {
  const models = Object.entries(gpus).sort(([, one], [, two]) => two - one);
  const all = models.reduce((sum, [, amount]) => sum + amount, 0);
  const parts = models.slice(0, MAX_LISTED_MODELS).map(([name, amount]) => ({ name, amount, level: "", filter: { model: name } }));
  const others = models.length - parts.length;
  return { name: "GPUs", value: count(all), parts, rest: others > 0 ? `and ${plural(others, "other model")}` : "" };
};

const renderTotals = () => {
  const { nodes = {}, gpus = {}, gpu_states: states = {}, problems = {}, xids_last_24h: xids, oldest_silence: silence } = fleet.totals;
  const total = (name, amount, level, filter) => ({ name, value: count(amount), level: amount ? level : "", filter });
  const silent = silence && fleet.byId.get(silence.node_id);
  const shown = [
    total("Critical", problems.critical, "critical", { problem: "critical" }),
    total("Warnings", problems.warning, "warning", { problem: "warning" }),
    total("GPUs hung", states.hung, "critical", { problem: "hung" }),
    total("GPUs lost", states.lost, "critical", { problem: "lost" }),
    ...(states.failed || filters.problem === "failed" ? [total("GPUs failed", states.failed, "critical", { problem: "failed" })] : []),
    total("Idle, memory taken", states.idle_memory, "warning", { problem: "idle_memory" }),
    total("XIDs, last 24 h", xids, "warning", { problem: "xid" }),
    {
      name: "Longest silence",
      value: silence ? shortDuration(hubTime() - silence.since) : "–",
      note: silence ? silent?.name ?? silence.node_id : "",
      level: silence ? "warning" : "",
      filter: { state: "away" },
    },
  ];
  reconcile($("sums"), [nodeTotal(nodes), gpuTotal(gpus)], ({ name }) => name, createSplitTotal, updateSplitTotal);
  reconcile($("alarms"), shown, ({ name }) => name, createTotal, updateTotal);
};

/** Formats 11000 as "3 h": the largest unit only. */
const shortDuration = seconds => {
  const [, unit, name] = [[86400, 86400, "d"], [3600, 3600, "h"], [60, 60, "min"]].find(([least]) => seconds >= least) ?? [0, 1, "s"];
  return `${Math.max(0, Math.floor(seconds / unit))} ${name}`;
};
