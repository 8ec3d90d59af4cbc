// The alerts of an update, critical ones first. Each names the device it concerns.

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

const time = unix => new Date(unix * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "short" });
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
  if (rows?.pending) found.push(["warning", "row remapping pending, needs a reset"]);
  found.push(...nvidiaAlerts(gpu));
  const badPages = gpu.retired_pages?.failed;
  if (badPages) found.push(["critical", `${plural(badPages, "bad memory page")} still in use`]);
  const uncorrected = gpu.ecc?.volatile_uncorrected;
  if (uncorrected) found.push(["critical", plural(uncorrected, "uncorrected memory error")]);
  if (gpu.nvlink?.links_lost) found.push(["warning", `${plural(gpu.nvlink.links_lost, "NVLink")} down`]);
  for (const { code, count, last_unix_seconds: last } of gpu.xids ?? []) {
    found.push([now - last < DAY ? "warning" : "note", `XID ${code}${count > 1 ? ` ${count} times` : ""}, ${time(last)}`]);
  }
  return found;
};

const linkLevel = ({ state, last_outage: outage }) =>
  state === "online" ? "ok" : state === "waiting" || outage ? "warning" : "unknown";

const appLevel = ({ state, maintenance_seconds: maintenance }) =>
  isKnown(maintenance) ? "unknown" : { OK: "ok", WARNING: "warning" }[state] ?? "critical";

const mountLevel = ({ used_percent: used = 0, read_only: fixed }) =>
  fixed || used < 90 ? "" : used < 97 ? "warning" : "critical";

const alertsOf = update => {
  const found = [];
  const driver = update.nvidia;
  if (driver && DRIVER_PROBLEMS[driver.state]) {
    found.push(["critical", joinColon(`NVIDIA driver ${DRIVER_PROBLEMS[driver.state]}`, driver.message)]);
  }
  for (const gpu of update.gpus) {
    for (const [level, text] of gpuAlerts(gpu, update.timestamp)) {
      if (level !== "note") found.push([level, `GPU ${gpu.index} ${text}`]);
    }
  }
  const late = update.heartbeats.filter(app => ["warning", "critical"].includes(appLevel(app)));
  for (const app of late.slice(0, late.length > MAX_LISTED_APPS ? 0 : MAX_LISTED_APPS)) {
    const what = app.state === "DROPPED" ? "was dropped" : "is overdue";
    found.push([appLevel(app), `Application ${app.app_id} ${what} (${app.od} times its timeout)`]);
  }
  if (late.length > MAX_LISTED_APPS) found.push(["critical", `${late.length} applications are overdue`]);
  for (const each of update.links) {
    const why = joinColon(`${each.name} is not online`, each.last_outage);
    if (linkLevel(each) === "warning") found.push(["warning", why]);
    if (each.dropped) found.push(["warning", `${each.name}: ${plural(each.dropped, "report")} dropped`]);
  }
  for (const mount of update.file_systems) {
    const level = mountLevel(mount);
    if (level) found.push([level, `${mount.mount_point} is ${percent(mount.used_percent)} full`]);
  }
  return found.sort(([one], [two]) => (one === "critical" ? 0 : 1) - (two === "critical" ? 0 : 1));
};
