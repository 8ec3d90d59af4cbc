// The rows of the list. While the list scrolls, a row is reused for other nodes.

const HEADS = ["State", "Node", "Problem", "GPUs", "GPU use", "GPU memory", "Group / project", "Version", "Since / last data"];
const MAX_SQUARES = 16;
const GPU_STATES = {
  active: "active",
  idle: "idle",
  idle_memory: "idle, memory taken",
  suspended: "suspended",
  hung: "hung",
  lost: "lost",
  failed: "failed",
};

const createHeads = () => {
  $("heads").append(...HEADS.map(name => make("span", { role: "columnheader" }, name)));
  const entries = Object.entries(GPU_STATES).map(([state, text]) => make("span", {}, make("i", { class: state }), text));
  $("legend").append(...entries);
};

const createMeter = () => {
  const [fill, value] = [make("i"), make("b")];
  const element = make("span", { role: "gridcell", class: "meter" }, make("span", { class: "bar", "aria-hidden": "true" }, fill), value);
  return { element, fill, value };
};

const setMeter = ({ fill, value }, share) => {
  fill.style.width = `${Math.min(100, Math.max(0, share ?? 0))}%`;
  setText(value, isKnown(share) ? `${Math.round(share)} %` : "–");
};

const createRow = () => {
  const cell = (name, ...children) => make("span", { role: "gridcell", class: name }, ...children);
  const [sign, state] = [make("span"), make("span", { class: "word" })];
  const [name, id] = [make("span", { class: "text" }), make("small")];
  const unverified = make("span", { class: "unverified", title: "has not proved which node it is" }, "unverified");
  const anchor = make("a", { class: "name", tabindex: "-1" }, name, " ", unverified);
  const [severity, problem, more] = [make("span", { class: "sr-only" }), make("span", { class: "text" }), make("small")];
  const squares = make("span", { class: "squares", "aria-hidden": "true" });
  const [models, gpuStates] = [make("span", { class: "text" }), make("span", { class: "sr-only" })];
  const [use, memory] = [createMeter(), createMeter()];
  const [group, version, since] = [cell("group"), cell("version"), cell("since")];
  const element = make("div", { role: "row", class: "line", tabindex: "-1" },
    cell("state", sign, state), cell("node", anchor, id), cell("problem", severity, problem, more),
    cell("gpus", squares, models, gpuStates), use.element, memory.element, group, version, since);
  const parts = { sign, state, anchor, name, unverified, id, severity, problem, more, squares, models, gpuStates, use, memory };
  return { element, ...parts, group, version, since, boxes: [], shown: null, index: -1 };
};

/** Formats models and their numbers as "8 × NVIDIA H200, 2 × NVIDIA L40S". */
const modelText = models => [...models].map(([model, amount]) => `${amount} × ${model || "GPU"}`).join(", ");

const setGpus = (row, { gpus, models }) => {
  const shown = gpus.length > MAX_SQUARES ? gpus.slice(0, MAX_SQUARES) : gpus;
  while (row.boxes.length > shown.length) row.boxes.pop().remove();
  while (row.boxes.length < shown.length) {
    const box = make("i");
    row.boxes.push(box);
    row.squares.append(box);
  }
  const amounts = {};
  for (const { state } of gpus) amounts[state] = (amounts[state] ?? 0) + 1;
  shown.forEach(({ state, model }, at) => {
    const begins = at > 0 && shown[at - 1].model !== model ? " next" : "";
    setAttr(row.boxes[at], "class", `${state}${begins}`);
  });
  setText(row.models, gpus.length ? modelText(models) : "no GPU");
  const states = Object.entries(amounts).map(([state, amount]) => `${amount} ${GPU_STATES[state] ?? state}`).join(", ");
  setText(row.gpuStates, states && `: ${states}`);
  setAttr(row.squares, "title", states);
};

const setProblem = (row, { problems }) => {
  const worst = problems.find(({ severity }) => severity === "critical") ?? problems[0];
  setText(row.severity, worst ? `${worst.severity}: ` : "");
  setText(row.problem, worst?.text ?? "");
  setAttr(row.problem, "title", problems.map(({ text }) => text).join("\n"));
  setAttr(row.problem, "class", `text ${worst?.severity ?? ""}`);
  setText(row.more, problems.length > 1 ? `+${problems.length - 1}` : "");
};

/** Moves the row to the index of the node, and shows the node if it is another one or has changed. */
const updateRow = (row, node) => {
  if (row.index !== node.index) {
    row.index = node.index;
    setAttr(row.element, "aria-rowindex", String(node.index + 2));
    row.element.style.transform = `translateY(${node.index * grid.rowHeight}px)`;
  }
  if (row.shown === node) return;
  showNode(row, node);
  updateAge(row);
};

const showNode = (row, node) => {
  row.shown = node;
  const isAway = node.state !== "online";
  const [rank, mark] = RANKS[node.rank];
  setAttr(row.element, "class", `line rank-${rank}${isAway ? " away" : ""}${node.problems.length ? "" : " quiet"}`);
  setMark(row.sign, mark);
  setText(row.state, node.state);
  setText(row.name, node.name);
  show(row.unverified, Boolean(node.unauthenticated));
  setAttr(row.anchor, "href", `${ROOT}nodes/${encodeURIComponent(node.node_id)}`);
  setText(row.id, node.name === node.node_id ? "" : node.node_id);
  setProblem(row, node);
  setGpus(row, node);
  setMeter(row.use, node.gpu_utilization_percent);
  setMeter(row.memory, node.gpu_memory_used_percent);
  setText(row.group, [node.group, node.project].filter(Boolean).join(" / "));
  setText(row.version, node.agent_version ?? "");
};

/** Shows how long the node has been online, or else the age of its data. */
const updateAge = ({ shown: { state, since, last_report: reported }, since: cell }) => {
  const now = hubTime();
  if (state === "online" || !reported) setText(cell, `${shortDuration(now - since)} ago`);
  else setText(cell, `last data ${shortDuration(now - reported)} ago`);
};
