// What is wrong with the node, from `GET /health`: with evidence, what to do, and a link to the device. Agents without it, and
// those that do not answer, have the problems of the update in its place.

const SHOWN_FINDINGS = 6;

/** What an action means for the operator. `device` and `service` may be empty. */
const ACTIONS = {
  restart_application: device => `Restart the application${device?.startsWith("GPU ") ? ` that uses ${device}` : ""}.`,
  reset_gpu: device => `Stop what uses ${device || "the GPU"}, then reset it.`,
  restart_service: (_, service) => `Restart the service${service ? ` ${service}` : ""}.`,
  reboot: () => "Reboot the node.",
  drain: device => `Drain the node: let its jobs end, start no others, then reset ${device || "the GPU"}.`,
  inspect_hardware: () => "Have the hardware inspected.",
};

/** Where the page has more about a component. */
const SECTIONS = {
  gpu: "gpus",
  driver: "gpus",
  fabric: "gpus",
  nvlink: "gpus",
  infiniband: "h-network",
  network: "h-network",
  disk: "h-disks",
  filesystem: "h-mounts",
  memory: "past",
  processor: "past",
  application: "h-apps",
  upstream: "h-links",
};

/** The last response of `/health`; null if there is none. */
let health = null;

/** The id of the element. Of a component without a section, the events tell most. */
const targetOf = ({ component, device }) => {
  const [, gpu] = /^GPU (\d+)$/.exec(device ?? "") ?? [];
  return gpu && $(`gpu-${gpu}`) ? `gpu-${gpu}` : SECTIONS[component] ?? "h-events";
};

const isOpen = ({ acknowledged }) => !acknowledged;

/** Whether the first response of `/health` is still to come. */
const isUnchecked = () => !update || (link.state === "live" && !health && !feeds.health.reason);

/** Findings, or else alerts: critical ones first, acknowledged ones last. */
const currentFindings = () => {
  if (isUnchecked()) return [];
  if (!health) return alertsOf(update).map(each => ({ evidence: [], ...each, id: `${each.device} ${each.summary}` }));
  const all = health.findings.map(each => ({ ...each, target: targetOf(each) }));
  return [...bySeverity(all.filter(isOpen)), ...all.filter(each => !isOpen(each))];
};

/** Problems of a GPU as `[severity, text]`. What is no finding, or is acknowledged, is a `note`. */
const gpuProblems = (gpu, now) => {
  const own = gpuAlerts(gpu, now);
  if (!health) return own;
  const found = health.findings.filter(each => isOpen(each) && each.device === `GPU ${gpu.index}`);
  const keyOf = text => /^XID \d+/.exec(text)?.[0] ?? text;
  const findingOf = text => found.find(({ summary }) => keyOf(summary) === keyOf(text));
  const others = found.filter(({ summary }) => !own.some(([, text]) => keyOf(text) === keyOf(summary)));
  const all = [
    ...own.map(([, text]) => ({ severity: findingOf(text)?.severity ?? "note", text })),
    ...others.map(({ severity, summary }) => ({ severity, text: summary })),
  ];
  return bySeverity(all).map(({ severity, text }) => [severity, text]);
};

/** The worst severity of the findings that are not acknowledged, or `ok`. */
const worstOf = found => ["critical", "warning"].find(each => found.some(of => isOpen(of) && of.severity === each)) ?? "ok";

/** E.g. `2 critical, 1 warning`. */
const countsOf = found => ["critical", "warning"].map(severity => [found.filter(each => isOpen(each) && each.severity === severity).length, severity])
  .filter(([count]) => count).map(([count, severity]) => plural(count, severity, severity === "critical" ? severity : "warnings")).join(", ");

/** What to do, and since when and how many times it has been wrong. */
const adviceOf = ({ action, device, service, reboots, acknowledged, since }) => [
  ACTIONS[action]?.(device, service) ?? "",
  [
    since && `For ${duration(agentNow() - since)}.`,
    reboots > 0 && `It has come back after ${plural(reboots, "reboot")}.`,
    acknowledged && `Acknowledged ${ago(agentNow() - acknowledged)}.`,
  ].filter(Boolean).join(" "),
];

const createFinding = () => {
  const [sign, kind, device, summary] = [make("span"), make("span", { class: "sr-only" }), make("a"), make("span")];
  const [action, note] = [make("b"), make("small")];
  // Closed, it shows the first piece of evidence on one line.
  const [when, text] = [make("time"), make("span")];
  const evidence = make("ul");
  const details = make("details", { class: "evidence" }, make("summary", {}, when, " ", text), evidence);
  const node = make("li", {}, sign, make("div", {}, make("p", { class: "what" }, kind, device, summary),
    make("p", { class: "action" }, action, " ", note), details));
  return { node, sign, kind, device, summary, action, note, when, text, evidence, details };
};

const setTime = (node, unix) => {
  setText(node, isKnown(unix) ? ago(agentNow() - unix) : "");
  if (isKnown(unix)) setAttr(node, "datetime", new Date(unix * 1000).toISOString());
};

const renderEvidence = ({ when, text, evidence, details }, all) => {
  show(details, all.length > 0);
  if (!all.length) return;
  const others = all.length > 1 ? ` (+ ${all.length - 1})` : "";
  setTime(when, all[0].time);
  setText(text, all[0].text + others);
  reconcile(evidence, all, ({ time, text }) => `${time} ${text}`, ({ text }) => {
    const when = make("time");
    return { node: make("li", {}, when, " ", text), when };
  }, (parts, { time }) => setTime(parts.when, time));
};

const updateFinding = (parts, each) => {
  const { severity, device, summary, target, evidence } = each;
  setMark(parts.sign, isOpen(each) ? severity : "unknown");
  setAttr(parts.node, "class", isOpen(each) ? severity : "acknowledged");
  setText(parts.kind, LEVELS[severity] ?? "");
  setText(parts.device, device || summary);
  setText(parts.summary, device ? `: ${summary}` : "");
  setAttr(parts.device, "href", `#${target}`);
  const [text, note] = adviceOf(each);
  setText(parts.action, text);
  setText(parts.note, note);
  renderEvidence(parts, evidence);
};

const renderFindings = found => {
  show($("alert-panel"), found.length > 0);
  setAttr($("alert-panel"), "class", `alert-panel ${worstOf(found)}`);
  setText($("alerts-aside"), countsOf(found));
  const first = found.filter(isOpen).slice(0, SHOWN_FINDINGS);
  const rest = found.filter(each => !first.includes(each));
  const known = rest.filter(each => !isOpen(each)).length;
  reconcile($("alerts"), first, each => each.id, createFinding, updateFinding);
  reconcile($("alerts-rest"), rest, each => each.id, createFinding, updateFinding);
  show($("alerts-more"), rest.length > 0);
  setText($("alerts-count"), [rest.length > known && `${rest.length - known} more`, known && `${known} acknowledged`].filter(Boolean).join(", "));
};
