// The nodes, as the hub reports them, in the order of the list. An increment costs a pass over all nodes but no sorting, unless a
// node is new or has another name.

/** Conditions of a node, most urgent first, each with its mark. The rank of a node is the index of its condition. */
const RANKS = [
  ["critical", "critical"],
  ["lost", "warning"],
  ["offline", "unknown"],
  ["warning", "warning"],
  ["idle-memory", "warning"],
  ["healthy", "ok"],
];
const [CRITICAL, LOST, OFFLINE, WARNING, IDLE_MEMORY, HEALTHY] = RANKS.keys();

const fleet = {
  revision: "",
  isLoaded: false,
  totals: {},
  notices: [], // what the hub cannot do at present
  clockOffset: 0, // of the hub's clock, in seconds
  receivedAt: 0,
  byId: new Map(),
  byName: [],
};

/** Values of each filter with the number of nodes that have them. */
const facets = { model: new Map(), project: new Map(), group: new Map(), version: new Map() };

/** Unix time by the hub's clock. */
const hubTime = () => clock() + fleet.clockOffset;

/** Problems and GPU states of an offline node are outdated, so they do not count. */
const rankOf = node => {
  const { problems, state } = node;
  if (state === "offline") return OFFLINE;
  if (problems.some(({ severity }) => severity === "critical")) return CRITICAL;
  if (state === "lost") return LOST;
  if (problems.length) return WARNING;
  return node.gpus.some(gpu => gpu.state === "idle_memory") ? IDLE_MEMORY : HEALTHY;
};

/** Pads numbers, so that gpu-2 sorts before gpu-10. */
const sortKeyOf = node =>
  `${node.name.toLowerCase().replace(/\d+/g, digits => digits.padStart(9, "0"))}\n${node.node_id}`;

const modelsOf = gpus => {
  const models = new Map();
  for (const { model } of gpus) models.set(model, (models.get(model) ?? 0) + 1);
  return models;
};

const haveSameModels = (one, two) => one.length === two.length && one.every((gpu, at) => gpu.model === two[at].model);

/** `before` is the previous version of the node. What has not changed is reused, because the hub may send thousands of nodes. */
const addDerivedFields = (node, before) => {
  node.name = node.hostname || node.node_id;
  node.sortKey = before?.name === node.name ? before.sortKey : sortKeyOf(node);
  node.rank = rankOf(node);
  node.models = before && haveSameModels(node.gpus, before.gpus) ? before.models : modelsOf(node.gpus);
  node.searched = ""; // computed by the first search
  node.index = -1;
};

const countFacets = (node, change) => {
  const add = (facet, value) => {
    if (!value) return;
    const count = (facet.get(value) ?? 0) + change;
    if (count) facet.set(value, count);
    else facet.delete(value);
  };
  for (const model of node.models.keys()) add(facets.model, model);
  add(facets.project, node.project);
  add(facets.group, node.group);
  add(facets.version, node.agent_version);
};

const haveSameFacets = (one, two) =>
  one.models === two.models && one.project === two.project && one.group === two.group && one.agent_version === two.agent_version;

/** Applies a response of `/api/fleet`. */
const applyFleet = message => {
  const { byId } = fleet;
  let mustSort = message.full;
  if (message.full) {
    byId.clear();
    for (const facet of Object.values(facets)) facet.clear();
  }
  for (const id of message.removed ?? []) {
    const node = byId.get(id);
    if (!node) continue;
    countFacets(node, -1);
    byId.delete(id);
    mustSort = true;
  }
  for (const node of message.nodes) {
    const before = byId.get(node.node_id);
    addDerivedFields(node, before);
    if (!before || !haveSameFacets(node, before)) {
      if (before) countFacets(before, -1);
      countFacets(node, 1);
    }
    byId.set(node.node_id, node);
    if (before?.sortKey === node.sortKey) {
      node.position = before.position;
      fleet.byName[node.position] = node;
    } else {
      mustSort = true;
    }
  }
  if (mustSort) {
    fleet.byName = [...byId.values()].sort((one, two) => (one.sortKey < two.sortKey ? -1 : 1));
    fleet.byName.forEach((node, position) => { node.position = position; });
  }
  const { revision, totals, time } = message;
  const notices = message.notices.map(text => `${text[0].toUpperCase()}${text.slice(1)}.`);
  Object.assign(fleet, { revision, totals, notices, isLoaded: true, receivedAt: clock(), clockOffset: time - clock() });
};

/** Returns the nodes that match, by rank and then by name. */
const listNodes = matches => {
  const ranks = RANKS.map(() => []);
  for (const node of fleet.byName) {
    node.index = -1;
    if (matches(node)) ranks[node.rank].push(node);
  }
  const list = ranks.flat();
  list.forEach((node, index) => { node.index = index; });
  return list;
};
