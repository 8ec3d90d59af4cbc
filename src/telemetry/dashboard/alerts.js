// Problems that an update shows: for cards, and in place of the findings of an agent without `GET /health`.

const DRIVER_PROBLEMS = {
  no_driver: "not loaded",
  version_mismatch: "upgraded while loaded (versions of library and kernel module differ)",
  hung: "does not respond",
  crashed: "crashed",
  unavailable: "cannot be queried",
};
const THROTTLE_REASONS = ["hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"];
const DAY = 86400;
const MAX_LISTED_APPS = 5;

const joinColon = (...parts) => parts.filter(Boolean).join(": ");

const RECOVERY_ACTIONS = {
  gpu_reset: "GPU reset",
  node_reboot: "node reboot",
  drain_p2p: "drain P2P",
  drain_and_reset: "drain and reset",
  recover_imex_domain: "recover the IMEX domain",
};

/** Problems that NVIDIA GPUs report themselves. Keep in step with `src/health/nvidia.rs`. */
const nvidiaAlerts = ({ recovery_action: action, sram_ecc: sram, row_remap_banks: banks, retired_pages: pages, fabric,
  confidential_compute: compute }) => {
  const found = [];
  if (action && action !== "none") found.push(["critical", `the driver recommends: ${RECOVERY_ACTIONS[action] ?? `action ${action.unknown}`}`]);
  if (sram?.threshold_exceeded) found.push(["critical", "more SRAM errors than the limit for a replacement"]);
  if (banks?.none) found.push(["warning", "a memory bank has no spare rows left"]);
  if (pages?.pending) found.push(["warning", "page retirement pending, GPU reset required"]);
  if (fabric?.state === "not_started") found.push(["warning", "not registered at the NVLink fabric: is the fabric manager running?"]);
  else if (fabric?.error_code) found.push(["critical", "registration at the NVLink fabric failed"]);
  else if (fabric?.health === "unhealthy") found.push(["critical", "NVLink fabric unhealthy"]);
  else if (fabric?.health === "limited_capacity") found.push(["warning", "NVLink fabric has limited capacity"]);
  if (compute?.enabled && compute.ready === false) found.push(["warning", "confidential computing is not ready"]);
  return found;
};

/** Alerts of a GPU as `[level, text]`. Level `note` is shown on its card only. */
const gpuAlerts = (gpu, now) => {
  const found = [];
  if (gpu.problem) found.push([gpu.problem === "suspended" ? "note" : "critical", joinColon(humanize(gpu.problem), gpu.message)]);
  const slowed = (gpu.clock_event_reasons ?? []).filter(reason => THROTTLE_REASONS.includes(reason));
  if (slowed.length) found.push(["warning", `throttled: ${slowed.map(humanize).join(", ")}`]);
  const rows = gpu.remapped_rows;
  if (rows?.failed) found.push(["critical", "row remapping failed"]);
  if (rows?.pending) found.push(["warning", "row remapping pending, GPU reset required"]);
  found.push(...nvidiaAlerts(gpu));
  const badPages = gpu.retired_pages?.failed;
  if (badPages) found.push(["critical", `${plural(badPages, "bad memory page")} still in use`]);
  const uncorrected = gpu.ecc?.volatile_uncorrected;
  if (uncorrected) found.push(["critical", plural(uncorrected, "uncorrected memory error")]);
  if (gpu.nvlink?.links_lost) found.push(["warning", `${plural(gpu.nvlink.links_lost, "NVLink")} down`]);
  for (const { code, count, last_unix_seconds: last } of gpu.xids ?? []) {
    const times = count > 1 ? ` (${count} times)` : "";
    found.push([now - last < DAY ? "warning" : "note", `${xidName(code)}${times}, ${ago(now - last)}`]);
  }
  return found;
};

const linkLevel = ({ state, last_outage: outage }) =>
  state === "online" ? "ok" : state === "waiting" || outage ? "warning" : "unknown";

const appLevel = ({ state, maintenance_seconds: maintenance }) =>
  isKnown(maintenance) ? "unknown" : { OK: "ok", WARNING: "warning" }[state] ?? "critical";

const mountLevel = ({ used_percent: used = 0, read_only: fixed }) =>
  fixed || used < 90 ? "" : used < 97 ? "warning" : "critical";

/** Problems as `{severity, device, target, summary}`, critical ones first. `target` is the id of the element with more about it. */
const alertsOf = update => {
  const found = [];
  const add = (severity, device, target, summary) => found.push({ severity, device, target, summary });
  const driver = update.nvidia;
  if (driver && DRIVER_PROBLEMS[driver.state]) {
    add("critical", "", "gpus", joinColon(`NVIDIA driver ${DRIVER_PROBLEMS[driver.state]}`, driver.message));
  }
  for (const gpu of update.gpus) {
    for (const [level, text] of gpuAlerts(gpu, update.timestamp)) {
      if (level !== "note") add(level, `GPU ${gpu.index}`, `gpu-${gpu.index}`, text);
    }
  }
  const late = update.heartbeats.filter(app => ["warning", "critical"].includes(appLevel(app)));
  for (const app of late.slice(0, late.length > MAX_LISTED_APPS ? 0 : MAX_LISTED_APPS)) {
    const what = app.state === "DROPPED" ? "dropped, no heartbeat" : "heartbeat overdue";
    add(appLevel(app), `Application ${app.app_id}`, "h-apps", `${what} (${app.od} times its timeout)`);
  }
  if (late.length > MAX_LISTED_APPS) add("critical", "", "h-apps", `${late.length} applications are overdue`);
  for (const each of update.links) {
    if (linkLevel(each) === "warning") add("warning", each.name, "h-links", joinColon("not online", each.last_outage));
    if (each.dropped) add("warning", each.name, "h-links", `${plural(each.dropped, "report")} dropped`);
  }
  for (const mount of update.file_systems) {
    const level = mountLevel(mount);
    if (level) add(level, mount.mount_point, "h-mounts", `${percent(mount.used_percent)} full`);
  }
  return bySeverity(found);
};

const bySeverity = found => {
  const order = { critical: 0, warning: 1 };
  return [...found].sort((one, two) => (order[one.severity] ?? 2) - (order[two.severity] ?? 2));
};
