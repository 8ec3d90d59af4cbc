// What of an update needs somebody's attention: the worst first, each in a sentence that says where.

const DRIVER_TROUBLES = {
  no_driver: "is not loaded",
  version_mismatch: "was upgraded underneath (its library and its kernel module differ)",
  hung: "does not answer",
  crashed: "crashed",
  unavailable: "cannot be asked",
};
const SLOWED = ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"];
const DAY = 86400;
const MANY = 5;

const time = unix => new Date(unix * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
const sentence = (...parts) => parts.filter(Boolean).join(": ");

/** What is wrong with a GPU: `[level, text]` each. Those for the card alone are of level `note`. */
const gpuTroubles = (gpu, now) => {
  const found = [];
  if (gpu.problem) found.push([gpu.problem === "suspended" ? "note" : "bad", sentence(words(gpu.problem), gpu.message)]);
  const slowed = (gpu.clock_event_reasons ?? []).filter(reason => SLOWED.includes(reason));
  if (slowed.length) found.push(["poor", `slowed down: ${slowed.map(words).join(", ")}`]);
  const rows = gpu.remapped_rows;
  if (rows?.failed) found.push(["bad", "memory rows could not be remapped"]);
  if (rows?.pending) found.push(["poor", "remapped memory rows wait for a reset"]);
  const uncorrected = gpu.ecc?.volatile_uncorrected;
  if (uncorrected) found.push(["bad", plural(uncorrected, "uncorrected memory error")]);
  if (gpu.nvlink?.links_down) found.push(["poor", `${plural(gpu.nvlink.links_down, "NVLink")} down`]);
  for (const { code, count, last_unix_seconds: last } of gpu.xids ?? []) {
    found.push([now - last < DAY ? "poor" : "note", `XID ${code}${count > 1 ? ` ${count} times` : ""}, ${time(last)}`]);
  }
  return found;
};

const linkLevel = ({ state, last_outage: outage }) =>
  state === "online" ? "good" : state === "waiting" || outage ? "poor" : "unknown";

const appLevel = ({ state, maintenance_seconds: maintenance }) =>
  known(maintenance) ? "unknown" : { OK: "good", WARNING: "poor" }[state] ?? "bad";

const mountLevel = ({ used_percent: used = 0, read_only: fixed }) =>
  fixed || used < 90 ? "" : used < 97 ? "poor" : "bad";

const troublesOf = update => {
  const found = [];
  const driver = update.nvidia;
  if (driver && DRIVER_TROUBLES[driver.state]) {
    found.push(["bad", sentence(`NVIDIA's driver ${DRIVER_TROUBLES[driver.state]}`, driver.message)]);
  }
  for (const gpu of update.gpus) {
    for (const [level, text] of gpuTroubles(gpu, update.timestamp)) {
      if (level !== "note") found.push([level, `GPU ${gpu.index} ${text}`]);
    }
  }
  const late = update.heartbeats.filter(app => ["poor", "bad"].includes(appLevel(app)));
  for (const app of late.slice(0, late.length > MANY ? 0 : MANY)) {
    found.push([appLevel(app), `Application ${app.app_id} is late, ${app.od} times what it promised`]);
  }
  if (late.length > MANY) found.push(["bad", `${late.length} applications are late`]);
  for (const each of update.links) {
    const why = sentence(`${each.name} is not online`, each.last_outage);
    if (linkLevel(each) === "poor") found.push(["poor", why]);
    if (each.dropped) found.push(["poor", `${each.name}: ${plural(each.dropped, "report")} dropped`]);
  }
  for (const mount of update.file_systems) {
    const level = mountLevel(mount);
    if (level) found.push([level, `${mount.mount_point} is ${percent(mount.used_percent)} full`]);
  }
  return found.sort(([one], [two]) => (one === "bad" ? 0 : 1) - (two === "bad" ? 0 : 1));
};
