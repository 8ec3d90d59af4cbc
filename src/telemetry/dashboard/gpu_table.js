// All GPUs as rows, so that those of a large node fit on one screen. The cards below have the details.

/** With fewer GPUs the cards suffice. */
const MIN_ROWS = 5;

const createGpuRow = gpu => {
  const [sign, name, use, kind] = [make("span"), make("small", { class: "wide-only" }), make("b"), make("span", { class: "sr-only" })];
  const [memory, heat, power, clock, holder, state] = Array.from({ length: 6 }, () => make("span"));
  const part = make("span", { class: "narrow-only" });
  memory.className = "wide-only";
  const picture = createCurve();
  const full = createBar();
  const cell = (of, ...children) => make("td", { class: of }, ...children);
  const node = make("tr", {},
    make("th", { scope: "row" }, sign, make("a", { href: `#gpu-${gpu.index}` }, `GPU ${gpu.index}`), " ", name),
    cell("number", use), cell("curves", picture.node), cell("fill", full.node, memory, part), cell("number", heat), cell("number wide-only", power),
    cell("number wide-only", clock), cell("wide-only holder", holder), cell("state", kind, state));
  return { node, sign, name, use, picture, full, memory, part, heat, power, clock, holder, kind, state };
};

/** The process with the most memory, and how many more there are. */
const holderOf = ({ processes = [] }) => {
  const [most] = [...processes].sort((one, two) => (two.memory_used_bytes ?? 0) - (one.memory_used_bytes ?? 0));
  const others = processes.length > 1 ? `+ ${processes.length - 1}` : "";
  return most ? [[most.name || "(no name)", others].filter(Boolean).join(" "), most.user].filter(Boolean).join(", ") : "–";
};

const updateGpuRow = (parts, gpu, { now, isMixed }) => {
  const found = gpuProblems(gpu, now);
  const level = gpuLevel(gpu, found);
  // Without a finding, what it has now: not the XIDs of the past.
  const worst = found.find(([of]) => of === level) ?? found.find(([, text]) => !text.startsWith("XID "));
  const use = gpu.utilization_percent;
  const store = shownStore();
  setMark(parts.sign, level);
  setAttr(parts.node, "class", level);
  setText(parts.name, isMixed ? gpu.name : "");
  setText(parts.use, isKnown(use) ? percent(use).replace(".0", "") : absenceOf(gpu));
  drawCurve(parts.picture, store, valuesOf(store, `gpu_utilization_percent ${gpu.index}`), { label: `GPU ${gpu.index}, utilization`, columns: 80 });
  const { memory_used_bytes: used, memory_total_bytes: whole } = gpu;
  show(parts.full.node, memoryPercent(gpu) !== null);
  setBar(parts.full, memoryPercent(gpu));
  setText(parts.memory, memoryPercent(gpu) === null ? "–" : share(used, whole));
  setText(parts.part, percent(memoryPercent(gpu)));
  setText(parts.heat, isKnown(gpu.temperature_celsius) ? celsius(gpu.temperature_celsius) : "–");
  setText(parts.power, isKnown(gpu.power_watts) ? watt(gpu.power_watts) : "–");
  setText(parts.clock, isKnown(gpu.sm_clock_mhz) ? `${gpu.sm_clock_mhz} MHz` : "–");
  setText(parts.holder, holderOf(gpu));
  setText(parts.kind, LEVELS[level] ?? "");
  const others = found.length > 1 ? ` (+ ${found.length - 1})` : "";
  setText(parts.state, worst ? worst[1] + others : gpu.mig_enabled ? `${plural((gpu.mig_instances ?? []).length, "MIG instance")}` : "OK");
  setAttr(parts.state, "title", found.map(([, text]) => text).join("\n"));
};

const renderGpuTable = ({ gpus, timestamp }) => {
  // The model of a GPU that is lost may be unknown.
  const names = [...new Set(gpus.filter(gpu => !gpu.problem).map(gpu => gpu.name))];
  const isMixed = names.length > 1;
  show($("gpu-table"), gpus.length >= MIN_ROWS);
  setText($("gpu-models"), names.length === 1 && gpus.length > 1 ? `${gpus.length} × ${names[0]}` : "");
  setText($("gpu-range"), history.range === "1h" ? "last hour" : "last 24 h");
  const rows = gpus.length >= MIN_ROWS ? gpus : [];
  reconcile($("gpu-rows"), rows, gpu => `${gpu.index} ${gpu.uuid ?? gpu.name}`, createGpuRow,
    (parts, gpu) => updateGpuRow(parts, gpu, { now: timestamp, isMixed }));
};
