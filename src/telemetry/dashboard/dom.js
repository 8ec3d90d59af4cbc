// Formatting, and the only functions that change the document. Data becomes text nodes, never markup: names of processes,
// mounts and applications may contain anything.

const $ = id => document.getElementById(id);

/** Creates an element. Children that are strings become text nodes. */
const make = (tag, attributes = {}, ...children) => {
  const isSvg = ["svg", "path", "line"].includes(tag);
  const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

// Unchanged values are not written, which would cause a new layout.
const setText = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const show = (node, shown) => { if (node.hidden === shown) node.hidden = !shown; };
const setAttr = (node, name, value) => { if (node.getAttribute(name) !== value) node.setAttribute(name, value); };
const setMark = (node, level) => setAttr(node, "class", `mark ${level}`);

/** Sets the icon of the tab. */
const setIcon = level => {
  const colour = { ok: "teal", warning: "orange", critical: "crimson", unknown: "gray" }[level];
  const shape = ["warning", "critical"].includes(level) ? "M8 1l7 14H1z" : "M8 1a7 7 0 1 0 .01 0z";
  setAttr($("icon"), "href", "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    + `<path fill='${colour}' d='${shape}'/></svg>`);
};

const childrenByParent = new WeakMap();

/**
 * Makes the children of `parent` match `items`, in order. A child is kept while its key exists, so that focus and open details
 * survive an update. `create` returns an object with the child as `node`; `update` receives that object.
 */
const reconcile = (parent, items, keyOf, create, update) => {
  const before = childrenByParent.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    let key = keyOf(item);
    while (now.has(key)) key += "'"; // two filesystems may have the same mount point
    now.set(key, [before.get(key) ?? create(item), item]);
  }
  for (const [key, parts] of before) if (!now.has(key)) parts.node.remove();
  const after = new Map();
  let at = 0;
  for (const [key, [parts, item]] of now) {
    if (parent.children[at] !== parts.node) parent.insertBefore(parts.node, parent.children[at] ?? null);
    at++;
    update(parts, item);
    after.set(key, parts);
  }
  childrenByParent.set(parent, after);
};

const isKnown = value => value !== undefined && value !== null;
const number = value => (value < 9.95 ? value.toFixed(1) : Math.round(value).toString());
const percent = value => (isKnown(value) ? `${number(value)} %` : "–");

const scaled = (value, base, units) => {
  let unit = 0;
  while (value >= base * 0.9995 && unit < units.length - 1) {
    value /= base;
    unit++;
  }
  return [unit === 0 ? Math.round(value).toString() : value < 99.95 ? value.toFixed(1) : Math.round(value).toString(), units[unit]];
};

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const bytes = value => (isKnown(value) ? scaled(value, 1024, BINARY).join(" ") : "–");
const rate = value => (isKnown(value) ? scaled(value, 1000, ["B/s", "kB/s", "MB/s", "GB/s"]).join(" ") : "–");

/** `62.1 of 80.0 GiB`: both in the unit of the whole. */
const share = (used, total) => {
  const [whole, unit] = scaled(total, 1024, BINARY);
  return `${(used / 1024 ** BINARY.indexOf(unit)).toFixed(whole.includes(".") ? 1 : 0)} of ${whole} ${unit}`;
};

const duration = seconds => {
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (seconds < 60) return `${Math.max(0, Math.floor(seconds))} s`;
  if (days === 0 && hours === 0) return `${minutes} min`;
  return days === 0 ? `${hours} h ${minutes} min` : `${days} d ${hours} h`;
};

const ago = seconds => `${duration(seconds)} ago`;

const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
const joinDots = parts => parts.filter(Boolean).join("  ·  ");
const humanize = text => text.replaceAll("_", " ");
