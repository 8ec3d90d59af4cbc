// A card for each GPU, and a word on the driver where there is none.

const SHOWN_PROCESSES = 3;

/** What `nvidia.state` means to somebody who looks for GPUs. */
const DRIVER = {
  starting: "The driver has not answered yet.",
  no_gpu: "No GPU is in sight.",
  suspended: "All GPUs sleep, and are not woken to be measured.",
};

const driver = ({ nvidia, gpus }) => {
  const versions = nvidia && dots([
    nvidia.driver_version && `driver ${nvidia.driver_version}`,
    nvidia.cuda_version && `CUDA ${nvidia.cuda_version}`,
  ]);
  const state = nvidia?.state;
  const bad = DRIVER_TROUBLES[state];
  const none = gpus.length ? "" : nvidia ? "The driver lists no GPU." : "GPUs are not looked for (gpu.source).";
  say($("driver"), bad ? "" : DRIVER[state] ?? (versions || none));
  show($("driver-message"), Boolean(bad));
  say($("driver-message"), bad ? `NVIDIA's driver ${sentence(bad, nvidia.message)}` : "");
};

/** A value with its name and a bar of how much of it is used. */
const gauge = name => {
  const [value, note, full] = [make("b"), make("small"), bar()];
  const node = make("div", {}, make("dt", {}, name), make("dd", {}, value, " ", note, full.node));
  return { node, value, note, full };
};

const createCard = gpu => {
  const id = `gpu-${gpu.index}`;
  const [sign, name] = [make("span"), make("small")];
  const wrong = make("ul", { class: "wrong" });
  const [value, unit] = [make("span", { class: "value" }), make("span", { class: "unit" })];
  const picture = curve();
  const gauges = ["Memory", "Power", "Temperature", "Clock"].map(gauge);
  const readings = make("ul", { class: "readings" });
  const processes = make("tbody");
  const more = make("tbody");
  const summary = make("summary");
  const head = name => make("th", { scope: "col", class: name === "Process" ? "" : "number" }, name);
  const caption = make("caption", {}, make("span", { class: "unseen" }, `Processes on GPU ${gpu.index}`));
  const heads = make("thead", { class: "unseen" }, make("tr", {}, head("Process"), head("PID"), head("Memory")));
  const others = make("details", {}, summary, make("table", {}, caption.cloneNode(true), heads.cloneNode(true), more));
  const table = make("table", {}, caption, heads, processes);
  const nobody = make("p", { class: "rest" }, "No process uses it.");
  const node = make("article", { class: "card", "aria-labelledby": id },
    make("h3", { id }, sign, `GPU ${gpu.index} `, name), wrong,
    make("div", { class: "load" }, make("p", { class: "figure" }, value, unit), picture.node),
    make("dl", { class: "gauges" }, ...gauges.map(each => each.node)), readings, nobody, table, others);
  return { node, sign, name, wrong, value, unit, picture, gauges, readings, table, processes, nobody, others, summary, more };
};

const processRows = (body, processes) =>
  keep(body, processes, each => `${each.pid} ${each.name} ${each.gpu_instance ?? ""}`, each => {
    const memory = make("td", { class: "number" });
    const name = make("th", { scope: "row" }, make("span", {}, each.name || "(no name)"));
    return { node: make("tr", {}, name, make("td", { class: "number" }, String(each.pid)), memory), memory };
  }, ({ memory }, each) => say(memory, bytes(each.memory_used_bytes)));

/** What is worth knowing and has no gauge. */
const readingsOf = gpu => {
  const { ecc, nvlink, fan_percent: fan, pcie_generation: generation } = gpu;
  const { encoder_utilization_percent: encoder, decoder_utilization_percent: decoder } = gpu;
  const reasons = (gpu.clock_event_reasons ?? []).filter(each => !SLOWED.includes(each)).map(words);
  return [
    known(gpu.memory_utilization_percent) && ["memory bus", percent(gpu.memory_utilization_percent)],
    encoder && ["encoder", percent(encoder)],
    decoder && ["decoder", percent(decoder)],
    known(gpu.memory_temperature_celsius) && ["memory", `${gpu.memory_temperature_celsius} °C`],
    known(gpu.memory_clock_mhz) && ["memory clock", `${gpu.memory_clock_mhz} MHz`],
    known(fan) && ["fan", percent(fan)],
    known(generation) && ["PCIe", `${generation} ×${gpu.pcie_width ?? "?"}`],
    nvlink?.links_up && ["NVLink", `${nvlink.links_up} up`],
    ecc?.volatile_corrected && ["ECC corrected", String(ecc.volatile_corrected)],
    reasons.length && ["clock", reasons.join(", ")],
    ...(gpu.mig_instances ?? []).map(each => [`MIG ${each.index}`,
      memoryPercent(each) === null ? each.name ?? "" : share(each.memory_used_bytes, each.memory_total_bytes)]),
  ].filter(Boolean);
};

/** `62.1 of 80 GiB`: the first word is what one looks for. */
const setGauge = ({ node, value, note, full }, text, used, level) => {
  show(node, text !== "");
  const [first, ...others] = text.split(" ");
  say(value, first);
  say(note, others.join(" "));
  show(full.node, known(used));
  fill(full, used, level);
};

const gauges = (parts, gpu) => {
  const [memory, power, heat, clock] = parts;
  const { memory_total_bytes: total, memory_used_bytes: used, power_watts: watts, power_limit_watts: limit } = gpu;
  const full = memoryPercent(gpu);
  const ofMemory = full === null ? bytes(used) : share(used, total);
  const ofPower = limit ? `${Math.round(watts)} of ${watt(limit)}` : watt(watts);
  setGauge(memory, known(used) ? ofMemory : "", full);
  setGauge(power, known(watts) ? ofPower : "", limit && known(watts) ? (100 * watts) / limit : null);
  const celsius = gpu.temperature_celsius;
  const slowed = (gpu.clock_event_reasons ?? []).some(each => each.includes("thermal"));
  setGauge(heat, known(celsius) ? `${celsius} °C` : "", known(celsius) ? celsius : null, slowed ? "poor" : "");
  const { sm_clock_mhz: clockMhz, performance_state: state } = gpu;
  setGauge(clock, known(clockMhz) ? `${clockMhz} MHz${known(state) ? `, P${state}` : ""}` : "", null);
};

const updateCard = (parts, gpu, now) => {
  const found = gpuTroubles(gpu, now);
  const level = ["bad", "poor"].find(each => found.some(([of]) => of === each)) ?? (gpu.problem ? "unknown" : "good");
  mark(parts.sign, level);
  attribute(parts.node, "class", `card ${level}${gpu.problem ? " out" : ""}`);
  say(parts.name, gpu.name);
  keep(parts.wrong, found, ([, text]) => text, ([of, text]) => {
    const kind = make("span", { class: "unseen" }, LEVELS[of] ?? "");
    return { node: make("li", { class: of }, kind, text) };
  }, () => {});
  const use = gpu.utilization_percent;
  say(parts.value, known(use) ? number(use).replace(".0", "") : gpu.problem ? words(gpu.problem) : "–");
  say(parts.unit, known(use) ? "%" : "");
  draw(parts.picture, `gpu ${gpu.index}`, `GPU ${gpu.index}, utilisation`, 100);
  gauges(parts.gauges, gpu);
  keep(parts.readings, readingsOf(gpu), ([name]) => name, ([name]) => {
    const value = make("b");
    return { node: make("li", {}, make("span", {}, name), " ", value), value };
  }, ({ value }, [, text]) => say(value, text));
  const processes = [...(gpu.processes ?? [])].sort((a, b) => (b.memory_used_bytes ?? 0) - (a.memory_used_bytes ?? 0));
  const shown = processes.slice(0, SHOWN_PROCESSES);
  show(parts.nobody, Boolean(gpu.processes) && processes.length === 0 && !gpu.problem);
  show(parts.table, shown.length > 0);
  show(parts.others, processes.length > shown.length);
  say(parts.summary, `${processes.length - shown.length} more`);
  processRows(parts.processes, shown);
  processRows(parts.more, processes.slice(shown.length));
};

const gpus = update => {
  driver(update);
  keep($("cards"), update.gpus, gpu => `${gpu.index} ${gpu.uuid ?? gpu.name}`, createCard,
    (parts, gpu) => updateCard(parts, gpu, update.timestamp));
};
