// The events of the selected range, from `GET /events`: a lane of marks below the curves, and a list.

const SHOWN_EVENTS = 3;
const LISTED_EVENTS = 200;
/** Marks that are closer are one. */
const LANE_COLUMNS = 120;

/** Kinds whose name does not say enough. The texts of the others name what it is about. */
const KINDS = {
  amd_gpu: "AMD GPU",
  clock_step: "Clock step",
  cpu_thermal: "CPU throttled",
  edac: "Memory error (EDAC)",
  gpu_driver: "GPU driver",
  gpu_state: "",
  hung_task: "Hung task",
  machine_check: "Machine check",
  iommu: "IOMMU",
  nfs: "NFS",
  nvme: "NVMe",
  oom_kill: "Out of memory",
  pcie: "PCIe error",
  raid: "RAID",
};

/** Events by id. */
const events = new Map();

const addEvents = ({ events: found }) => {
  for (const each of found) events.set(each.id, each);
};

/** `0000:9B:00.0`, however the driver writes it. */
const pciAddress = text => /[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}/i.exec(text ?? "")?.[0].toLowerCase() ?? null;

/** The GPU that an event is about. */
const gpuOf = ({ subject, text }) => subject && update.gpus.find(gpu => [gpu.uuid, `GPU ${gpu.index}`].includes(subject)
  || text.startsWith(`GPU ${gpu.index} (`) || (pciAddress(subject) && pciAddress(gpu.pci_address) === pciAddress(subject)));

/** The events of a GPU, the newest first. */
const eventsOf = gpu => [...events.values()].filter(each => gpuOf(each) === gpu).reverse();

const titleOf = ({ kind, code }) => {
  if (kind === "xid") return xidName(code);
  if (kind === "sxid") return `SXID ${code}`;
  const words = KINDS[kind] ?? humanize(kind);
  return words.slice(0, 1).toUpperCase() + words.slice(1);
};

/** The text without what stands before it: the GPU with its model, or the kind. */
const textOf = ({ text }, before) => (before && text.startsWith(before) ? text.slice(before.length).replace(/^[: ]*(\([^)]*\) )?/, "") : text);

const timesOf = ({ count }) => (count > 1 ? ` (${count} times)` : "");

const createEvent = () => {
  const [when, sign, kind, device, title] = [make("time"), make("span"), make("span", { class: "sr-only" }), make("a"), make("b")];
  const text = make("span", { class: "text" });
  return { node: make("li", {}, when, " ", sign, make("p", {}, kind, device, " ", title, " ", text)), when, sign, kind, device, title, text };
};

const updateEvent = (parts, event) => {
  const { severity, unix_seconds: began, last_unix_seconds: last, text } = event;
  const gpu = gpuOf(event);
  setText(parts.when, ago(agentNow() - last));
  setAttr(parts.when, "datetime", new Date(last * 1000).toISOString());
  setAttr(parts.when, "title", [...new Set([began, last])].map(time => new Date(time * 1000).toLocaleString()).join(" – "));
  setMark(parts.sign, severity === "info" ? "unknown" : severity);
  setText(parts.kind, LEVELS[severity] ?? "");
  setText(parts.device, gpu ? `GPU ${gpu.index}` : "");
  if (gpu) setAttr(parts.device, "href", `#gpu-${gpu.index}`);
  show(parts.device, Boolean(gpu));
  setText(parts.title, titleOf(event) + timesOf(event));
  setText(parts.text, textOf(event, gpu ? `GPU ${gpu.index}` : titleOf(event)));
  setAttr(parts.text, "title", text);
};

const renderEventList = (list, found) => reconcile(list, found, each => String(each.id), createEvent, updateEvent);

/** One mark for all events of a column, with the worst severity. */
const renderLane = found => {
  const store = shownStore();
  const columns = new Map();
  for (const event of found) {
    const at = shareOfWindow(store, event.last_unix_seconds);
    const column = Math.round(LANE_COLUMNS * Math.min(1, Math.max(0, at)));
    columns.set(column, [...(columns.get(column) ?? []), event]);
  }
  const order = ["info", "warning", "critical"];
  reconcile($("lane-marks"), [...columns], ([column]) => String(column), ([column]) => {
    const node = make("span");
    node.style.left = `${(100 * column) / LANE_COLUMNS}%`;
    return { node };
  }, ({ node }, [, group]) => {
    const worst = order[Math.max(...group.map(({ severity }) => order.indexOf(severity)))];
    setMark(node, worst === "info" ? "unknown" : worst);
    setAttr(node, "title", group.slice(-5).map(each => `${timeOfDay(each.last_unix_seconds)} ${titleOf(each)}: ${each.text}`).join("\n"));
  });
  setAxis($("lane-axis"), store, WIDE_TICKS[history.range]);
};

const renderEvents = () => {
  const begin = agentNow() - shownStore().seconds;
  for (const [id, event] of events) if (event.last_unix_seconds < agentNow() - 86_400) events.delete(id);
  const found = [...events.values()].filter(each => each.last_unix_seconds >= begin)
    .sort((one, two) => two.last_unix_seconds - one.last_unix_seconds || two.id - one.id);
  renderLane([...found].reverse());
  const first = new Set(bySeverity(found).slice(0, SHOWN_EVENTS)); // a flood of messages must not hide what is bad
  renderEventList($("events"), found.filter(each => first.has(each)));
  const rest = found.filter(each => !first.has(each));
  renderEventList($("events-rest"), rest.slice(0, LISTED_EVENTS));
  show($("events-more"), rest.length > 0);
  setText($("events-count"), `${rest.length} more${rest.length > LISTED_EVENTS ? `, the newest ${LISTED_EVENTS}` : ""}`);
  const range = history.range === "1h" ? "the last hour" : "the last 24 hours";
  const why = whyMissing(feeds.events);
  setText($("events-none"), why ? `No events: ${why}` : feeds.events.isDone ? `No events in ${range}.` : "Loading events …");
  show($("events-none"), found.length === 0);
};
