// The filters. They are kept in the address, so that a view can be shared and the back button works.

// Like the totals, these leave out offline nodes.
const hasGpu = state => node => node.rank !== OFFLINE && node.gpus.some(gpu => gpu.state === state);
const hasProblem = test => node => node.rank !== OFFLINE && node.problems.some(test);

const STATES = { online: "Online", lost: "Lost", offline: "Offline", away: "Not online" };
const PROBLEMS = {
  any: ["Needs attention", node => node.rank !== HEALTHY],
  critical: ["Critical", hasProblem(({ severity }) => severity === "critical")],
  warning: ["Warning", hasProblem(({ severity }) => severity === "warning")],
  hung: ["GPU hung", hasGpu("hung")],
  lost: ["GPU lost", hasGpu("lost")],
  failed: ["GPU failed", hasGpu("failed")],
  idle_memory: ["GPU idle, memory taken", hasGpu("idle_memory")],
  xid: ["XID", hasProblem(({ text }) => /\bXID\b/i.test(text))],
  unverified: ["Unverified node", node => Boolean(node.unauthenticated)],
};

/** By name of the URL parameter: label, text for no choice, and the values unless they are those of the nodes. */
const CHOICES = {
  state: ["State", "Any state", Object.entries(STATES)],
  problem: ["Problem", "All nodes", Object.entries(PROBLEMS).map(([value, [text]]) => [value, text])],
  model: ["GPU model", "Any model"],
  project: ["Project", "Any project"],
  group: ["Group", "Any group"],
  version: ["Agent version", "Any version"],
};

const filters = { q: "", ...Object.fromEntries(Object.keys(CHOICES).map(name => [name, ""])) };

const activeFilters = () => Object.entries(filters).filter(([, value]) => value);

const searchedTextOf = node => {
  const { name, node_id: id, address = "", group = "", project = "", agent_version: version = "", models, problems } = node;
  const texts = [name, id, address, group, project, version, ...models.keys(), ...problems.map(({ text }) => text)];
  return texts.join("\n").toLowerCase();
};

/** Returns a function that returns whether a node matches the filters. */
const nodeFilter = () => {
  const words = filters.q.toLowerCase().split(/\s+/).filter(Boolean);
  const { state, problem, model, project, group, version } = filters;
  const hasSuchProblem = problem && PROBLEMS[problem] ? PROBLEMS[problem][1] : null;
  return node => {
    if (state && (state === "away" ? node.state === "online" : node.state !== state)) return false;
    if (model && !node.models.has(model)) return false;
    if (project && node.project !== project) return false;
    if (group && node.group !== group) return false;
    if (version && node.agent_version !== version) return false;
    if (hasSuchProblem && !hasSuchProblem(node)) return false;
    if (!words.length) return true;
    node.searched ||= searchedTextOf(node);
    return words.every(word => node.searched.includes(word));
  };
};

const readFilters = () => {
  const parameters = new URLSearchParams(location.search);
  for (const name in filters) filters[name] = parameters.get(name) ?? "";
};

/** Writes the filters into the address, as a new entry of the browser's history or instead of the current one. */
const writeFilters = isNewEntry => {
  const address = new URL(location.href);
  address.search = new URLSearchParams(activeFilters());
  if (address.href === location.href) return;
  if (isNewEntry) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
};

const setFilters = changes => {
  Object.assign(filters, changes);
  writeFilters(true);
  onFilters();
};

const clearFilters = () => setFilters(Object.fromEntries(Object.keys(filters).map(name => [name, ""])));

const choices = {};
let isTyping = false;

const createFilters = () => {
  const search = make("input", {
    id: "q", type: "search", placeholder: "Search nodes", autocomplete: "off", spellcheck: "false", "aria-label": "Search nodes",
  });
  search.addEventListener("input", () => {
    filters.q = search.value.trim();
    // One history entry for everything that is typed until the field loses the focus.
    writeFilters(!isTyping);
    isTyping = true;
    onFilters();
  });
  search.addEventListener("blur", () => { isTyping = false; });
  const more = make("button", { id: "more", type: "button", class: "plain more", "aria-expanded": "false", "aria-controls": "choices" }, "Filters");
  more.addEventListener("click", () => {
    const isOpen = $("filters").classList.toggle("open");
    setAttr(more, "aria-expanded", String(isOpen));
  });
  const group = make("div", { id: "choices", class: "choices" });
  for (const [name, [label]] of Object.entries(CHOICES)) {
    const select = make("select", { id: `f-${name}`, "aria-label": label });
    select.addEventListener("change", () => setFilters({ [name]: select.value }));
    choices[name] = select;
    group.append(select);
  }
  $("filters").append(search, more, group);
  $("filters").addEventListener("submit", event => event.preventDefault());
  $("clear").addEventListener("click", () => {
    clearFilters();
    search.focus();
  });
  addEventListener("popstate", () => {
    readFilters();
    isTyping = false;
    onFilters();
  });
};

/** Options of a choice as `[value, text]`. A value of the address is an option even if no node has it. */
const optionsOf = name => {
  const [, , known] = CHOICES[name];
  const options = known ?? [...facets[name].keys()].sort().map(value => [value, value]);
  const value = filters[name];
  const isMissing = value && !options.some(([other]) => other === value);
  return isMissing ? [...options, [value, value]] : options;
};

const renderFilters = () => {
  if (document.activeElement !== $("q") && $("q").value.trim() !== filters.q) $("q").value = filters.q;
  for (const [name, [, none]] of Object.entries(CHOICES)) {
    const options = optionsOf(name);
    show(choices[name], options.length > 0);
    reconcile(choices[name], [["", none], ...options], ([value]) => value,
      ([value, text]) => ({ node: make("option", { value }, text) }), () => {});
    if (choices[name].value !== filters[name]) choices[name].value = filters[name];
    choices[name].classList.toggle("active", filters[name] !== "");
  }
  const active = activeFilters();
  show($("clear"), active.length > 0);
  const chosen = active.filter(([name]) => name in choices).length;
  setText($("more"), chosen ? `Filters (${chosen})` : "Filters");
};
