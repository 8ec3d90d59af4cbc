// Words and numbers for people, and the few ways in which this page touches its document. Data become text nodes and
// nothing else: names of processes, mounts and applications may be anything.

const $ = id => document.getElementById(id);

/** An element with attributes and children; strings become text. */
const make = (tag, attributes = {}, ...children) => {
  const drawn = ["svg", "path", "line"].includes(tag);
  const node = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

// What has not changed is not touched: the browser then has nothing to lay out again.
const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const show = (node, shown) => { if (node.hidden === shown) node.hidden = !shown; };
const attribute = (node, name, value) => { if (node.getAttribute(name) !== value) node.setAttribute(name, value); };
const mark = (node, level) => attribute(node, "class", `mark ${level}`);

const lists = new WeakMap();

/**
 * Makes the children of `parent` those of `items`, in order. A child lives as long as its item's key, so that focus
 * and open details survive an update. `create` returns its parts, one of which is `node`.
 */
const keep = (parent, items, keyOf, create, update) => {
  const before = lists.get(parent) ?? new Map();
  const now = new Map();
  for (const item of items) {
    let key = keyOf(item);
    while (now.has(key)) key += "'"; // two file systems may be mounted at one place
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
  lists.set(parent, after);
};

const known = value => value !== undefined && value !== null;
const number = value => (value < 9.95 ? value.toFixed(1) : Math.round(value).toString());
const percent = value => (known(value) ? `${number(value)} %` : "–");

const scaled = (value, base, units) => {
  let unit = 0;
  while (value >= base * 0.9995 && unit < units.length - 1) {
    value /= base;
    unit++;
  }
  return [unit === 0 ? Math.round(value).toString() : value < 99.95 ? value.toFixed(1) : Math.round(value).toString(), units[unit]];
};

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const bytes = value => (known(value) ? scaled(value, 1024, BINARY).join(" ") : "–");
const rate = value => (known(value) ? scaled(value, 1000, ["B/s", "kB/s", "MB/s", "GB/s"]).join(" ") : "–");

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

const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
const dots = parts => parts.filter(Boolean).join("  ·  ");
const words = text => text.replaceAll("_", " ");
