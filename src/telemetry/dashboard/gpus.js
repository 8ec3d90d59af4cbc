// A card for each GPU, and the state of the NVIDIA driver.

const SHOWN_PROCESSES = 3;
const SHOWN_GPU_EVENTS = 3;

/** Text for each `nvidia.state` that is no problem. */
const DRIVER_STATES = {
  starting: "Waiting for the driver.",
  no_gpu: "No GPU found.",
  suspended: "All GPUs are suspended. They are not resumed for monitoring.",
};

const renderDriver = ({ nvidia, gpus }) => {
  const versions = nvidia && joinDots([
    nvidia.driver_version && `driver ${nvidia.driver_version}`,
    nvidia.cuda_version && `CUDA ${nvidia.cuda_version}`,
  ]);
  const state = nvidia?.state;
  const bad = DRIVER_PROBLEMS[state];
  const none = gpus.length ? "" : nvidia ? "The driver reports no GPU." : "GPU monitoring is disabled (gpu.source).";
  setText($("driver"), bad ? "" : DRIVER_STATES[state] ?? (versions || none));
  show($("driver-message"), Boolean(bad));
  setText($("driver-message"), bad ? `NVIDIA driver ${joinColon(bad, nvidia.message)}` : "");
};

/** Why a GPU has no utilization, in a word or two. */
const absenceOf = ({ problem, mig_enabled: isMig }) => (problem ? humanize(problem) : isMig ? "MIG mode" : "not reported");

/** The same as a sentence; empty if the problem of the GPU says it. */
const reasonForNoLoad = gpu => {
  if (gpu.problem || isKnown(gpu.utilization_percent)) return "";
  return gpu.mig_enabled ? "In MIG mode the driver reports no utilization." : "The driver reports no utilization.";
};

/** Creates a gauge: name, value and a curve. */
const createGauge = name => {
  const [value, note, picture] = [make("b"), make("small"), createCurve()];
  const node = make("div", {}, make("dt", {}, name), make("dd", {}, value, " ", note), picture.node);
  return { node, value, note, picture, name };
};

const createCard = gpu => {
  const id = `gpu-${gpu.index}`;
  const [sign, name] = [make("span"), make("small")];
  const wrong = make("ul", { class: "problems" });
  const [value, unit] = [make("span", { class: "value" }), make("span", { class: "unit" })];
  const plot = createPlot(["100 %", "0"]);
  const why = make("p", { class: "rest" });
  const gauges = ["Memory", "Power", "Temperature", "Clock"].map(createGauge);
  const readings = make("ul", { class: "readings" });
  const processes = make("tbody");
  const more = make("tbody");
  const summary = make("summary");
  const head = name => make("th", { scope: "col", class: ["Process", "Owner"].includes(name) ? "" : "number" }, name);
  const caption = make("caption", {}, make("span", { class: "sr-only" }, `Processes on GPU ${gpu.index}`));
  const heads = make("thead", { class: "sr-only" }, make("tr", {}, head("Process"), head("PID"), head("Memory"), head("Owner")));
  const others = make("details", {}, summary, make("table", {}, caption.cloneNode(true), heads.cloneNode(true), more));
  const table = make("table", {}, caption, heads, processes);
  const noProcesses = make("p", { class: "rest" }, "No processes.");
  const recent = make("ul", { class: "events" });
  const node = make("article", { class: "card", id, "aria-labelledby": `h-${id}`, tabindex: "-1" },
    make("h3", { id: `h-${id}` }, sign, `GPU ${gpu.index} `, name), wrong,
    make("div", { class: "load" }, make("p", { class: "figure" }, value, unit), plot.node), why,
    make("dl", { class: "gauges" }, ...gauges.map(each => each.node)), recent, readings, noProcesses, table, others);
  return { node, sign, name, wrong, value, unit, plot, why, gauges, recent, readings, table, processes, noProcesses, others, summary, more };
};

const ownerOf = ({ user, pod_uid: pod, container_id: container }) =>
  joinDots([user, pod && `pod ${pod.slice(0, 8)}`, container && `container ${container.slice(0, 12)}`]);

const renderProcesses = (body, processes) =>
  reconcile(body, processes, each => `${each.pid} ${each.name} ${each.gpu_instance ?? ""}`, each => {
    const memory = make("td", { class: "number" });
    const owner = make("small");
    const name = make("th", { scope: "row" }, make("span", {}, each.name || "(no name)"));
    const node = make("tr", {}, name, make("td", { class: "number" }, String(each.pid)), memory, make("td", {}, owner));
    return { node, memory, owner };
  }, ({ memory, owner }, each) => {
    setText(memory, bytes(each.memory_used_bytes));
    setText(owner, ownerOf(each));
    setAttr(owner, "title", joinDots([each.pod_uid, each.container_id]));
  });

/** Profiling metrics, as `[name, text]`. Ratios are 0 to 1. */
const profileOf = profiling => {
  if (!profiling) return [];
  const ratio = (name, value) => isKnown(value) && [name, percent(100 * value)];
  const traffic = (name, sent, received) => isKnown(sent) && isKnown(received) && [name, rate(sent + received)];
  return [
    ratio("SM active", profiling.sm_active_ratio),
    ratio("tensor", profiling.tensor_ratio),
    ratio("DRAM", profiling.dram_ratio),
    traffic("PCIe traffic", profiling.pcie_transmitted_bytes_per_second, profiling.pcie_received_bytes_per_second),
    traffic("NVLink traffic", profiling.nvlink_transmitted_bytes_per_second, profiling.nvlink_received_bytes_per_second),
  ];
};

/** Values without a gauge, as `[name, text]`. */
const readingsOf = gpu => {
  const { ecc, nvlink, partitions, fan_percent: fan, pcie_generation: generation } = gpu;
  const xgmi = (gpu.xgmi?.links ?? []).filter(link => link.up).length;
  const { encoder_utilization_percent: encoder, decoder_utilization_percent: decoder } = gpu;
  const reasons = (gpu.clock_event_reasons ?? []).filter(each => !THROTTLE_REASONS.includes(each)).map(humanize);
  return [
    isKnown(gpu.memory_utilization_percent) && ["memory bus", percent(gpu.memory_utilization_percent)],
    encoder && ["encoder", percent(encoder)],
    decoder && ["decoder", percent(decoder)],
    isKnown(gpu.memory_temperature_celsius) && ["memory", `${gpu.memory_temperature_celsius} °C`],
    isKnown(gpu.memory_clock_mhz) && ["memory clock", `${gpu.memory_clock_mhz} MHz`],
    isKnown(fan) && ["fan", percent(fan)],
    ...profileOf(gpu.profiling),
    isKnown(generation) && ["PCIe", `${generation} ×${gpu.pcie_width ?? "?"}`],
    nvlink?.links_up && ["NVLink", `${nvlink.links_up} up`],
    xgmi && ["XGMI", `${xgmi} up`],
    partitions && ["partitions", [partitions.compute_mode, partitions.memory_mode].filter(Boolean).join(", ")],
    isKnown(gpu.gtt_used_bytes) && ["GTT", share(gpu.gtt_used_bytes, gpu.gtt_total_bytes)],
    isKnown(gpu.energy_joules) && ["energy", `${number(gpu.energy_joules / 3.6e6)} kWh`],
    gpu.retired_pages?.double_bit && ["retired pages", String(gpu.retired_pages.double_bit)],
    ecc?.volatile_corrected && ["ECC corrected", String(ecc.volatile_corrected)],
    reasons.length && ["clock", reasons.join(", ")],
    ...(gpu.mig_instances ?? []).map(each => [`MIG ${each.index}`,
      memoryPercent(each) === null ? each.name ?? "" : share(each.memory_used_bytes, each.memory_total_bytes)]),
  ].filter(Boolean);
};

/** Splits `62.1 of 80 GiB` into the value and a note. */
const setGauge = ({ node, value, note, picture, name }, gpu, text, { series, top, format, level = "" }) => {
  show(node, text !== "");
  const [first, ...others] = text.split(" ");
  setText(value, first);
  setText(note, others.join(" "));
  setAttr(node, "class", level);
  const values = valuesOf(shownStore(), `${series} ${gpu.index}`);
  const label = `GPU ${gpu.index}, ${name.toLowerCase()}`;
  drawCurve(picture, shownStore(), values, { label, top: top ?? Math.max(1, ...values), format, columns: 60 });
};

const updateGauges = (parts, gpu) => {
  const [memory, power, heat, clock] = parts;
  const { memory_total_bytes: whole, memory_used_bytes: used, power_watts: watts, power_limit_watts: limit } = gpu;
  const ofMemory = memoryPercent(gpu) === null ? bytes(used) : share(used, whole);
  const ofPower = limit ? `${Math.round(watts)} of ${watt(limit)}` : watt(watts);
  const { temperature_celsius: degrees, sm_clock_mhz: clockMhz, performance_state: state } = gpu;
  const slowed = (gpu.clock_event_reasons ?? []).some(each => each.includes("thermal"));
  setGauge(memory, gpu, isKnown(used) ? ofMemory : "", { series: "gpu_memory_used_percent", top: 100, format: percent });
  setGauge(power, gpu, isKnown(watts) ? ofPower : "", { series: "gpu_power_watts", top: limit, format: watt });
  setGauge(heat, gpu, isKnown(degrees) ? celsius(degrees) : "",
    { series: "gpu_temperature_celsius", top: 100, format: celsius, level: slowed ? "warning" : "" });
  setGauge(clock, gpu, isKnown(clockMhz) ? `${clockMhz} MHz${isKnown(state) ? `, P${state}` : ""}` : "",
    { series: "gpu_clock_mhz", format: value => `${value} MHz` });
};

const celsius = value => `${Math.round(value)} °C`;

/** The worst problem of a GPU, for its mark. */
const gpuLevel = (gpu, found) =>
  ["critical", "warning"].find(each => found.some(([of]) => of === each)) ?? (gpu.problem ? "unknown" : "ok");

/** What identifies a GPU without values, to find it in the machine. */
const identityOf = gpu => (gpu.problem ? [["PCI", gpu.pci_address], ["UUID", gpu.uuid]].filter(([, text]) => text) : []);

const updateCard = (parts, gpu, now) => {
  const found = gpuProblems(gpu, now);
  const level = gpuLevel(gpu, found);
  setMark(parts.sign, level);
  setAttr(parts.node, "class", `card ${level}${gpu.problem ? " no-data" : ""}`);
  setText(parts.name, gpu.name);
  reconcile(parts.wrong, found, ([, text]) => text, ([, text]) => {
    const kind = make("span", { class: "sr-only" });
    return { node: make("li", {}, kind, text), kind };
  }, ({ node, kind }, [of]) => {
    setAttr(node, "class", of);
    setText(kind, LEVELS[of] ?? "");
  });
  const use = gpu.utilization_percent;
  setText(parts.value, isKnown(use) ? number(use).replace(".0", "") : absenceOf(gpu));
  setText(parts.unit, isKnown(use) ? "%" : "");
  const values = valuesOf(shownStore(), `gpu_utilization_percent ${gpu.index}`);
  drawCurve(parts.plot.picture, shownStore(), values, { label: `GPU ${gpu.index}, utilization`, columns: 150 });
  setPlotAxis(parts.plot, shownStore(), NARROW_TICKS);
  show(parts.plot.node, values.some(isKnown));
  setAttr(parts.value, "class", isKnown(use) ? "value" : "value words");
  setText(parts.why, reasonForNoLoad(gpu));
  show(parts.why, Boolean(reasonForNoLoad(gpu)));
  updateGauges(parts.gauges, gpu);
  renderEventList(parts.recent, gpu.problem ? eventsOf(gpu).slice(0, SHOWN_GPU_EVENTS) : []);
  reconcile(parts.readings, [...identityOf(gpu), ...readingsOf(gpu)], ([name]) => name, ([name]) => {
    const value = make("b");
    return { node: make("li", {}, make("span", {}, name), " ", value), value };
  }, ({ value }, [, text]) => setText(value, text));
  const processes = [...(gpu.processes ?? [])].sort((a, b) => (b.memory_used_bytes ?? 0) - (a.memory_used_bytes ?? 0));
  const shown = processes.slice(0, SHOWN_PROCESSES);
  show(parts.noProcesses, Boolean(gpu.processes) && processes.length === 0 && !gpu.problem);
  show(parts.table, shown.length > 0);
  show(parts.others, processes.length > shown.length);
  setText(parts.summary, `${processes.length - shown.length} more`);
  renderProcesses(parts.processes, shown);
  renderProcesses(parts.more, processes.slice(shown.length));
};

const renderGpus = update => {
  renderDriver(update);
  renderGpuTable(update);
  reconcile($("cards"), update.gpus, gpu => `${gpu.index} ${gpu.uuid ?? gpu.name}`, createCard,
    (parts, gpu) => updateCard(parts, gpu, update.timestamp));
};
