// The list of nodes. Only the rows in and near the window exist as elements, plus the one with the focus, so that the page stays fast
// with ten thousand nodes. The elements are in the order of the list, for screen readers.

/** Rows that exist above and below the window, so that scrolling shows no gap. */
const OVERSCAN = 6;

const grid = {
  list: [],
  rows: new Map(), // by node id
  rowHeight: 36, // in pixels; measureGrid reads it from the style
  stickyHeight: 0, // of the filters and the header, which cover the top of the list while it scrolls
  activeId: "", // node id of the row that the Tab key reaches
  tabStop: null, // its element
  isScheduled: false,
};

const isInGrid = () => $("rows").contains(document.activeElement);

const scheduleRows = () => {
  if (grid.isScheduled) return;
  grid.isScheduled = true;
  requestAnimationFrame(() => {
    grid.isScheduled = false;
    renderRows();
  });
};

/** Indexes of the first row in the window and of the one after the last. */
const windowRange = () => {
  const top = $("rows").getBoundingClientRect().top;
  const { rowHeight, list } = grid;
  const clamp = index => Math.max(0, Math.min(list.length, index));
  return [clamp(Math.floor(-top / rowHeight)), clamp(Math.ceil((innerHeight - top) / rowHeight))];
};

/** Nodes whose rows must exist. The focused one is among them even if it is outside the window. */
const wantedNodes = focused => {
  const { list } = grid;
  const [first, end] = windowRange();
  const [from, to] = [Math.max(0, first - OVERSCAN), Math.min(list.length, end + OVERSCAN)];
  const wanted = list.slice(from, to);
  const index = focused?.index ?? -1;
  if (index >= 0 && index < from) wanted.unshift(focused);
  if (index >= to) wanted.push(focused);
  return wanted;
};

const renderRows = () => {
  const focused = isInGrid() ? fleet.byId.get(grid.activeId) : null;
  const focusedRow = focused && grid.rows.get(focused.node_id);
  const wanted = wantedNodes(focused);
  const ids = new Set(wanted.map(node => node.node_id));
  const free = [];
  for (const [id, row] of grid.rows) {
    if (ids.has(id)) continue;
    grid.rows.delete(id);
    free.push(row);
  }
  const freeElements = new Set(free.map(row => row.element));
  let next = $("rows").firstElementChild;
  for (const node of wanted) {
    while (next && freeElements.has(next)) next = next.nextElementSibling;
    const row = grid.rows.get(node.node_id) ?? free.pop() ?? createRow();
    grid.rows.set(node.node_id, row);
    updateRow(row, node);
    if (row.element === next) next = next.nextElementSibling;
    else $("rows").insertBefore(row.element, next);
  }
  for (const row of free) row.element.remove();
  // An element loses the focus when it is moved in the document.
  const hasLostFocus = focusedRow && document.activeElement !== focusedRow.element && ids.has(focused.node_id);
  if (hasLostFocus) focusedRow.element.focus({ preventScroll: true });
  setTabStop();
};

/** The Tab key reaches one row: the active one, or else the first in the window. */
const setTabStop = () => {
  if (!isInGrid()) {
    const top = $("rows").getBoundingClientRect().top - grid.stickyHeight;
    const first = grid.list[Math.max(0, Math.min(grid.list.length - 1, Math.ceil(-top / grid.rowHeight)))];
    grid.activeId = first?.node_id ?? "";
  }
  const element = grid.rows.get(grid.activeId)?.element ?? null;
  if (element === grid.tabStop) return;
  grid.tabStop?.setAttribute("tabindex", "-1");
  element?.setAttribute("tabindex", "0");
  grid.tabStop = element;
};

/** Shows another list. If `keepsPosition`, it scrolls so that the rows in the window stay where they are on the screen. */
const showList = (list, keepsPosition) => {
  const anchor = keepsPosition ? findAnchor(list) : null;
  grid.list = list;
  setAttr($("grid"), "aria-rowcount", String(list.length + 1));
  $("rows").style.height = `${list.length * grid.rowHeight}px`;
  if (anchor) scrollBy({ top: (fleet.byId.get(anchor.id).index - anchor.index) * grid.rowHeight, behavior: "instant" });
  renderRows();
};

/** Returns a node in the window that is also in the new list, with its old index. Null if the list is not scrolled. */
const findAnchor = list => {
  if (!grid.list.length || $("rows").getBoundingClientRect().top - grid.stickyHeight >= 0) return null;
  const [first, end] = windowRange();
  for (const before of grid.list.slice(first + 1, end)) {
    const now = fleet.byId.get(before.node_id);
    if (!now || list[now.index] !== now || now.rank !== before.rank) continue;
    const row = grid.rows.get(before.node_id);
    if (row) return { id: before.node_id, index: row.index };
  }
  return null;
};

/** Moves the focus to a row and scrolls it into the window. */
const focusRow = index => {
  const node = grid.list[Math.max(0, Math.min(grid.list.length - 1, index))];
  if (!node) return;
  const top = $("rows").getBoundingClientRect().top + node.index * grid.rowHeight;
  const above = grid.stickyHeight - top;
  const below = top + grid.rowHeight - innerHeight;
  if (above > 0) scrollBy({ top: -above, behavior: "instant" });
  else if (below > 0) scrollBy({ top: below, behavior: "instant" });
  grid.activeId = node.node_id;
  renderRows();
  grid.rows.get(node.node_id)?.element.focus({ preventScroll: true });
  renderRows();
};

const onGridKey = event => {
  const active = fleet.byId.get(grid.activeId);
  if (!active || event.altKey || event.target.closest("#rows") === null) return;
  const page = Math.max(1, Math.floor((innerHeight - grid.stickyHeight) / grid.rowHeight) - 1);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.key === "Enter" && event.target.role === "row") {
    event.preventDefault();
    const { ctrlKey, metaKey, shiftKey } = event;
    const { anchor } = grid.rows.get(grid.activeId);
    anchor.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, ctrlKey, metaKey, shiftKey }));
  } else if (event.key in steps) {
    event.preventDefault();
    focusRow(active.index + steps[event.key]);
  }
};

const measureGrid = () => {
  const rowHeight = parseFloat(getComputedStyle($("rows")).getPropertyValue("--row"));
  const toolsHeight = $("tools").offsetHeight;
  document.documentElement.style.setProperty("--tools", `${toolsHeight}px`);
  const isSticky = getComputedStyle($("tools")).position === "sticky";
  grid.stickyHeight = isSticky ? toolsHeight + $("heads").offsetHeight : 0;
  if (rowHeight && rowHeight !== grid.rowHeight) {
    grid.rowHeight = rowHeight;
    $("rows").style.height = `${grid.list.length * rowHeight}px`;
    for (const row of grid.rows.values()) row.index = -1;
  }
  scheduleRows();
};

const createGrid = () => {
  createHeads();
  setAttr($("grid"), "aria-colcount", String(HEADS.length));
  $("grid").addEventListener("keydown", onGridKey);
  $("rows").addEventListener("focusin", event => {
    const row = event.target.closest("[role=row]");
    for (const [id, { element }] of grid.rows) if (element === row) grid.activeId = id;
    setTabStop();
  });
  addEventListener("scroll", scheduleRows, { passive: true });
  addEventListener("resize", measureGrid);
  new ResizeObserver(measureGrid).observe($("tools"));
};
